"""JSON lines: one object per line."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ltuning.data.tables import Decoded, Table, decode_text, encode_text, refuse_empty
from ltuning.errors import DataError


def _object_without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {name!r} is there twice")
    return found


def _decode_json_line(line: str, number: int, origin: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_object_without_doubles)
        if "\\u" in line:
            # An escape such as \ud83d alone is legal JSON, and no text: no tokenizer takes it.
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{origin}, line {number}: a text holds half of a surrogate pair; remove it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{origin}, line {number}: expected one JSON object per line, "
            f"got broken JSON ({_reason(error)})"
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{origin}, line {number}: expected one JSON object per line, "
            f"got a {type(row).__name__}; write it as "
            '{"text": "...", "label": "..."}'
        )
    return row


def _reason(error: Exception) -> str:
    # JSONDecodeError counts lines in what it was given, which is one line of the file.
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return str(error)


def decode_json_lines(data: bytes, origin: str) -> Decoded:
    """Column names in the order in which they first come, and rows; DataError with the line."""
    # Not splitlines(): JSON strings may hold U+2028 and its kind as they are.
    lines = decode_text(data, origin).rstrip().split("\n")
    if lines == [""]:
        refuse_empty(origin)
    rows = [_decode_json_line(line, number, origin) for number, line in enumerate(lines, start=1)]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def encode_json_lines(table: Table) -> bytes:
    """One line per row, each with the columns that the row has."""
    lines = []
    for number, row in enumerate(table.rows, start=1):
        ordered = {name: row[name] for name in table.columns if name in row}
        try:
            lines.append(json.dumps(ordered, ensure_ascii=False) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{table.origin}, row {number}: a value is not JSON ({error}); write parquet"
            ) from error
    return encode_text("".join(lines), table)
