"""Parquet: what is read comes back with every type, and what Python cannot hold is refused."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ltuning.data.formats import decode_table, encode_table
from ltuning.data.tables import Table
from ltuning.errors import DataError


def written(table: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def refused(table: Any) -> str:
    with pytest.raises(DataError) as caught:
        decode_table(written(table), "parquet", "data")
    return str(caught.value)


def every_type() -> Any:
    nanoseconds = pyarrow.timestamp("ns", tz="Europe/Vienna")
    columns = {
        "text": pyarrow.array(["a", "b"], pyarrow.large_string()),
        "ns": pyarrow.array([1_700_000_000_000_000_001, None], nanoseconds),
        "zone": pyarrow.array([0, 1], pyarrow.timestamp("ms", tz="Asia/Tokyo")),
        "int8": pyarrow.array([1, -1], pyarrow.int8()),
        "uint64": pyarrow.array([2**64 - 1, 0], pyarrow.uint64()),
        "float32": pyarrow.array([0.1, None], pyarrow.float32()),
        "decimal": pyarrow.array([Decimal("1.10"), None], pyarrow.decimal128(5, 2)),
        "kind": pyarrow.DictionaryArray.from_arrays(
            pyarrow.array([1, 1], pyarrow.int8()), ["rare", "common"], ordered=True
        ),
        "nested": pyarrow.array(
            [[{"n": 1}], None], pyarrow.list_(pyarrow.struct([("n", pyarrow.int16())]))
        ),
        "null": pyarrow.nulls(2),
        "bytes": pyarrow.array([b"\xff", b""], pyarrow.binary(-1)),
    }
    table = pyarrow.table(columns)
    field = table.schema.field("int8").with_metadata({b"unit": b"degree"}).with_nullable(False)
    schema = table.schema.set(table.schema.get_field_index("int8"), field)
    return table.cast(schema.with_metadata({b"made": b"here"}))


def test_new_columns_leave_the_others_as_they_were() -> None:
    given = pyarrow.parquet.read_table(io.BytesIO(written(every_type())))
    table = decode_table(written(given), "parquet", "here")
    rows = [{**row, "predicted": "x"} for row in table.rows]
    labelled = replace(table, columns=[*table.columns, "predicted"], rows=rows)
    found = pyarrow.parquet.read_table(io.BytesIO(encode_table(labelled, "parquet")))
    assert found.drop_columns(["predicted"]).equals(given, check_metadata=True)
    assert found.schema.field("int8").metadata[b"unit"] == b"degree"
    assert found["kind"].chunk(0).dictionary.to_pylist() == ["rare", "common"]
    assert found["predicted"].to_pylist() == ["x", "x"]


def test_a_new_column_without_a_value_is_of_texts() -> None:
    rows = [{"text": "a", "label": None, "labels": []}]
    table = Table(["text", "label", "labels"], rows, "parquet", "t")
    found = pyarrow.parquet.read_table(io.BytesIO(encode_table(table, "parquet")))
    text = pyarrow.string()
    assert found.schema.types == [text, text, pyarrow.list_(text)]
    assert found.to_pylist() == rows


def test_a_column_that_was_changed_is_written_as_it_is_now() -> None:
    table = decode_table(written(pyarrow.table({"a": [1, 2], "b": [1, 2]})), "parquet", "here")
    table.rows[1]["a"] = 2.5
    found = pyarrow.parquet.read_table(io.BytesIO(encode_table(table, "parquet")))
    assert found.to_pydict() == {"a": [1, 2.5], "b": [1, 2]}
    fewer = Table(["a", "b"], table.rows[1:], "parquet", "here", kept=table.kept)
    assert decode_table(encode_table(fewer, "parquet"), "parquet", "here").rows == [
        {"a": 2.5, "b": 2}
    ]


def test_nanoseconds_in_a_format_of_text() -> None:
    nanoseconds = pyarrow.array([1_700_000_000_000_000_001], pyarrow.timestamp("ns"))
    table = decode_table(written(pyarrow.table({"a": nanoseconds})), "parquet", "here")
    assert encode_table(table, "csv") == b"a\n2023-11-14 22:13:20.000000001\n"


def test_a_small_file_of_very_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.data import parquet

    monkeypatch.setattr(parquet, "_CELLS_AT_LEAST", 100)
    many = pyarrow.table({"text": pyarrow.nulls(50_000)})
    assert refused(many) == (
        "data: expected a whole parquet file, got other or damaged bytes "
        f"({len(written(many)):,} bytes for 50,000 values would fill the memory); write it again"
    )


def _not_utf8() -> Any:
    buffers = [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"\xff\xfe")]
    return pyarrow.Array.from_buffers(pyarrow.string(), 1, buffers)


def test_text_that_is_not_utf8() -> None:
    assert refused(pyarrow.table({"a": _not_utf8()})).startswith(
        "data: expected a whole parquet file, got other or damaged bytes ("
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pyarrow.date32(), 2**31 - 1),
        (pyarrow.timestamp("us"), 2**62),
        (pyarrow.timestamp("us", tz="Mars/Base"), 1),
        (pyarrow.timestamp("ns", tz="Mars/Base"), 1),
        (pyarrow.duration("s"), 2**62),
    ],
    ids=str,
)
def test_values_that_python_cannot_hold(kind: Any, value: int) -> None:
    size = pyarrow.int32() if kind == pyarrow.date32() else pyarrow.int64()
    column = pyarrow.array([None, value], size).cast(kind)
    message = refused(pyarrow.table({"text": ["a", "b"], "when": column}))
    assert message.startswith("data, row 2: a value of the column 'when' cannot be read (")
    assert message.endswith("; mend it or take the column out")


def test_damaged_files_end_in_words() -> None:
    whole, draws = written(every_type()), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            damaged[draws.randrange(len(damaged))] = draws.randrange(256)
        try:
            decode_table(bytes(damaged), "parquet", "data")
        except DataError as error:
            assert str(error).startswith("data")
