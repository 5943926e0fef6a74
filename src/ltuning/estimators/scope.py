"""Texts that belong to none of the labels: told by their highest score, or by a label for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltuning.calibration import LEAST_IN_SCOPE
from ltuning.errors import DataError
from ltuning.texts import Text
from ltuning.values import Label, LabelType, label_of


def highest_in_scope(scores: np.ndarray, names: Sequence[str], oos_label: str) -> np.ndarray:
    """`[N]` highest score, of `[N, K]`, of a label that does not stand for none."""
    columns = [place for place, name in enumerate(names) if name != oos_label]
    highest: np.ndarray = scores[:, columns].max(axis=1)
    return highest


@dataclass(frozen=True)
class Scope:
    """Which texts belong to none of the labels, and what is said of them.

    Attributes:
        names: K names of the labels.
        type: of the labels in the data.
        oos_label: stands for none, whether it was trained or not; None = every text has a label.
        threshold: of the highest score, see `calibration.fit_scope`; None = likewise.
    """

    names: Sequence[str]
    type: LabelType
    oos_label: str | None
    threshold: float | None

    @property
    def for_none(self) -> Label | None:
        """What texts get that belong to no label; None where there are none."""
        if self.oos_label is None or self.threshold is None:
            return None
        return label_of(self.oos_label, self.type)

    def is_outside(self, scores: np.ndarray) -> np.ndarray:
        """`[N]` bool: texts whose highest score, of `[N, K]`, is too low, or of the label for none.

        All False where every text has a label.
        """
        if self.oos_label is None or self.threshold is None:
            return np.zeros(len(scores), dtype=bool)
        outside: np.ndarray = highest_in_scope(scores, self.names, self.oos_label) < self.threshold
        if self.oos_label in self.names:
            outside |= scores.argmax(axis=1) == self.names.index(self.oos_label)
        return outside


def of_labels(
    texts: Sequence[Text], labels: Sequence[str], known: Sequence[str], oos_label: str | None
) -> tuple[list[Text], list[str]]:
    """Texts and their labels without those of `oos_label`, where it is none of the known ones."""
    kept = [row for row, label in enumerate(labels) if label != oos_label or oos_label in known]
    return [texts[row] for row in kept], [labels[row] for row in kept]


def check_scope(
    labels: Sequence[str],
    oos_label: str,
    what: str = "validation texts",
    instead: str = "leave oos_label out",
) -> None:
    """Refuse held-out texts that are too few to say which scores texts of labels have.

    Args:
        labels: of the held-out texts.
        oos_label: stands for none.
        what: the texts are, for the message.
        instead: of giving more, what can be done.

    Raises:
        DataError: fewer than 19 have a label that does not stand for none.
    """
    number = sum(label != oos_label for label in labels)
    if number < LEAST_IN_SCOPE:
        raise DataError(
            f"expected {LEAST_IN_SCOPE} or more {what} of other labels than "
            f"{oos_label!r}, to find out which scores such texts have, got {number}; give more, or "
            f"{instead}"
        )
