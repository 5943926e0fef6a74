"""Delimiters and encodings: what is taken, what is said, and what is written back."""

from __future__ import annotations

import io
import logging

import pytest

from ltuning.data.delimited import escape_formulas
from ltuning.data.files import read_table, write_table
from ltuning.data.formats import decode_table, encode_table
from ltuning.data.tables import Dialect, Table
from ltuning.errors import DataError

ROWS = [{"Satz": "der Hut, grün; rot", "Art": "Hüte"}, {"Satz": "ein Schuh", "Art": "Schuhe"}]
EXCEL = '\ufeffSatz;Art\r\n"der Hut, grün; rot";Hüte\r\nein Schuh;Schuhe\r\n'.encode()


def refused(data: bytes, format: str, dialect: Dialect) -> str:
    with pytest.raises(DataError) as caught:
        decode_table(data, format, "data", dialect)
    return str(caught.value)


# --- delimiters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "vertical bar")]
)
def test_a_delimiter_that_names_and_rows_agree_on_is_taken_and_said(
    sign: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data = EXCEL.replace(b";", sign.encode())
    with caplog.at_level(logging.WARNING, logger="ltuning"):
        table = decode_table(data, "csv", "data")
    assert [row["Art"] for row in table.rows] == ["Hüte", "Schuhe"]
    assert table.dialect == Dialect("utf-8-sig", sign)
    assert caplog.messages == [
        f"data: read with a {name} between the fields; --delimiter (data.delimiter) names another"
    ]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("text,label\na;b,x\n", ["text", "label"]),  # no other sign in the names
        ("text\na;b\nc;d\n", ["text"]),
        ("one; two\na\nb\nc\n", ["one; two"]),  # the rows do not agree
        ("a,b;c\n1,2;3\n4,5;6\n", ["a", "b;c"]),  # both would do
        ('"a;b"\nc;d\n', ["a;b"]),  # the quotes say that it is one name
    ],
)
def test_a_comma_where_nothing_speaks_for_another(content: str, columns: list[str]) -> None:
    assert decode_table(content.encode(), "csv", "data").columns == columns


def test_most_rows_decide_and_the_others_are_named(caplog: pytest.LogCaptureFixture) -> None:
    ragged = b"text, short;label\na;x\nb;y;z\nc;x\n"
    with pytest.raises(DataError) as caught:
        decode_table(ragged, "csv", "data")
    assert str(caught.value) == (
        "data, line 3: expected 2 fields, got 3; "
        "put quotes around a field that contains a semicolon"
    )


def test_names_with_another_delimiter_come_back() -> None:
    table = Table(["a;b", "c"], [{"a;b": "1;2", "c": "3"}], "csv", "here")
    assert decode_table(encode_table(table, "csv"), "csv", "here") == table


def test_a_delimiter_that_is_given_wins() -> None:
    assert decode_table(b"a;b\n1;2\n", "csv", "data", Dialect(delimiter=",")).columns == ["a;b"]
    table = decode_table(b"a#b\n1#2\n", "tsv", "data", Dialect(delimiter="#"))
    assert table.rows == [{"a": "1", "b": "2"}]
    assert encode_table(table, "tsv") == b"a#b\n1#2\n"
    assert encode_table(table, "csv") == b"a,b\n1,2\n"


@pytest.mark.parametrize("sign", [";;", "", '"', "\n", "\ud800"])
def test_what_is_no_delimiter(sign: str) -> None:
    if sign:
        assert refused(b"a,b\n1,2\n", "csv", Dialect(delimiter=sign)) == (
            f"expected one sign as the delimiter, such as ',', ';', '|' or a tab, got {sign!r}"
        )


def test_formats_without_a_delimiter_or_an_encoding() -> None:
    assert refused(b"a", "txt", Dialect(delimiter=";")) == (
        "data: expected csv or tsv for the delimiter ';', got txt; leave the delimiter out"
    )
    assert refused(b"a", "parquet", Dialect("cp1252")) == (
        "data: expected a file of text for the encoding cp1252, got parquet; leave the encoding out"
    )
    with pytest.raises(DataError, match="^expected a stream of bytes for the encoding cp1252, got"):
        read_table(io.StringIO("a"), "txt", Dialect("cp1252"))


