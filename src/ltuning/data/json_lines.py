"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ltuning.data.tables import (
    AS_FOUND,
    Dialect,
    Number,
    Table,
    decode_text,
    encode_text,
    json_text,
    refuse_empty,
    refuse_places,
)
from ltuning.errors import DataError

_EXAMPLE = '{"text": "...", "label": "..."}'


def _object_without_doubles(pairs: list[tuple[str, object]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {name!r} is there twice")
    return found


def _decode_json_line(line: str) -> dict[str, Any]:
    """The object of a line; ValueError with the reason where there is none."""
    try:
        row = json.loads(
            line,
            object_pairs_hook=_object_without_doubles,
            parse_float=Number,
            parse_constant=Number,
        )
        if "\\u" in line:
            # An escape such as \ud83d alone is legal JSON, and no text: no tokenizer takes it.
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half of a surrogate pair; remove it") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"expected one JSON object per line, got broken JSON ({_reason(error)})"
        ) from error
    if not isinstance(row, dict):
        raise ValueError(
            f"expected one JSON object per line, got a {type(row).__name__}; write it as {_EXAMPLE}"
        )
    return row


def _reason(error: Exception) -> str:
    # JSONDecodeError counts lines in what it was given, which is one line of the file.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return str(error)


def _refuse_one_value(text: str, origin: str) -> None:
    """An array of rows, or an object over several lines, is JSON whose lines alone are broken."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    raise DataError(
        f"{origin}: expected JSON lines, one object per line, got one JSON "
        f"{'array' if isinstance(whole, list) else 'object'} of the whole file; write each row on "
        f"a line of its own as {_EXAMPLE}, without brackets and commas around the rows"
    )


def decode_json_lines(data: bytes, origin: str, dialect: Dialect = AS_FOUND) -> Table:
    """Column names in the order in which they first come, and rows; DataError with the line."""
    text, encoding = decode_text(data, origin, dialect.encoding)
    # Not splitlines(): JSON strings may hold U+2028 and its kind as they are.
    lines = text.rstrip().split("\n")
    if lines == [""]:
        refuse_empty(origin)
    if text.lstrip().startswith("[") or lines[0].strip() == "{":
        _refuse_one_value(text, origin)
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_decode_json_line(line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    refuse_places(origin, problems)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numbers = list(range(1, len(rows) + 1))
    return Table(columns, rows, "jsonl", origin, numbers, Dialect(encoding))


def encode_json_lines(table: Table) -> bytes:
    """One line per row, each with the columns that the row has."""
    lines = []
    for index, row in enumerate(table.rows):
        ordered = {name: row[name] for name in table.columns if name in row}
        try:
            lines.append(json_text(ordered) + "\n")
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"{table.where(index)}: a value is not JSON ({error}); write parquet"
            ) from error
    return encode_text("".join(lines), table, "jsonl")
