"""Parts of a data set: a validation part held out, and a few examples per class."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from typing import TypeVar

from ltuning.data.examples import Examples
from ltuning.data.label_sets import MultilabelExamples
from ltuning.errors import DataError

E = TypeVar("E", Examples, MultilabelExamples)

_log = logging.getLogger("ltuning")


def hold_out(examples: E, fraction: float, seed: int) -> tuple[E, E]:
    """Split into training and validation examples, class by class.

    Of each class about ``fraction`` goes to validation, at least one and never all; the only
    example of a class stays for training. A text with several labels counts as one of the rarest of
    them, and stays if a label of its would be in validation only. Both parts keep the order; equal
    seeds, equal parts.

    Raises:
        DataError: no labels, a fraction outside (0, 1), or no class with two examples.
    """
    if not 0 < fraction < 1:
        raise DataError(f"expected a validation fraction between 0 and 1, got {fraction!r}")
    held = held_rows(_classes(examples), fraction, seed)
    if isinstance(examples, MultilabelExamples):
        held -= needed(examples.labels, held)
    if not held:
        raise DataError(
            f"{examples.origin}: no class has two examples, so none can be held out for "
            "validation; add examples, give a validation split, or set data.validation_fraction=0"
        )
    rest = [index for index in range(len(examples)) if index not in held]
    return examples.part(rest), examples.part(sorted(held))


def held_rows(classes: Sequence[str], fraction: float, seed: int) -> set[int]:
    """The rows that `hold_out` takes of texts of these classes; none where no class has two."""
    held: set[int] = set()
    for label, indices in _by_class(classes).items():
        if len(indices) >= 2:
            count = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
            held.update(_draw(indices, count, label, seed))
    return held


def needed(labels: Sequence[Sequence[str]], held: set[int]) -> set[int]:
    """Those of the texts held out without which training would lack a label, or a type."""
    known = {name for index, names in enumerate(labels) if index not in held for name in names}
    found = set()
    for index in sorted(held):
        if not known.issuperset(labels[index]):
            found.add(index)
            known.update(labels[index])
    return found


def take_shots(examples: Examples, shots: int, seed: int) -> Examples:
    """Take ``shots`` examples of each class at random, without replacement, in their order.

    Of a class with fewer examples all are taken, and a warning is logged. Equal seeds give equal
    parts.

    Raises:
        DataError: no labels, or fewer than one shot.
    """
    if shots < 1:
        raise DataError(f"expected 1 or more shots, got {shots!r}")
    classes = _by_class(_classes(examples))
    few = [f"{label!r} ({len(found)})" for label, found in classes.items() if len(found) < shots]
    if few:
        _log.warning(
            "%s: fewer than %d examples of %s; all of them are taken",
            examples.origin,
            shots,
            ", ".join(few),
        )
    drawn = (
        index
        for label, indices in classes.items()
        for index in _draw(indices, min(shots, len(indices)), label, seed)
    )
    return examples.part(sorted(drawn))


def _classes(examples: Examples | MultilabelExamples) -> list[str]:
    found = examples.classes
    if found is None:
        raise DataError(f"{examples.origin}: expected examples with labels, got texts only")
    return found


def _by_class(classes: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, label in enumerate(classes):
        found.setdefault(label, []).append(index)
    return found


def _draw(indices: list[int], count: int, label: str, seed: int) -> list[int]:
    # Seeded per class, so that one class more does not change what is drawn of the others.
    return random.Random(f"{seed}:{label}").sample(indices, count)
