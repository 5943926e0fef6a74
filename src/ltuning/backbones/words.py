"""Sentences as windows of tokens, and where in them each word is read.

A word is read at its first token. A sentence that is longer than the room is cut into windows that
overlap; each word is read in the window that shows most around it, and in no other, so that none is
left out and none counts twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.batch_sizes import pieces
from ltuning.backbones.frozen_model import TextBatch, Tokens
from ltuning.backbones.loading import tokenized
from ltuning.backbones.word_places import (
    Offsets,
    check_every_word_is_read,
    sentence_windows,
    shared_tokens,
)
from ltuning.backbones.word_places import Window as Window
from ltuning.errors import BackboneError
from ltuning.sentences import Sentence


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
        stride=shared_tokens(room),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    offsets = encoded.pop("offset_mapping")
    owners = [numbers[owner] for owner in encoded.pop("overflow_to_sample_mapping")]
    parts: dict[int, list[tuple[Tokens, Offsets]]] = {}
    for part, owner in enumerate(owners):
        tokens = {name: encoded[name][part] for name in encoded}
        parts.setdefault(owner, []).append((tokens, offsets[part]))
    alone = partial(_offsets_alone, backbone)
    windows = []
    for owner, several in parts.items():
        places = [offsets for _, offsets in several]
        check_every_word_is_read(backbone.name, alone, sentences[owner], places)
        windows += sentence_windows(owner, sentences[owner], several)
    return windows


def _offsets_alone(backbone: Backbone, words: list[str]) -> list[Offsets]:
    found: list[Offsets] = tokenized(
        backbone.tokenizer,
        words,
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )["offset_mapping"]
    return found


def gather(states: Tensor, places: Tensor) -> Tensor:
    """`[B, T, H]` states at `[B, W]` places: `[B, W, H]`."""
    rows = torch.arange(states.shape[0], device=states.device)[:, None]
    return states[rows, places]
