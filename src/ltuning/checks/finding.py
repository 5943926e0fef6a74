"""Something that was found in labelled texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ltuning.texts import Text

_SHOWN = 60  # characters of a text


@dataclass(frozen=True)
class Finding:
    """Something that was found in the texts of a split.

    Attributes:
        kind: `left out`, `few texts`, `several labels`, `repeated`, `in both`, `label texts`,
            `label names`, `long texts`, `language` or `label errors`.
        split: whose texts they are.
        count: the texts or labels that it is true of.
        sentence: it in words, with what to do.
        found: each of them, as plain values.
    """

    kind: str
    split: str
    count: int
    sentence: str
    found: list[dict[str, Any]] = field(default_factory=list)


def quoted(text: Text | Sequence[str]) -> str:
    """The beginning of a text, a pair or the words of a sentence, in quotes."""
    between = " " if isinstance(text, list) else " / "
    words = text if isinstance(text, str) else between.join(text)
    return repr(words if len(words) <= _SHOWN else words[: _SHOWN - 3] + "...")
