"""One class for each text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltuning.data.label_sets import refuse_joined
from ltuning.data.sources import Columns, Examples, read_split, read_splits
from ltuning.data.splits import hold_out
from ltuning.metrics import Report, classification_report, expected_calibration_error, log_loss
from ltuning.tasks.task import Labelled, Task
from ltuning.values import label_name

if TYPE_CHECKING:
    from ltuning.estimators.label_classifier import LabelClassifier

logger = logging.getLogger("ltuning")


class Classes(Task["LabelClassifier", Examples, np.ndarray]):
    """Scores are probabilities `[N, K]`; the class is the most probable one, `[N]`."""

    name = "classes"
    output_columns = ("predicted_label", "probability")
    figures = ("accuracy", "macro_f1", "mcc")
    each = "class"
    answers = "answers"
    legend = "on the test texts"

    def door(self) -> type[LabelClassifier]:
        """`LabelClassifier`."""
        from ltuning.estimators.label_classifier import LabelClassifier

        return LabelClassifier

    def read_splits(
        self, source: str | Path, columns: Columns, **how: Any
    ) -> Mapping[str, Examples]:
        """Texts with a label each."""
        return read_splits(source, columns, **how)

    def read_split(self, source: str | Path, split: str, columns: Columns, **how: Any) -> Examples:
        """Texts with a label each."""
        return read_split(source, split, columns, **how)

    def hold_out(self, examples: Examples, fraction: float, seed: int) -> tuple[Examples, Examples]:
        """Training and validation texts, from each label its share."""
        return hold_out(examples, fraction, seed)

    def check(self, training: Examples) -> None:
        """Refuse classes that are several with `|` between them."""
        refuse_joined(training.labels or [], training.origin)

    def check_given(self, names: Collection[str], training: Examples) -> None:
        """Warn of classes without a training text."""
        used = set(training.labels or ())
        if unused := [repr(name) for name in names if name not in used]:
            logger.warning("no training text has the label %s", ", ".join(unused))

    def names(self, examples: Labelled) -> list[str]:
        """The classes."""
        return sorted(set(examples.labels or ()))

    def truth(self, examples: Labelled, names: Sequence[str]) -> np.ndarray:
        """`[N]` indices of classes."""
        return np.array([names.index(label) for label in examples.labels or ()])

    def scored(self, door: LabelClassifier, inputs: Sequence[object]) -> np.ndarray:
        """`[N, K]` probabilities."""
        return door.predict_proba(inputs)

    def decide(self, scored: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """`[N]` indices of classes."""
        best: np.ndarray = scored.argmax(1)
        return best

    def margins(self, scored: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """`[N]` the highest probability less the second one."""
        second, first = np.sort(scored, axis=1)[:, -2:].T
        margins: np.ndarray = first - second
        return margins

    def measure(
        self, scored: np.ndarray, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]
    ) -> Report:
        """`classification_report`, log loss and calibration error."""
        real, guess = ([names[place] for place in side] for side in (truth, predicted))
        report = classification_report(real, guess, names)
        report["loss"] = log_loss(scored, truth)
        report["expected_calibration_error"] = expected_calibration_error(scored, truth)
        return report

    def surest_mistakes(
        self, scored: np.ndarray, predicted: np.ndarray, truth: np.ndarray
    ) -> dict[int, float]:
        """The probability of each wrong class that was predicted."""
        wrong = np.flatnonzero(predicted != truth)
        return {int(row): float(scored[row, predicted[row]]) for row in wrong}

    def output_row(
        self, decided: np.ndarray, scored: np.ndarray, names: Sequence[str]
    ) -> list[object]:
        """The class, and its probability."""
        return [names[int(decided)], float(scored[int(decided)])]

    def said(
        self, door: Any, inputs: Sequence[Any], progress: Callable[[int], None]
    ) -> list[object]:
        """The name of the class of each text."""
        return [label_name(label) for label in door.predict(inputs, progress).tolist()]

    def true(self, examples: Labelled) -> list[object]:
        """The name of the class of each text."""
        return [*(examples.labels or ())]

    def shown(self, decided: np.ndarray, example: object, names: Sequence[str]) -> str:
        """The class."""
        return names[int(decided)]
