"""Files that may be larger than memory, divided into pieces that are read by themselves.

A piece is rows of one file that follow each other. How a file is divided depends on its content and
on the number of rows alone, so that who comes later finds the same pieces.
"""

from __future__ import annotations

import csv
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ltuning.data.delimited import delimiter_of, long_fields
from ltuning.data.files import format_of, said
from ltuning.data.formats import check_dialect, decode_table
from ltuning.data.parquet import read_rows, row_groups
from ltuning.data.tables import AS_FOUND, Dialect, Table, decode_text
from ltuning.errors import DataError

FORMATS = ("parquet", "jsonl", "csv", "tsv", "txt")
# Bytes that tell how a file of text is written.
_SAMPLE = 2**20
# Bytes of a row at most: a quote that is never closed makes one of all that follows.
_LONGEST_ROW = 2**27
_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Piece:
    """Rows of a file.

    Attributes:
        path: of the file.
        format: of the file.
        number: of the piece, counted from 0.
        first: of its rows, counted from 0.
        rows: how many.
        start: where it begins: a byte of a file of text, a row of a row group of parquet.
        stop: where it ends.
        group: of parquet, the row group.
        head: of csv and tsv, the bytes of the column names.
        dialect: how the file is written.
        state: of the file when it was divided; see `state_of`.
    """

    path: str
    format: str
    number: int
    first: int
    rows: int
    start: int
    stop: int
    group: int = 0
    head: bytes = b""
    dialect: Dialect = AS_FOUND
    state: tuple[int, int] = (0, 0)

    @property
    def origin(self) -> str:
        """Where it is, for messages."""
        return self.path if self.first == 0 else f"{self.path}, counted from row {self.first + 1:,}"

    def read(self) -> Table:
        """Its rows.

        Raises:
            DataError: the file cannot be read, was changed, or does not hold what its format says.
        """
        if self.format == "parquet":
            table = read_rows(self.path, self.group, range(self.start, self.stop), self.origin)
        else:
            table = decode_table(self._bytes(), self.format, self.origin, self.dialect)
        if state_of(Path(self.path)) != self.state:
            raise DataError(
                f"{self.path}: the file was changed meanwhile; bring it back, or write to a new "
                "folder"
            )
        if len(table.rows) != self.rows:
            raise DataError(
                f"{self.origin}: expected {self.rows:,} rows, got {len(table.rows):,}; mend the "
                "line breaks in it, or write parquet"
            )
        return table

    def _bytes(self) -> bytes:
        with said(self.path, "read"), open(self.path, "rb") as file:
            file.seek(self.start)
            found = self.head + file.read(self.stop - self.start)
        # A reader takes off one mark, which here is none of the file's beginning.
        is_inside = self.start and not self.head
        return _MARK + found if is_inside and found.startswith(_MARK) else found


def state_of(path: Path) -> tuple[int, int]:
    """Bytes of a file, and when it was changed, in nanoseconds.

    Raises:
        DataError: there is no such file, or it is no file.
    """
    with said(path, "read"):
        found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: expected a file, got something else; leave it out")
    return found.st_size, found.st_mtime_ns


def pieces_of(path: Path, dialect: Dialect, rows: int) -> Iterator[Piece]:
    """The pieces of a file, in its order. A file of text is read for that once, line by line.

    Args:
        path: of the file.
        dialect: as the user says it is written.
        rows: of a piece, at most; in a file of text with blank lines there may be more.

    Raises:
        DataError: a file that cannot be read, is broken, or cannot be read from its middle.
    """
    format = _format(path)
    check_dialect(dialect, format, str(path))
    # Before it is read: rows that come meanwhile make another file of it.
    whole = Piece(str(path), format, 0, 0, 0, 0, 0, dialect=dialect, state=state_of(path))
    number = 0
    for number, piece in enumerate(_divided(whole, rows), start=1):
        yield replace(piece, number=number - 1)
    # Engines write parquet without a row; text without one may be a mistake.
    if not number and format != "parquet":
        raise DataError(f"{path}: expected at least one row, got none; leave the file out")


