"""The layers of a model, made to see a pass: counting, fanning out, checkpointing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ltuning.backbones import prefix_attention
from ltuning.backbones.families import FAMILIES, Family
from ltuning.backbones.prefix import LAYER, RUNNING, TRAINING, LayerPass, Pass, Prefix, announced
from ltuning.errors import BackboneError

# Arguments of a layer that have an entry for each text, under all the names that models use.
_PER_TEXT = ("attention_mask", "position_embeddings", "position_bias", "position_ids", "alibi")


def install(model: PreTrainedModel, family: Family) -> None:
    """Make a model's layers, and their attention, see the passes that are announced to them.

    What is installed is part of the model: a second backbone around it installs nothing.
    """
    for layer in find(model, family):
        if not isinstance(layer.forward, _LayerForward):
            layer.forward = _LayerForward(layer.forward, family.attention == "cache")
        if family.wrapped is not None:
            path, query = family.wrapped
            prefix_attention.wrap(layer.get_submodule(path), query)
    if family.attention == "function":
        prefix_attention.use(model)
    if family.beside_first is not None:
        _install_beside_first(model, family.beside_first)


def find(model: PreTrainedModel, family: Family) -> Iterable[nn.Module]:
    """The layers of a base model: where its row says, or a list of as many as there should be."""
    if family.layers is not None:
        found: Any = model.get_submodule(family.layers)
        return found
    number = model.config.num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return module
    raise BackboneError(
        f"expected a model of type '{family.name}' to have a list of {number} layers, got none; "
        f"choose a checkpoint of one of {', '.join(FAMILIES)}"
    )


class _LayerForward:
    """A layer's forward: below the first layer with a prefix texts, from there on branches."""

    def __init__(self, forward: Callable[..., Any], starts_with_branches: bool):
        self.forward = forward
        self.starts_with_branches = starts_with_branches
        self.names = list(inspect.signature(forward).parameters)

    def __call__(self, *args: object, **kwargs: object) -> Any:
        running = RUNNING.get()
        if running is None:
            return self.forward(*args, **kwargs)
        layer, running.layer = running.layer, running.layer + 1
        if layer in running.skipped:
            return running.output
        output = self._run(layer, running, args, kwargs)
        if layer + 1 == running.skipped.start:
            running.output = self._read_on(output)
        return output

    def _read_on(self, output: object) -> Any:
        """Without the attention weights that Bloom and Falcon return, and here nobody reads."""
        if self.starts_with_branches and isinstance(output, tuple):
            return output[0], *(None for _ in output[1:])
        return output

    def _run(
        self, layer: int, running: Pass, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> Any:
        prefix = running.prefix
        if prefix is not None:
            args, kwargs = self._fan(prefix, layer, running, args, kwargs)
        in_training = TRAINING.get() if torch.is_grad_enabled() else None
        compiler = None if in_training is None else in_training.compiler
        forward = self.forward if compiler is None else compiler(self.forward)

        def run(*inputs: object) -> Any:
            # Computed again in backward, possibly on another thread: the pass is announced here.
            with announced(LAYER, LayerPass.of(prefix, layer, running.recorder)):
                return forward(*inputs, **kwargs)

        if in_training is not None and in_training.checkpointing:
            return checkpoint(run, *args, use_reentrant=False)
        return run(*args)

    def _fan(
        self,
        prefix: Prefix,
        layer: int,
        running: Pass,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        named = dict(zip(self.names, args, strict=False)) | kwargs
        states = self.names[0]
        if self.starts_with_branches:
            _align(prefix, layer, named)
            self._fan_in(prefix, layer, named, states)
        elif layer == prefix.first_layer:
            running.num_texts = named[states].shape[0]
        if layer == prefix.first_layer and (layer > 0 or not self.starts_with_branches):
            named[states] = prefix.fan_out(named[states])
        if layer >= prefix.first_layer and not self.starts_with_branches:
            for name in _PER_TEXT:
                if name in named:
                    named[name] = _per_text(named[name], prefix, running.num_texts)
        positional = self.names[: len(args)]
        return (
            tuple(named[name] for name in positional),
            {name: named[name] for name in kwargs},
        )

    def _fan_in(self, prefix: Prefix, layer: int, named: dict[str, Any], states: str) -> None:
        """A layer below the prefix: one row per text, no column for the prefix."""
        if layer >= prefix.first_layer:
            return
        branches = prefix.rows.shape[0]
        if layer == 0:
            named[states] = prefix.fan_in(named[states])
        for name in _PER_TEXT:
            value = named.get(name)
            if isinstance(value, tuple):
                named[name] = tuple(prefix.fan_in(part) for part in value)
            elif isinstance(value, Tensor):
                # Bloom folds branches and heads into one dimension.
                rows = prefix.fan_in(value.unflatten(0, (branches, -1)))
                columns = rows if name == "position_ids" else rows[..., prefix.length :]
                named[name] = columns.flatten(0, 1)


def _align(prefix: Prefix, layer: int, named: dict[str, Any]) -> None:
    """Labels that stand side by side are as far from the text by what is added by place, too."""
    if layer >= prefix.first_layer:
        for name in ("alibi", "attention_mask"):  # Falcon's mask has it inside
            if isinstance(named.get(name), Tensor):
                named[name] = prefix.aligned(named[name])


def _per_text(value: object, prefix: Prefix, num_texts: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_per_text(part, prefix, num_texts) for part in value)
    # What all texts share has one row, or is not a tensor.
    if isinstance(value, Tensor) and value.shape[0] == num_texts:
        return prefix.fan_out(value)
    return value


def _install_beside_first(model: nn.Module, path: str) -> None:
    """DeBERTa-v2's convolution reads the first layer's input beside its output."""
    parent, _, name = path.rpartition(".")
    module = getattr(model.get_submodule(parent), name, None)
    if module is not None and not isinstance(module.forward, _BesideFirst):
        module.forward = _BesideFirst(module.forward)


class _BesideFirst:
    """A forward that is given the first layer's input, of texts, beside its output, of branches."""

    def __init__(self, forward: Callable[..., Any]):
        self.forward = forward

    def __call__(self, states: Tensor, residual: Tensor, mask: Tensor) -> Tensor:
        running = RUNNING.get()
        if running is not None and 0 in running.skipped and 1 in running.skipped:
            return states  # which no layer reads
        prefix = None if running is None else running.prefix
        if prefix is not None and prefix.first_layer == 0:
            states, mask = prefix.fan_out(states), prefix.fan_out(mask)
        return self.forward(states, residual, mask)
