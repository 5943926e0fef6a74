"""Single values as data has them: what is missing, and what labels are called."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

# What data may give as a label, and a classifier gives back.
Label = str | int | float | bool
LabelType = Literal["text", "integer", "number", "boolean"]
# The label that a name stands for.
OF_NAME: dict[LabelType, Callable[[str], Label]] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": {"True": True, "False": False}.__getitem__,
}


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


def label_type(value: object) -> LabelType | None:
    """The type of a label; None for what is none."""
    for type_, of in (("text", str), ("boolean", bool), ("integer", int), ("number", float)):
        if isinstance(value, of):
            return type_  # type: ignore[return-value]
    return None


def is_of_type(name: str, type: LabelType) -> bool:
    """Whether a name is one of a label of this type."""
    try:
        return label_name(OF_NAME[type](name)) == name
    except (ValueError, KeyError):
        return False


def label_of(name: str, type: LabelType) -> Label:
    """The label of a name as the data has it; the name where none of this type has it."""
    return OF_NAME[type](name) if is_of_type(name, type) else name


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
