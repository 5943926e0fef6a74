"""Texts that are longer than a model reads."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.long_texts import warn_of_cut, window_parts
from ltuning.errors import BackboneError, DataError

from ..conftest import FILLERS, TOPICS

WORDS = FILLERS.split()


@given(st.integers(1, 40), st.integers(0, 200), st.integers(0, 40), st.booleans())
def test_windows_hold_every_token_and_share_a_quarter(
    room: int, more: int, other: int, longer_first: bool
) -> None:
    shorter = min(other, room // 2)
    length = room - shorter + 1 + more
    lengths = [length, shorter] if longer_first else [shorter, length]
    parts = window_parts(lengths, room)
    place = 0 if longer_first or length == shorter else 1
    size = room - shorter
    assert {part[1 - place] for part in parts} == {range(shorter)}
    windows = [part[place] for part in parts]
    assert {len(window) for window in windows} == {size}
    assert (windows[0].start, windows[-1].stop) == (0, length)
    steps = [after.start - before.start for before, after in pairwise(windows)]
    assert max(steps) <= size - size // 4 and max(steps) - min(steps) <= 1
    # One window less would share less.
    assert (len(windows) - 2) * (size - size // 4) + size < length


def test_windows_of_a_text_are_its_tokens_between_the_special_ones(backbone: Backbone) -> None:
    (whole,) = backbone.tokenize([" ".join(WORDS[:30])])
    short, long = backbone.tokenize([" ".join(WORDS[:4])])[0], " ".join(WORDS[:30])
    read = backbone.windows([" ".join(WORDS[:4]), long], 12, long_texts="windows")
    assert read.tokens[0] == short and read.counts == [1, len(read.tokens) - 1]
    assert read.lengths == [len(short["input_ids"]), len(whole["input_ids"])]
    special = {*backbone.tokenizer.all_special_ids}
    ids = [one for one in whole["input_ids"] if one not in special]
    at = 0
    for window in read.tokens[1:]:
        assert len(window["input_ids"]) == 12
        assert [one in special for one in window["input_ids"]] == [
            one in special for one in backbone.tokenize([long], 12)[0]["input_ids"]
        ]
        words = [one for one in window["input_ids"] if one not in special]
        start = next(place for place in range(at + 1) if ids[place : place + len(words)] == words)
        at = start + len(words)
    assert at == len(ids)


@pytest.mark.parametrize("turned", [False, True])
def test_every_window_of_a_pair_has_the_shorter_text_whole(bert: Backbone, turned: bool) -> None:
    short, long = "the bread", " ".join(TOPICS["food"].split() * 3)
    pair = (long, short) if turned else (short, long)
    read = bert.windows([pair], 12, long_texts="windows")
    (whole,) = bert.windows([pair]).tokens
    side = 1 if turned else 0
    own = [one for one, of in zip(*whole.values(), strict=True) if of == side]
    assert len(read.tokens) == 4
    for window in read.tokens:
        assert len(window["input_ids"]) == 12
        assert [one for one, of in zip(*window.values(), strict=True) if of == side] == own


def test_a_pair_of_two_long_texts_has_no_windows(bert: Backbone) -> None:
    pair = ("the " * 6, "bread " * 20)
    with pytest.raises(DataError) as caught:
        bert.windows([pair], 13, long_texts="windows")
    assert str(caught.value) == (
        "expected pairs of which one text has at most 5 tokens, half of what the model reads, for "
        "data.long_texts=windows, got one of 6 and 20: ('the the the the the the ', 'bread bread "
        "bread bread bread bread bread bread br; shorten a text of it, or train with "
        "data.long_texts=cut"
    )


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_is_cut_as_the_tokenizer_would_cut_it(
    backbone: Backbone, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = backbone.tokenizer
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    texts = [" ".join(WORDS[:number]) for number in (1, 5, 6, 8, 9, 30)]
    expected = tokenizer(texts, truncation=True, max_length=8)
    cut = backbone.windows(texts, 8)
    assert cut.tokens == [{key: expected[key][row] for key in cut.tokens[0]} for row in range(6)]
    assert cut.counts == [1] * 6
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert backbone.windows(texts, 8) == cut
    with pytest.raises(BackboneError) as caught:
        backbone.windows(texts, 8, long_texts="windows")
    assert str(caught.value) == (
        f"expected of '{backbone.name}' a tokenizer that says which text a token is of, for "
        "data.long_texts=windows, got a slow one; save it as a fast one (tokenizer.json) beside "
        "the model, or train with data.long_texts=cut"
    )


@pytest.mark.parametrize(
    ("texts", "lengths", "said"),
    [
        (["a", "b"], [8, 8], None),
        (
            ["a"] * 2999 + ["b"],
            [3] * 2988 + [9] * 11 + [1204],
            "12 of 3,000 texts are longer than the 8 tokens that the model reads, and are cut: of "
            "the longest, 1,204 tokens, 1,196 are not read; train with --long-texts windows "
            "(data.long_texts) to read texts whole",
        ),
        (
            ["a", ("b", "c")],
            [3, 10],
            "1 of 2 texts is longer than the 8 tokens that the model reads, and is cut: of the "
            "longest, 10 tokens, 2 are not read; of a pair the longer text is cut, and both once "
            "they are of one length; train with --long-texts windows (data.long_texts) to read "
            "texts whole",
        ),
    ],
)
def test_texts_that_are_cut_are_told_of(
    texts: list[Any], lengths: list[int], said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ltuning"):
        warn_of_cut(texts, lengths, 8)
    assert [record.getMessage() for record in caplog.records] == ([] if said is None else [said])
