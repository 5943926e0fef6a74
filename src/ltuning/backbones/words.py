"""Sentences as windows of tokens, and where in them each word is read.

A word is read at its first token. A sentence that is longer than the room is cut into windows that
overlap; each word is read in the window that shows most around it, and in no other, so that none is
left out and none counts twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from unicodedata import category

import numpy as np
import torch
from torch import Tensor

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.batch_sizes import pieces
from ltuning.backbones.frozen_model import TextBatch, Tokens
from ltuning.backbones.loading import tokenized
from ltuning.errors import BackboneError
from ltuning.sentences import Sentence

# Windows share a quarter of their tokens.
_SHARED = 4


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


@dataclass(frozen=True)
class WordBatch:
    """Windows, padded.

    Attributes:
        texts: B windows.
        places: `[B, W]` the token at which each word is read; 0 where there is no word.
    """

    texts: TextBatch
    places: Tensor

    def to(self, device: torch.device) -> WordBatch:
        """The same batch on another device."""
        return WordBatch(self.texts.to(device), self.places.to(device))

    @classmethod
    def of(cls, backbone: Backbone, windows: Sequence[Window]) -> WordBatch:
        """Pad windows on the right."""
        places = [torch.tensor(window.places, dtype=torch.long) for window in windows]
        padded = torch.nn.utils.rnn.pad_sequence(places, batch_first=True)
        return cls(backbone.batch([window.tokens for window in windows]), padded)


def windows_of(backbone: Backbone, sentences: Sequence[Sentence]) -> list[Window]:
    """Windows in which every word is read that has a token; those of a sentence follow each other.

    Raises:
        BackboneError: a tokenizer that does not say where its tokens are in the text, or says it
            wrongly, or leaves words out.
    """
    tokenizer = backbone.tokenizer
    if not tokenizer.is_fast:
        raise BackboneError(
            f"expected of '{backbone.name}' a tokenizer that says where its tokens are in the "
            "text, for tags, got a slow one; save it as a fast one (tokenizer.json) beside the "
            "model, or choose another checkpoint"
        )
    numbers = [number for number, sentence in enumerate(sentences) if sentence.words]
    windows: list[Window] = []
    for piece in pieces([len(sentences[number].text) for number in numbers]):
        windows += _windows_of(backbone, sentences, [numbers[place] for place in piece])
    return windows


def _windows_of(
    backbone: Backbone, sentences: Sequence[Sentence], numbers: Sequence[int]
) -> list[Window]:
    """Windows of the sentences with these numbers, which all have words."""
    tokenizer = backbone.tokenizer
    room = backbone.max_length - tokenizer.num_special_tokens_to_add()
    encoded = tokenized(
        tokenizer,
        [sentences[number].text for number in numbers],
        truncation=True,
        max_length=backbone.max_length,
        stride=min(room - 1, max(1, room // _SHARED)),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    offsets = encoded.pop("offset_mapping")
    owners = [numbers[owner] for owner in encoded.pop("overflow_to_sample_mapping")]
    parts: dict[int, list[int]] = {}
    for part, owner in enumerate(owners):
        parts.setdefault(owner, []).append(part)
    windows = []
    for owner, several in parts.items():
        places = [offsets[part] for part in several]
        _check_every_word_is_read(backbone, sentences[owner], places)
        read = _read_at(sentences[owner].words, places)
        for part, pairs in zip(several, read, strict=True):
            if pairs:
                tokens = {name: encoded[name][part] for name in encoded}
                words, places = (list(column) for column in zip(*pairs, strict=True))
                windows.append(Window(tokens, owner, words, places))
    return windows


_Offsets = Sequence[tuple[int, int]]


def _check_every_word_is_read(
    backbone: Backbone, sentence: Sentence, windows: Sequence[_Offsets]
) -> None:
    """Refuse windows that have less of a word than its tokens have where it stands alone.

    Releases 0.23.1 and 0.23.2 of tokenizers leave out what comes after the second window. A
    tokenizer that drops letters it does not know may place all later tokens too early.
    """
    every = [pair for window in windows for pair in window]
    unread = _unread(sentence.text, sentence.words, every)
    suspects = unread.nonzero()[0].tolist()
    if not suspects:
        return
    words = [sentence.text[slice(*sentence.words[number])] for number in suspects]
    alone = tokenized(
        backbone.tokenizer,
        words,
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )["offset_mapping"]
    for number, word, offsets in zip(suspects, words, alone, strict=True):
        (own,) = _unread(word, [(0, len(word))], offsets)
        if unread[number] > own:
            raise BackboneError(
                f"expected the tokenizer of '{backbone.name}' to say for each word where its "
                f"tokens are, got none for all or a part of {word!r:.80}, word {number + 1} of "
                f"{len(sentence.words)}, with tokenizers {version('tokenizers')}; install another "
                "release of tokenizers, or choose another checkpoint"
            )


def _unread(text: str, words: _Offsets, offsets: _Offsets) -> np.ndarray:
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


def _read_at(words: _Offsets, windows: Sequence[_Offsets]) -> list[list[tuple[int, int]]]:
    """For each window the words that are read in it, each with its place there."""
    best: dict[int, tuple[tuple[int, int], int, int]] = {}
    for number, offsets in enumerate(windows):
        for word, place in _first_tokens(words, offsets):
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


def _first_tokens(words: _Offsets, offsets: _Offsets) -> Iterator[tuple[int, int]]:
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


def gather(states: Tensor, places: Tensor) -> Tensor:
    """`[B, T, H]` states at `[B, W]` places: `[B, W, H]`."""
    rows = torch.arange(len(states), device=states.device)[:, None]
    return states[rows, places]
