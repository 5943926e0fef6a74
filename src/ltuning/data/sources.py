"""Data sources: a file, a folder with one file per split, or a data set of the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from ltuning.data.examples import (
    BY_CONVENTION,
    Columns,
    EmptyTexts,
    Examples,
    MissingLabels,
    examples_from_table,
)
from ltuning.data.files import local_path, read_table, stem_of, write_table
from ltuning.data.formats import FORMATS
from ltuning.data.hub import hub_readers, looks_like_hub_id
from ltuning.data.label_sets import MultilabelExamples, multilabel_from_table
from ltuning.data.tables import AS_FOUND, Dialect, Table
from ltuning.data.tagged import TaggedExamples, tagged_from_table
from ltuning.errors import DataError
from ltuning.suggestions import unknown
from ltuning.texts import Text

__all__ = [
    "FORMATS",
    "Columns",
    "Dialect",
    "EmptyTexts",
    "Examples",
    "MissingLabels",
    "MultilabelExamples",
    "Table",
    "TaggedExamples",
    "Text",
    "check_source",
    "examples_from_table",
    "multilabel_from_table",
    "read_multilabel_split",
    "read_multilabel_splits",
    "read_split",
    "read_splits",
    "read_table",
    "read_tagged_split",
    "read_tagged_splits",
    "tagged_from_table",
    "write_table",
]

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "dev": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}

Reader = Callable[[], Table]


def read_splits(
    source: str | Path,
    columns: Columns = BY_CONVENTION,
    *,
    splits: Iterable[str] | None = None,
    empty_texts: EmptyTexts = "refuse",
    missing_labels: MissingLabels = "refuse",
    dialect: Dialect = AS_FOUND,
) -> dict[str, Examples]:
    """Read the splits of a data source.

    Args:
        source: a file (which is the split ``train``), a folder with files named train, validation
            (or dev, valid, val) and test, or a data set of the hub (``owner/name`` or
            ``owner/name:config``).
        columns: which columns hold texts and labels.
        splits: the splits to read where they are there; the others are not even opened. None: all.
        empty_texts: see ``examples_from_table``, as the next.
        missing_labels: what to do with a row without a label.
        dialect: the encoding and the delimiter of files; by default what each of them says.

    Raises:
        DataError: a source that is not there or cannot be used.
        MissingExtraError: a hub data set without the ``datasets`` library.
    """
    return {
        name: examples_from_table(
            read(), columns, empty_texts=empty_texts, missing_labels=missing_labels
        )
        for name, read in _wanted(source, splits, dialect).items()
    }


def read_split(
    source: str | Path,
    split: str,
    columns: Columns = BY_CONVENTION,
    *,
    empty_texts: EmptyTexts = "refuse",
    missing_labels: MissingLabels = "refuse",
    dialect: Dialect = AS_FOUND,
) -> Examples:
    """Read one split of a data source; a file that is given directly counts as any split.

    Raises:
        DataError: a source that is not there or cannot be used, or that has no such split.
        MissingExtraError: a hub data set without the ``datasets`` library.
    """
    table = _reader(source, split, dialect)()
    return examples_from_table(
        table, columns, empty_texts=empty_texts, missing_labels=missing_labels
    )


def read_multilabel_splits(
    source: str | Path,
    columns: Columns = BY_CONVENTION,
    *,
    splits: Iterable[str] | None = None,
    empty_texts: EmptyTexts = "refuse",
    missing_labels: MissingLabels = "refuse",
    dialect: Dialect = AS_FOUND,
) -> dict[str, MultilabelExamples]:
    """As `read_splits`, of texts with all labels that apply.

    Raises:
        DataError: a source that is not there or cannot be used.
        MissingExtraError: a hub data set without the ``datasets`` library.
    """
    return {
        name: multilabel_from_table(read(), columns, empty_texts, missing_labels)
        for name, read in _wanted(source, splits, dialect).items()
    }


def read_multilabel_split(
    source: str | Path,
    split: str,
    columns: Columns = BY_CONVENTION,
    *,
    empty_texts: EmptyTexts = "refuse",
    missing_labels: MissingLabels = "refuse",
    dialect: Dialect = AS_FOUND,
) -> MultilabelExamples:
    """As `read_split`, of texts with all labels that apply.

    Raises:
        DataError: a source that is not there or cannot be used, or that has no such split.
        MissingExtraError: a hub data set without the ``datasets`` library.
    """
    table = _reader(source, split, dialect)()
    return multilabel_from_table(table, columns, empty_texts, missing_labels)


def read_tagged_splits(
    source: str | Path,
    columns: Columns = BY_CONVENTION,
    *,
    splits: Iterable[str] | None = None,
    dialect: Dialect = AS_FOUND,
) -> dict[str, TaggedExamples]:
    """As `read_splits`, of tagged sentences.

    Raises:
        DataError: a source that is not there or cannot be used.
        MissingExtraError: a hub data set without the ``datasets`` library.
    """
    readers = _wanted(source, splits, dialect)
    return {name: tagged_from_table(read(), columns) for name, read in readers.items()}


def read_tagged_split(
    source: str | Path,
    split: str,
    columns: Columns = BY_CONVENTION,
    *,
    dialect: Dialect = AS_FOUND,
) -> TaggedExamples:
    """As `read_split`, of tagged sentences.

    Raises:
        DataError: a source that is not there or cannot be used, or that has no such split.
        MissingExtraError: a hub data set without the ``datasets`` library.
    """
    return tagged_from_table(_reader(source, split, dialect)(), columns)


def _wanted(
    source: str | Path, splits: Iterable[str] | None, dialect: Dialect
) -> dict[str, Reader]:
    wanted = None if splits is None else {_canonical(name) for name in splits}
    readers = _readers(source, dialect).items()
    return {name: read for name, read in readers if wanted is None or name in wanted}


def _reader(source: str | Path, split: str, dialect: Dialect) -> Reader:
    readers = _readers(source, dialect)
    if _is_file(source):
        (read,) = readers.values()
        return read
    if _canonical(split) not in readers:
        raise DataError(f"{source}: {unknown('split', split, readers)}")
    return readers[_canonical(split)]


def _canonical(split: str) -> str:
    return SPLIT_NAMES.get(split, split)


def _is_file(source: str | Path) -> bool:
    path = local_path(source)
    return os.path.exists(path) and not os.path.isdir(path)


def check_source(source: str | Path) -> None:
    """Refuse what is neither a file nor a folder nor the name of a data set of the hub.

    Raises:
        DataError: it is not there.
    """
    is_there = str(source).strip() and os.path.exists(local_path(source))
    if not is_there and not (isinstance(source, str) and looks_like_hub_id(source)):
        raise DataError(
            f"{source}: no such file or folder; give a file, a folder with a file per split, "
            "or a data set of the hub (owner/name)"
        )


def _readers(source: str | Path, dialect: Dialect) -> dict[str, Reader]:
    """One reader per split, by the split's canonical name."""
    check_source(source)
    name, path = str(source), local_path(source)
    # Not the methods of Path, which raise where a name is too long.
    if name.strip() and os.path.isdir(path):
        return _folder_readers(path, dialect)
    if name.strip() and os.path.exists(path):
        return {"train": partial(read_table, path, dialect=dialect)}
    if dialect != AS_FOUND:
        raise DataError(
            f"{name}: expected a file or a folder for an encoding or a delimiter, got a data "
            "set of the hub; leave it out"
        )
    found = [(split, split, read) for split, read in hub_readers(name).items()]
    return _by_split(found, name)


def _folder_readers(folder: Path, dialect: Dialect) -> dict[str, Reader]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    found = [
        (stem, path.name, partial(read_table, path, dialect=dialect))
        for path in files
        if (stem := stem_of(path.name)) in SPLIT_NAMES
    ]
    if not found:
        raise DataError(
            f"{folder}: expected files named train, validation (or dev, valid, val) or test, "
            f"ending in {', '.join(f'.{format}' for format in FORMATS)} (or with .gz), "
            f"got {', '.join(path.name for path in files) or 'an empty folder'}"
        )
    return _by_split(found, str(folder))


def _by_split(found: Iterable[tuple[str, str, Reader]], origin: str) -> dict[str, Reader]:
    readers: dict[str, Reader] = {}
    files: dict[str, str] = {}
    for split, file, read in found:
        name = _canonical(split)
        if name in readers:
            raise DataError(
                f"{origin}: {files[name]} and {file} are both the split {name!r}; keep one of them"
            )
        readers[name], files[name] = read, file
    return readers
