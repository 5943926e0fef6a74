"""Un-masking: a decoder whose tokens see what comes after them. Padding stays masked.

transformers has a switch for it: with `is_causal=False` in its configuration a model makes its
masks without the causal part, and keeps windows and padding. The switch is one for all layers;
those that are to stay causal get the causal part back here, from the mask that they are given.
Whether the switch works is tried on the loaded model (`selftest`): some models have a causal mask
of their own beside the one that they are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ltuning.backbones import layers
from ltuning.backbones.copies import AnyModel, shared_copy


def unmasked(backbone: AnyModel, numbers: Collection[int] | None = None) -> AnyModel:
    """A copy with the same weights, in some of whose layers a token sees the tokens after it.

    Args:
        backbone: a decoder; it stays as it is.
        numbers: layers without a causal mask, counted from 0; None = all.
    """
    copied = shared_copy(backbone)
    copied.config.is_causal = False
    for number, layer in enumerate(layers.find(copied.model, copied.family)):
        if numbers is not None and number not in numbers:
            layer.forward = _Causal(layer.forward, _window(layer, copied.config))
            continue
        modules: Iterable[Any] = layer.modules()
        for module in modules:
            # Where a mask is left out, the attention's own flag says what it would have been.
            if hasattr(module, "is_causal"):
                module.is_causal = False
    return copied


class _Causal:
    """A layer's forward that puts the causal part back into the mask.

    Args:
        forward: the layer's, as `layers.install` left it.
        window: tokens that it sees, itself included; None = all.
    """

    def __init__(self, forward: Any, window: int | None):
        self.forward = forward
        self.window = window
        self.place = forward.names.index(_MASK)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named = _MASK in kwargs
        mask = kwargs[_MASK] if named else args[self.place]
        if mask is None:
            # Left out where nothing is padding: Bloom then asks no flag, and sees everything.
            mask = _nothing_hidden(args[0] if args else kwargs[self.forward.names[0]])
        mask = causal(mask, self.window)
        if named:
            kwargs[_MASK] = mask
        else:
            args = (*args[: self.place], mask, *args[self.place + 1 :])
        return self.forward(*args, **kwargs)


_MASK = "attention_mask"


def _nothing_hidden(states: Tensor) -> Tensor:
    """A mask `[1, 1, T, T]`, to be added to scores, of states `[B, T, H]`."""
    length = states.shape[1]
    return states.new_zeros((1, 1, length, length))


def causal(mask: Tensor, window: int | None = None) -> Tensor:
    """A mask `[B, 1, T, T]`, of booleans or to be added to scores, less what is to the right.

    Without the causal part, transformers' windows are one token wider to the left.
    """
    everything = torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device)
    hidden = everything.triu(1)
    if window is not None:
        hidden |= everything.tril(-window)
    lowest = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(hidden, lowest)


def _window(layer: nn.Module, config: object) -> int | None:
    for module in layer.modules():
        if "sliding_window" in vars(module):
            return vars(module)["sliding_window"]
    return getattr(config, "sliding_window", None)
