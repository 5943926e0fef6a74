"""Words of windows of a document."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.word_places import first_tokens
from ltuning.backbones.words import windows_of
from ltuning.errors import BackboneError
from ltuning.sentences import Sentence

from ..conftest import FILLERS

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
    assert list(first_tokens(words, offsets)) == list(one_by_one(words, offsets))


def test_a_window_looks_at_its_own_words_alone() -> None:
    words = Counted([(3 * number, 3 * number + 2) for number in range(10_000)])
    for first in (0, 5_000, 9_980):
        words.looks = 0
        window = words.words[first : first + 20]
        assert [word for word, _ in first_tokens(words, window)] == [*range(first, first + 20)]
        assert words.looks < 20 + 20


# --- words that are never read --------------------------------------------------------------------


class TwoWindows:
    """A tokenizer that leaves out what comes after the second window, as two releases did."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, texts: Sequence[str], **options: Any) -> Any:
        encoded = self.tokenizer(texts, **options)
        owners = encoded.get("overflow_to_sample_mapping")
        if owners is None:
            return encoded
        kept = [row for row, owner in enumerate(owners) if owners[:row].count(owner) < 2]
        return {name: [values[row] for row in kept] for name, values in encoded.items()}


def test_words_that_a_tokenizer_leaves_out_are_an_error(
    tiny_bert: Path, load: Callable[..., Backbone]
) -> None:
    backbone = load(tiny_bert, max_length=16)
    backbone.tokenizer = TwoWindows(backbone.tokenizer)
    words = random.Random(0).choices(FILLERS.split(), k=40)
    assert len(windows_of(backbone, [Sentence.of_tokens(words[:20])])) == 2
    # The windows have room for 14 words and share 3.
    with pytest.raises(BackboneError) as caught:
        windows_of(backbone, [Sentence.of_tokens(["the"]), Sentence.of_tokens(words)])
    sentence = str(caught.value).replace(backbone.name, "NAME")
    start = (
        "expected the tokenizer of 'NAME' to say for each word where its tokens are, got none for "
        f"all or a part of '{words[25]}', word 26 of 40, with tokenizers "
    )
    end = "; install another release of tokenizers, or choose another checkpoint"
    assert sentence.startswith(start) and sentence.endswith(end)


def without_unknown(normalizer: Any = None) -> Any:
    """A tokenizer of letters that drops those it does not know, and counts on as if they had
    never been there: all later tokens are said to be too early."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "\u2581", *"aeflnth", "le", "ft", "\u2581le", "\u2581left", "\u2581An"]
    merges = [("l", "e"), ("f", "t"), ("\u2581", "le"), ("\u2581le", "ft")]
    made = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, merges))
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


def test_tokens_in_the_wrong_places_are_an_error(llama: Backbone) -> None:
    from tokenizers import normalizers

    backbone = Backbone(llama.model, without_unknown(), name="letters")
    (window,) = windows_of(backbone, [Sentence.of_tokens(["left", "hat"])])
    assert window.words == [0, 1]
    # A character that the normalizer drops moves nothing, and a word of such ones has no token.
    dropping = without_unknown(normalizers.Replace("\x01", ""))
    sentence = Sentence.of_tokens(["left", "\x01", "ha\x01t"])
    (window,) = windows_of(Backbone(llama.model, dropping, name="letters"), [sentence])
    assert [*map(sentence.tokens.__getitem__, window.words)] == ["left", "ha\x01t"]
    with pytest.raises(BackboneError, match="got none for all or a part of 'hat', word 3 of 3"):
        windows_of(backbone, [Sentence.of_tokens(["qu\xe4q", "left", "hat"])])


def test_marks_that_a_tokenizer_drops_leave_a_word_read(llama: Backbone) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["[UNK]", "ab", "aba", "##b"]
    made = Tokenizer(models.WordPiece({piece: at for at, piece in enumerate(pieces)}))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")
    # The mark stands between two pieces here, and within one where the word is alone.
    sentence = Sentence.of_text("ab\x19a\u0301b \u200d")
    assert sentence.tokens == ["ab", "\x19", "a\u0301b", "\u200d"]
    (window,) = windows_of(Backbone(llama.model, tokenizer, name="pieces"), [sentence])
    assert window.words == [0, 1, 2]
