"""Tables, and what every text format shares: UTF-8, empty files, values as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ltuning.errors import DataError

_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True)
class Table:
    """Rows of a data source.

    Attributes:
        columns: the column names, in order.
        rows: one mapping per row; a row may lack a column (JSON lines).
        format: ``csv``, ``tsv``, ``jsonl``, ``parquet``, ``txt`` or ``hub``.
        origin: where it came from, for messages.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    format: str
    origin: str


# Column names and rows.
Decoded = tuple[list[str], list[dict[str, Any]]]


def check_columns(columns: Sequence[str], origin: str) -> None:
    """Raises DataError where a column name is there twice."""
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{origin}: the column {twice[0]!r} is there twice; rename one of them")


def decode_text(data: bytes, origin: str) -> str:
    """Text of UTF-8 bytes, with or without a byte order mark; DataError where they are not."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{origin}, line {line}: expected UTF-8, got the byte 0x{data[error.start]:02x} "
            f"at offset {error.start}; save it as UTF-8"
        ) from error
    text = text.removeprefix(_BYTE_ORDER_MARK)
    if not text:
        refuse_empty(origin)
    return text


def encode_text(text: str, table: Table) -> bytes:
    """UTF-8 bytes that ``decode_text`` reads back; DataError for half of a surrogate pair."""
    # A reader drops one leading mark, so a text that begins with one gets a second.
    marked = _BYTE_ORDER_MARK + text if text.startswith(_BYTE_ORDER_MARK) else text
    try:
        return marked.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{table.origin}: a text holds half of a surrogate pair ({marked[error.start]!a}), "
            "which UTF-8 cannot hold; remove it"
        ) from error


def refuse_empty(origin: str) -> NoReturn:
    """Raises DataError for a file without content."""
    raise DataError(f"{origin}: expected at least one row, got an empty file")


def cell_text(value: Any) -> str:
    """A value in a format that knows only text: nothing for None, lists and objects as JSON."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
