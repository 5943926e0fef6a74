"""What is computed on validation texts where each has one label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ltuning.metrics import classification_report, log_loss
from ltuning.scoring import Scorer
from ltuning.stages import Advance
from ltuning.training.objectives import check_scores


@dataclass(frozen=True)
class Validation:
    """Held-out texts and the figures that are computed on them."""

    scorer_class: ClassVar = Scorer

    tokens: Sequence[dict[str, Any]]
    targets: Sequence[int]
    names: Sequence[str]

    def figures(self, scorer: Scorer, progress: Advance | None = None) -> dict[str, float]:
        """Loss over all labels, accuracy, macro-F1 and Matthews correlation."""
        scores = scorer.score_tokens(self.tokens, progress)
        check_scores([scores], "texts")
        truth = [self.names[target] for target in self.targets]
        predicted = [self.names[index] for index in scores.argmax(1)]
        report = classification_report(truth, predicted, self.names)
        figures = {name: report[name] for name in ("accuracy", "macro_f1", "mcc")}
        return {"loss": log_loss(softmax(scores), self.targets), **figures}


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the labels: `[N, K] -> [N, K]`."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)
