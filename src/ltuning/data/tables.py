"""Tables, and what every text format shares: encodings, empty files, values as text."""

from __future__ import annotations

import codecs
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from ltuning.errors import DataError

R = TypeVar("R")

_BYTE_ORDER_MARK = "\ufeff"
# The longer marks first: that of UTF-32 begins with one of UTF-16.
_MARKED = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UTF8 = ("utf-8", "utf-8-sig")
_log = logging.getLogger("ltuning")
# Python's codecs that are text but no encoding of files.
_NOT_OF_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")
_NAMED = 5  # of many problems
_SEVERAL = {"line": "lines", "row": "rows", "index": "indices"}
# Of UTF-16 without a mark, this many bytes tell it apart.
_SAMPLE = 200


@dataclass(frozen=True)
class Dialect:
    """How a table is written as text.

    Attributes:
        encoding: by Python's names; None, of a file to read: by its byte-order mark, else UTF-8.
        delimiter: the sign between the fields of `csv` and `tsv`, or the word `tab`; None, of a
            file to read: a tab in `tsv`, and in `csv` what the column names and the rows agree on.
    """

    encoding: str | None = None
    delimiter: str | None = None


AS_FOUND = Dialect()


@dataclass(frozen=True)
class Kept:
    """What a parquet file holds, to be written back as it was.

    Attributes:
        columns: the `pyarrow.Table`.
        values: the rows' values by column, the same objects; a column in which one of them is
            another is written anew.
    """

    columns: Any
    values: dict[str, list[Any]]


@dataclass(frozen=True)
class Places:
    """Where rows stand in their source.

    Attributes:
        unit: `line` of a file of text, else `row`; `index` of what is in memory.
        numbers: of each row, counted from 1, indices from 0.
    """

    unit: str
    numbers: Sequence[int]

    def part(self, rows: Sequence[int]) -> Places:
        """Those of some of the rows."""
        return Places(self.unit, [self.numbers[row] for row in rows])

    def named(self, rows: Sequence[int]) -> str:
        """The first of these rows in words: `lines 3, 5`, `row 2`."""
        named = ", ".join(str(self.numbers[row]) for row in rows[:_NAMED])
        more = ", ..." if len(rows) > _NAMED else ""
        unit = self.unit if len(rows) == 1 else _SEVERAL[self.unit]
        return f"{unit} {named}{more}"


@dataclass(frozen=True)
class Table:
    """Rows of a data source.

    Attributes:
        columns: the column names, in order.
        rows: one mapping per row; a row may lack a column (JSON lines).
        format: ``csv``, ``tsv``, ``jsonl``, ``parquet``, ``txt``, ``conll`` or ``hub``.
        origin: where it came from, for messages.
        lines: of a file of text, the line on which each row begins, counted from 1.
        dialect: how the text that it was read from was written.
        kept: the columns as a parquet file has them; None where it came from another place.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    format: str
    origin: str
    lines: list[int] | None = field(default=None, compare=False, repr=False)
    dialect: Dialect = field(default=AS_FOUND, compare=False)
    kept: Kept | None = field(default=None, compare=False, repr=False)

    @property
    def places(self) -> Places:
        """Where each row is."""
        if self.lines is None:
            return Places("row", range(1, len(self.rows) + 1))
        return Places("line", self.lines)

    def where(self, index: int) -> str:
        """Where a row is, its index counted from 0, to begin a message."""
        place = f"row {index + 1}" if self.lines is None else f"line {self.lines[index]}"
        return f"{self.origin}, {place}"


def check_columns(columns: Sequence[str], origin: str) -> None:
    """Raises DataError where a column name is there twice."""
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{origin}: the column {twice[0]!r} is there twice; rename one of them")


def refuse_places(origin: str, problems: Sequence[str]) -> None:
    """Raises DataError with problems that each begin with a line or a row; nothing for none."""
    if len(problems) == 1:
        raise DataError(f"{origin}, {problems[0]}")
    if problems:
        named = "".join(f"\n  {problem}" for problem in problems[:_NAMED])
        more = "\n  ..." if len(problems) > _NAMED else ""
        raise DataError(f"{origin}: {len(problems)} problems:{named}{more}")


def each_row(table: Table, rows: Iterable[int], read: Callable[[int], R]) -> list[R]:
    """What is read of each row by its index; DataError with the problems of all of them."""
    found, problems = [], []
    for index in rows:
        try:
            found.append(read(index))
        except DataError as error:
            problems.append(str(error).removeprefix(f"{table.origin}, "))
    refuse_places(table.origin, problems)
    return found


# --- bytes and text -------------------------------------------------------------------------------


def _known_encoding(name: str) -> str:
    """Python's own name of an encoding; DataError where it knows no such encoding of text."""
    try:
        "".encode(name)
        known = codecs.lookup(name).name
        if known in _NOT_OF_FILES:
            raise LookupError(name)
        return known
    except (LookupError, UnicodeError, ValueError):
        raise DataError(
            f"expected the name of an encoding, such as utf-8, utf-16 or cp1252, got {name!r}"
        ) from None


