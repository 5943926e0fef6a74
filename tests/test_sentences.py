"""Words, entities and the two schemes of tags."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.errors import DataError
from ltuning.metrics import span_report
from ltuning.sentences import Scheme, Sentence, Span, scheme_of, spans_of, tags_of
from ltuning.tag_decoding import best_tags, tag_names

SCHEMES: list[Scheme] = ["IOB2", "BIOES"]


@st.composite
def entities(draw: st.DrawFn) -> tuple[list[Span], int]:
    length = draw(st.integers(0, 12))
    spans, place = [], 0
    while place < length:
        start = place + draw(st.integers(0, 2))
        end = start + draw(st.integers(1, 3))
        if end <= length:
            spans.append(Span(start, end, draw(st.sampled_from(["a", "b-c"]))))
        place = end
    return spans, length


@pytest.mark.parametrize("scheme", SCHEMES)
@given(entities())
def test_tags_and_entities_say_the_same(scheme: Scheme, made: tuple[list[Span], int]) -> None:
    spans, length = made
    tags = tags_of(spans, length, scheme)
    assert len(tags) == length
    assert spans_of(tags, scheme) == spans


def test_the_tags_of_the_table() -> None:
    spans = [Span(0, 3, "x"), Span(3, 4, "x")]
    assert tags_of(spans, 5) == ["B-x", "I-x", "I-x", "B-x", "O"]
    assert tags_of(spans, 5, "BIOES") == ["B-x", "I-x", "E-x", "S-x", "O"]


def test_the_scheme_is_seen() -> None:
    assert scheme_of([["O", "B-x", "I-x"], ["O"]]) == "IOB2"
    assert scheme_of([["O"], ["S-x"]]) == "BIOES"


@pytest.mark.parametrize(
    ("tags", "scheme", "sentence"),
    [
        (
            "O I-x",
            "IOB2",
            "row 3, word 2: expected an entity to begin with 'B-x' (IOB2), got 'I-x' after 'O'; "
            "write B- at the first word of every entity",
        ),
        (
            "I-x",
            "IOB2",
            "row 3, word 1: expected an entity to begin with 'B-x' (IOB2), got 'I-x' at the "
            "beginning; write B- at the first word of every entity",
        ),
        (
            "B-y I-x",
            "IOB2",
            "row 3, word 2: expected an entity to begin with 'B-x' (IOB2), got 'I-x' after 'B-y'; "
            "write B- at the first word of every entity",
        ),
        (
            "x",
            "IOB2",
            "row 3, word 1: expected a tag of IOB2 (O, B-TYPE, I-TYPE), got 'x'; write entities as "
            "B-TYPE at their first word and I-TYPE at the others",
        ),
        (
            "B-x O",
            "BIOES",
            "row 3, word 2: expected an entity to end with E- (BIOES), got 'O' after 'B-x'; write "
            "E- at its last word, S- at an only one",
        ),
        (
            "S-x B-x",
            "BIOES",
            "row 3, word 3: expected an entity to end with E- (BIOES), got the end of the sentence "
            "after 'B-x'; write E- at its last word, S- at an only one",
        ),
        (
            "S-x E-x",
            "BIOES",
            "row 3, word 2: expected an entity to begin with 'B-x' (BIOES), got 'E-x' after 'S-x'; "
            "write B- at the first word of every entity",
        ),
    ],
)
def test_tags_of_neither_scheme_are_refused(tags: str, scheme: Scheme, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        spans_of(tags.split(), scheme, "row 3")
    assert str(caught.value) == sentence


def test_words_of_a_text() -> None:
    text = "It's @ada's: see http://a.b/c?d, #x, 3.5 Köln-Bonn 東京で (U.S.)"
    sentence = Sentence.of_text(text)
    assert sentence.tokens == [
        "It", "'s", "@ada", "'s", ":", "see", "http://a.b/c?d", ",", "#x", ",", "3", ".", "5",
        "Köln", "-", "Bonn", "東", "京", "で", "(", "U", ".", "S", ".", ")",
    ]  # fmt: skip
    assert Sentence.of_text(" \n ").words == ()


@pytest.mark.parametrize(
    "words",
    [
        ["हिन्दी", "में", "क्\u200dष", "है"],
        ["தமிழ்", "மொழி"],
        ["cafe\u0301", "bar"],
        ["\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u060c"],
        ["#हिन्दी", "@cafe\u0301", "https://a.b/cafe\u0301", "!"],
        ["❤\ufe0f", "."],
    ],
)
def test_marks_belong_to_what_they_stand_on(words: list[str]) -> None:
    assert Sentence.of_text(" ".join(words)).tokens == words


def test_signs_of_scripts_without_spaces_keep_their_marks() -> None:
    assert Sentence.of_text("ที่นี่").tokens == ["\u0e17\u0e35\u0e48", "\u0e19\u0e35\u0e48"]
    assert Sentence.of_text("か\u3099く").tokens == ["か\u3099", "く"]


def test_an_apostrophe_belongs_to_a_word_before_it_alone() -> None:
    assert Sentence.of_text("cafe\u0301's").tokens == ["cafe\u0301", "'s"]
    text = "'U2' and U2's, \u2018it\u2019s\u2019 'a' 6'2"
    assert Sentence.of_text(text).tokens == [
        "'", "U2", "'", "and", "U2", "'s", ",", "\u2018", "it", "\u2019s", "\u2019", "'", "a", "'",
        "6", "'", "2",
    ]  # fmt: skip


@given(st.text())
def test_words_cover_all_that_is_no_space(text: str) -> None:
    covered = "".join(Sentence.of_text(text).tokens)
    assert covered == "".join(text.split())


@given(st.lists(st.text(st.characters(exclude_categories=["Zs", "Cc"]), min_size=1)))
def test_words_that_are_given_stay(tokens: list[str]) -> None:
    assert Sentence.of_tokens(tokens).tokens == tokens


# --- the best sequence ----------------------------------------------------------------------------


def test_the_best_sequence_is_the_best_of_all_that_are_allowed() -> None:
    draw, names = np.random.default_rng(0), tag_names(["x", "y"])
    assert names == ["O", "B-x", "I-x", "B-y", "I-y"]

    def allowed(path: tuple[int, ...]) -> bool:
        try:
            spans_of([names[tag] for tag in path], "IOB2")
        except DataError:
            return False
        return True

    for length in range(5):
        table = draw.dirichlet(np.ones(5) * 0.5, size=length)
        best = max(
            (path for path in product(range(5), repeat=length) if allowed(path)),
            key=lambda path: np.prod(table[np.arange(length), list(path)]) if path else 1.0,
        )
        assert tuple(best_tags(table)) == best


# --- figures --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(entities(), st.data()), min_size=1, max_size=4))
def test_the_figures_are_those_of_counted_entities(
    drawn: list[tuple[tuple[list[Span], int], st.DataObject]],
) -> None:
    truth, predicted, counts = [], [], [0, 0, 0]
    for (spans, length), data in drawn:
        kept = [span for span in spans if data.draw(st.booleans())]
        other = [Span(s.start, s.end, data.draw(st.sampled_from(["a", "b-c"]))) for s in kept]
        truth.append(tags_of(spans, length))
        predicted.append(tags_of(other, length))
        counts[0] += len(set(spans) & set(other))
        counts[1] += len(other)
        counts[2] += len(spans)
    if not any(truth):
        return
    report = span_report(truth, predicted)
    hits, found, real = counts
    assert report["precision"] == pytest.approx(hits / found if found else 0)
    assert report["recall"] == pytest.approx(hits / real if real else 0)
    assert report["num_entities"] == real
    assert sum(row["support"] for row in report["per_class"]) == real


def test_a_tag_that_continues_nothing_is_no_entity() -> None:
    report = span_report([["B-x", "I-x", "O"]], [["I-x", "I-x", "O"]])
    assert (report["precision"], report["recall"], report["f1"]) == (0, 0, 0)


def test_figures_per_type() -> None:
    report = span_report([["B-x", "O", "B-y"], ["O"]], [["B-x", "O", "B-x"], ["O"]])
    assert (report["precision"], report["recall"], report["f1"]) == (0.5, 0.5, 0.5)
    assert report["num_examples"] == 2
    assert report["per_class"] == [
        {"label": "x", "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1},
        {"label": "y", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
    ]
    nothing = span_report([["O"]], [["O"]])
    assert (nothing["f1"], nothing["per_class"]) == (0.0, [])


def test_lists_of_another_length_are_refused() -> None:
    for predicted in ([["O"]], [["O"], ["O", "O"]], []):
        with pytest.raises(DataError, match="expected one predicted tag per true tag"):
            span_report([["O"], ["O"]], predicted)
