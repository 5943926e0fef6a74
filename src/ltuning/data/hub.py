"""Data sets of the Hugging Face hub, as tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from ltuning.data.tables import Table
from ltuning.errors import DataError, MissingExtraError

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(:[\w.-]+)?")
_FILE_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")


def looks_like_hub_id(source: str) -> bool:
    """Whether a source may be ``name``, ``owner/name`` or either with ``:config``, not a path."""
    name = source.partition(":")[0]
    return _HUB_ID.fullmatch(source) is not None and _FILE_ENDING.search(name) is None


def hub_readers(source: str) -> dict[str, Callable[[], Table]]:
    """One reader per split of a hub data set; ``owner/name:config`` selects a configuration.

    Class numbers become class names, also in lists (tags of words), and the number -1 (labels that
    are kept secret) becomes None.

    Raises:
        MissingExtraError: the ``datasets`` library is not installed.
        DataError: the data set cannot be loaded.
    """
    splits = _load(source)
    return {
        str(name): partial(_table, split, f"{source} ({name})") for name, split in splits.items()
    }


def _load(source: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("reading a data set from the hub", "hub") from error
    name, _, config = source.partition(":")
    try:
        return datasets.load_dataset(name, config) if config else datasets.load_dataset(name)
    except Exception as error:  # its kinds are many: network, access, configuration, builder
        raise DataError(
            f"{source}: no file or folder of this name is here, and it could not be loaded as a "
            f"data set of the hub ({type(error).__name__}: {error}); check the name (owner/name, "
            "or owner/name:config) and the network, or give a local file or folder"
        ) from error


def _table(split: Any, origin: str) -> Table:
    rows = split.to_list()
    if not rows:
        raise DataError(f"{origin}: expected at least one row, got an empty split")
    for column, names in _class_names(split).items():
        for row in rows:
            row[column] = _named(row[column], names)
    return Table(list(split.column_names), rows, "hub", origin)


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(number, names) for number in value]
    return None if value is None or value < 0 else names[value]


def _class_names(split: Any) -> dict[str, list[str]]:
    """The names of columns of classes, and of lists of classes."""
    from datasets import ClassLabel

    # A list's feature is that of its items; earlier versions also write it as a list of one.
    items = {
        name: kind[0] if isinstance(kind, list) else getattr(kind, "feature", kind)
        for name, kind in split.features.items()
    }
    return {name: kind.names for name, kind in items.items() if isinstance(kind, ClassLabel)}
