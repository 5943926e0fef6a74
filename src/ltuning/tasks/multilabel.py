"""Every label that applies to a text, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltuning.data.label_sets import MultilabelExamples
from ltuning.data.sources import Columns, read_multilabel_split, read_multilabel_splits
from ltuning.data.splits import hold_out
from ltuning.metrics import Report, binary_log_loss, multilabel_report
from ltuning.tasks.task import Labelled, Task
from ltuning.values import label_name

if TYPE_CHECKING:
    from ltuning.estimators.multilabel_classifier import MultilabelClassifier


class Multilabel(Task["MultilabelClassifier", MultilabelExamples, np.ndarray]):
    """Scores are probabilities `[N, K]`; from its threshold on a label applies, `[N, K]` 0 or 1."""

    name = "multilabel"
    output_columns = ("predicted_labels",)
    figures = ("micro_f1", "macro_f1", "exact_match")
    each = "label"
    answers = "texts (all their labels)"
    legend = "of the labels of the test texts, at the thresholds that the validation texts gave"

    def door(self) -> type[MultilabelClassifier]:
        """`MultilabelClassifier`."""
        from ltuning.estimators.multilabel_classifier import MultilabelClassifier

        return MultilabelClassifier

    def read_splits(
        self, source: str | Path, columns: Columns, **how: Any
    ) -> Mapping[str, MultilabelExamples]:
        """Texts with a list of labels each."""
        return read_multilabel_splits(source, columns, **how)

    def read_split(
        self, source: str | Path, split: str, columns: Columns, **how: Any
    ) -> MultilabelExamples:
        """Texts with a list of labels each."""
        return read_multilabel_split(source, split, columns, **how)

    def hold_out(
        self, examples: MultilabelExamples, fraction: float, seed: int
    ) -> tuple[MultilabelExamples, MultilabelExamples]:
        """Training and validation texts, from each label its share."""
        return hold_out(examples, fraction, seed)

    def names(self, examples: Labelled) -> list[str]:
        """The labels."""
        return sorted({name for names in examples.labels or () for name in names})

    def truth(self, examples: Labelled, names: Sequence[str]) -> np.ndarray:
        """`[N, K]` 1 where a label applies."""
        lists = examples.labels or ()
        return np.array([[int(name in labels) for name in names] for labels in lists])

    def scored(self, door: MultilabelClassifier, inputs: Sequence[object]) -> np.ndarray:
        """`[N, K]` probabilities."""
        return door.predict_proba(inputs)

    def thresholds(self, door: MultilabelClassifier) -> np.ndarray:
        """`[K]` those that validation gave."""
        return door.thresholds_

    def decide(self, scored: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """`[N, K]` 1 where a label is predicted."""
        assert thresholds is not None  # every method of the task has them
        return (scored >= thresholds).astype(int)

    def margins(self, scored: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """`[N]` how far the probability that is nearest to its threshold is from it."""
        assert thresholds is not None  # every method of the task has them
        margins: np.ndarray = np.abs(scored - thresholds).min(axis=1)
        return margins

    def measure(
        self, scored: np.ndarray, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]
    ) -> Report:
        """`multilabel_report`, and the log loss of a label of a text."""
        return multilabel_report(truth, predicted, names) | {"loss": binary_log_loss(scored, truth)}

    def counts(self, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """`[N, 3]` labels."""
        return np.stack([(predicted & truth).sum(1), predicted.sum(1), truth.sum(1)], axis=1)

    def surest_mistakes(
        self, scored: np.ndarray, predicted: np.ndarray, truth: np.ndarray
    ) -> dict[int, float]:
        """The highest probability with which a label was wrongly told to apply or not to."""
        sure = np.where(predicted == truth, 0.0, np.where(predicted == 1, scored, 1 - scored))
        rows = np.flatnonzero((predicted != truth).any(1))
        return {int(row): float(sure[row].max()) for row in rows}

    def output_row(
        self, decided: np.ndarray, scored: np.ndarray, names: Sequence[str]
    ) -> list[object]:
        """The list of the labels."""
        return [[names[place] for place in decided.nonzero()[0].tolist()]]

    def said(
        self, door: Any, inputs: Sequence[Any], progress: Callable[[int], None]
    ) -> list[object]:
        """The names of the labels of each text."""
        return [{*map(label_name, labels)} for labels in door.predict(inputs, progress)]

    def true(self, examples: Labelled) -> list[object]:
        """The names of the labels of each text."""
        return [{*labels} for labels in examples.labels or ()]

    def shown(self, decided: np.ndarray, example: object, names: Sequence[str]) -> str:
        """The labels, or a dash."""
        return ", ".join(names[place] for place in decided.nonzero()[0].tolist()) or "-"
