"""Saved tensors, held against those of the module that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ltuning.errors import ArtifactError
from ltuning.methods.heads import missing_centers

# No training comes near it, and squares of what is beyond it overflow to NaN.
_LARGEST = 1e15


class Saved(Protocol):
    """What a folder of an artifact holds of a method."""

    @property
    def folder(self) -> Path:
        """Where it was read."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The trained parameters, on the CPU."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """Content of further files by their path in the folder."""


def fitting(
    saved: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    folder: Path,
) -> dict[str, Tensor]:
    """Saved tensors in the precision of a module's own, once they are its own by name and shape.

    Args:
        saved: by name.
        expected: the module's, which may be on the device `meta`.
        folder: of the artifact, for messages.

    Raises:
        ArtifactError: one is missing, is too many, or is of another shape or type; one holds NaN,
            infinity or what overflows to it.
    """
    saved = {**saved, **missing_centers(saved, "head.")}
    if came := _misfit(saved, expected):
        raise ArtifactError(
            f"expected the tensors of its method in '{folder}', got {came}; restore the folder "
            "from where it was first saved, or train again"
        )
    return {name: tensor.to(expected[name].dtype) for name, tensor in saved.items()}


def _misfit(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    if missing := sorted(expected.keys() - saved.keys()):
        return f"none named {missing[0]}"
    if strange := sorted(saved.keys() - expected.keys()):
        return f"one named {strange[0]:.80}, which it has not"
    for name, tensor in saved.items():
        own = expected[name]
        if tensor.shape != own.shape:
            return f"{name} of shape {list(tensor.shape)} for {list(own.shape)}"
        if tensor.dtype != own.dtype and not (_is_float(tensor) and _is_float(own)):
            return f"{name} of {tensor.dtype} for {own.dtype}"
        known = tensor.to(own.dtype)
        if known.isnan().any() or (known.abs() > _LARGEST).any():
            return f"NaN, infinity or a number beyond {_LARGEST:g} in {name}"
    return None


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
