"""The adapter: every trainable parameter of a method, and the way from a text to its scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.families import Sizes
from ltuning.backbones.frozen_model import LabelStates, TextBatch
from ltuning.backbones.lower import Lower
from ltuning.backbones.prefix import Prefix
from ltuning.config import MethodOptions
from ltuning.errors import ArtifactError, ConfigError, Problem
from ltuning.labels import Labels
from ltuning.methods.catalog import METHODS
from ltuning.methods.free_starts import free_start
from ltuning.methods.heads import TAU, BinaryHead, CentredMatchHead, ClassesHead, MatchHead, pool
from ltuning.methods.model import Branches, TextModel, Trainable
from ltuning.methods.parameter_counts import check_fits, closed_forms
from ltuning.methods.saved_tensors import Saved, fitting
from ltuning.methods.virtual_tokens import FreeTokens, LowRankMap, PooledMap, SquareMap

# Near zero: the map's outputs are small beside the backbone's own keys, values and embeddings.
_SMALL = 1e-3
# Virtual tokens where positions set no limit to them.
_MOST_TOKENS = 2048


class Adapter(Trainable):
    """Virtual tokens and a head.

    Args:
        sizes: the backbone's sizes.
        method: resolved options (no choice left open).
        length: L, virtual tokens of the plain methods or room for a label text.
        num_labels: K.
        start: `[L, F]` start of the plain methods' tokens; None = random.
    """

    head: ClassesHead | BinaryHead | MatchHead | CentredMatchHead

    def __init__(
        self,
        sizes: Sizes,
        method: MethodOptions,
        *,
        length: int,
        num_labels: int,
        start: Tensor | None = None,
    ):
        super().__init__()
        self.row = METHODS[method.name]
        self.method = method
        self.sizes = sizes
        self.length = length
        self.first_layer = method.first_layer or 0
        self.tokens = self._build_tokens(start)
        self.head = self._build_head(num_labels)

    @classmethod
    def load(
        cls,
        sizes: Sizes,
        method: MethodOptions,
        tensors: Mapping[str, Tensor],
        folder: Path,
        *,
        length: int,
        num_labels: int,
    ) -> Adapter:
        """As it was when `tensors` were saved, to an artifact's folder.

        Raises:
            ArtifactError: tensors that are not those of the method.
        """
        try:
            # Without memory: how large it is to be is the file's word so far.
            with torch.device("meta"):
                adapter = cls(sizes, method, length=length, num_labels=num_labels)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ArtifactError(
                f"the options of method '{method.name}' in '{folder}' make no adapter ({error}); "
                "restore the folder from where it was first saved, or train again"
            ) from error
        fit = fitting(tensors, adapter.state_dict(), folder)
        adapter.load_state_dict(fit, assign=True)
        return adapter

    @property
    def features(self) -> int:
        """F: numbers per virtual token."""
        if self.row.site == "embeddings":
            return self.sizes.embedding
        layers = self.sizes.layers - self.first_layer
        return layers * 2 * self.sizes.kv_heads * self.sizes.head_dim

    def virtual_tokens(
        self, labels: LabelStates | None, embed: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """All virtual tokens of a label set, once per step or once per prediction.

        Args:
            labels: states of the V label texts (None for plain methods).
            embed: the backbone's word embeddings of ids, `[..., E]`.

        Returns:
            `[V, L, E]` for a prompt, `[V, M', 2, N, L, D]` for a prefix; with `labels: together`
            `[1, M', 2, N, C, D]`, the real tokens of all label texts, side by side.
        """
        if self.method.label_tokens == "mean" and labels is not None:
            labels = _means(labels)
        tokens = self.tokens(labels)
        if self.row.site == "embeddings":
            if self.method.start == "text" and labels is not None:
                tokens = tokens + embed(labels.ids).float()
            return tokens
        layers = self.sizes.layers - self.first_layer
        shape = (layers, 2, self.sizes.kv_heads, self.sizes.head_dim)
        prefix = tokens.unflatten(2, shape).permute(0, 2, 3, 4, 1, 5)
        if self.method.start == "label-kv" and labels is not None:
            prefix = prefix + labels.key_values[:, self.first_layer :]
        if self.method.labels == "together" and labels is not None:
            columns = prefix.permute(0, 4, 1, 2, 3, 5)[self._token_mask(prefix, labels)]
            return columns.permute(1, 2, 3, 0, 4).unsqueeze(0)
        return prefix

    def states(
        self,
        backbone: Backbone,
        batch: TextBatch,
        tokens: Tensor,
        labels: LabelStates | None,
        branches: Branches | None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Pooled states `[R, H]` of the branches (of the texts, where one pass reads all)."""
        rows = torch.zeros_like(batch.ids[:, 0]) if branches is None else branches.rows
        texts = None if branches is None else branches.texts
        if self.row.site == "embeddings":
            if texts is not None:
                batch = batch.select(texts)
            mask = self._token_mask(tokens, labels)
            prompt = (tokens.index_select(0, rows), mask.index_select(0, rows))
            hidden = backbone.forward(batch, prompt=prompt)[:, tokens.shape[1] :]
            return self._pool(hidden, batch.mask)
        prefix = replace(self.prefix(tokens, labels), rows=rows, texts=texts)
        hidden = backbone.forward(batch, prefix=prefix, lower=lower)
        return self._pool(hidden, prefix.fan_out(batch.mask).expand(hidden.shape[0], -1))

    def prefix(self, tokens: Tensor, labels: LabelStates | None) -> Prefix:
        """The virtual tokens of a method with a prefix, as one text reads them: its branches."""
        rows = torch.arange(len(tokens), device=tokens.device)
        if self.method.labels != "together" or labels is None:
            mask = self._token_mask(tokens, labels)
            return Prefix(tokens, mask, self.first_layer, rows, room=self.length)
        number = tokens.shape[4]
        mask = torch.ones(1, number, dtype=torch.bool, device=tokens.device)
        # Every label ends right before the text.
        from_end = torch.zeros(number, dtype=torch.long, device=tokens.device)
        if self.method.label_tokens == "all":
            from_end = labels.from_end
        return Prefix(tokens, mask, self.first_layer, rows, room=self.length, from_end=from_end)

    def score(
        self,
        backbone: Backbone,
        batch: TextBatch,
        tokens: Tensor,
        labels: LabelStates | None = None,
        branches: Branches | None = None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Scores: `[R]` of the branches, or where one pass reads all `[B, V]` of the label texts.

        Of plain methods these are `[B, K]`.
        """
        states = self.states(backbone, batch, tokens, labels, branches, lower)
        return self.read(states, labels, None if branches is None else branches.rows)

    def read(self, states: Tensor, labels: LabelStates | None, rows: Tensor | None) -> Tensor:
        """Scores of pooled states `[R, H]`; see `score`.

        Args:
            states: of the branches, or of the texts where one pass reads all labels.
            labels: states of the V label texts (None for plain methods).
            rows: `[R]` the label text of each branch.
        """
        if labels is None:
            return self.head(states)
        if rows is None:
            return self.head(states, labels.mean)
        return self.head(states, labels.mean.index_select(0, rows))

    def shift(self, by: Tensor) -> None:
        """Add to the scores, where the head has a bias."""
        self.head.shift(by)

    def _pool(self, hidden: Tensor, mask: Tensor) -> Tensor:
        assert self.method.pooling is not None  # resolved
        return pool(hidden, mask, self.method.pooling)

    def _token_mask(self, tokens: Tensor, labels: LabelStates | None) -> Tensor:
        # The pooled map has mixed the tokens already: every one of its outputs is real.
        if labels is None or self.method.transform == "pooled":
            return torch.ones(tokens.shape[0], self.length, dtype=torch.bool, device=tokens.device)
        return labels.mask

    def _build_tokens(self, start: Tensor | None) -> nn.Module:
        hidden, features = self.sizes.hidden, self.features
        if self.row.source == "free":
            if start is None:
                start = torch.randn(self.length, features)
            return FreeTokens(start)
        if self.method.transform == "pooled":
            return PooledMap(hidden, self.length, features)
        small = self.method.start != "random"
        if self.method.transform == "square":
            return SquareMap(hidden, features, _SMALL if small else None)
        assert self.method.rank is not None  # resolved
        scale = _SMALL if small else 1 / math.sqrt(self.method.rank)
        return LowRankMap(hidden, self.method.rank, features, scale)

    def _build_head(
        self, num_labels: int
    ) -> ClassesHead | BinaryHead | MatchHead | CentredMatchHead:
        bias = self.method.objective == "multilabel"
        if self.method.head == "classes":
            return ClassesHead(self.sizes.hidden, num_labels, bias)
        if self.method.head == "binary":
            return BinaryHead(self.sizes.hidden, bias)
        if self.method.labels == "together":
            return CentredMatchHead(self.sizes.hidden, TAU, bias)
        return MatchHead(self.sizes.hidden, TAU, bias)


@dataclass(frozen=True, eq=False)
class AdapterModel(TextModel):
    """A classifier that reads texts after virtual tokens."""

    adapter: Adapter

    @classmethod
    def new(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        labels: Labels,
        states: LabelStates | None,
        *,
        length: int,
        seed: int,
    ) -> Self:
        """Before the first step.

        Raises:
            ConfigError: more parameters or virtual tokens than there is room for.
        """
        _check_size(backbone, method, length, len(labels))
        start = None
        if states is None:
            generator = torch.Generator().manual_seed(seed)
            start = free_start(backbone, method, length, labels.flat_texts, generator)
        adapter = Adapter(
            backbone.sizes, method, length=length, num_labels=len(labels), start=start
        )
        owners = range(len(labels)) if states is None else labels.owners
        return cls(backbone, adapter, states, owners)

    @classmethod
    def load(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        saved: Saved,
        *,
        length: int,
        num_labels: int,
    ) -> Self:
        """As it was saved.

        Raises:
            ArtifactError: tensors that are not those of the method.
        """
        adapter = Adapter.load(
            backbone.sizes,
            method,
            saved.tensors,
            saved.folder,
            length=length,
            num_labels=num_labels,
        )
        return cls(backbone, adapter, None, range(num_labels))

    @property
    def length(self) -> int:
        """L, virtual tokens of the plain methods or room for a label text."""
        return self.adapter.length

    @property
    def lower_layers(self) -> int:
        """Layers below the first one with a prefix; 0 with a prompt."""
        return self.adapter.first_layer if self.adapter.row.site == "key-values" else 0

    def label_side(self) -> Tensor:
        """`Adapter.virtual_tokens`."""
        return self.adapter.virtual_tokens(self.labels, self.backbone.embed)

    def columns(self, side: Tensor | None) -> int:
        """Real tokens of all labels, where they are read together."""
        return side.shape[4] if side is not None and self.method.labels == "together" else 0

    def score(
        self,
        batch: TextBatch,
        side: Tensor | None,
        branches: Branches | None = None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Scores: `[R]` of the branches, or where one pass reads all `[B, K]` of the labels."""
        assert side is not None
        scores = self.adapter.score(self.backbone, batch, side, self.labels, branches, lower)
        return self.of_labels(scores) if branches is None else scores

    @property
    def shares_passes(self) -> bool:
        """Where its virtual tokens go into keys and values."""
        return self.adapter.row.site == "key-values"

    def prefix(self, side: Tensor | None) -> Prefix | None:
        """`Adapter.prefix`."""
        assert side is not None
        return self.adapter.prefix(side, self.labels)

    def read(self, states: Tensor, side: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """Scores: `[R]` of the branches, or where one pass reads all `[B, K]` of the labels."""
        scores = self.adapter.read(states, self.labels, rows)
        return self.of_labels(scores) if rows is None else scores


def _check_size(backbone: Backbone, method: MethodOptions, length: int, num_labels: int) -> None:
    most = backbone.position_budget or _MOST_TOKENS
    are_built = METHODS[method.name].source == "free" or method.transform == "pooled"
    if are_built and length > most:
        message = f"expected at most {most} virtual tokens with this backbone, got {length}"
        raise ConfigError([Problem("method.num_tokens", message)])
    count = closed_forms(method, backbone.sizes, length, num_labels).total
    check_fits(count, backbone.device.type == "cpu")


def _means(labels: LabelStates) -> LabelStates:
    """Label texts of one token each, the mean of their own."""
    return replace(
        labels, hidden=labels.mean.unsqueeze(1), mask=labels.mask.new_ones(len(labels.mask), 1)
    )
