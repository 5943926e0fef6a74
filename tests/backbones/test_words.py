"""Words of windows of a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ltuning.backbones.words import _first_tokens

Pairs = list[tuple[int, int]]


class Counted(Sequence[tuple[int, int]]):
    """Words, and how often one was looked at."""

    def __init__(self, words: Pairs):
        self.words, self.looks = words, 0

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return self.words[place]


@st.composite
def pairs(draw: st.DrawFn) -> Pairs:
    found, place = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)))):
        found.append((place + gap, place + gap + length))
        place += gap + length
    return found


def one_by_one(words: Pairs, offsets: Pairs) -> Iterator[tuple[int, int]]:
    for word, (start, end) in enumerate(words):
        for place, (first, last) in enumerate(offsets):
            if first < last and last > start and first < end:
                yield word, place
                break


@given(pairs(), pairs(), st.integers(0, 5), st.booleans())
def test_the_first_token_of_each_word(
    words: Pairs, tokens: Pairs, skipped: int, with_special: bool
) -> None:
    special = [(0, 0)] if with_special else []
    offsets = [*special, *tokens[skipped:], *special]
    assert list(_first_tokens(words, offsets)) == list(one_by_one(words, offsets))


def test_a_window_looks_at_its_own_words_alone() -> None:
    words = Counted([(3 * number, 3 * number + 2) for number in range(10_000)])
    for first in (0, 5_000, 9_980):
        words.looks = 0
        window = words.words[first : first + 20]
        assert [word for word, _ in _first_tokens(words, window)] == [*range(first, first + 20)]
        assert words.looks < 20 + 20
