"""CoNLL columns: a word and its tags per line, an empty line after each sentence."""

from __future__ import annotations

from typing import Any

from ltuning.data.tables import AS_FOUND, Dialect, Table, decode_text, encode_text, refuse_empty
from ltuning.errors import DataError

TOKENS, TAGS = "tokens", "tags"
_DOCUMENT = "-DOCSTART-"


def decode_conll(data: bytes, origin: str, dialect: Dialect = AS_FOUND) -> Table:
    """One row per sentence: `tokens`, the first column, and `tags`, the last one where there are
    two or more. Lines that begin a document are left out.

    Raises:
        DataError: a line with another number of columns than the first.
    """
    text, encoding = decode_text(data, origin, dialect.encoding)
    rows: list[dict[str, Any]] = []
    sentence: list[list[str]] = []
    lines: list[int] = []
    number_of_columns = None
    # Not splitlines(): a word may hold U+2028 and its kind.
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        line = line.rstrip("\r")
        cells = line.split("\t") if "\t" in line else line.split()
        if not "".join(cells).strip() or cells[0] == _DOCUMENT:
            if sentence:
                rows.append(_row(sentence))
                lines.append(number - len(sentence))
            sentence = []
            continue
        number_of_columns = number_of_columns or len(cells)
        if len(cells) != number_of_columns or not cells[0].strip():
            raise DataError(
                f"{origin}, line {number}: expected {number_of_columns} columns as in the first "
                f"line, the word first, got {len(cells)}: {line!r:.80}; separate them with tabs "
                "or with spaces, and sentences with an empty line"
            )
        sentence.append(cells)
    if not rows:
        refuse_empty(origin)
    return Table(list(rows[0]), rows, "conll", origin, lines, Dialect(encoding))


def _row(sentence: list[list[str]]) -> dict[str, Any]:
    row: dict[str, Any] = {TOKENS: [cells[0] for cells in sentence]}
    if len(sentence[0]) > 1:
        row[TAGS] = [cells[-1] for cells in sentence]
    return row


def encode_conll(table: Table) -> bytes:
    """Every column a list of texts, as long as the others of its row."""
    lines = []
    for index, row in enumerate(table.rows):
        lists = [row.get(name) for name in table.columns]
        if not _are_columns(lists):
            raise DataError(
                f"{table.where(index)}: conll holds lists of words without white space, "
                f"of one length, got {', '.join(map(repr, table.columns))} of another kind; write "
                "jsonl"
            )
        lines += ["\t".join(cells) for cells in zip(*(lists or []), strict=True)]
        lines.append("")
    return encode_text("\n".join(lines) + "\n", table, "conll")


def _are_columns(lists: list[Any]) -> bool:
    if not all(isinstance(cells, list) and cells for cells in lists):
        return False
    words = [word for cells in lists for word in cells]
    whole = all(isinstance(word, str) and word and not set(word) & set("\t\n\r ") for word in words)
    return whole and len({len(cells) for cells in lists}) == 1
