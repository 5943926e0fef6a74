"""Texts that are longer than a model reads: cut, or read in windows that overlap."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ltuning.errors import DataError
from ltuning.texts import Text

if TYPE_CHECKING:
    from ltuning.config import LongTexts

logger = logging.getLogger("ltuning")

# A text as a model is given it: `input_ids`, and of a pair `token_type_ids`.
Tokens = dict[str, list[int]]

# Of each of the texts of a pair, or of a text and of none, the tokens that are read.
_Part = tuple[range, range]

# Windows share a quarter of their tokens.
SHARED = 4


@dataclass(frozen=True)
class Windows:
    """Texts as a model reads them: each whole, cut, or in windows that follow each other.

    Attributes:
        tokens: of each window.
        counts: of each text how many windows it has; those of one follow each other.
        lengths: the tokens of each text, special ones included, read or not.
    """

    tokens: list[Tokens]
    counts: list[int]
    lengths: list[int]


def read_of_long(
    text: Text,
    tokens: Tokens,
    sides: Sequence[int | None],
    room: int,
    long_texts: LongTexts,
    from_left: bool,
) -> list[Tokens]:
    """The windows of a text that is longer than the room, or the one of what it is cut to.

    Args:
        text: for messages.
        tokens: all of its tokens.
        sides: 0 or 1 for each token, the text that it is of; None for a special one.
        room: most tokens of a window.
        long_texts: whether it is cut.
        from_left: whether, where it is cut, the last tokens are kept, and not the first.

    Raises:
        DataError: for windows, a pair whose shorter text takes more than half of the room.
    """
    lengths = [sides.count(0), sides.count(1)]
    room -= len(sides) - sum(lengths)
    if long_texts == "cut":
        return parts_of(tokens, sides, [cut_part(lengths, room, from_left)])
    if min(lengths) > room // 2:
        raise DataError(
            f"expected pairs of which one text has at most {room // 2:,} tokens, half of what "
            f"the model reads, for data.long_texts=windows, got one of {lengths[0]:,} and "
            f"{lengths[1]:,}: {text!r:.80}; shorten a text of it, or train with "
            "data.long_texts=cut"
        )
    return parts_of(tokens, sides, window_parts(lengths, room))


def cut_part(lengths: Sequence[int], room: int, from_left: bool) -> _Part:
    """What is read of texts that are cut: the longer one to the other's length, then both.

    It is what tokenizers does by the name of `longest_first`.

    Args:
        lengths: tokens of both texts.
        room: most tokens of both.
        from_left: whether the last tokens are kept, and not the first.
    """
    shortest = min(*lengths, room // 2)
    kept = [room - shortest, shortest] if lengths[0] > lengths[1] else [shortest, room - shortest]
    first, second = (
        range(length - size, length) if from_left else range(size)
        for length, size in zip(lengths, kept, strict=True)
    )
    return first, second


def window_parts(lengths: Sequence[int], room: int) -> list[_Part]:
    """What is read of texts in each window: the shorter one whole, of the longer one a part.

    The windows are as few as share a quarter of their tokens, at even distances.

    Args:
        lengths: tokens of both texts, more than there is room for.
        room: most tokens of both, twice as many as those of the shorter text or more.
    """
    longer = 0 if lengths[0] > lengths[1] else 1
    whole, length = range(lengths[1 - longer]), lengths[longer]
    size = room - len(whole)
    shared = size // SHARED
    last = -(-(length - shared) // (size - shared)) - 1
    starts = [number * (length - size) // last for number in range(last + 1)]
    parts = [range(start, start + size) for start in starts]
    return [(part, whole) if longer == 0 else (whole, part) for part in parts]


def parts_of(tokens: Tokens, sides: Sequence[int | None], parts: Sequence[_Part]) -> list[Tokens]:
    """Some of the tokens, and all special ones, in their order: for each part.

    Args:
        tokens: of a text or of a pair.
        sides: 0 or 1 for each token, the text that it is of; None for a special one.
        parts: of each text the tokens that are kept.
    """
    places: dict[int | None, list[int]] = {None: [], 0: [], 1: []}
    for place, side in enumerate(sides):
        places[side].append(place)
    made = []
    for first, second in parts:
        kept = places[0][first.start : first.stop] + places[1][second.start : second.stop]
        kept = sorted(places[None] + kept)
        made.append({name: [values[place] for place in kept] for name, values in tokens.items()})
    return made


def warn_of_cut(texts: Sequence[Text], lengths: Sequence[int], room: int) -> None:
    """Say, once for all texts, how many are cut and how much of the longest is not read.

    Args:
        texts: N texts.
        lengths: `[N]` tokens of each, special ones included.
        room: most tokens that are read of one.
    """
    cut = [row for row, length in enumerate(lengths) if length > room]
    if not cut:
        return
    longest = max(lengths)
    pairs = "; of a pair the longer text is cut, and both once they are of one length"
    logger.warning(
        "%s of %s texts %s longer than the %s tokens that the model reads, and %s cut: of the "
        "longest, %s tokens, %s are not read%s; train with --long-texts windows (data.long_texts) "
        "to read texts whole",
        f"{len(cut):,}",
        f"{len(texts):,}",
        "is" if len(cut) == 1 else "are",
        f"{room:,}",
        "is" if len(cut) == 1 else "are",
        f"{longest:,}",
        f"{longest - room:,}",
        pairs if any(isinstance(texts[row], tuple) for row in cut) else "",
    )


def texts_done(left: np.ndarray, owners: np.ndarray, rows: Sequence[int]) -> int:
    """How many texts are done with these windows: a text is with its last one.

    Args:
        left: `[N]` windows of each text that are to come; those of `rows` are taken off.
        owners: `[W]` the text of each window.
        rows: windows that have just been read.
    """
    np.subtract.at(left, owners[rows], 1)
    return int((left[np.unique(owners[rows])] == 0).sum())
