"""Examples: the texts and labels of a table, by named columns or by convention."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NoReturn, Self

from ltuning.data.tables import Places, Table
from ltuning.errors import DataError
from ltuning.suggestions import unknown
from ltuning.texts import Text, is_empty
from ltuning.values import is_missing, label_name

TEXT_COLUMNS = ("text", "sentence", "sentence1", "premise", "question1", "content", "message")
TEXT_PAIR_COLUMNS = ("text_pair", "sentence2", "hypothesis", "question2")
LABEL_COLUMNS = ("label", "labels", "category", "class", "intent")
# Columns that data for tagging has.
_TAGGED_COLUMNS = {"tags", "ner_tags", "spans", "entities"}
_TAGGED = "; words with tags and texts with spans are for --task tags"

EmptyTexts = Literal["refuse", "skip", "keep"]
MissingLabels = Literal["refuse", "skip"]

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
        places: where each text stands there; None where that is not known.
    """

    texts: list[Text]
    labels: list[str] | None
    origin: str
    places: Places | None = field(default=None, compare=False, repr=False)

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

    @property
    def names(self) -> list[list[str]]:
        """The label of each text, in a list."""
        return [[label] for label in self.labels or ()]

    def part(self, rows: Sequence[int]) -> Self:
        """Some of the examples."""
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        places = self.places and self.places.part(rows)
        return replace(self, texts=[self.texts[row] for row in rows], labels=labels, places=places)


def examples_from_table(
    table: Table,
    columns: Columns = BY_CONVENTION,
    need_labels: bool = True,
    empty_texts: EmptyTexts = "refuse",
    missing_labels: MissingLabels = "refuse",
) -> Examples:
    """Take texts and labels out of a table.

    Args:
        table: the rows.
        columns: which columns; None in it means by convention.
        need_labels: True: every row must have a label. False: the labels are taken where every row
            has one, and are None otherwise.
        empty_texts: what to do with a text of nothing but white space (of a pair: with either):
            ``refuse`` raises, ``skip`` drops the row and logs how many, ``keep`` keeps it.
        missing_labels: what to do with a row without a label, where labels are needed.

    Raises:
        DataError: no such column, a value that is no text, a missing label, an empty text; all
            that is wrong with the rows at once.
    """
    label_column = _label_column_beside_text(table, columns, need_labels)
    problems: list[str] = []
    texts, kept = texts_of(table, columns, empty_texts, problems)
    labels: list[str] | None = None
    if label_column is not None:
        names = {index: name_of(table.rows[index].get(label_column)) for index in kept}
        if need_labels:
            kept = labelled_rows(table, label_column, names, missing_labels, problems)
            problems += _mixed_types(table, label_column, kept)
        present = [name for index in kept if (name := names[index]) is not None]
        labels = present if len(present) == len(kept) else None
    refuse_rows(table, problems)
    places = table.places.part(kept)
    return Examples([texts[index] for index in kept], labels, table.origin, places)


# --- columns --------------------------------------------------------------------------------------


def _text_columns(table: Table, columns: Columns) -> tuple[str, str | None]:
    text = _column(table, columns.text, TEXT_COLUMNS)
    if text is None:
        _refuse_columns(table, "text", TEXT_COLUMNS)
    pair_names = TEXT_PAIR_COLUMNS if columns.text is None else ()
    pair = _column(table, columns.text_pair, pair_names)
    if pair == text:
        raise DataError(
            f"{table.origin}: the text and the second text are both column {text!r}; "
            "name another with --text-pair-column (data.text_pair_column)"
        )
    return text, pair


def _label_column_beside_text(table: Table, columns: Columns, needed: bool) -> str | None:
    """As `label_column_of`; where there is no column of texts either, both are said."""
    try:
        return label_column_of(table, columns.label, needed)
    except DataError as error:
        try:
            _text_columns(table, columns)
        except DataError as other:
            sentences = (str(said).removeprefix(f"{table.origin}: ") for said in (other, error))
            refuse_rows(table, list(sentences))
        raise


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
        _refuse_columns(table, "label", conventional)
    return label


def _column(table: Table, name: str | None, conventional: Sequence[str]) -> str | None:
    if name is None:
        return next((known for known in conventional if known in table.columns), None)
    if name not in table.columns:
        raise DataError(f"{table.origin}: {unknown('column', name, table.columns)}")
    return name


def _refuse_columns(table: Table, what: str, conventional: Sequence[str]) -> NoReturn:
    raise DataError(
        f"{table.origin}: expected a {what} column ({', '.join(conventional)}), got the columns "
        f"{', '.join(repr(name) for name in table.columns)}; name the {what} column with "
        f"--{what}-column (data.{what}_column)"
        + (_TAGGED if _TAGGED_COLUMNS & set(table.columns) else "")
    )


# --- rows -----------------------------------------------------------------------------------------


