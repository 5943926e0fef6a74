"""Scores of every label for every text, with the label side computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltuning.backbones.backbone import Backbone, LabelStates, Text
from ltuning.methods.adapter import Adapter, Branches

Progress = Callable[[int], None]


class Scorer:
    """An adapter on a backbone, with its virtual tokens made once.

    Args:
        backbone: the frozen model.
        adapter: a trained adapter.
        labels: states of the label texts; None for plain methods.
        owners: the label of each label text.
        max_branches: most (text, label) pairs at a time; what bounds the memory.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        labels: LabelStates | None,
        owners: Sequence[int],
        max_branches: int,
    ):
        self.backbone = backbone
        self.adapter = adapter
        self.labels = labels
        self.owners = torch.tensor(owners)
        self.max_branches = max_branches
        self.num_branches = 0
        with torch.inference_mode():
            self.tokens = adapter.virtual_tokens(labels, backbone.embed)

    def score(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """Scores of texts.

        Args:
            texts: N texts, in any order; they are batched by length.
            progress: called with the number of texts just done.

        Returns:
            `[N, K]` float32, row for row in the order of the texts.
        """
        return self.score_tokens(self.backbone.tokenize(texts), progress)

    def score_tokens(
        self, tokens: Sequence[dict[str, Any]], progress: Progress | None = None
    ) -> np.ndarray:
        """`score` for texts that are tokenized already."""
        num_labels = int(self.owners.max()) + 1
        scores = np.empty((len(tokens), num_labels), dtype=np.float32)
        with torch.inference_mode():
            for rows in self._batches(tokens):
                batch = [tokens[row] for row in rows]
                scores[rows] = self._score_batch(batch).float().cpu().numpy()
                if progress is not None:
                    progress(len(rows))
        return scores

    def _batches(self, tokens: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]["input_ids"]))
        per_text = len(self.owners) if self.labels is not None else 1
        size = max(1, self.max_branches // per_text)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _score_batch(self, tokens: list[dict[str, Any]]) -> Tensor:
        batch = self.backbone.batch(tokens).to(self.backbone.device)
        if self.labels is None:
            self.num_branches += len(batch)
            return self.adapter.score(self.backbone, batch, self.tokens)
        device = self.backbone.device
        parts = []
        for rows in torch.arange(len(self.owners), device=device).split(self.max_branches):
            texts = torch.arange(len(batch), device=device).repeat_interleave(len(rows))
            branches = Branches(texts, rows.repeat(len(batch)))
            part = self.adapter.score(self.backbone, batch, self.tokens, self.labels, branches)
            self.num_branches += len(texts)
            parts.append(part.view(len(batch), len(rows)))
        return self._average(torch.cat(parts, dim=1))

    def _average(self, scores: Tensor) -> Tensor:
        """`[B, V] -> [B, K]`: a label's score is the mean over its texts."""
        owners = self.owners.to(scores.device)
        count = torch.bincount(owners)
        summed = scores.new_zeros(len(scores), len(count)).index_add(1, owners, scores)
        return summed / count
