"""Examples: the texts and labels of a table, by named columns or by convention."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from ltuning.data.tables import Table
from ltuning.errors import DataError
from ltuning.registry import unknown
from ltuning.texts import Text, is_empty

TEXT_COLUMNS = ("text", "sentence", "sentence1", "premise", "question1", "content", "message")
TEXT_PAIR_COLUMNS = ("text_pair", "sentence2", "hypothesis", "question2")
LABEL_COLUMNS = ("label", "labels", "category", "class", "intent")

EmptyTexts = Literal["refuse", "skip", "keep"]

_ROWS_NAMED = 5
_log = logging.getLogger("ltuning")


@dataclass(frozen=True)
class Columns:
    """The columns to use; None: the first of the conventional names that is there.

    A second text is looked for by convention only where the first is found by convention too, so
    naming the text column alone gives single texts.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None


BY_CONVENTION = Columns()


@dataclass(frozen=True)
class Examples:
    """Texts, or pairs of texts, with their label names.

    Attributes:
        texts: the texts, in the order of the source.
        labels: one label name per text; None where the source has none.
        origin: where they came from, for messages.
    """

    texts: list[Text]
    labels: list[str] | None
    origin: str

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def inputs(self) -> list[Text]:
        """What a classifier is given."""
        return self.texts

    @property
    def classes(self) -> list[str] | None:
        """The class of each text, of which parts of the examples have their share."""
        return self.labels


def examples_from_table(
    table: Table,
    columns: Columns = BY_CONVENTION,
    need_labels: bool = True,
    empty_texts: EmptyTexts = "refuse",
) -> Examples:
    """Take texts and labels out of a table.

    Args:
        table: the rows.
        columns: which columns; None in it means by convention.
        need_labels: True: every row must have a label. False: the labels are taken where every row
            has one, and are None otherwise.
        empty_texts: what to do with a text of nothing but white space (of a pair: with either):
            ``refuse`` raises, ``skip`` drops the row and logs how many, ``keep`` keeps it.

    Raises:
        DataError: no such column, a value that is no text, a missing label, an empty text.
    """
    texts, kept = texts_of(table, columns, empty_texts)
    label_column = label_column_of(table, columns.label, need_labels)
    labels = _labels(table, kept, label_column, need_labels) if label_column is not None else None
    return Examples(texts, labels, table.origin)


# --- columns --------------------------------------------------------------------------------------


def _text_columns(table: Table, columns: Columns) -> tuple[str, str | None]:
    text = _column(table, columns.text, TEXT_COLUMNS)
    if text is None:
        _refuse_columns(table, "text", "data.text_column", TEXT_COLUMNS)
    pair_names = TEXT_PAIR_COLUMNS if columns.text is None else ()
    pair = _column(table, columns.text_pair, pair_names)
    if pair == text:
        raise DataError(
            f"{table.origin}: the text and the second text are both column {text!r}; "
            "name another with data.text_pair_column"
        )
    return text, pair


def label_column_of(
    table: Table, name: str | None, needed: bool, conventional: Sequence[str] = LABEL_COLUMNS
) -> str | None:
    """The column of labels, by its name or by convention; None where there need be none.

    Raises:
        DataError: there is none and one is needed.
    """
    if name is not None and name not in table.columns and not needed:
        return None
    label = _column(table, name, conventional)
    if label is None and needed:
        _refuse_columns(table, "label", "data.label_column", conventional)
    return label


def _column(table: Table, name: str | None, conventional: Sequence[str]) -> str | None:
    if name is None:
        return next((known for known in conventional if known in table.columns), None)
    if name not in table.columns:
        raise DataError(f"{table.origin}: {unknown('column', name, table.columns)}")
    return name


def _refuse_columns(table: Table, what: str, option: str, conventional: Sequence[str]) -> NoReturn:
    raise DataError(
        f"{table.origin}: expected a {what} column ({', '.join(conventional)}), got the columns "
        f"{', '.join(repr(name) for name in table.columns)}; name the {what} column with {option}"
    )


# --- texts ----------------------------------------------------------------------------------------


def texts_of(
    table: Table, columns: Columns, empty_texts: EmptyTexts
) -> tuple[list[Text], list[int]]:
    """The texts of a table, and the indices of their rows.

    Raises:
        DataError: no such column, a value that is no text, an empty text.
    """
    text_column, pair_column = _text_columns(table, columns)
    texts = [
        _text(row, text_column, pair_column, f"{table.origin}, row {number}")
        for number, row in enumerate(table.rows, start=1)
    ]
    kept = _kept_rows(texts, empty_texts, table.origin)
    return [texts[index] for index in kept], kept


def _text(row: dict[str, Any], column: str, pair_column: str | None, where: str) -> Text:
    first = _one_text(row.get(column), column, where)
    if pair_column is None:
        return first
    return first, _one_text(row.get(pair_column), pair_column, where)


def _one_text(value: Any, column: str, where: str) -> str:
    if _is_missing(value):
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: expected a text in column {column!r}, got {value!r} "
            f"({type(value).__name__}); write it as text or name another column"
        )
    return value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _kept_rows(texts: Sequence[Text], empty_texts: EmptyTexts, origin: str) -> list[int]:
    every = list(range(len(texts)))
    empty = [] if empty_texts == "keep" else [index for index in every if is_empty(texts[index])]
    if not empty:
        return every
    found = f"{origin}: {len(empty)} empty text{'s' if len(empty) != 1 else ''} {_rows(empty)}"
    if empty_texts == "refuse":
        raise DataError(
            f"{found}; fill them in, remove the rows, or set data.empty_texts to 'skip'"
        )
    if len(empty) == len(texts):
        raise DataError(f"{origin}: every text is empty; expected at least one that is not")
    _log.warning("%s skipped", found)
    skipped = set(empty)
    return [index for index in every if index not in skipped]


def _rows(indices: Sequence[int]) -> str:
    """The first of these rows, counted from 1."""
    named = ", ".join(str(index + 1) for index in indices[:_ROWS_NAMED])
    more = ", ..." if len(indices) > _ROWS_NAMED else ""
    return f"(row{'s' if len(indices) != 1 else ''} {named}{more})"


# --- labels ---------------------------------------------------------------------------------------


def _labels(table: Table, kept: Sequence[int], column: str, needed: bool) -> list[str] | None:
    names = [label_name(table.rows[index].get(column)) for index in kept]
    present = [name for name in names if name is not None]
    if len(present) == len(names):
        return present
    if not needed:
        return None
    without = [index for index, name in zip(kept, names, strict=True) if name is None]
    raise DataError(
        f"{table.origin}: {len(without)} of {len(names)} rows have no label in column {column!r} "
        f"{_rows(without)}, the first is {table.rows[without[0]].get(column)!r}; expected a name "
        "or a number in every row: label them or remove them"
    )


def label_name(value: Any) -> str | None:
    """The name of a label; None for what is missing or can be no name."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if _is_missing(value) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None
