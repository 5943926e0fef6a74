"""Texts and pairs of texts, whoever reads them."""

from __future__ import annotations

Text = str | tuple[str, str]


def is_empty(text: Text) -> bool:
    """Whether a text is of nothing but white space; of a pair, whether either text is."""
    return any(not part.strip() for part in _parts(text))


def num_characters(text: Text) -> int:
    """Characters of a text, or of both of a pair."""
    return sum(map(len, _parts(text)))


def _parts(text: Text) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text
