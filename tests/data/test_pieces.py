"""Files that are read in pieces have the rows that they have as a whole."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ltuning.data.files import read_table
from ltuning.data.pieces import Piece, pieces_of
from ltuning.data.tables import AS_FOUND, Dialect
from ltuning.errors import DataError

TEXTS = {
    "txt": "one\n\ntwo\r\nthree\rfour\n\n",
    "plain.csv": 'text,n\na,1\n"b\nb, ""b""",2\n5" pipe,3\nc,4\r\nd,5\n\n\n',
    "one.csv": "text\na\n\nb\n\n\n\nc\n\n\n",
    "semicolon.csv": 'text;n\n"a;\r\n";1\nb;2\nc;3',
    "tsv": 'text\tn\na\t1\n"b\n\tb"\t2\nc\t3\n',
    "jsonl": '{"text": "a"}\n{"text": "b", "n": 1}\r\n{"m": [1], "text": "c\\n"}\n \n\n',
}


def written(tmp_path: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / (name if "." in name else f"x.{name}")
    path.write_bytes(text.encode(encoding))
    return path


def pieces(path: Path, rows: int, dialect: Dialect = AS_FOUND) -> list[Piece]:
    return list(pieces_of(path, dialect, rows))


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
@pytest.mark.parametrize("name", TEXTS)
def test_rows_of_text_are_those_of_the_whole(tmp_path: Path, name: str, rows: int) -> None:
    path = written(tmp_path, name, TEXTS[name])
    whole, found = read_table(path), pieces(path, rows)
    read = [row for piece in found for row in piece.read().rows]
    assert read == whole.rows
    assert [piece.number for piece in found] == list(range(len(found)))
    assert [piece.first for piece in found] == [
        sum(before.rows for before in found[:number]) for number in range(len(found))
    ]
    if rows == 2:
        assert len(found) > 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252"])
@pytest.mark.parametrize("name", ["plain.csv", "jsonl", "txt"])
def test_other_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    path = written(tmp_path, name, TEXTS[name].replace("b", "ä"), encoding)
    dialect = Dialect(None if encoding == "utf-8-sig" else encoding)
    whole = read_table(path, dialect=dialect)
    read = [row for piece in pieces(path, 1, dialect) for row in piece.read().rows]
    assert read == whole.rows


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path, size = tmp_path / "x.parquet", 23
    column = pyarrow.array([None if row == 5 else row for row in range(size)], pyarrow.int16())
    table = pyarrow.table({"text": [f"t{row}" for row in range(size)], "n": column})
    pyarrow.parquet.write_table(table, path, row_group_size=10)
    found = pieces(path, 4)
    assert [piece.rows for piece in found] == [4, 4, 2, 4, 4, 2, 3]
    tables = [piece.read() for piece in found]
    assert [row for one in tables for row in one.rows] == table.to_pylist()
    assert {one.kept.columns.schema.field("n").type for one in tables if one.kept} == {
        pyarrow.int16()
    }


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv.gz", gzip.compress(b"text\na\n"), "expected a file that can be read from its mid"),
        ("x.conll", b"a O\n", "expected a file ending of .parquet, .jsonl, .csv, .tsv, .txt, got"),
        ("x.parquet", b"PAR1 none", "expected a whole parquet file, got other or damaged bytes"),
        ("x.csv", "text\na\n".encode("utf-16"), "expected an encoding with one byte for a line"),
        ("x.csv", b"text\n", "expected at least one row, got none; leave the file out"),
        ("x.csv", b"", "expected at least one row, got an empty file"),
        ("x.csv", b'text\nb\n"a\nc\nd\n', "line 3: a broken row begins here"),
        ("x.csv", b"text\n" + b"a\n" * 2**19 + b"\xff\n", "line 524290: expected utf-8, got oth"),
        ("x.txt", b"\xff\n", "expected UTF-8, got the byte 0xff"),
    ],
)
def test_files_that_cannot_be_divided(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        pieces(path, 2)


def test_a_file_that_was_changed_meanwhile(tmp_path: Path) -> None:
    path = written(tmp_path, "x.csv", "text\na\nb\nc\n")
    first, second = pieces(path, 2)
    path.write_text("text\nd\ne\nf\n")
    with pytest.raises(DataError, match="x.csv: the file was changed meanwhile; bring it back"):
        first.read()
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        second.read()


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("txt", "a\n\ufeff\n\ufeffb\n", "utf-8"),
        ("x.csv", "text\na\n\ufeff\n\ufeffb\n\ufeff\n", "utf-8-sig"),
        ("x.csv", '\ufeff"te\nxt"\na\nb\n', "utf-8"),
        ("jsonl", '{"text": "a"}\n{"text": "b"}\n\u00a0\x1c\n', "utf-8"),
    ],
)
def test_marks_and_blanks_that_are_not_of_ascii(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    path = written(tmp_path, name, text, encoding)
    dialect = Dialect("utf-8") if '"te' in text else AS_FOUND
    whole = read_table(path, dialect=dialect)
    assert [row for piece in pieces(path, 1, dialect) for row in piece.read().rows] == whole.rows


def test_a_row_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.data import pieces as module

    monkeypatch.setattr(module, "_LONGEST_ROW", 100)
    path = written(tmp_path, "x.csv", 'text\n"a\n' + "b\n" * 100)
    with pytest.raises(DataError, match="line 2: a broken row begins here .it has no end, as whe"):
        pieces(path, 2)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(DataError, match="expected a file, got something else; leave it out"):
        pieces(tmp_path / "x.csv", 2)


def test_a_delimiter_of_a_format_that_has_none(tmp_path: Path) -> None:
    path = written(tmp_path, "x.jsonl", '{"text": "a"}\n')
    with pytest.raises(DataError, match="expected csv or tsv for the delimiter ';'"):
        pieces(path, 2, Dialect(delimiter=";"))
