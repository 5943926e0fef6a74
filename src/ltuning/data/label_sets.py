"""Texts with all labels that apply to them, out of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ltuning.data.examples import (
    BY_CONVENTION,
    Columns,
    EmptyTexts,
    MissingLabels,
    label_column_of,
    labelled_rows,
    name_of,
    refuse_rows,
    texts_of,
)
from ltuning.data.tables import Places, Table, each_row
from ltuning.errors import DataError
from ltuning.texts import Text
from ltuning.values import is_missing, joined_names

LABEL_COLUMNS = ("labels", "label", "categories", "classes")
# Between the names where a cell holds text and no list.
SEPARATOR = "|"
# Formats in which a list of names is a list and nothing else.
_WITH_LISTS = ("jsonl",)


@dataclass(frozen=True)
class MultilabelExamples:
    """Texts, or pairs of texts, with the names of their labels.

    Attributes:
        texts: the texts, in the order of the source.
        labels: for each text the labels that apply, which may be none.
        origin: where they came from, for messages.
        places: where each text stands there; None where that is not known.
    """

    texts: list[Text]
    labels: list[list[str]]
    origin: str
    places: Places | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def inputs(self) -> list[Text]:
        """What a classifier is given."""
        return self.texts

    @property
    def classes(self) -> list[str]:
        """For each text the rarest of its labels, or nothing where none applies.

        So that parts of the examples have their share of the rare labels too.
        """
        counts = Counter(name for names in self.labels for name in names)
        return [
            min(names, key=lambda name: (counts[name], name), default="") for names in self.labels
        ]

    @property
    def names(self) -> list[list[str]]:
        """The labels of each text."""
        return self.labels

    def part(self, rows: Sequence[int]) -> Self:
        """Some of the examples."""
        texts, labels = [self.texts[row] for row in rows], [self.labels[row] for row in rows]
        places = self.places and self.places.part(rows)
        return replace(self, texts=texts, labels=labels, places=places)


def multilabel_from_table(
    table: Table,
    columns: Columns = BY_CONVENTION,
    empty_texts: EmptyTexts = "refuse",
    missing_labels: MissingLabels = "refuse",
) -> MultilabelExamples:
    """Take texts and their labels out of a table.

    A cell holds a list of names, or, but in JSON lines, a text with `|` between the names. An empty
    list or text says that no label applies.

    Args:
        table: the rows.
        columns: which columns; None in it means by convention.
        empty_texts: see `examples_from_table`.
        missing_labels: what to do with a row that has nothing in the place of labels.

    Raises:
        DataError: no such column, a value that is no text, an empty text, a cell that holds no
            names, the same name twice in one.
    """
    problems: list[str] = []
    texts, kept = texts_of(table, columns, empty_texts, problems)
    column = label_column_of(table, columns.label, True, LABEL_COLUMNS)
    assert column is not None  # it is needed
    cells = {index: table.rows[index].get(column) for index in kept}
    if missing_labels == "skip":
        present = {index: None if is_missing(cell) else cell for index, cell in cells.items()}
        kept = labelled_rows(table, column, present, missing_labels, problems)
    refuse_rows(table, problems)
    labels = each_row(table, kept, lambda row: _names(cells[row], column, table, table.where(row)))
    places = table.places.part(kept)
    return MultilabelExamples([texts[index] for index in kept], labels, table.origin, places)


def refuse_joined(labels: Sequence[str], origin: str) -> None:
    """Refuse classes that are other classes with `|` between them.

    Raises:
        DataError: a label all of whose parts are labels, or parts of others.
    """
    if joined := joined_names(labels, SEPARATOR):
        raise DataError(
            f"{origin}: expected one label for each text, got {joined[0]!r}, whose parts are "
            "labels too; train with --task multilabel, or rename it where it is one class"
        )


def _names(value: object, column: str, table: Table, where: str) -> list[str]:
    if isinstance(value, str) and table.format not in _WITH_LISTS:
        given: Sequence[Any] = value.split(SEPARATOR) if value.strip() else []
    elif isinstance(value, list):
        given = value
    else:
        example = "[]" if table.format in _WITH_LISTS else "an empty text"
        skip = ", or skip it with --missing-labels skip (data.missing_labels)"
        raise DataError(
            f"{where}: expected a list of label names in column {column!r}, got {value!r:.80}; "
            f'write ["name"], and {example} where no label applies'
            f"{skip if is_missing(value) else ''}"
        )
    names = []
    for item in given:
        name = name_of(item)
        if name is None:
            raise DataError(
                f"{where}: expected names of labels in column {column!r}, got {item!r} in "
                f"{value!r:.80}; fill it in or take it out"
            )
        if name in names:
            raise DataError(
                f"{where}: expected every label once in column {column!r}, got {name!r} twice; "
                "keep one of them"
            )
        names.append(name)
    return names
