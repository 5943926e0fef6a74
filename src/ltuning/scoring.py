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
from ltuning.methods.adapter import Adapter, Branches
from ltuning.methods.heads import check_finite, mean_over_texts, pool
from ltuning.methods.tuned import Tuned
from ltuning.texts import Text, num_characters

Progress = Callable[[int], None]

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
        max_branches: most texts, or (text, label) pairs where labels are read apart, at a time;
            what bounds the memory.

    Attributes:
        num_branches: branches so far (texts, where one pass reads all labels).
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
        self.num_branches = 0
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
    ) -> np.ndarray:
        """`score` for texts that are tokenized already.

        Args:
            tokens: N tokenized texts.
            progress: called with the number of texts just done.
        """
        scores = np.empty((len(tokens), self.num_labels), dtype=np.float32)
        with torch.inference_mode():
            for rows in self._batches(tokens):
                batch = [tokens[row] for row in rows]
                scores[rows] = self._score_batch(batch).float().cpu().numpy()
                if progress is not None:
                    progress(len(rows))
        return scores

    @property
    def num_labels(self) -> int:
        """K."""
        return int(self.owners.max()) + 1

    def _batches(self, tokens: Sequence[dict[str, Any]]) -> list[list[int]]:
        per_text = 1 if self.adapter.one_pass else len(self.owners)
        most = max(1, self.max_branches // per_text)
        if self.adapter.method.labels == "together":
            most = max(1, min(most, _COLUMNS // self.tokens.shape[4]))
        return by_length(_lengths(tokens), most, self.backbone.device, per_text)

    def _score_batch(self, tokens: list[dict[str, Any]]) -> Tensor:
        batch = self.backbone.batch(tokens).to(self.backbone.device)
        if self.adapter.one_pass:
            self.num_branches += len(batch)
            scores = self.adapter.score(self.backbone, batch, self.tokens, self.labels)
        else:
            scores = self._branches(batch)
        return mean_over_texts(scores, self.owners)

    def _branches(self, batch: TextBatch) -> Tensor:
        """Scores `[B, V]` of the label texts, each in a branch of its own."""
        number = len(self.owners)
        texts = torch.arange(len(batch), device=batch.mask.device).repeat_interleave(number)
        rows = torch.arange(number, device=batch.mask.device).repeat(len(batch))
        scores = torch.empty(len(texts), device=texts.device)
        size = at_once(batch.mask.shape[1], self.max_branches, texts.device)
        for places in torch.arange(len(texts), device=texts.device).split(size):
            used, place = texts[places].unique(return_inverse=True)
            scores[places] = self.adapter.score(
                self.backbone,
                batch.select(used),
                self.tokens,
                self.labels,
                Branches(place, rows[places]),
            )
        self.num_branches += len(texts)
        return scores.view(len(batch), number)


def mean_states(
    backbone: Backbone,
    tokens: Sequence[dict[str, Any]],
    size: int,
    how: Pooling = "mean",
    progress: Progress | None = None,
) -> Tensor:
    """Pooled states `[N, H]` of tokenized texts without virtual tokens, in float32.

    Args:
        backbone: the frozen model.
        tokens: N tokenized texts.
        size: texts at a time.
        how: they are pooled.
        progress: called with the number of texts just done.
    """
    states = torch.empty(len(tokens), backbone.sizes.hidden, device=backbone.device)
    with torch.no_grad():
        for rows in by_length(_lengths(tokens), size, backbone.device):
            batch = backbone.batch([tokens[row] for row in rows]).to(backbone.device)
            states[rows] = pool(backbone.forward(batch), batch.mask, how)
            if progress is not None:
                progress(len(rows))
    return states


def _lengths(tokens: Sequence[dict[str, Any]]) -> list[int]:
    return [len(row["input_ids"]) for row in tokens]
