"""Training on tagged words: windows are the rows, and what is computed on held-out sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.words import Window, WordBatch
from ltuning.metrics import span_report
from ltuning.stages import Advance
from ltuning.tag_scoring import TagScorer, best_tags
from ltuning.training.batches import TokenDataset
from ltuning.training.objectives import check_scores


class WindowDataset(TokenDataset):
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


@dataclass(frozen=True)
class TagValidation:
    """Held-out sentences and the figures that are computed on them.

    Attributes:
        windows: of the sentences.
        targets: for each sentence, the index of each word's tag.
        names: the tags.
    """

    scorer_class: ClassVar = TagScorer

    windows: Sequence[Window]
    targets: Sequence[Sequence[int]]
    names: Sequence[str]

    def figures(self, scorer: TagScorer, progress: Advance | None = None) -> dict[str, float]:
        """Loss per word, and precision, recall and F1 of the entities."""
        lengths = [len(tags) for tags in self.targets]
        tables = scorer.of_windows(self.windows, lengths, progress)
        check_scores(tables, "sentences")
        every, truth = np.concatenate(tables), np.concatenate([np.array(t) for t in self.targets])
        chances = np.maximum(every[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)
        report = span_report(
            [[self.names[tag] for tag in tags] for tags in self.targets],
            [[self.names[tag] for tag in best_tags(table)] for table in tables],
        )
        figures = {name: report[name] for name in ("precision", "recall", "f1")}
        return {"loss": float(-np.log(chances).mean()), **figures}
