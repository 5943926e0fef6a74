"""How many texts are tokenized, and run through a backbone, together outside training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from ltuning.texts import Text, num_characters

# Tokens of a pass on a CPU, padding and every branch of a text included. More spill out of its
# caches: texts of 10 to 250 tokens run 1.2 to 2.3 times as fast as 256 texts at a time do, and with
# 512 or 4,096 tokens within a sixth of that (MiniLM, one thread).
_ON_CPU = 2048

# Texts, and characters of them, that are tokenized at a time: a token takes some 250 bytes until it
# is scored. Among so many texts there are always enough of like lengths for a batch.
_TEXTS = 4096
_CHARACTERS = 1 << 20


def alike(texts: Sequence[Text]) -> Iterator[list[int]]:
    """Rows of texts that are tokenized together: single ones, piece by piece, and then pairs."""
    for are_pairs in (False, True):
        rows = [row for row, text in enumerate(texts) if isinstance(text, tuple) == are_pairs]
        for piece in pieces([num_characters(texts[row]) for row in rows]):
            yield [rows[place] for place in piece]


def pieces(sizes: Sequence[int]) -> Iterator[range]:
    """Texts that follow each other, as many as are tokenized at a time; at least one.

    Args:
        sizes: characters of each text.
    """
    first = total = 0
    for text, size in enumerate(sizes):
        if text > first and (text - first >= _TEXTS or total + size > _CHARACTERS):
            yield range(first, text)
            first, total = text, 0
        total += size
    if first < len(sizes):
        yield range(first, len(sizes))


class Device(Protocol):
    """Where texts run, as torch has it; what runs without torch has no other than the CPU."""

    @property
    def type(self) -> str: ...


def at_once(length: int, most: int, device: Device) -> int:
    """Rows that run together.

    Args:
        length: tokens of each, padding included.
        most: rows; on a CPU fewer where they are long, but never none.
        device: where they run.
    """
    if device.type != "cpu":
        return most
    return max(1, min(most, _ON_CPU // max(1, length)))


def by_length(
    lengths: Sequence[int], most: int, device: Device, per_text: int = 1
) -> list[list[int]]:
    """Rows of texts of like lengths, the shortest first.

    Args:
        lengths: tokens of each text.
        most: texts in a batch; on a CPU fewer where they are long.
        device: where they run.
        per_text: branches of a text.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        room = at_once(lengths[row] * per_text, most, device)
        if not batches or len(batches[-1]) >= room:
            batches.append([])
        batches[-1].append(row)
    return batches
