"""Single values as data has them: what is missing, and what labels are called."""

from __future__ import annotations

import sys
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
