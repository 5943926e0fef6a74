"""File formats: what is written is read back exactly, and what is broken is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.data.files import check_target, read_table, stem_of, write_file, write_table
from ltuning.data.formats import FORMATS, decode_table, encode_table
from ltuning.data.tables import Table
from ltuning.errors import DataError

# Of conll, which holds lists of words and nothing else, see test_conll.py.
ENDINGS = [f"{format}{suffix}" for format in FORMATS if format != "conll" for suffix in ("", ".gz")]

_plain = st.characters(exclude_categories=["Cs"])
_awkward = st.sampled_from('"",,\t\n\r\ufeff\u2028\x00\x1c\\\'; ')
texts = st.text(_plain | _awkward, max_size=12)
lines = st.text((_plain | _awkward).filter(lambda sign: sign not in "\r\n"), max_size=12)


def tables(cells: Any) -> Any:
    """Tables of one to three columns whose cells come from a strategy."""
    names = st.lists(texts, min_size=1, max_size=3, unique=True)
    return names.flatmap(
        lambda columns: st.lists(
            st.fixed_dictionaries({name: cells for name in columns}), min_size=1, max_size=5
        ).map(lambda rows: Table(columns, rows, "jsonl", "here"))
    )


def refused(data: bytes, format: str) -> str:
    with pytest.raises(DataError) as caught:
        decode_table(data, format, "data")
    return str(caught.value)


def refused_to_write(rows: list[dict[str, Any]], format: str) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with pytest.raises(DataError) as caught:
        encode_table(Table(columns, rows, "jsonl", "data"), format)
    return str(caught.value)


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
@settings(max_examples=60, deadline=None)  # the first parquet table waits for the import
@given(table=tables(texts))
def test_texts_come_back(format: str, table: Table) -> None:
    back = decode_table(encode_table(table, format), format, "here")
    assert back == Table(table.columns, table.rows, format, "here")


@given(rows=st.lists(lines, min_size=1))
def test_lines_of_text_come_back(rows: list[str]) -> None:
    table = Table(["text"], [{"text": line} for line in rows], "txt", "here")
    assert decode_table(encode_table(table, "txt"), "txt", "here") == table


_floats = st.floats(allow_nan=False, allow_infinity=False)
_scalars = st.none() | st.booleans() | st.integers() | _floats | texts


@settings(max_examples=50, deadline=None)
@given(table=tables(_scalars | st.lists(_scalars, max_size=2)))
def test_json_lines_keep_every_type(table: Table) -> None:
    back = decode_table(encode_table(table, "jsonl"), "jsonl", "here")
    assert back.columns == table.columns
    for row, expected in zip(back.rows, table.rows, strict=True):
        # Equal as written too: 1 and 1.0 and True are equal in Python.
        assert {k: repr(v) for k, v in row.items()} == {k: repr(v) for k, v in expected.items()}


@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(lines, min_size=1, max_size=4))
def test_files_come_back(
    ending: str, rows: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("files") / f"table.{ending}"
    table = Table(["text"], [{"text": line} for line in rows], "jsonl", "here")
    write_table(table, path)
    back = read_table(path)
    assert (back.columns, back.rows) == (table.columns, table.rows)
    assert (back.format, back.origin) == (ending.removesuffix(".gz"), str(path))
    assert path.read_bytes().startswith(b"\x1f\x8b") == ending.endswith(".gz")


def test_parquet_keeps_types_and_missing_values() -> None:
    rows = [{"n": 1, "f": 0.5, "b": True, "t": "a"}, {"n": None, "f": None, "b": None, "t": None}]
    table = Table(["n", "f", "b", "t"], rows, "parquet", "here")
    assert decode_table(encode_table(table, "parquet"), "parquet", "here") == table


def test_equal_tables_give_equal_compressed_files(tmp_path: Path) -> None:
    table = Table(["text"], [{"text": "a"}], "csv", "here")
    for name in ("one.csv.gz", "two.csv.gz"):
        write_table(table, tmp_path / name)
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


NUMBERS = (
    b'{"a": 1.10, "b": [1E5, -0.0, 1e400], "c": 123456789012345678901234567890.10, "d": NaN}\n'
    b'{"a": -Infinity, "b": {"n": 12345678901234567890123}, "c": 0.1, "d": 2}\n'
)


def test_json_numbers_keep_their_digits() -> None:
    table = decode_table(NUMBERS, "jsonl", "here")
    assert encode_table(table, "jsonl") == NUMBERS
    assert table.rows[0]["a"] == 1.1
    cells = decode_table(encode_table(table, "csv"), "csv", "here").rows
    assert cells[0] == {
        "a": "1.10",
        "b": "[1E5, -0.0, 1e400]",
        "c": "123456789012345678901234567890.10",
        "d": "NaN",
    }


def test_json_numbers_that_parquet_would_bend() -> None:
    table = decode_table(b'{"a": [{"n": 1e400}]}', "jsonl", "here")
    with pytest.raises(DataError) as caught:
        encode_table(table, "parquet")
    assert str(caught.value) == (
        "here, column 'a': parquet holds no number as large as 1e400; write jsonl"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_nan_is_not_json(value: Any) -> None:
    assert refused_to_write([{"a": value}], "jsonl").startswith(
        "data, row 1: a value is not JSON (Out of range float values are not JSON compliant"
    )


# --- reading what others wrote --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "content", "rows"),
    [
        ("csv", 'text,label\n"a, ""b""\nc",x\n', [{"text": 'a, "b"\nc', "label": "x"}]),
        ("csv", "text,label\r\na,x\r\n\r\n", [{"text": "a", "label": "x"}]),
        ("csv", "text,label\ra,x\r", [{"text": "a", "label": "x"}]),
        ("csv", "\ufefftext,label\na,x", [{"text": "a", "label": "x"}]),
        ("csv", 'text\n5" nails\n\nb\n', [{"text": '5" nails'}, {"text": ""}, {"text": "b"}]),
        ("tsv", 'text\tlabel\r\na, b\t"x\ty"\r\n', [{"text": "a, b", "label": "x\ty"}]),
        ("jsonl", '\ufeff{"text": "a\u2028b"}\r\n{"id": 1}\r\n', [{"text": "a\u2028b"}, {"id": 1}]),
        ("txt", "\ufeffa\r\n\r\nb\rc", [{"text": "a"}, {"text": ""}, {"text": "b"}, {"text": "c"}]),
    ],
)
def test_other_programs_files(format: str, content: str, rows: list[dict[str, Any]]) -> None:
    assert decode_table(content.encode(), format, "data").rows == rows


def test_columns_of_json_lines_are_those_of_all_rows() -> None:
    table = decode_table(b'{"a": 1}\n{"b": 2, "a": 3}', "jsonl", "data")
    assert table.columns == ["a", "b"]


def test_long_fields_are_read_and_the_limit_of_the_csv_module_stays() -> None:
    before = csv.field_size_limit()
    long = "a" * (before + 1)
    assert decode_table(f"text\n{long}\n".encode(), "csv", "data").rows == [{"text": long}]
    assert csv.field_size_limit() == before


# --- refusing to read -----------------------------------------------------------------------------

EMPTY = "data: expected at least one row, got an empty file"
HEADER_ONLY = "data: expected at least one row, got column names only; add rows"


@pytest.mark.parametrize(
    ("format", "content"),
    [(format, b"") for format in FORMATS]
    + [("csv", b"\r\n\n"), ("tsv", b"\n"), ("jsonl", b" \n\n"), ("txt", b"\xef\xbb\xbf")],
)
def test_empty_file(format: str, content: bytes) -> None:
    assert refused(content, format) == EMPTY


def test_column_names_only() -> None:
    assert refused(b"text,label\n", "csv") == HEADER_ONLY
    no_rows = encode_table(Table(["text"], [], "jsonl", "here"), "parquet")
    assert refused(no_rows, "parquet") == HEADER_ONLY


def test_ragged_row_is_named_by_the_line_on_which_it_begins() -> None:
    assert refused(b'text,label\n"a\nb",x\nc,d,x\n', "csv") == (
        "data, line 4: expected 2 fields, got 3; put quotes around a field that contains a comma"
    )
    assert refused(b"text\tlabel\na\n", "tsv") == (
        "data, line 2: expected 2 fields, got 1; put quotes around a field that contains a tab"
    )


def test_all_broken_lines_are_named_at_once() -> None:
    assert refused(b"a,b\n1\n1,2\n1,2,3\n", "csv") == (
        "data: 2 problems:\n"
        "  line 2: expected 2 fields, got 1; put quotes around a field that contains a comma\n"
        "  line 4: expected 2 fields, got 3; put quotes around a field that contains a comma"
    )
    lines = b'{"text": "\\ud83d"}\n' + b"[]\n{}\n" * 5
    assert refused(lines, "jsonl").startswith(
        "data: 6 problems:\n  line 1: a text holds half of a surrogate pair; remove it\n"
        "  line 2: expected one JSON object per line, got a list; write it as"
    )
    assert refused(lines, "jsonl").endswith("\n  ...")


def test_blank_line_between_rows_is_a_ragged_row() -> None:
    assert "data, line 2: expected 2 fields, got 0;" in refused(b"text,label\n\na,x\n", "csv")


def test_blank_line_before_the_column_names() -> None:
    assert refused(b"\ntext,label\na,x\n", "csv") == (
        "data, line 1: expected column names, got a blank line; remove it"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b'a\nb\n"c\nd\n', "unexpected end of data"), (b'a\nb\n"c"d\n', "',' expected after '\"'")],
)
def test_broken_quoting(content: bytes, reason: str) -> None:
    assert refused(content, "csv") == (
        f"data, line 3: broken quoting in the row that begins here ({reason}); "
        'quote a field that begins with a quote, and write each quote inside it twice ("")'
    )


def test_column_that_is_there_twice() -> None:
    expected = "data: the column 'text' is there twice; rename one of them"
    assert refused(b"text,text\na,b\n", "csv") == expected

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), buffer)
    assert refused(buffer.getvalue(), "parquet") == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', "Expecting ',' delimiter at character 13"),
        ("", "Expecting value at character 1"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ("[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array"),
    ],
)
def test_broken_json_line(line: str, reason: str) -> None:
    message = refused(f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n'.encode(), "jsonl")
    assert message.startswith(
        f"data, line 2: expected one JSON object per line, got broken JSON ({reason}"
    )


def test_json_line_that_is_no_object() -> None:
    assert refused(b'{"text": "a"}\n["b"]\n', "jsonl") == (
        "data, line 2: expected one JSON object per line, got a list; "
        'write it as {"text": "...", "label": "..."}'
    )


def test_half_of_a_surrogate_pair_in_json() -> None:
    assert refused(b'{"text": "a \\ud83d"}\n', "jsonl") == (
        "data, line 1: a text holds half of a surrogate pair; remove it"
    )
    whole = decode_table(b'{"text": "\\ud83d\\ude00"}\n', "jsonl", "data")
    assert whole.rows == [{"text": "\U0001f600"}]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "txt"])
def test_bytes_that_are_not_utf8(format: str) -> None:
    assert refused("text\ncafé\n".encode("latin-1"), format) == (
        "data, line 2: expected UTF-8, got the byte 0xe9 at offset 8; say in which "
        "encoding it is, such as --encoding cp1252 (data.encoding), or save it as UTF-8"
    )


def test_parquet_of_other_bytes() -> None:
    assert refused(b"text,label\na,x\n", "parquet").startswith(
        "data: expected a whole parquet file, got other or damaged bytes ("
    )


def test_unknown_format() -> None:
    assert refused(b"a", "cvs") == (
        "unknown format 'cvs': expected one of 'csv', 'tsv', 'jsonl', 'parquet', 'txt', 'conll'; "
        "did you mean 'csv'?"
    )
    with pytest.raises(DataError, match="unknown format 'excel': expected one of 'csv'"):
        read_table(io.BytesIO(b"a"), "excel")


# --- refusing to write ----------------------------------------------------------------------------


def test_txt_holds_one_column_of_single_lines() -> None:
    assert refused_to_write([{"text": "a", "label": "x"}], "txt") == (
        "data: txt holds one column, got text, label; write csv, tsv, jsonl or parquet"
    )
    assert refused_to_write([{"text": "a"}, {"text": "b\r"}], "txt") == (
        "data, row 2: txt holds one text per line, got a text with a line break; "
        "write csv, tsv, jsonl or parquet"
    )


def test_parquet_holds_one_type_per_column() -> None:
    message = refused_to_write([{"label": "a"}, {"label": 1}], "parquet")
    assert message.startswith("data, column 'label': parquet holds one type per column (")
    assert message.endswith("); write jsonl")
    assert refused_to_write([{"a": {}}], "parquet").startswith("data: parquet cannot hold it (")


def test_json_lines_hold_json() -> None:
    assert refused_to_write([{"text": "a"}, {"text": b"b"}], "jsonl") == (
        "data, row 2: a value is not JSON (Object of type bytes is not JSON serializable); "
        "write parquet"
    )


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "txt"])
def test_half_of_a_surrogate_pair_is_not_written(format: str) -> None:
    assert refused_to_write([{"text": "a\ud83d"}], format) == (
        "data: a text holds half of a surrogate pair ('\\ud83d'), which UTF-8 cannot hold; "
        "remove it"
    )


def test_tables_that_would_lose_something() -> None:
    assert refused_to_write([{}], "jsonl") == "data: a table without columns cannot be written"
    with pytest.raises(DataError, match=r"here, row 1: unknown column 'b': expected one of 'a'"):
        encode_table(Table(["a"], [{"a": "1", "b": "2"}], "csv", "here"), "csv")
    with pytest.raises(DataError, match="here: the column 'a' is there twice; rename one of them"):
        encode_table(Table(["a", "a"], [{"a": "1"}], "csv", "here"), "csv")


@pytest.mark.parametrize("value", [b"a", [b"a"], {"a": {b"b": 1}}])
def test_values_without_a_text_in_csv(value: Any) -> None:
    message = refused_to_write([{"a": "b"}, {"a": value}], "csv")
    assert message.startswith("data, row 2: a value has no form as text (")
    assert message.endswith("); write parquet")


def test_values_in_csv() -> None:
    row = {"none": None, "number": 1.5, "list": ["é", 1], "object": {"a": None}}
    table = Table([*row, "absent"], [row], "jsonl", "here")
    assert decode_table(encode_table(table, "csv"), "csv", "here").rows == [
        {"none": "", "number": "1.5", "list": '["é", 1]', "object": '{"a": null}', "absent": ""}
    ]


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["table.xlsx", "table.gz", "table"])
def test_unknown_ending(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("text\na\n")
    found = "the ending ." + name.split(".")[1] if "." in name else "no ending"
    expected = (
        f"{path}: expected a file ending of .csv, .tsv, .jsonl, .parquet, .txt, .conll "
        f"(or with .gz), got {found}"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        read_table(path)
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        write_table(Table(["text"], [{"text": "b"}], "csv", "here"), path)
    assert path.read_text() == "text\na\n"
    assert read_table(path, "csv").rows == [{"text": "a"}]


def test_json_that_is_not_lines(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "table.json")
    assert str(caught.value).endswith(
        ".conll (or with .gz), got the ending .json; write JSON as JSON lines, one object per "
        "line (.jsonl)"
    )
    rows = [{"text": "a"}, {"text": "b"}]
    expected = (
        "data: expected JSON lines, one object per line, got one JSON {} of the whole file; write "
        'each row on a line of its own as {{"text": "...", "label": "..."}}, without brackets and '
        "commas around the rows"
    )
    for indent in (None, 1):
        assert refused(json.dumps(rows, indent=indent).encode(), "jsonl") == expected.format(
            "array"
        )
    assert refused(json.dumps(rows[0], indent=1).encode(), "jsonl") == expected.format("object")


def test_ending_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "TABLE.CSV"
    path.write_text("text\na\n")
    assert read_table(str(path)).rows == [{"text": "a"}]


@pytest.mark.parametrize(
    ("name", "stem"),
    [("train.csv", "train"), ("train.jsonl.gz", "train"), ("a.b.txt", "a.b"), ("train.md", None)],
)
def test_stem(name: str, stem: str | None) -> None:
    assert stem_of(name) == stem


def test_missing_file_and_folder(tmp_path: Path) -> None:
    missing = tmp_path / "missing.csv"
    with pytest.raises(DataError, match=f"^{re.escape(str(missing))}: no such file$"):
        read_table(missing)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: expected a file, got a folder$"):
        read_table(folder)
    with pytest.raises(DataError, match=r"folder\.csv/train\.csv: cannot be read \(Not a dir"):
        (tmp_path / "plain").write_text("")
        (folder / "train.csv").symlink_to(tmp_path / "plain" / "train.csv")
        read_table(folder / "train.csv")


@pytest.mark.parametrize("content", [b"text\na\n", gzip.compress(b"text\na\n" * 99, mtime=0)[:-9]])
def test_broken_gzip(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"table\.csv\.gz: expected gzip, got a broken or other fi"):
        read_table(path)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_table(Table(["text"], [{"text": "a"}], "csv", "here"), "~/table.csv")
    assert (tmp_path / "table.csv").read_bytes() == b"text\na\n"
    assert read_table("~/table.csv").rows == [{"text": "a"}]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(DataError, match="half of a surrogate pair"):
        write_table(Table(["text"], [{"text": "\ud83d"}], "csv", "here"), path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(DataError, match=r"table\.csv: cannot be written \(No space left on device"):
        write_table(Table(["text"], [{"text": "new"}], "csv", "here"), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    table = Table(["text"], [{"text": "a"}], "csv", "here")
    with pytest.raises(DataError, match=r"cannot be written \(No such file or directory\)$"):
        write_table(table, tmp_path / "missing" / "table.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: cannot be written \(Is a directory\)$"):
        write_table(table, tmp_path / "folder.csv")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    target.write_text("old")
    link.symlink_to(target)
    write_table(Table(["text"], [{"text": "a"}], "csv", "here"), link)
    assert link.is_symlink()
    assert target.read_bytes() == b"text\na\n"


@pytest.mark.skipif(os.name != "posix", reason="needs permissions of files")
def test_permissions_stay(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    path.chmod(0o600)
    write_table(Table(["text"], [{"text": "a"}], "csv", "here"), path)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_table(Table(["text"], [{"text": "a"}], "csv", "here"), pipe)
        assert os.read(reading, 100) == b"text\na\n"
    finally:
        os.close(reading)
    assert pipe.is_fifo()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_no_data_files(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(
        DataError, match=r"pipe\.csv: expected a file, got a pipe; write the data to"
    ):
        read_table(pipe)
    with pytest.raises(
        DataError, match=r"^/dev/zero: expected a file, got a device or socket; wri"
    ):
        read_table("/dev/zero", "txt")


def test_a_pipe_whose_format_is_said_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"text\na\n")
    os.close(writing)
    try:
        assert read_table(f"/dev/fd/{reading}", "csv").rows == [{"text": "a"}]
    finally:
        os.close(reading)


def test_gzip_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.data import files

    monkeypatch.setattr(files, "_UNPACKED_AT_LEAST", 2**20)
    path = tmp_path / "bomb.txt.gz"
    path.write_bytes(gzip.compress(bytes(2**22)))
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value) == (
        f"{path}: {path.stat().st_size:,} bytes of gzip unpack to more than 1,048,576, which would "
        "fill the memory; if they are good, unpack the file first"
    )
    path.write_bytes(gzip.compress(b"a\n") + gzip.compress(b"b\n"))
    assert len(read_table(path).rows) == 2


def test_names_up_to_the_systems_limit(tmp_path: Path) -> None:
    table = Table(["text"], [{"text": "a"}], "csv", "here")
    for name in ("a" * 251 + ".csv", "\U0001f600" * 62 + ".csv"):
        check_target(tmp_path / name)
        write_table(table, tmp_path / name)
    too_long = tmp_path / ("a" * 252 + ".csv")
    for refused_to in (check_target, read_table, lambda path: write_table(table, path)):
        with pytest.raises(DataError, match=r"cannot be \w+ \(File name too long\)$"):
            refused_to(too_long)


def test_targets_that_are_refused_before_there_is_something_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*/no to write it to; make it$"):
        check_target(tmp_path / "no" / "x.csv")
    with pytest.raises(DataError, match=r": expected the name of a file, got a folder; add a file"):
        check_target(tmp_path)
    circle = tmp_path / "circle.csv"
    circle.symlink_to(circle)
    with pytest.raises(DataError, match=r"circle\.csv: cannot be written \(.*[Ss]ymbolic|Symlink"):
        check_target(circle)
    with pytest.raises(DataError, match=r"a\x00\.csv: cannot be read \(.*embedded null .*\)$"):
        read_table("a\0.csv")


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs names of open files")
def test_an_open_pipe_is_written_to_by_its_name() -> None:
    reading, writing = os.pipe()
    try:
        check_target(f"/dev/fd/{writing}")
        write_file(b"figures", f"/dev/fd/{writing}")
        assert os.read(reading, 100) == b"figures"
    finally:
        os.close(reading)
        os.close(writing)


# --- streams --------------------------------------------------------------------------------------


def test_streams_of_bytes_and_of_text() -> None:
    content = 'text\r\n"é\r\nb"\r\n'
    as_terminal = io.TextIOWrapper(io.BytesIO(content.encode()), encoding="ascii")
    for stream in (io.BytesIO(content.encode()), io.StringIO(content, newline=""), as_terminal):
        table = read_table(stream, "csv")
        assert table.rows == [{"text": "é\r\nb"}]
        assert table.origin == "<stream>"


def test_compressed_stream() -> None:
    stream = io.BytesIO(gzip.compress(b'{"text": "a"}'))
    assert read_table(stream, "jsonl.gz").rows == [{"text": "a"}]


def test_standard_input_is_named_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8")
    monkeypatch.setattr(stream.buffer, "name", "<stdin>", raising=False)
    monkeypatch.setattr(sys, "stdin", stream)
    with pytest.raises(
        DataError, match=r"^<stdin>, line 1: expected UTF-8, got the byte 0xff at offset 0"
    ):
        read_table(sys.stdin, "txt")


def test_text_stream_with_a_lone_surrogate() -> None:
    with pytest.raises(DataError, match="line 2: expected UTF-8, got the byte 0xed at offset 2"):
        read_table(io.StringIO("a\n\ud83d"), "txt")


def test_stream_without_format() -> None:
    with pytest.raises(DataError) as caught:
        read_table(io.StringIO("a"))
    assert str(caught.value) == (
        "<stream>: a stream has no file ending; "
        "say its format, one of csv, tsv, jsonl, parquet, txt, conll"
    )


def test_writing_to_streams() -> None:
    table = Table(["text"], [{"text": "é\r\nb"}], "csv", "here")
    expected = 'text\n"é\r\nb"\n'
    binary, text = io.BytesIO(), io.StringIO(newline="")
    wrapped = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\r\n")
    wrapped.write("before ")
    for stream in (binary, text, wrapped):
        write_table(table, stream)
    assert binary.getvalue() == expected.encode()
    assert text.getvalue() == expected
    assert wrapped.buffer.getvalue() == b"before " + expected.encode()  # type: ignore[attr-defined]


def test_parquet_to_streams() -> None:
    table = Table(["text"], [{"text": "a"}], "parquet", "here")
    stream = io.BytesIO()
    write_table(table, stream)
    assert read_table(io.BytesIO(stream.getvalue()), "parquet").rows == table.rows
    with pytest.raises(DataError) as caught:
        write_table(table, io.StringIO())
    assert str(caught.value) == ("parquet is binary and the stream takes text; write it to a file")


def test_json_lines_are_plain_json() -> None:
    table = Table(["text", "label"], [{"text": "é", "label": 1}], "jsonl", "here")
    assert json.loads(encode_table(table, "jsonl")) == {"text": "é", "label": 1}
    assert "é".encode() in encode_table(table, "jsonl")
