"""Single values as data has them: what is missing, and what labels are called."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any


def plain_value(value: Any) -> Any:
    """A number or text of NumPy or torch as one of Python; anything else as it is."""
    is_scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if is_scalar else value


def is_missing(value: object) -> bool:
    """Whether a value stands for none: None, NaN, or the NA and NaT of pandas."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and (value is pandas.NA or value is pandas.NaT):
        return True
    return value is None or (isinstance(value, float) and value != value)


def label_name(value: str | int | float | bool) -> str:
    """The name of a label in files, figures and configurations: `3` and `3.0` are "3"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str.__str__(value) if isinstance(value, str) else str(value)


def joined_names(names: Iterable[str], separator: str) -> list[str]:
    """Names that look like several labels with a sign between them, in their order.

    Each of their parts is a name too, or a part of another name.
    """
    known = dict.fromkeys(names)
    parts = {name: {part.strip() for part in name.split(separator)} for name in known}
    names_with = Counter(part for several in parts.values() for part in several)
    return [
        name
        for name, several in parts.items()
        if len(several) > 1 and all(names_with[part] > 1 for part in several)
    ]
