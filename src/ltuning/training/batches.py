"""Training texts, and the order in which they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, Sampler

# Texts whose lengths are sorted together, in batches; large enough to leave little padding,
# small enough that batches stay random.
_GROUP = 50


class TokenDataset(Dataset):
    """Tokenized texts with the index of their true label, or with those of all that apply."""

    def __init__(self, tokens: Sequence[dict[str, Any]], targets: Sequence[Any]):
        self.tokens = tokens
        self.targets = targets

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"tokens": self.tokens[row], "target": self.targets[row], "row": row}


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

    def padding_share(self) -> float:
        """Part of this epoch's tokens that is padding, 0 to 1."""
        lengths = self.lengths[list(self)]
        starts = range(0, len(lengths), self.batch_size)
        batches = [lengths[start : start + self.batch_size] for start in starts]
        return 1 - float(lengths.sum()) / sum(len(batch) * int(batch.max()) for batch in batches)
