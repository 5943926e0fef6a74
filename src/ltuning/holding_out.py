"""Which texts are held out of training."""

from __future__ import annotations

import random
from collections.abc import Sequence


def held_rows(classes: Sequence[str], fraction: float, seed: int) -> list[int]:
    """Of each class about a fraction, at least one text and never all.

    The only text of a class is not among them. Equal seeds, equal rows, and one class more does
    not change what is drawn of the others.

    Args:
        classes: of each text.
        fraction: above 0 and below 1.
        seed: of the draw.

    Returns:
        Rows in their order; none where no class has two texts.
    """
    held: list[int] = []
    for name, rows in rows_by_class(classes).items():
        if len(rows) >= 2:
            count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            held += draw(rows, count, name, seed)
    return sorted(held)


def rows_by_class(classes: Sequence[str]) -> dict[str, list[int]]:
    """The rows of each class."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(classes):
        found.setdefault(name, []).append(row)
    return found


def draw(rows: Sequence[int], count: int, name: str, seed: int) -> list[int]:
    """Some rows of a class, without replacement."""
    # Seeded per class, so that one class more does not change what is drawn of the others.
    return random.Random(f"{seed}:{name}").sample(rows, count)
