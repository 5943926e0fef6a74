"""Copies of a backbone that can be changed while the backbone stays as it is for who shares it."""

from __future__ import annotations

import copy
from typing import TypeVar

from transformers import PreTrainedModel

from ltuning.backbones.frozen_model import FrozenModel
from ltuning.errors import BackboneError

AnyModel = TypeVar("AnyModel", bound=FrozenModel)


def shared_copy(backbone: AnyModel) -> AnyModel:
    """A copy whose modules and configuration are its own and whose weights are the backbone's.

    Layers may be put beside the copied ones, or left out, without a trace in the backbone. It
    takes no memory for weights.

    Raises:
        BackboneError: one that is divided over processes.
    """
    model = _whole(backbone)
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return _around(backbone, copy.deepcopy(model, shared))


def own_copy(backbone: AnyModel) -> AnyModel:
    """A copy with weights of its own, in float32: in fewer bits small updates would be lost.

    Raises:
        BackboneError: one that is divided over processes.
    """
    return _around(backbone, copy.deepcopy(_whole(backbone)).float())


def _whole(backbone: FrozenModel) -> PreTrainedModel:
    if backbone.is_sharded:
        raise BackboneError(
            f"expected '{backbone.name}' whole in this process, for a method that changes its "
            "weights or its mask, got it with device=shard; use a method with virtual tokens, or "
            "probe"
        )
    return backbone.model


def _around(backbone: AnyModel, model: PreTrainedModel) -> AnyModel:
    # Not `copy.copy`, which asks a backbone how it is pickled.
    copied = object.__new__(type(backbone))
    vars(copied).update(vars(backbone), model=model, config=model.config)
    return copied
