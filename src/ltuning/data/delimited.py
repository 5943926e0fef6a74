"""Comma- and tab-separated values, both with quoting as csv has it.

A field that begins with a quote is a quoted field in tab-separated files too; a quote elsewhere in
a field is an ordinary character.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager

from ltuning.data.tables import Decoded, Table, cell_text, decode_text, encode_text, refuse_empty
from ltuning.errors import DataError

_LONGEST_FIELD = 2**31 - 1  # the csv module's own limit of 128 KiB is shorter than long documents


@contextmanager
def _long_fields() -> Iterator[None]:
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


def decode_delimited(data: bytes, origin: str, delimiter: str, delimiter_name: str) -> Decoded:
    """Column names and rows; DataError with the line on which a broken row begins."""
    text = decode_text(data, origin)
    if not text.strip("\r\n"):
        refuse_empty(origin)
    with _long_fields():
        records = list(_records(text, delimiter, origin))
    while not records[-1][1]:  # blank lines at the end of the file
        records.pop()
    (_, columns), *rest = records
    if not columns:
        raise DataError(f"{origin}, line 1: expected column names, got a blank line; remove it")
    rows = []
    for line, found in rest:
        fields = found or [""] if len(columns) == 1 else found
        if len(fields) != len(columns):
            raise DataError(
                f"{origin}, line {line}: expected {len(columns)} fields, got {len(fields)}; "
                f"put quotes around a field that contains a {delimiter_name}"
            )
        rows.append(dict(zip(columns, fields, strict=True)))
    return columns, rows


def encode_delimited(table: Table, delimiter: str) -> bytes:
    """A line of column names and one record per row, quoted only where needed."""
    lines = _Lines()
    # Before Python 3.13 the csv module quotes only the line breaks of its own line end.
    writer = csv.writer(lines, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(table.columns)
    writer.writerows([cell_text(row.get(name)) for name in table.columns] for row in table.rows)
    return encode_text("".join(lines), table)


class _Lines(list[str]):
    """What a csv writer writes, one record each, with the line end of the other formats."""

    def write(self, record: str) -> None:
        self.append(record.removesuffix("\r\n") + "\n")
