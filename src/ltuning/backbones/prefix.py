"""Prefixes, and what a forward pass knows while it runs through the layers.

A pass is announced to the layers through context variables, so that it reaches every attention
module without an argument of the model's own: few families hand unknown arguments down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Prefix:
    """Keys and values that stand before the text's own in the upper layers.

    Attributes:
        states: `[V, M - first_layer, 2, N, L, D]`, one entry per label text (V = 1: plain tuning).
        mask: `[V, L]` bool, False where a label text is padded.
        first_layer: the lowest layer that has the prefix.
        texts: `[R]` the text of each branch, or None where branch r is text r.
        rows: `[R]` the entry of `states` that each branch uses.
        room: positions before the text in decoders whose positions are absolute; None = L.
        from_end: `[L]` of tokens that do not follow each other how many come between each and the
            text, as where several label texts stand side by side; None = they follow each other.
    """

    states: Tensor
    mask: Tensor
    first_layer: int
    rows: Tensor
    texts: Tensor | None = None
    room: int | None = None
    from_end: Tensor | None = None

    @property
    def length(self) -> int:
        """L, virtual tokens per layer."""
        return self.states.shape[4]

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each `[R, N, L, D]`."""
        keys, values = self.states[:, layer - self.first_layer].unbind(1)
        return self._of_branches(keys), self._of_branches(values)

    def branch_mask(self) -> Tensor:
        """`[R, L]` bool, the real virtual tokens of each branch."""
        return self._of_branches(self.mask)

    def _of_branches(self, entries: Tensor) -> Tensor:
        """`[V, ...] -> [R, ...]`: each branch its entry; one that all share is not copied."""
        # Here and in what else an exported graph passes: `len` would make its number a constant.
        if len(entries) == 1:
            return entries.expand(self.rows.shape[0], *entries.shape[1:])
        return entries.index_select(0, self.rows)

    def aligned(self, distances: Tensor) -> Tensor:
        """`[..., L + T]` what a model adds to scores by place: tokens side by side have one place.

        Args:
            distances: of columns that follow each other.
        """
        if self.from_end is None:
            return distances
        place = self.length - 1 - self.from_end.to(distances.device)
        own = torch.arange(self.length, distances.shape[-1], device=distances.device)
        return distances.index_select(-1, torch.cat([place, own]))

    def fan_out(self, tensor: Tensor) -> Tensor:
        """`[B, ...] -> [R, ...]`: each branch gets what belongs to its text."""
        if self.texts is None:
            return tensor
        return tensor.index_select(0, self.texts.to(tensor.device))

    def fan_in(self, tensor: Tensor) -> Tensor:
        """`[R, ...] -> [B, ...]`: what belongs to the first branch of each text."""
        if self.texts is None:
            return tensor
        return tensor.index_select(0, self._first_branches.to(tensor.device))

    @cached_property
    def _first_branches(self) -> Tensor:
        """`[B]` the first branch of each text; asked for by every layer of a pass."""
        assert self.texts is not None
        order = torch.arange(len(self.texts), device=self.texts.device)
        branches = self.texts.new_zeros(int(self.texts.max()) + 1)
        return branches.scatter_(0, self.texts.flip(0), order.flip(0))


@dataclass
class Recorder:
    """Collects the keys and values that each layer computes.

    Attributes:
        kv_heads: N.
        layers: `[B, N, T, D]` each, layer by layer.
    """

    kv_heads: int
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, key: Tensor, value: Tensor) -> None:
        """One layer's keys and values; heads that a model repeated count once."""
        group = key.shape[1] // self.kv_heads
        self.layers.append((key[:, ::group], value[:, ::group]))


class Compiler:
    """Makes compiled ones of the layers' forwards, each once.

    Sizes are dynamic and masks always written out, so that batches of other sizes run the same
    code; so do the layers of a model, which are of one class.

    Args:
        backend: by torch's name; None = its default.
        mode: by torch's name; None = its default.
    """

    def __init__(self, backend: str | None = None, mode: str | None = None):
        self._options: dict[str, Any] = {} if mode is None else {"mode": mode}
        if backend is not None:
            self._options["backend"] = backend
        self._made: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __call__(self, forward: Callable[..., object]) -> Callable[..., Any]:
        """The compiled one."""
        if forward not in self._made:
            self._made[forward] = torch.compile(forward, dynamic=True, **self._options)
        return self._made[forward]


@dataclass(frozen=True)
class InTraining:
    """How layers run where a gradient is wanted.

    Attributes:
        checkpointing: whether they forget their activations and compute them again in backward.
        compiler: of their forwards; None = they run as they are.
    """

    checkpointing: bool = False
    compiler: Compiler | None = None


@dataclass
class Pass:
    """A forward pass of the whole model.

    Attributes:
        prefix: keys and values to prepend.
        recorder: where keys and values are collected.
        skipped: layers that do not run but give `output`.
        output: what was given for them, or what the layer before them returned.
        layer: number of the layer that comes next; layers are counted as they are called, because
            some models run one module several times.
        num_texts: B, known once a layer has seen the texts.
    """

    prefix: Prefix | None = None
    recorder: Recorder | None = None
    skipped: range = range(0)
    output: Any = None
    layer: int = 0
    num_texts: int = 0


@dataclass(frozen=True)
class LayerPass:
    """What the attention of one layer adds and records.

    It does not say which layer: compiled code is then the same for all of them.

    Attributes:
        keys: `[R, N, L, D]` to prepend, None in a layer that has none.
        values: `[R, N, L, D]`, beside them.
        mask: `[R, L]` bool, the real ones among them.
        recorder: where the layer's own keys and values are collected.
    """

    keys: Tensor | None
    values: Tensor | None
    mask: Tensor | None
    recorder: Recorder | None

    @classmethod
    def of(cls, prefix: Prefix | None, layer: int, recorder: Recorder | None) -> LayerPass:
        """A layer of a pass, with a prefix or without."""
        if prefix is None or prefix.length == 0 or layer < prefix.first_layer:
            return cls(None, None, None, recorder)
        return cls(*prefix.at(layer), prefix.branch_mask(), recorder)

    def prefix(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Keys and values, `[R, heads, L, D]`, in the precision and heads of `like`, and the mask.

        `like` is a key of the text; models that repeat their key/value heads before attention
        have more of them than N.
        """
        if self.keys is None or self.values is None or self.mask is None:
            return None
        group = like.shape[1] // self.keys.shape[1]
        keys, values = (
            part.to(device=like.device, dtype=like.dtype).repeat_interleave(group, dim=1)
            for part in (self.keys, self.values)
        )
        return keys, values, self.mask.to(like.device)


RUNNING: ContextVar[Pass | None] = ContextVar("ltuning_pass", default=None)
LAYER: ContextVar[LayerPass | None] = ContextVar("ltuning_layer", default=None)
# While a training goes on; in its thread, whatever other threads do with the same backbone.
TRAINING: ContextVar[InTraining | None] = ContextVar("ltuning_training", default=None)


@contextmanager
def announced(variable: ContextVar[T | None], value: T) -> Iterator[T]:
    """Let the layers, or the attention of a layer, see something while the block runs."""
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)
