"""One way into attention: a registered attention function that sees a prefix, and a fan-out.

transformers hands unknown keyword arguments of a model's forward down to the attention function
named in its configuration. `PREFIX` carries the keys and values to prepend; layers below its first
layer run once per text, and at that layer every text fans out into its branches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "ltuning_sdpa"
PREFIX = "ltuning_prefix"
RECORDER = "ltuning_recorder"


@dataclass(frozen=True)
class Prefix:
    """Keys and values that stand before the text's own in the upper layers.

    Attributes:
        states: `[V, M - first_layer, 2, N, L, D]`, one entry per label text (V = 1: plain tuning).
        mask: `[V, L]` bool, False where a label text is padded.
        first_layer: the lowest layer that has the prefix.
        texts: `[R]` the text of each branch, or None where branch r is text r.
        rows: `[R]` the entry of `states` that each branch uses.
    """

    states: Tensor
    mask: Tensor
    first_layer: int
    rows: Tensor
    texts: Tensor | None = None

    @property
    def length(self) -> int:
        """L, virtual tokens per layer."""
        return self.states.shape[4]

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each `[R, N, L, D]`."""
        keys, values = self.states[:, layer - self.first_layer].unbind(1)
        return keys.index_select(0, self.rows), values.index_select(0, self.rows)

    def fan_out(self, tensor: Tensor) -> Tensor:
        """`[B, ...] -> [R, ...]`: each branch gets what belongs to its text."""
        if self.texts is None:
            return tensor
        return tensor.index_select(0, self.texts)


@dataclass
class Recorder:
    """Collects the keys and values that each layer computes, `[B, N, T, D]` each."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def prefix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over `[prefix; text]` for the layers that have a prefix."""
    prefix: Prefix | None = kwargs.pop(PREFIX, None)
    recorder: Recorder | None = kwargs.pop(RECORDER, None)
    if recorder is not None:
        recorder.layers.append((key, value))
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if prefix is not None and prefix.length and layer >= prefix.first_layer:
        prefix_key, prefix_value = prefix.at(layer)
        key = torch.cat([prefix_key.to(key.dtype), key], dim=2)
        value = torch.cat([prefix_value.to(value.dtype), value], dim=2)
        assert attention_mask is not None  # the mask function below never leaves it out
        attention_mask = _widen(prefix, attention_mask)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _widen(prefix: Prefix, mask: Tensor) -> Tensor:
    """`[B, 1, T, T] -> [R, 1, T, L + T]`: every text token sees the real tokens of its prefix."""
    text = prefix.fan_out(mask)
    label = prefix.mask.index_select(0, prefix.rows)[:, None, None, :]
    branches = label.shape[0]
    return torch.cat(
        [label.expand(-1, 1, text.shape[2], -1), text.expand(branches, -1, -1, -1)], dim=3
    )


def explicit_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The sdpa mask, written out even where a kernel could do without: a prefix widens it."""
    kwargs["allow_is_causal_skip"] = False
    kwargs["allow_is_bidirectional_skip"] = False
    return sdpa_mask(*args, **kwargs)


def register() -> None:
    """Make the implementation known to transformers under `IMPLEMENTATION`."""
    AttentionInterface.register(IMPLEMENTATION, prefix_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, explicit_mask)


def install_fan_out(layers: Iterable[nn.Module]) -> None:
    """Hook a model's layers so that the states of the texts become those of the branches."""
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(_fan_out_hook(index), with_kwargs=True)


def _fan_out_hook(index: int) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prefix: Prefix | None = kwargs.get(PREFIX)
        if prefix is None or index < prefix.first_layer:
            return None
        if index == prefix.first_layer:
            args = (prefix.fan_out(args[0]), *args[1:])
        rotary = kwargs.get("position_embeddings")
        if rotary is not None:
            kwargs = {**kwargs, "position_embeddings": tuple(map(prefix.fan_out, rotary))}
        return args, kwargs

    return hook
