"""Parquet: what is read is written back as it was, whatever Python makes of its values."""

from __future__ import annotations

import io
import math
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ltuning.data.tables import AS_FOUND, Dialect, Kept, Number, Table, check_columns, refuse_empty
from ltuning.errors import DataError

# A column that is the same everywhere takes no room in a file; a text in each row does.
_CELLS_AT_LEAST = 2**24
_CELLS_PER_BYTE = 20
# Rows that are unpacked at a time to find others behind them.
_BATCH = 4096
_BYTES = 2**20


def decode_parquet(data: bytes, origin: str, _: Dialect = AS_FOUND) -> Table:
    """The rows of a parquet file, with its columns as they are in it.

    Raises:
        DataError: other bytes, text that is not UTF-8, a value that Python cannot hold.
    """
    if not data:
        refuse_empty(origin)
    with _whole(origin):
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        cells = file.metadata.num_rows * file.metadata.num_columns
        if cells > max(_CELLS_AT_LEAST, _CELLS_PER_BYTE * len(data)):
            raise ValueError(f"{len(data):,} bytes for {cells:,} values would fill the memory")
        found = file.read()
        # A broken file shows up here, and not as a crash where a value of it is used.
        found.validate(full=True)
    return _table_of(found, origin)


def row_groups(path: str) -> list[int]:
    """How many rows each row group of a file has.

    Raises:
        DataError: no such file, no parquet, or a column name that is there twice.
    """
    with _whole(path):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            numbers = range(file.num_row_groups)
            sizes = [file.metadata.row_group(number).num_rows for number in numbers]
    check_columns(names, path)
    return sizes


def read_rows(path: str, group: int, rows: range, origin: str) -> Table:
    """Some of the rows of a row group; no more than that is held at a time.

    Args:
        path: of the file.
        group: of its row groups.
        rows: of the group, counted from 0.
        origin: for messages.

    Raises:
        DataError: as `decode_parquet`.
    """
    with _whole(path):
        import pyarrow.parquet

        found, first = [], 0
        # A little at a time: by itself a group, which may be the whole file, is read at once.
        reads = {"buffer_size": _BYTES, "pre_buffer": False}
        with pyarrow.parquet.ParquetFile(path, **reads) as file:
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                own = range(max(rows.start - first, 0), min(rows.stop - first, len(batch)))
                if own:
                    found.append(batch.slice(own.start, len(own)))
                first += len(batch)
                if first >= rows.stop:
                    break
            table = pyarrow.Table.from_batches(found, file.schema_arrow)
        table.validate(full=True)
    return _table_of(table, origin)


@contextmanager
def _whole(origin: str) -> Iterator[None]:
    """Turns whatever a file that is no parquet raises into words."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{origin}: no such file") from error
    except Exception as error:  # the kinds are many, of pyarrow, of Python and of the system
        raise DataError(
            f"{origin}: expected a whole parquet file, got other or damaged bytes "
            f"({_reason(error)}); write it again"
        ) from error


def _table_of(found: Any, origin: str) -> Table:
    names = list(found.column_names)
    # A mapping would keep only one of two columns of a name.
    check_columns(names, origin)
    values = {name: _values(found.column(name), name, origin) for name in names}
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return Table(names, rows, "parquet", origin, kept=Kept(found, values))


def _values(column: object, name: str, origin: str) -> list[Any]:
    try:
        return list(_without_nanoseconds(column).to_pylist())
    except Exception as error:  # times out of range, unknown zones and their kind
        raise DataError(
            f"{origin}, row {_first_bad(column)}: a value of the column {name!r} cannot be read "
            f"({_reason(error)}); mend it or take the column out"
        ) from error


def _without_nanoseconds(column: Any) -> Any:
    """Python's own times end at microseconds, so finer ones become texts."""
    import pyarrow

    kind = column.type
    is_time = pyarrow.types.is_timestamp(kind) or pyarrow.types.is_time64(kind)
    return column.cast(pyarrow.string()) if is_time and kind.unit == "ns" else column


def _first_bad(column: Any) -> int:
    for number, value in enumerate(column, start=1):
        try:
            value.as_py()
        except Exception:
            return number
    return len(column)


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def encode_parquet(table: Table) -> bytes:
    """A parquet file; columns whose values are those read from one keep their type and metadata.

    Raises:
        DataError: a column of several types, or of one that parquet does not have.
    """
    import pyarrow
    import pyarrow.parquet

    columns, fields = [], []
    for name in table.columns:
        column, field = _column(table, name)
        columns.append(column)
        fields.append(field)
    metadata = table.kept.columns.schema.metadata if table.kept else None
    buffer = io.BytesIO()
    try:
        whole = pyarrow.table(columns, schema=pyarrow.schema(fields, metadata))
        pyarrow.parquet.write_table(whole, buffer)
    except (pyarrow.ArrowException, OverflowError) as error:
        raise DataError(f"{table.origin}: parquet cannot hold it ({error}); write jsonl") from error
    return buffer.getvalue()


def _column(table: Table, name: str) -> tuple[Any, Any]:
    """The values of a column and its field: type, metadata."""
    import pyarrow

    values = [row.get(name) for row in table.rows]
    kept = table.kept
    if kept and name in kept.values and _are_same(values, kept.values[name]):
        return kept.columns.column(name), kept.columns.schema.field(name)
    if any(map(_is_too_large, values)):
        raise DataError(
            f"{table.origin}, column {name!r}: parquet holds no number as large as 1e400; "
            "write jsonl"
        )
    try:
        array = pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(
            f"{table.origin}, column {name!r}: parquet holds one type per column ({error}); "
            "write jsonl"
        ) from error
    array = _typed(array)
    return array, pyarrow.field(name, array.type)


def _typed(array: Any) -> Any:
    """As texts, or lists of texts, where no value says of which type the column is."""
    import pyarrow

    text, kind = pyarrow.string(), array.type
    if pyarrow.types.is_null(kind):
        return array.cast(text)
    if pyarrow.types.is_list(kind) and pyarrow.types.is_null(kind.value_type):
        return array.cast(pyarrow.list_(text))
    return array


def _is_too_large(value: object) -> bool:
    """Whether a number of a JSON file, or one inside a value, has become infinite."""
    if isinstance(value, list | dict):
        return any(map(_is_too_large, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Number) and math.isinf(value) and "Inf" not in value.digits


def _are_same(values: list[object], before: list[object]) -> bool:
    # The same objects: equal ones need not be, as 1 and 1.0 and True.
    return len(values) == len(before) and all(map(operator.is_, values, before))