def decode_text(data: bytes, origin: str, encoding: str | None = None) -> tuple[str, str]:
    """Text of bytes, and its encoding: the one given, that of a byte-order mark, or UTF-8.

    Raises:
        DataError: bytes that are not in the encoding, an unknown encoding, or no text.
    """
    marked = next((name for mark, name in _MARKED.items() if data.startswith(mark)), "utf-8")
    taken = _known_encoding(encoding) if encoding else marked
    if taken == "utf-8":
        _refuse_unmarked(data, origin)
    try:
        text = data.decode(taken)
    except UnicodeError as error:
        raise _not_in_encoding(data, origin, taken, error) from error
    if taken not in _MARKED.values():  # these take the mark off themselves
        text = text.removeprefix(_BYTE_ORDER_MARK)
    if not text:
        refuse_empty(origin)
    if not encoding and taken not in _UTF8:
        _log.warning("%s: read as %s, which its byte-order mark says", origin, taken.upper())
    return text, taken


def _not_in_encoding(data: bytes, origin: str, encoding: str, error: UnicodeError) -> DataError:
    if not isinstance(error, UnicodeDecodeError):
        return DataError(f"{origin}: expected {encoding}, got other bytes ({error})")
    shown, offset = f"0x{data[error.start]:02x}", error.start
    if encoding in _UTF8:
        line = data.count(b"\n", 0, offset) + 1
        return DataError(
            f"{origin}, line {line}: expected UTF-8, got the byte {shown} at offset {offset}; "
            "say in which encoding it is, such as --encoding cp1252 (data.encoding), or save it "
            "as UTF-8"
        )
    return DataError(
        f"{origin}: expected {encoding}, got the byte {shown} at offset {offset} "
        f"({error.reason}); give another encoding, or save it as UTF-8"
    )


def _refuse_unmarked(data: bytes, origin: str) -> None:
    """UTF-16 of mostly Latin letters is good UTF-8 too, with a zero byte beside each letter."""
    sample = data[:_SAMPLE]
    halves = {"utf-16-le": (sample[::2], sample[1::2]), "utf-16-be": (sample[1::2], sample[::2])}
    for name, (letters, zeros) in halves.items():
        if len(zeros) >= 10 and 0 not in letters and zeros.count(0) >= 0.9 * len(zeros):
            raise DataError(
                f"{origin}: expected UTF-8, got what looks like UTF-16 without a byte-order mark; "
                f"say --encoding {name} (data.encoding), or save it as UTF-8"
            )


def encoding_of(table: Table, format: str) -> str:
    """The encoding in which a table is written: that it was read in; JSON is always UTF-8."""
    return "utf-8" if format == "jsonl" else table.dialect.encoding or "utf-8"


def encode_text(text: str, table: Table, format: str) -> bytes:
    """Bytes that ``decode_text`` reads back.

    Raises:
        DataError: half of a surrogate pair, or a character that the encoding does not have.
    """
    encoding = encoding_of(table, format)
    # A reader drops one leading mark, so a text that begins with one gets a second.
    needs_mark = text.startswith(_BYTE_ORDER_MARK) and encoding == "utf-8"
    marked = _BYTE_ORDER_MARK + text if needs_mark else text
    try:
        return marked.encode(encoding)
    except UnicodeEncodeError as error:
        sign = marked[error.start]
        if "\ud800" <= sign <= "\udfff":
            raise DataError(
                f"{table.origin}: a text holds half of a surrogate pair ({sign!a}), "
                "which UTF-8 cannot hold; remove it"
            ) from error
        raise DataError(
            f"{table.origin}: {encoding}, the encoding of the input, cannot hold {sign!r}; write "
            "jsonl or parquet, or save the input as UTF-8"
        ) from error


def refuse_empty(origin: str) -> NoReturn:
    """Raises DataError for a file without content."""
    raise DataError(f"{origin}: expected at least one row, got an empty file")


# --- values ---------------------------------------------------------------------------------------


_PLAIN = {str, int, float, bool, type(None)}


class Number(float):
    """A number of a JSON file, with its digits as they stand there."""

    def __init__(self, digits: str):
        self.digits = digits


def json_text(value: object) -> str:
    """JSON of a value; numbers that were read from JSON keep their digits.

    Raises:
        ValueError: NaN or infinity, or a value that is nested too deeply.
        TypeError: a value that is not JSON.
    """
    if isinstance(value, Number):
        return value.digits
    if isinstance(value, dict) and not _is_plain(value):
        pairs = (f"{_key(key)}: {json_text(inner)}" for key, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_text, value))}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _is_plain(value: dict[object, object]) -> bool:
    """Whether `json.dumps`, which is faster, gives the same."""
    return {*map(type, value.values())} <= _PLAIN and {*map(type, value)} <= {str}


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key that is no text: {key!r}")
    return json.dumps(key, ensure_ascii=False)


def cell_text(value: object) -> str:
    """A value in a format that knows only text: nothing for None, lists and objects as JSON.

    Raises:
        ValueError, TypeError: bytes, or what is not JSON in a list or an object.
    """
    if value is None:
        return ""
    if isinstance(value, list | dict | tuple | Number):
        return json_text(value)
    if isinstance(value, bytes):
        raise TypeError("bytes are no text")
    return str(value)


def cell_texts(table: Table) -> list[list[str]]:
    """The rows of a table in a format that knows only text.

    Raises:
        DataError: a value that has no text.
    """
    rows = []
    for index, row in enumerate(table.rows):
        try:
            rows.append([cell_text(row.get(name)) for name in table.columns])
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{table.where(index)}: a value has no form as text ({error}); write parquet"
            ) from error
    return rows
