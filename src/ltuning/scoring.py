"""Scores of every label for every text, with the label side computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltuning.backbones.backbone import Backbone, LabelStates, TextBatch
from ltuning.backbones.batches import at_once, by_length, pieces
from ltuning.backbones.families import Pooling
from ltuning.backbones.lower import Lower
from ltuning.methods.adapter import Adapter, Branches
from ltuning.methods.heads import check_finite, pool
from ltuning.methods.plain import combine, mean_over_texts
from ltuning.methods.tuned import Tuned
from ltuning.texts import Text, num_characters

Progress = Callable[[int], None]

# Branches that a text with a shortlist has at most, mostly: what a batch's size is set by.
_LIKELY_BRANCHES = 4

# Columns of all labels together that stand before the texts of a batch, each text its own: what
# they take is bounded however many labels there are.
_COLUMNS = 2**15


class Scorer:
    """An adapter on a backbone, with its virtual tokens made once.

    Args:
        backbone: the frozen model.
        adapter: a trained adapter.
        labels: states of the label texts; None for plain methods.
        owners: the label of each label text.
        max_branches: most (text, label) pairs at a time; what bounds the memory.

    Attributes:
        most: labels in a shortlist; None = those within the margin.
        exact: run every label's branch, whatever the shortlist.
        num_branches: branches so far (texts, for plain methods).
        num_passes: passes over texts without virtual tokens so far.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | Tuned,
        labels: LabelStates | None,
        owners: Sequence[int],
        max_branches: int,
    ):
        self.backbone = backbone
        self.adapter = adapter
        self.labels = labels
        self.owners = torch.tensor(owners, device=backbone.device)
        self.max_branches = max_branches
        most = adapter.method.shortlist
        self.most = most if isinstance(most, int) else None
        self.exact = False
        self.num_branches = 0
        self.num_passes = 0
        with torch.inference_mode():
            self.tokens = adapter.virtual_tokens(labels, backbone.embed)

    def score(
        self,
        texts: Sequence[Text],
        progress: Progress | None = None,
        max_length: int | None = None,
    ) -> np.ndarray:
        """Scores of texts.

        Args:
            texts: N texts, in any order; they are tokenized piece by piece, so that many take no
                more memory than some, and batched by length.
            progress: called with the number of texts just done.
            max_length: most tokens of one text; None = the backbone's own limit.

        Returns:
            `[N, K]` float32, row for row in the order of the texts.

        Raises:
            ArtifactError: a score that is not finite.
        """
        scores = np.empty((len(texts), self.num_labels), dtype=np.float32)
        for rows in pieces([num_characters(text) for text in texts]):
            tokens = self.backbone.tokenize([texts[row] for row in rows], max_length)
            scores[rows.start : rows.stop] = self.score_tokens(tokens, progress)
            check_finite(scores[rows.start : rows.stop], "texts")
        return scores

    def score_tokens(
        self,
        tokens: Sequence[dict[str, Any]],
        progress: Progress | None = None,
        plain: Tensor | None = None,
    ) -> np.ndarray:
        """`score` for texts that are tokenized already.

        Args:
            tokens: N tokenized texts.
            progress: called with the number of texts just done.
            plain: `[N, K]` scores to use instead of the plain scorer's own.
        """
        scores = np.empty((len(tokens), self.num_labels), dtype=np.float32)
        with torch.inference_mode():
            for rows in self._batches(tokens):
                batch = [tokens[row] for row in rows]
                given = None if plain is None else plain[rows]
                scores[rows] = self._score_batch(batch, given).float().cpu().numpy()
                if progress is not None:
                    progress(len(rows))
        return scores

    def plain_scores(self, tokens: Sequence[dict[str, Any]]) -> Tensor:
        """`[N, K]` plain scores of tokenized texts."""
        assert self.labels is not None and self.adapter.plain is not None
        with torch.inference_mode():
            states = mean_states(self.backbone, tokens, self.max_branches)
            return self.adapter.plain.score(states, self.labels.mean, self.owners)

    def shortlist(self, plain: Tensor) -> Tensor:
        """Which labels get a branch, `[B, K]` bool, by their plain scores `[B, K]`."""
        assert self.adapter.plain is not None
        if self.exact:
            return torch.ones_like(plain, dtype=torch.bool)
        return self.adapter.plain.shortlist(plain, self.most)

    @property
    def num_labels(self) -> int:
        """K."""
        return int(self.owners.max()) + 1

    def _batches(self, tokens: Sequence[dict[str, Any]]) -> list[list[int]]:
        per_text = 1
        if not self.adapter.one_pass:
            per_text = len(self.owners) if self.adapter.plain is None else _LIKELY_BRANCHES
        most = max(1, self.max_branches // per_text)
        if self.adapter.one_pass and self.labels is not None:
            most = max(1, min(most, _COLUMNS // self.tokens.shape[4]))
        return by_length(_lengths(tokens), most, self.backbone.device, per_text)

    def _score_batch(self, tokens: list[dict[str, Any]], plain: Tensor | None = None) -> Tensor:
        batch = self.backbone.batch(tokens).to(self.backbone.device)
        if self.adapter.one_pass:
            self.num_branches += len(batch)
            scores = self.adapter.score(self.backbone, batch, self.tokens, self.labels)
            return mean_over_texts(scores, self.owners)
        if self.adapter.plain is None:
            return self._branches(batch, batch.mask.new_ones(len(batch), self.num_labels))
        lower = Lower(self.adapter.first_layer)
        if plain is None:
            plain = self._plain(batch, lower)
        return self._two_stages(batch, plain, lower)

    def _plain(self, batch: TextBatch, lower: Lower | None = None) -> Tensor:
        """Plain scores `[B, K]`, by one pass over each text."""
        assert self.labels is not None and self.adapter.plain is not None
        self.num_passes += len(batch)
        states = pool(self.backbone.forward(batch, lower=lower), batch.mask, "mean")
        return self.adapter.plain.score(states, self.labels.mean, self.owners)

    def _two_stages(self, batch: TextBatch, plain: Tensor, lower: Lower) -> Tensor:
        inside = self.shortlist(plain)
        several = (inside.sum(1) > 1).nonzero().squeeze(1)
        scores = plain.clone()
        if len(several):
            inside = inside[several]
            branches = self._branches(batch.select(several), inside, lower.select(several))
            scores[several] = combine(plain[several], branches, inside)
        return scores

    def _branches(self, batch: TextBatch, inside: Tensor, lower: Lower | None = None) -> Tensor:
        """Scores `[B, K]` of the branches `inside` `[B, K]`; the others are not to be read."""
        texts, rows = inside[:, self.owners].nonzero(as_tuple=True)
        scores = torch.zeros(len(batch), len(self.owners), device=texts.device)
        size = at_once(batch.mask.shape[1], self.max_branches, texts.device)
        for text, row in zip(texts.split(size), rows.split(size), strict=True):
            used, place = text.unique(return_inverse=True)
            part = self.adapter.score(
                self.backbone,
                batch.select(used),
                self.tokens,
                self.labels,
                Branches(place, row),
                None if lower is None else lower.select(used),
            )
            scores[text, row] = part
        self.num_branches += len(texts)
        return mean_over_texts(scores, self.owners)


def mean_states(
    backbone: Backbone, tokens: Sequence[dict[str, Any]], size: int, how: Pooling = "mean"
) -> Tensor:
    """Pooled states `[N, H]` of tokenized texts without virtual tokens, in float32.

    Args:
        backbone: the frozen model.
        tokens: N tokenized texts.
        size: texts at a time.
        how: they are pooled.
    """
    states = torch.empty(len(tokens), backbone.sizes.hidden, device=backbone.device)
    with torch.no_grad():
        for rows in by_length(_lengths(tokens), size, backbone.device):
            batch = backbone.batch([tokens[row] for row in rows]).to(backbone.device)
            states[rows] = pool(backbone.forward(batch), batch.mask, how)
    return states


def _lengths(tokens: Sequence[dict[str, Any]]) -> list[int]:
    return [len(row["input_ids"]) for row in tokens]