def refuse_rows(table: Table, problems: Sequence[str]) -> None:
    """Raises DataError with everything that is wrong with the rows; nothing where nothing is."""
    if len(problems) == 1:
        raise DataError(f"{table.origin}: {problems[0]}")
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise DataError(f"{table.origin}: {len(problems)} problems:{lines}")


def places(table: Table, indices: Sequence[int]) -> str:
    """The first of these rows, as `(lines 3, 5)` of a file of text, else as `(rows 2, 4)`."""
    return f"({table.places.named(indices)})"


# --- texts ----------------------------------------------------------------------------------------


def texts_of(
    table: Table, columns: Columns, empty_texts: EmptyTexts, problems: list[str]
) -> tuple[list[Text], list[int]]:
    """The text of every row, and the indices of the rows that are kept.

    Args:
        problems: what is wrong with the rows is appended; such rows are not kept.

    Raises:
        DataError: no such column, or no text at all.
    """
    text_column, pair_column = _text_columns(table, columns)
    names = [text_column] if pair_column is None else [text_column, pair_column]
    wrong = {index for name in names for index in _not_texts(table, name, problems)}
    cells = [
        ["" if is_missing(row.get(name)) else row[name] for name in names] for row in table.rows
    ]
    texts: list[Text] = [row[0] if len(names) == 1 else (row[0], row[1]) for row in cells]
    rows = [index for index in range(len(texts)) if index not in wrong]
    return texts, _rows_with_text(table, texts, rows, empty_texts, problems)


def _not_texts(table: Table, column: str, problems: list[str]) -> list[int]:
    """The rows with a number, a list or their like in the place of a text."""
    values = [row.get(column) for row in table.rows]
    wrong = [
        index
        for index, value in enumerate(values)
        if not isinstance(value, str) and not is_missing(value)
    ]
    if wrong:
        first = values[wrong[0]]
        kind = "float" if isinstance(first, float) else type(first).__name__
        problems.append(
            f"expected texts in column {column!r}, got {len(wrong)} of another kind "
            f"{places(table, wrong)}, the first is {first!r:.80} ({kind}); write "
            "them as text or name another column"
        )
    return wrong


def _rows_with_text(
    table: Table,
    texts: Sequence[Text],
    rows: list[int],
    empty_texts: EmptyTexts,
    problems: list[str],
) -> list[int]:
    empty = [] if empty_texts == "keep" else [index for index in rows if is_empty(texts[index])]
    if not empty:
        return rows
    found = f"{len(empty)} empty text{'s' if len(empty) != 1 else ''} {places(table, empty)}"
    if empty_texts == "refuse":
        problems.append(
            f"{found}; fill in, remove, or skip with --empty-texts skip (data.empty_texts)"
        )
    elif len(empty) == len(texts):
        raise DataError(f"{table.origin}: every text is empty; expected at least one that is not")
    else:
        _log.warning("%s: %s skipped", table.origin, found)
    skipped = set(empty)
    return [index for index in rows if index not in skipped]


# --- labels ---------------------------------------------------------------------------------------


def labelled_rows(
    table: Table,
    column: str,
    names: Mapping[int, object],
    missing_labels: MissingLabels,
    problems: list[str],
) -> list[int]:
    """The rows with a label, of those whose labels are given by index; the others are a problem.

    Raises:
        DataError: rows without a label may be skipped, and there are no others.
    """
    without = [index for index, name in names.items() if name is None]
    if without and missing_labels == "refuse":
        first = table.rows[without[0]].get(column)
        several = "; lists of labels are for --task multilabel" if isinstance(first, list) else ""
        problems.append(
            f"{len(without)} of {len(names)} rows have no label in column {column!r} "
            f"{places(table, without)}, the first is {first!r:.80}{several}; "
            "label, remove, or skip them with --missing-labels skip (data.missing_labels)"
        )
    elif without and len(without) == len(names):
        raise DataError(
            f"{table.origin}: no row has a label in column {column!r}; expected at least one that "
            "has"
        )
    elif without:
        _log.warning(
            "%s: %d row%s without a label %s skipped",
            table.origin,
            len(without),
            "s" if len(without) != 1 else "",
            places(table, without),
        )
    return [index for index, name in names.items() if name is not None]


def _mixed_types(table: Table, column: str, rows: Sequence[int]) -> list[str]:
    """The problem that labels are of several types, which their names would not tell apart."""
    kinds: dict[str, list[int]] = {}
    for index in rows:
        kinds.setdefault(_kind(table.rows[index][column]), []).append(index)
    if len(kinds) < 2:
        return []
    found = " and ".join(f"{kind} {places(table, of)}" for kind, of in kinds.items())
    return [f"expected labels of one type in column {column!r}, got {found}; write all as texts"]


def _kind(label: object) -> str:
    if isinstance(label, bool):
        return "booleans"
    return "texts" if isinstance(label, str) else "numbers"


def name_of(cell: object) -> str | None:
    """The name of the label in a cell; None for what is missing or can be no name."""
    if is_missing(cell) or not isinstance(cell, str | int | float):
        return None
    return label_name(cell).strip() or None
