"""Texts and pairs of texts, whoever reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Line breaks and tabs are the only ones that a text may have.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

Text = str | tuple[str, str]


def is_empty(text: Text) -> bool:
    """Whether a text is of nothing but white space; of a pair, whether either text is."""
    return any(not part.strip() for part in _parts(text))


def num_characters(text: Text) -> int:
    """Characters of a text, or of both of a pair."""
    return sum(map(len, _parts(text)))


def columns_of(texts: Sequence[Text]) -> list[list[str]]:
    """Texts that are all single, or all pairs, as a tokenizer takes them: one column, or two."""
    return [list(column) for column in zip(*map(_parts, texts), strict=True)]


def counted(number: int, what: str) -> str:
    """`1 text`, `2,345 texts`."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def visible(text: str) -> str:
    r"""With control characters as `\x1b`, so that no label or file name steers a terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def lone_surrogate(text: str) -> str | None:
    """Half a character and its place, in words; None where every character is whole."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character ({text[error.start]!a} at {error.start})"
    return None


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
