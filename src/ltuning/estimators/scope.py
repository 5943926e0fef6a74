"""Texts that belong to none of the labels: told by their highest score, or by a label for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltuning.calibration import LEAST_IN_SCOPE
from ltuning.errors import DataError
from ltuning.texts import Text


def highest_in_scope(scores: np.ndarray, names: Sequence[str], oos_label: str) -> np.ndarray:
    """`[N]` highest score, of `[N, K]`, of a label that does not stand for none."""
    columns = [place for place, name in enumerate(names) if name != oos_label]
    highest: np.ndarray = scores[:, columns].max(axis=1)
    return highest


def is_outside(
    scores: np.ndarray, names: Sequence[str], oos_label: str, threshold: float
) -> np.ndarray:
    """`[N]` bool: the texts whose highest score is below the threshold, or of the label for none.

    Args:
        scores: `[N, K]`.
        names: [K] of the labels.
        oos_label: stands for none, whether it was trained or not.
        threshold: see `calibration.fit_scope`.
    """
    below = highest_in_scope(scores, names, oos_label) < threshold
    if oos_label not in names:
        return below
    outside: np.ndarray = below | (scores.argmax(axis=1) == names.index(oos_label))
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