# --- encodings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("format", ["csv", "tsv", "txt", "jsonl"])
def test_a_byte_order_mark_says_the_encoding(encoding: str, format: str) -> None:
    table = Table(["text"], [{"text": "größer"}, {"text": "日本"}], format, "data")
    data = encode_table(table, format).decode().encode(encoding)
    found = decode_table(data, format, "data")
    assert found == table
    assert found.dialect.encoding == encoding
    written = encode_table(found, format)
    assert written == (data if format != "jsonl" else data.decode(encoding).encode())


def test_big_endian_is_read_by_its_mark_and_said(caplog: pytest.LogCaptureFixture) -> None:
    data = "\ufefftext\ngrün\n".encode("utf-16-be")
    with caplog.at_level(logging.WARNING, logger="ltuning"):
        assert decode_table(data, "csv", "data").rows == [{"text": "grün"}]
        assert decode_table(data, "csv", "data", Dialect("utf-16")).rows == [{"text": "grün"}]
    assert caplog.messages == ["data: read as UTF-16, which its byte-order mark says"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named_and_read_when_said(encoding: str) -> None:
    data = "text,label\ngrün · rot,x\n".encode(encoding)
    assert refused(data, "csv", Dialect()) == (
        "data: expected UTF-8, got what looks like UTF-16 without a byte-order mark; "
        f"say --encoding {encoding} (data.encoding), or save it as UTF-8"
    )
    assert decode_table(data, "csv", "data", Dialect(encoding)).rows[0]["text"] == "grün · rot"


def test_an_encoding_that_is_given_is_read_and_written_back() -> None:
    data = "Satz;Art\ngrün · 5 €;Hüte\n".encode("cp1252")
    assert "say in which encoding it is, such as --encoding cp1252" in refused(
        data, "csv", Dialect()
    )
    table = decode_table(data, "csv", "data", Dialect("cp1252"))
    assert table.rows == [{"Satz": "grün · 5 €", "Art": "Hüte"}]
    assert encode_table(table, "csv") == data
    text = io.StringIO()
    write_table(table, text)
    assert text.getvalue() == data.decode("cp1252")
    with pytest.raises(DataError) as caught:
        encode_table(Table(["a"], [{"a": "Łódź"}], "csv", "data", dialect=table.dialect), "csv")
    assert str(caught.value) == (
        "data: cp1252, the encoding of the input, cannot hold 'Ł'; write jsonl or parquet, or save "
        "the input as UTF-8"
    )


@pytest.mark.parametrize(
    ("encoding", "data", "message"),
    [
        ("cp1252", b"a\x81", "data: expected cp1252, got the byte 0x81 at offset 1 (character ma"),
        ("utf-16", b"abc", "data: expected utf-16, got "),
        ("UTF8", b"a\n\xff", "data, line 2: expected UTF-8, got the byte 0xff at offset 2; say in"),
    ],
)
def test_bytes_of_another_encoding(encoding: str, data: bytes, message: str) -> None:
    assert refused(data, "txt", Dialect(encoding)).startswith(message)


@pytest.mark.parametrize("name", ["cp12525", "base64", "idna", "a\0"])
def test_unknown_encoding(name: str) -> None:
    assert refused(b"a", "txt", Dialect(name)) == (
        "expected the name of an encoding, such as utf-8, utf-16 or cp1252, got " + repr(name)
    )


# --- formulas -------------------------------------------------------------------------------------


def test_formulas_become_texts() -> None:
    cells = ["=1+1", "+49 1", "-x", "@a", "\tb", "-1.5", "+2e3", "a=b", "", None, -2]
    table = Table(["=text"], [{"=text": cell} for cell in cells], "csv", "here")
    escaped = escape_formulas(table)
    assert escaped.columns == ["'=text"]
    assert [row["'=text"] for row in escaped.rows] == [
        *("'=1+1", "'+49 1", "'-x", "'@a", "'\tb"),
        *("-1.5", "+2e3", "a=b", "", "", "-2"),
    ]
