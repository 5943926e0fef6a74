"""Where in windows of tokens each word of a sentence is read; see `words`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from unicodedata import category

import numpy as np

from ltuning.backbones.long_texts import SHARED, Tokens
from ltuning.errors import BackboneError
from ltuning.sentences import Sentence

# First character of each word or token, and the one after its last.
Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Window:
    """A part of a sentence, or the whole.

    Attributes:
        tokens: as `Backbone.tokenize` gives them.
        sentence: the sentence's number.
        words: the words that are read here.
        places: the first token of each, in the window.
    """

    tokens: Tokens
    sentence: int
    words: list[int]
    places: list[int]


def shared_tokens(room: int) -> int:
    """Tokens that two windows share, of which each has so much room."""
    return min(room - 1, max(1, room // SHARED))


def sentence_windows(
    number: int, sentence: Sentence, parts: Sequence[tuple[Tokens, Offsets]]
) -> list[Window]:
    """The windows of a sentence in which words are read.

    Args:
        number: of the sentence.
        sentence: it has words.
        parts: its tokens in windows, and where they are in the text.
    """
    read = _read_at(sentence.words, [offsets for _, offsets in parts])
    windows = []
    for (tokens, _), pairs in zip(parts, read, strict=True):
        if pairs:
            words, places = (list(column) for column in zip(*pairs, strict=True))
            windows.append(Window(tokens, number, words, places))
    return windows


def check_every_word_is_read(
    name: str,
    alone: Callable[[list[str]], Sequence[Offsets]],
    sentence: Sentence,
    windows: Sequence[Offsets],
) -> None:
    """Refuse windows that have less of a word than its tokens have where it stands alone.

    Releases 0.23.1 and 0.23.2 of tokenizers leave out what comes after the second window. A
    tokenizer that drops letters it does not know may place all later tokens too early.

    Args:
        name: of the model, for messages.
        alone: where the tokens of single words are in them, without special ones.
        sentence: whose words are read.
        windows: where the tokens of each window are in it.

    Raises:
        BackboneError: says which word.
    """
    every = [pair for window in windows for pair in window]
    unread = _unread(sentence.text, sentence.words, every)
    suspects = unread.nonzero()[0].tolist()
    if not suspects:
        return
    words = [sentence.text[slice(*sentence.words[number])] for number in suspects]
    for number, word, offsets in zip(suspects, words, alone(words), strict=True):
        (own,) = _unread(word, [(0, len(word))], offsets)
        if unread[number] > own:
            raise BackboneError(
                f"expected the tokenizer of '{name}' to say for each word where its "
                f"tokens are, got none for all or a part of {word!r:.80}, word {number + 1} of "
                f"{len(sentence.words)}, with tokenizers {version('tokenizers')}; install another "
                "release of tokenizers, or choose another checkpoint"
            )


def _unread(text: str, words: Offsets, offsets: Offsets) -> np.ndarray:
    """`[W]` characters of each word that no token stands for, but for marks and controls."""
    # A token that ends after the text is of no place in it.
    starts, ends = np.array([pair for pair in offsets if pair[1] <= len(text)] or [(0, 0)]).T
    changes = np.zeros(len(text) + 1, dtype=int)
    np.add.at(changes, starts, 1)
    np.add.at(changes, ends, -1)
    bare = changes.cumsum()[:-1] == 0
    dropped = [place for place in bare.nonzero()[0] if category(text[place])[0] in "CMZ"]
    bare[dropped] = False
    before = np.concatenate([[0], bare.cumsum()])
    firsts, lasts = np.array(words).T
    return before[lasts] - before[firsts]


def _read_at(words: Offsets, windows: Sequence[Offsets]) -> list[list[tuple[int, int]]]:
    """For each window the words that are read in it, each with its place there."""
    best: dict[int, tuple[tuple[int, int], int, int]] = {}
    for number, offsets in enumerate(windows):
        for word, place in first_tokens(words, offsets):
            around = min(place, len(offsets) - 1 - place)
            # A window may begin within a word, whose first token another window has.
            rank = (-offsets[place][0], around)
            if word not in best or rank > best[word][0]:
                best[word] = (rank, number, place)
    read: list[list[tuple[int, int]]] = [[] for _ in windows]
    for word in sorted(best):
        _, number, place = best[word]
        read[number].append((word, place))
    return read


def first_tokens(words: Offsets, offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Each word with a token in the window, and the first of its tokens there."""
    places = [place for place, (start, end) in enumerate(offsets) if start < end]
    if not places:
        return
    # From the first word that ends in the window to the last: a document has many windows.
    first = bisect_right(words, offsets[places[0]][0], key=lambda word: word[1])
    at = 0
    for word in range(first, len(words)):
        start, end = words[word]
        while at < len(places) and offsets[places[at]][1] <= start:
            at += 1
        if at == len(places):
            return
        if offsets[places[at]][0] < end:
            yield word, places[at]
