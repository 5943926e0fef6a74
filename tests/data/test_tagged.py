"""Tagged sentences from JSON lines, CoNLL columns and spans."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltuning.data.examples import BY_CONVENTION
from ltuning.data.formats import decode_table, encode_table
from ltuning.data.sources import Columns, read_tagged_split, read_tagged_splits
from ltuning.data.tables import Table
from ltuning.data.tagged import TaggedExamples, hold_out_sentences, tagged_from_table
from ltuning.errors import DataError
from ltuning.sentences import Sentence

words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4)
columns = st.lists(words.filter(lambda word: word != "-DOCSTART-"), min_size=1, max_size=5)


def table(*rows: dict[str, Any]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(names, list(rows), "jsonl", "here")


def refused(*rows: dict[str, Any], columns: Columns = BY_CONVENTION) -> str:
    with pytest.raises(DataError) as caught:
        tagged_from_table(table(*rows), columns)
    return str(caught.value)


# --- CoNLL ----------------------------------------------------------------------------------------


@given(st.lists(columns, min_size=1, max_size=4))
def test_conll_comes_back(sentences: list[list[str]]) -> None:
    rows = [{"tokens": tokens, "tags": ["O"] * len(tokens)} for tokens in sentences]
    written = Table(["tokens", "tags"], rows, "conll", "here")
    assert decode_table(encode_table(written, "conll"), "conll", "here") == written


def test_conll_with_spaces_documents_and_more_columns() -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nsays VBZ I-VP O\n\n\nNo DT I-NP O\n"
    found = decode_table(text.encode(), "conll", "here")
    assert found.columns == ["tokens", "tags"]
    assert found.rows == [
        {"tokens": ["EU", "says"], "tags": ["B-ORG", "O"]},
        {"tokens": ["No"], "tags": ["O"]},
    ]


def test_conll_without_tags_and_with_another_line_end() -> None:
    found = decode_table(b"in\r\nRome\r\n\r\nyes\r\n", "conll", "here")
    assert (found.columns, found.rows) == (
        ["tokens"],
        [{"tokens": ["in", "Rome"]}, {"tokens": ["yes"]}],
    )


def test_conll_with_a_line_too_short() -> None:
    with pytest.raises(DataError) as caught:
        decode_table(b"in\tO\nRome\n", "conll", "a.conll")
    assert str(caught.value) == (
        "a.conll, line 2: expected 2 columns as in the first line, the word first, got 1: 'Rome'; "
        "separate them with tabs or with spaces, and sentences with an empty line"
    )


def test_conll_holds_words_only() -> None:
    for rows in ([{"tokens": ["a b"]}], [{"tokens": "a"}], [{"tokens": []}]):
        with pytest.raises(DataError, match="here, row 1: conll holds lists of words"):
            encode_table(Table(["tokens"], rows, "jsonl", "here"), "conll")  # type: ignore[arg-type]


# --- rows -----------------------------------------------------------------------------------------


def test_words_and_spans_say_the_same() -> None:
    tokens = tagged_from_table(
        table({"tokens": ["in", "New", "York"], "tags": ["O", "B-p", "I-p"]})
    )
    spans = tagged_from_table(
        table({"text": "in New York", "spans": [{"start": 3, "end": 11, "label": "p"}]})
    )
    assert tokens.tags == spans.tags == [["O", "B-p", "I-p"]]
    assert tokens.sentences == spans.sentences
    assert tokens.texts == [["in", "New", "York"]]


def test_spans_next_to_each_other_and_none() -> None:
    found = tagged_from_table(
        table(
            {
                "text": "Rome, Paris",
                "spans": [
                    {"start": 6, "end": 11, "type": "p"},
                    {"start": 0, "end": 4, "type": "p"},
                ],
            },
            {"text": "no", "spans": []},
        )
    )
    assert found.tags == [["B-p", "O", "B-p"], ["O"]]


def test_no_spans_beside_words() -> None:
    span = {"start": 0, "end": 4, "type": "p"}
    for column, others in (("spans", []), ("tags", [span])):
        found = tagged_from_table(
            table({"tokens": ["Rome"], column: others}, {"tokens": ["a", "b"], column: []})
        )
        assert found.tags == [["B-p"] if others else ["O"], ["O", "O"]]


def test_a_span_within_a_word_takes_the_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ltuning"):
        found = tagged_from_table(
            table({"text": "in Romeward", "spans": [{"start": 3, "end": 7, "type": "p"}]})
        )
    assert found.tags == [["O", "B-p"]]
    assert caplog.messages == [
        "here: 1 spans begin or end inside a word, the first 'Rome' (3 to 7) in row 1; the whole "
        "word is taken"
    ]


def test_columns_that_are_named() -> None:
    found = tagged_from_table(table({"w": ["a"], "t": ["O"]}), Columns(text="w", label="t"))
    assert found.texts == [["a"]]
    assert "unknown column 'x'" in refused({"tokens": ["a"], "tags": ["O"]}, columns=Columns("x"))


def test_without_tags_a_sentence_may_be_empty() -> None:
    found = tagged_from_table(table({"tokens": []}, {"tokens": ["a"]}), need_tags=False)
    assert (found.texts, found.tags) == ([[], ["a"]], None)


GOOD = {"tokens": ["a"], "tags": ["O"]}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"tokens": ["a", "b"], "tags": ["O"]},
            "here, row 2: expected a tag for each word, got 2 words and 1 tags; give every word "
            "one tag, O outside of entities",
        ),
        (
            {"tokens": ["in", "Paris"], "tags": []},
            "here, row 2: expected a tag for each word, got 2 words and 0 tags; give every word "
            "one tag, O outside of entities",
        ),
        (
            {"tokens": [], "tags": []},
            "here, row 2: expected a sentence of one word or more, got none; remove it",
        ),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "here, row 2: word 2 of 2 is empty; "),
        (
            {"tokens": 3, "tags": []},
            "here, row 2: expected a list of words or a text in column 'tokens', got 3; ",
        ),
        (
            {"tokens": ["a"], "tags": "O"},
            "here, row 2: expected a list of tags or of spans in column 'tags', got 'O'; ",
        ),
        ({"tokens": ["a"]}, "here, row 2: expected a list of tags or of spans in column 'tags'"),
    ],
)
def test_a_row_that_is_wrong_is_named(row: dict[str, Any], sentence: str) -> None:
    assert refused(GOOD, row).startswith(sentence)


@pytest.mark.parametrize(
    ("spans", "sentence"),
    [
        (
            [(0, 4), (3, 6)],
            "here, row 1: expected spans that do not overlap or share a word, got 'e i' (3 to 6) "
            "after one that ends at 4; keep one of them",
        ),
        (
            [(0, 99)],
            "here, row 1: expected a span within the text, of characters 0 to 10, got 0 to 99; "
            "count characters from 0, the end being the character after the last",
        ),
        ([(-1, 2)], "here, row 1: expected a span within the text"),
        ([(4, 4)], "here, row 1: expected a span within the text"),
        ([(4, 5)], "here, row 1: expected a span with a word in it, got ' ' (4 to 5); remove it"),
        ([("0", 4)], "here, row 1: expected spans with the numbers start and end and a type"),
    ],
)
def test_a_span_that_is_wrong_is_named(spans: list[Any], sentence: str) -> None:
    dicts = [{"start": start, "end": end, "type": "p"} for start, end in spans]
    assert refused({"text": "Rome is it", "spans": dicts}).startswith(sentence)


def test_columns_that_are_missing() -> None:
    assert refused({"a": 1}).startswith(
        "here: expected a column of words or texts (tokens, words, text, sentence), got the "
        "columns 'a'; name it with --text-column (data.text_column), or write rows such as"
    )
    assert "expected a column of tags or spans" in refused({"text": "a"})


# --- sources --------------------------------------------------------------------------------------


def test_a_folder_of_splits(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("in\tO\nRome\tB-p\n")
    (tmp_path / "dev.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"text": "Rome", "spans": [{"start": 0, "end": 4, "type": "p"}]}) + "\n"
    )
    splits = read_tagged_splits(tmp_path)
    assert {name: (part.texts, part.tags) for name, part in splits.items()} == {
        "train": ([["in", "Rome"]], [["O", "B-p"]]),
        "validation": ([["a"]], [["O"]]),
        "test": ([["Rome"]], [["B-p"]]),
    }
    assert read_tagged_split(tmp_path, "dev").texts == [["a"]]
    with pytest.raises(DataError, match="unknown split 'trian'"):
        read_tagged_split(tmp_path, "trian")


@given(st.integers(2, 40), st.floats(0.01, 0.99), st.integers(0, 3))
def test_held_out_sentences(number: int, fraction: float, seed: int) -> None:
    sentences = [Sentence.of_tokens([str(row)]) for row in range(number)]
    whole = TaggedExamples(sentences, [["O"]] * number, "here")
    rest, held = hold_out_sentences(whole, fraction, seed)
    assert len(rest) >= 1 and len(held) >= 1
    assert sorted(rest.texts + held.texts, key=lambda tokens: int(tokens[0])) == whole.texts
    assert hold_out_sentences(whole, fraction, seed) == (rest, held)


@pytest.mark.parametrize("seed", range(12))
def test_no_type_is_in_the_held_out_sentences_alone(seed: int) -> None:
    sentences = [Sentence.of_tokens([str(row)]) for row in range(12)]
    whole = TaggedExamples(sentences, [["B-a"]] * 11 + [["B-b"]], "here")
    rest, held = hold_out_sentences(whole, 0.3, seed)
    assert ["b"] in rest.names and ["b"] not in held.names
    assert len(held) in (3, 4)
    own = replace(whole, tags=[[f"B-{row}"] for row in range(12)])
    with pytest.raises(DataError, match="^here: expected a sentence whose types others have too"):
        hold_out_sentences(own, 0.3, seed)


def test_one_sentence_cannot_be_parted() -> None:
    one = TaggedExamples([Sentence.of_tokens(["a"])], [["O"]], "here")
    with pytest.raises(DataError, match="expected two sentences or more"):
        hold_out_sentences(one, 0.1, 0)


def test_the_problems_of_all_sentences_are_said_at_once() -> None:
    lines = (
        b'{"tokens": ["a"], "tags": []}\n'
        b'{"tokens": ["b"], "tags": ["O"]}\n'
        b'{"tokens": ["c"], "tags": ["O", "O"]}\n'
    )
    with pytest.raises(DataError) as caught:
        tagged_from_table(decode_table(lines, "jsonl", "here"))
    sentence = "expected a tag for each word, got 1 words and {} tags; give every word one tag, O "
    assert str(caught.value) == (
        f"here: 2 problems:\n  line 1: {sentence.format(0)}outside of entities\n"
        f"  line 3: {sentence.format(2)}outside of entities"
    )
