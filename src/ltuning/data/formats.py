"""File formats: bytes to tables and back, exactly.

A table keeps every row in order. What a format cannot hold (a line break in ``txt``, a column of
mixed types in ``parquet``) is refused when written, never bent. ``csv`` and ``tsv`` know only
strings, so a missing value comes back from them as an empty string.
"""

from __future__ import annotations

import io
from collections.abc import Callable

from ltuning.data.conll import decode_conll, encode_conll
from ltuning.data.delimited import decode_delimited, encode_delimited
from ltuning.data.json_lines import decode_json_lines, encode_json_lines
from ltuning.data.tables import (
    Decoded,
    Table,
    cell_text,
    check_columns,
    decode_text,
    encode_text,
    refuse_empty,
)
from ltuning.errors import DataError
from ltuning.registry import unknown


def decode_table(data: bytes, format: str, origin: str) -> Table:
    """Read a table from a file's uncompressed bytes.

    Raises:
        DataError: unknown format, no rows, or bytes that are not in the format.
    """
    _check_format(format)
    columns, rows = _DECODERS[format](data, origin)
    check_columns(columns, origin)
    if not rows:
        raise DataError(f"{origin}: expected at least one row, got column names only; add rows")
    return Table(columns, rows, format, origin)


def encode_table(table: Table, format: str) -> bytes:
    """Write a table as a file's uncompressed bytes; ``decode_table`` reads the same rows back.

    Raises:
        DataError: unknown format, or a table that the format cannot hold.
    """
    _check_format(format)
    if not table.columns:
        raise DataError(f"{table.origin}: a table without columns cannot be written")
    check_columns(table.columns, table.origin)
    for number, row in enumerate(table.rows, start=1):
        for name in row.keys() - set(table.columns):
            raise DataError(
                f"{table.origin}, row {number}: {unknown('column', name, table.columns)}"
            )
    return _ENCODERS[format](table)


def _check_format(format: str) -> None:
    if format not in FORMATS:
        raise DataError(unknown("format", format, FORMATS))


def _decode_txt(data: bytes, origin: str) -> Decoded:
    lines = io.StringIO(decode_text(data, origin), newline=None)
    return ["text"], [{"text": line.removesuffix("\n")} for line in lines]


def _encode_txt(table: Table) -> bytes:
    if len(table.columns) != 1:
        raise DataError(
            f"{table.origin}: txt holds one column, got {', '.join(table.columns)}; "
            "write csv, tsv, jsonl or parquet"
        )
    lines = [cell_text(row.get(table.columns[0])) for row in table.rows]
    for number, line in enumerate(lines, start=1):
        if "\n" in line or "\r" in line:
            raise DataError(
                f"{table.origin}, row {number}: txt holds one text per line, got a text with a "
                "line break; write csv, tsv, jsonl or parquet"
            )
    return encode_text("".join(f"{line}\n" for line in lines), table)


def _decode_parquet(data: bytes, origin: str) -> Decoded:
    if not data:
        refuse_empty(origin)
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(data)).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{origin}: expected a parquet file, got other bytes ({error})") from error
    # to_pylist() would keep only one of two columns of a name.
    check_columns(table.column_names, origin)
    return list(table.column_names), table.to_pylist()


def _encode_parquet(table: Table) -> bytes:
    import pyarrow
    import pyarrow.parquet

    arrays = []
    for name in table.columns:
        try:
            arrays.append(pyarrow.array([row.get(name) for row in table.rows]))
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise DataError(
                f"{table.origin}, column {name!r}: parquet holds one type per column ({error}); "
                "write jsonl"
            ) from error
    buffer = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(arrays, names=table.columns), buffer)
    except pyarrow.ArrowException as error:
        raise DataError(f"{table.origin}: parquet cannot hold it ({error}); write jsonl") from error
    return buffer.getvalue()


_DECODERS: dict[str, Callable[[bytes, str], Decoded]] = {
    "csv": lambda data, origin: decode_delimited(data, origin, ",", "comma"),
    "tsv": lambda data, origin: decode_delimited(data, origin, "\t", "tab"),
    "jsonl": decode_json_lines,
    "parquet": _decode_parquet,
    "txt": _decode_txt,
    "conll": decode_conll,
}
_ENCODERS: dict[str, Callable[[Table], bytes]] = {
    "csv": lambda table: encode_delimited(table, ","),
    "tsv": lambda table: encode_delimited(table, "\t"),
    "jsonl": encode_json_lines,
    "parquet": _encode_parquet,
    "txt": _encode_txt,
    "conll": encode_conll,
}
FORMATS = tuple(_DECODERS)
