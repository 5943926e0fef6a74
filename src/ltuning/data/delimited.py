"""Comma- and tab-separated values and their kin, all with quoting as csv has it.

A field that begins with a quote is a quoted field in tab-separated files too; a quote elsewhere in
a field is an ordinary character.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from ltuning.data.tables import (
    Dialect,
    Table,
    cell_texts,
    decode_text,
    encode_text,
    refuse_empty,
    refuse_places,
)
from ltuning.errors import DataError

_LONGEST_FIELD = 2**31 - 1  # the csv module's own limit of 128 KiB is shorter than long documents
# The delimiters that are looked for in csv, the first one where nothing speaks for another.
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
# A tab is hard to type.
_WORDS = {"tab": "\t", "\\t": "\t"}
_SNIFFED_RECORDS = 1000
_SNIFFED_SIGNS = 2**20
# Of the rows that are looked at, this share has as many fields as there are column names.
_AGREEING = 0.5
_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
_log = logging.getLogger("ltuning")


def check_delimiter(sign: str) -> None:
    """Raises DataError for what cannot stand between fields."""
    if len(sign) != 1 or sign in '"\r\n\ufeff' or "\ud800" <= sign <= "\udfff":
        raise DataError(
            f"expected one sign as the delimiter, such as ',', ';', '|' or a tab, got {sign!r}"
        )


@contextmanager
def long_fields() -> Iterator[None]:
    """Fields of any length while the block runs."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _records(text: str, delimiter: str, origin: str) -> Iterator[tuple[int, list[str]]]:
    """Each record with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{origin}, line {line}: broken quoting in the row that begins here ({error}); "
                'quote a field that begins with a quote, and write each quote inside it twice ("")'
            ) from error
        yield line, fields


def decode_delimited(data: bytes, origin: str, dialect: Dialect, format: str) -> Table:
    """The rows of `csv` or `tsv`; DataError with the line on which a broken row begins."""
    text, encoding = decode_text(data, origin, dialect.encoding)
    if not text.strip("\r\n"):
        refuse_empty(origin)
    with long_fields():
        delimiter = delimiter_of(text, origin, dialect, format)
        records = list(_records(text, delimiter, origin))
    while not records[-1][1]:  # blank lines at the end of the file
        records.pop()
    (_, columns), *rest = records
    if not columns:
        raise DataError(f"{origin}, line 1: expected column names, got a blank line; remove it")
    rows, problems = [], []
    for line, found in rest:
        fields = found or [""] if len(columns) == 1 else found
        if len(fields) != len(columns):
            problems.append(
                f"line {line}: expected {len(columns)} fields, got {len(fields)}; put quotes "
                f"around a field that contains a {_NAMES.get(delimiter, repr(delimiter))}"
            )
        rows.append(dict(zip(columns, fields, strict=False)))
    refuse_places(origin, problems)
    lines = [line for line, _ in rest]
    return Table(columns, rows, format, origin, lines, Dialect(encoding, delimiter))


# --- delimiters -----------------------------------------------------------------------------------


def delimiter_of(text: str, origin: str, dialect: Dialect, format: str) -> str:
    """What stands between the fields of a table, or of its beginning.

    Raises:
        DataError: what is given cannot.
    """
    given = _WORDS.get(dialect.delimiter or "", dialect.delimiter)
    with long_fields():
        delimiter = given or ("\t" if format == "tsv" else _sniffed(text, origin))
    check_delimiter(delimiter)
    return delimiter


def _sniffed(text: str, origin: str) -> str:
    """The delimiter that the column names have and most rows agree on; else a comma."""
    shares = {delimiter: _agreement(text, delimiter) for delimiter in _NAMES}
    best = max(shares, key=lambda delimiter: shares[delimiter])  # the first of equals
    if shares[best] <= _AGREEING or best == ",":
        return ","
    _log.warning(
        "%s: read with a %s between the fields; --delimiter (data.delimiter) names another",
        origin,
        _NAMES[best],
    )
    return best


def _agreement(text: str, delimiter: str) -> float:
    """The share of rows with as many fields as there are column names; 0 for a single column."""
    sample = io.StringIO(text[:_SNIFFED_SIGNS], newline="")
    reader = csv.reader(sample, delimiter=delimiter, strict=True)
    lengths = []
    try:
        for fields in islice(reader, _SNIFFED_RECORDS):
            lengths.append(len(fields))
    except csv.Error:
        lengths.append(0)
    while len(lengths) > 1 and not lengths[-1]:  # blank lines at the end of the file
        lengths.pop()
    if not lengths or lengths[0] < 2:
        return 0.0
    return lengths.count(lengths[0]) / len(lengths)


# --- writing --------------------------------------------------------------------------------------


def encode_delimited(table: Table, format: str) -> bytes:
    """A line of column names and one record per row, quoted only where needed.

    In the encoding that the table was read in, and csv with the delimiter that it was read with.
    """
    lines = _Lines()
    given = table.dialect.delimiter if table.format == format else None
    delimiter = given or {"csv": ",", "tsv": "\t"}[format]
    # Before Python 3.13 the csv module quotes only the line breaks of its own line end.
    writer = csv.writer(lines, delimiter=delimiter, lineterminator="\r\n")
    names = writer
    if any(sign in name for name in table.columns for sign in _NAMES):
        # Quotes, so that a reader does not take another delimiter that stands in a name.
        names = csv.writer(lines, delimiter=delimiter, lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    names.writerow(table.columns)
    writer.writerows(cell_texts(table))
    return encode_text("".join(lines), table, format)


def escape_formulas(table: Table) -> Table:
    """The table as texts of which none is a formula to a spreadsheet.

    A text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return and is no number
    gets a ``'`` in front, as OWASP's "CSV Injection" advises.
    """
    columns = [_without_formula(name) for name in table.columns]
    rows = [
        dict(zip(columns, map(_without_formula, cells), strict=True)) for cells in cell_texts(table)
    ]
    return replace(table, columns=columns, rows=rows)


def _without_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Lines(list[str]):
    """What a csv writer writes, one record each, with the line end of the other formats."""

    def write(self, record: str) -> None:
        self.append(record.removesuffix("\r\n") + "\n")
