"""Training texts as batches, and the order in which they come."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Generic

import numpy as np
from torch.utils.data import Dataset, Sampler

from ltuning import processes
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import TextBatch, Tokens
from ltuning.backbones.words import Window, WordBatch
from ltuning.training.objectives import Target

# Texts whose lengths are sorted together, in batches; large enough to leave little padding,
# small enough that batches stay random.
_GROUP = 50


class TokenDataset(Dataset, Generic[Target]):
    """Tokenized texts with the index of their true label, or with those of all that apply.

    A row is its number, of which `collate` makes batches.

    Args:
        tokens: of each text, or of all windows, one text after the other.
        targets: what is true of each text.
        weights: what the loss of each counts, in the mean one; None where all count the same.
        counts: how many windows each text has; None where `tokens` are of texts.
    """

    def __init__(
        self,
        tokens: Sequence[Tokens],
        targets: Sequence[Target],
        weights: Sequence[float] | None = None,
        counts: Sequence[int] | None = None,
    ):
        self.tokens = tokens
        self.targets = targets
        self.weights = weights
        self.counts = counts
        ends = accumulate([1] * len(targets) if counts is None else counts)
        self._ends = [0, *ends]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> int:
        return row

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text, of one in windows those of its longest."""
        return [
            max(len(tokens["input_ids"]) for tokens in self.tokens[start:end])
            for start, end in pairwise(self._ends)
        ]

    @cached_property
    def digest(self) -> str:
        """Of all that it holds."""
        digest = hashlib.sha256(repr((self.targets, self.weights, self.counts)).encode())
        for row in self.tokens:
            digest.update(repr(list(row["input_ids"])).encode())
        return digest.hexdigest()

    def collate(self, backbone: Backbone, rows: Sequence[int]) -> dict[str, Any]:
        """The batch, its targets and its rows, and its weights where there are any.

        All but the batch as lists, which Trainer leaves where they are: the draws are made on the
        CPU. Of texts in windows the rows are those of the windows, and `counts` says how many each
        text has. Of several processes the batch and the rows are those that this one `runs`, and
        there is no batch where these are none; targets and weights are all, for the draws.
        """
        made: dict[str, Any] = {"targets": [self.targets[row] for row in rows]}
        if self.weights is not None:
            made["weights"] = [self.weights[row] for row in rows]
        rows = [rows[place] for place in runs(len(rows), backbone)]
        if self.counts is not None:
            made["counts"] = [self.counts[row] for row in rows]
            rows = [one for row in rows for one in range(self._ends[row], self._ends[row + 1])]
        batch = self.batch(backbone, rows) if rows else None
        return {"batch": batch, "rows": rows, **made}

    def batch(self, backbone: Backbone, rows: Sequence[int]) -> TextBatch | WordBatch:
        """Some of the texts, or of the windows, padded."""
        return backbone.batch([self.tokens[row] for row in rows])


def runs(size: int, backbone: Backbone) -> range:
    """Of so many texts those that this process runs through the backbone: its part of them.

    Where each pass is one of all processes, the first text stands in for an empty part.
    """
    return processes.part(size) or range(int(backbone.is_sharded))


class WindowDataset(TokenDataset[list[int]]):
    """Windows, and the tag of each word that is read in them.

    Args:
        windows: of the sentences.
        targets: for each sentence, the index of each word's tag.
    """

    def __init__(self, windows: Sequence[Window], targets: Sequence[Sequence[int]]):
        read = [[targets[window.sentence][word] for word in window.words] for window in windows]
        super().__init__([window.tokens for window in windows], read)
        self.windows = windows

    def batch(self, backbone: Backbone, rows: Sequence[int]) -> WordBatch:
        """Some of the windows, padded."""
        return WordBatch.of(backbone, [self.windows[row] for row in rows])


class LengthGroupedBatches(Sampler[int]):
    """Random order in which the texts of a batch have like lengths; a function of seed and epoch.

    Args:
        lengths: tokens of each text.
        batch_size: texts in a batch.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        size = self.batch_size * _GROUP
        batches = []
        for start in range(0, len(order), size):
            group = order[start : start + size]
            group = group[np.argsort(self.lengths[group], kind="stable")]
            batches += [
                group[at : at + self.batch_size] for at in range(0, len(group), self.batch_size)
            ]
        # A short batch anywhere but at the end would shift every batch after it.
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        random.shuffle(full)
        yield from (int(row) for batch in full + rest for row in batch)

    def padding_share(self, counts: Sequence[int] | None = None) -> float:
        """Part of this epoch's tokens that is padding, 0 to 1.

        Args:
            counts: how many windows of that length each text has; None = one.
        """
        order = list(self)
        lengths = self.lengths[order]
        windows = np.ones_like(lengths) if counts is None else np.asarray(counts)[order]
        parts = [
            slice(start, start + self.batch_size) for start in range(0, len(order), self.batch_size)
        ]
        padded = sum(int(windows[part].sum() * lengths[part].max()) for part in parts)
        return 1 - float((lengths * windows).sum()) / padded
