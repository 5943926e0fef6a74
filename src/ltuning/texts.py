"""Texts and pairs of texts, whoever reads them."""

from __future__ import annotations

Text = str | tuple[str, str]


def is_empty(text: Text) -> bool:
    """Whether a text is of nothing but white space; of a pair, whether either text is."""
    parts = (text,) if isinstance(text, str) else text
    return any(not part.strip() for part in parts)