def _format(path: Path) -> str:
    format = format_of(path)
    if format not in FORMATS:
        named = ", ".join(f".{one}" for one in FORMATS)
        raise DataError(f"{path}: expected a file ending of {named}, got .{format}")
    if path.name.lower().endswith(".gz"):
        raise DataError(
            f"{path}: expected a file that can be read from its middle, got one of gzip; unpack "
            "it, or write parquet, which is packed by itself"
        )
    return format


def _divided(whole: Piece, rows: int) -> Iterator[Piece]:
    if whole.format == "parquet":
        yield from _of_groups(whole, rows)
        return
    with said(whole.path, "read"), open(whole.path, "rb") as file, long_fields():
        yield from _of_lines(whole, file, rows)


def _of_groups(whole: Piece, rows: int) -> Iterator[Piece]:
    first = 0
    for group, size in enumerate(row_groups(whole.path)):
        for start in range(0, size, rows):
            stop = min(start + rows, size)
            yield replace(
                whole, first=first + start, rows=stop - start, start=start, stop=stop, group=group
            )
        first += size


def _of_lines(whole: Piece, file: IO[bytes], rows: int) -> Iterator[Piece]:
    """Pieces of a file of text.

    Blank lines at the end of csv, tsv and jsonl are no rows, so that no piece but the last one ends
    with them.
    """
    whole = _known(whole, file.read(_SAMPLE) + file.readline())
    file.seek(0)
    records = _records(whole, file)
    if whole.format in ("csv", "tsv"):
        head, _ = next(records, (b"", 0))
        whole = replace(whole, head=head, start=len(head), stop=len(head))
    piece, blank = whole, 0  # blank lines at its end
    for record, is_blank in records:
        if piece.rows >= rows and not blank:
            yield piece
            first = piece.first + piece.rows
            piece = replace(piece, first=first, rows=0, start=piece.stop)
        blank = blank + 1 if is_blank else 0
        piece = replace(piece, rows=piece.rows + 1, stop=piece.stop + len(record))
    if piece.rows > blank:
        yield replace(piece, rows=piece.rows - blank)


def _known(whole: Piece, sample: bytes) -> Piece:
    """With the encoding and the delimiter that the file has, by its beginning."""
    text, encoding = decode_text(sample, whole.path, whole.dialect.encoding)
    if "\n\n".encode(encoding.removesuffix("-sig")) != b"\n\n":
        raise DataError(
            f"{whole.path}: expected an encoding with one byte for a line break, such as UTF-8, "
            f"got {encoding}; save it as UTF-8"
        )
    delimiter = None
    if whole.format in ("csv", "tsv"):
        delimiter = delimiter_of(text, whole.path, whole.dialect, whole.format)
    return replace(whole, dialect=Dialect(encoding, delimiter))


def _records(whole: Piece, file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The bytes of each row, or of the column names, and whether it is blank."""
    encoding = (whole.dialect.encoding or "utf-8").removesuffix("-sig")
    if whole.format == "jsonl":
        # A carriage return is a blank to JSON.
        yield from ((line, not line.decode(encoding, "replace").strip()) for line in file)
        return
    lines = (part for line in file for part in line.splitlines(keepends=True))
    if whole.format == "txt":
        yield from ((line, False) for line in lines)
        return
    taken: list[bytes] = []
    number = begun = size = 0  # the line that was read last, and where its row begins; its bytes

    def decoded() -> Iterator[str]:
        nonlocal number, size
        for number, line in enumerate(lines, start=1):
            taken.append(line)
            size += len(line)
            if size > _LONGEST_ROW:
                raise csv.Error("it has no end, as where a quote is never closed")
            text = line.decode(encoding)
            yield text.removeprefix("\ufeff") if number == 1 else text

    reader = csv.reader(decoded(), delimiter=whole.dialect.delimiter or ",", strict=True)
    try:
        for fields in reader:
            yield b"".join(taken), not fields
            taken.clear()
            begun, size = number, 0
    except UnicodeDecodeError as error:
        raise DataError(
            f"{whole.path}, line {number}: expected {encoding}, got other bytes ({error.reason}); "
            "say in which encoding it is, with --encoding, or save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{whole.path}, line {begun + 1}: a broken row begins here ({error}); mend it"
        ) from error
