"""File formats: bytes to tables and back, exactly.

A table keeps every row in order. What a format cannot hold (a line break in ``txt``, a column of
mixed types in ``parquet``) is refused when written, never bent. ``csv`` and ``tsv`` know only
strings, so a missing value comes back from them as an empty string.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from ltuning.data.conll import decode_conll, encode_conll
from ltuning.data.delimited import decode_delimited, encode_delimited
from ltuning.data.json_lines import decode_json_lines, encode_json_lines
from ltuning.data.parquet import decode_parquet, encode_parquet
from ltuning.data.tables import (
    AS_FOUND,
    Dialect,
    Table,
    cell_texts,
    check_columns,
    decode_text,
    encode_text,
)
from ltuning.errors import DataError
from ltuning.suggestions import unknown


def decode_table(data: bytes, format: str, origin: str, dialect: Dialect = AS_FOUND) -> Table:
    """Read a table from a file's uncompressed bytes.

    Raises:
        DataError: unknown format, no rows, bytes that are not in the format, or a delimiter or an
            encoding for a format that has none.
    """
    _check_format(format)
    check_dialect(dialect, format, origin)
    table = _DECODERS[format](data, origin, dialect)
    check_columns(table.columns, origin)
    if not table.rows:
        raise DataError(f"{origin}: expected at least one row, got column names only; add rows")
    return table


def encode_table(table: Table, format: str) -> bytes:
    """Write a table as a file's uncompressed bytes; ``decode_table`` reads the same rows back.

    Raises:
        DataError: unknown format, or a table that the format cannot hold.
    """
    _check_format(format)
    if not table.columns:
        raise DataError(f"{table.origin}: a table without columns cannot be written")
    check_columns(table.columns, table.origin)
    for index, row in enumerate(table.rows):
        for name in row.keys() - set(table.columns):
            raise DataError(f"{table.where(index)}: {unknown('column', name, table.columns)}")
    return _ENCODERS[format](table)


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise DataError(unknown("format", format, FORMATS))


def check_dialect(dialect: Dialect, format: str, origin: str) -> None:
    """Raises DataError for a delimiter or an encoding of a format that has none."""
    if dialect.delimiter is not None and format not in ("csv", "tsv"):
        raise DataError(
            f"{origin}: expected csv or tsv for the delimiter {dialect.delimiter!r}, got {format}; "
            "leave the delimiter out"
        )
    if dialect.encoding is not None and format == "parquet":
        raise DataError(
            f"{origin}: expected a file of text for the encoding {dialect.encoding}, got parquet; "
            "leave the encoding out"
        )


def _decode_txt(data: bytes, origin: str, dialect: Dialect) -> Table:
    text, encoding = decode_text(data, origin, dialect.encoding)
    rows = [{"text": line.removesuffix("\n")} for line in io.StringIO(text, newline=None)]
    return Table(["text"], rows, "txt", origin, list(range(1, len(rows) + 1)), Dialect(encoding))


def _encode_txt(table: Table) -> bytes:
    if len(table.columns) != 1:
        raise DataError(
            f"{table.origin}: txt holds one column, got {', '.join(table.columns)}; "
            "write csv, tsv, jsonl or parquet"
        )
    lines = [line for (line,) in cell_texts(table)]
    for index, line in enumerate(lines):
        if "\n" in line or "\r" in line:
            raise DataError(
                f"{table.where(index)}: txt holds one text per line, got a text with a "
                "line break; write csv, tsv, jsonl or parquet"
            )
    text = "".join(f"{line}\n" for line in lines)
    return encode_text(text, table, "txt")


_DECODERS: dict[str, Callable[[bytes, str, Dialect], Table]] = {
    "csv": partial(decode_delimited, format="csv"),
    "tsv": partial(decode_delimited, format="tsv"),
    "jsonl": decode_json_lines,
    "parquet": decode_parquet,
    "txt": _decode_txt,
    "conll": decode_conll,
}
_ENCODERS: dict[str, Callable[[Table], bytes]] = {
    "csv": partial(encode_delimited, format="csv"),
    "tsv": partial(encode_delimited, format="tsv"),
    "jsonl": encode_json_lines,
    "parquet": encode_parquet,
    "txt": _encode_txt,
    "conll": encode_conll,
}
FORMATS = tuple(_DECODERS)
