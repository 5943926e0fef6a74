"""What users give as texts, labels and words, whatever holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ltuning.errors import DataError
from ltuning.estimators.inputs import (
    label_lists_of,
    labels_of,
    pair_of,
    sentences_of,
    tag_lists_of,
    texts_of,
)
from ltuning.sentences import Sentence

TEXTS = ["one", "two", "three"]
PAIRS = [("one", "a"), ("two", "b"), ("three", "c")]
FRAME = pd.DataFrame({"text": TEXTS, "other": ["a", "b", "c"]})
HALF = "a \ud83d b"


class Column(list[str]):
    """A sequence of another kind, as the columns of `datasets` are."""


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    return str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        tuple(TEXTS),
        Column(TEXTS),
        (text for text in TEXTS),
        iter(TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object).reshape(-1, 1),
        FRAME["text"],
        FRAME["text"].astype("category"),
        pd.Index(TEXTS),
        FRAME[["text"]],
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_columns_of_texts_are_lists_of_texts(given: Any) -> None:
    assert texts_of(given) == TEXTS


@pytest.mark.parametrize(
    "given",
    [PAIRS, [list(pair) for pair in PAIRS], np.array(PAIRS), list(np.array(PAIRS)), FRAME],
    ids=["tuples", "lists", "array", "rows", "frame"],
)
def test_two_columns_are_pairs(given: Any) -> None:
    assert texts_of(given) == PAIRS


ANY = "give a list, a tuple, an array, a column or a generator"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("one", "expected a list of texts, got one text; write [text]"),
        (b"one", "expected a list of texts, got one text; write [text]"),
        ({"text": TEXTS}, f"expected a list of texts, got dict; {ANY}"),
        pytest.param(set(TEXTS), f"expected a list of texts, got set; {ANY}", id="set"),
        (7, f"expected a list of texts, got int; {ANY}"),
        (None, f"expected a list of texts, got NoneType; {ANY}"),
        (np.array("one"), f"expected a list of texts, got ndarray; {ANY}"),
        (
            FRAME.assign(more=1),
            "expected a list of texts, got DataFrame of 3 columns; give one column, or two for "
            "pairs",
        ),
        (
            ["one", None],
            "expected a text or a pair of texts, got NoneType: None at index 1; fill it in or "
            "leave it out",
        ),
        (
            ["one", HALF],
            "expected whole characters, got half a character ('\\ud83d' at 2) in the text at index "
            "1; decode it with the right encoding, or leave the text out",
        ),
        ([("one", HALF)], "got half a character ('\\ud83d' at 2) in the text at index 0; decode"),
    ],
    ids=str,
)
def test_what_is_no_column_of_texts_is_refused(given: Any, sentence: str) -> None:
    assert sentence in refusal(lambda: texts_of(given))


@pytest.mark.parametrize(
    ("given", "names", "type_"),
    [
        (["b", "a"], ["b", "a"], "text"),
        ([2, 10], ["2", "10"], "integer"),
        ([1.0, -0.5], ["1", "-0.5"], "number"),
        ([True, False], ["True", "False"], "boolean"),
        (np.array([2, 10], dtype=np.int8), ["2", "10"], "integer"),
        (list(np.array([1.0, -0.5])), ["1", "-0.5"], "number"),
        (np.array([True, False]), ["True", "False"], "boolean"),
        (pd.Series([2, 10], dtype="Int64"), ["2", "10"], "integer"),
        (pd.DataFrame({"label": [2, 10]}), ["2", "10"], "integer"),
        (torch.tensor([2, 10]), ["2", "10"], "integer"),
        (list(torch.tensor([2, 10])), ["2", "10"], "integer"),
        pytest.param(iter("ab"), ["a", "b"], "text", id="iterator"),
        ([], [], "text"),
    ],
    ids=str,
)
def test_labels_have_names_and_a_type(given: Any, names: list[str], type_: str) -> None:
    assert labels_of(given, "training") == (names, type_)


@pytest.mark.parametrize(
    "missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, " "], ids=repr
)
def test_missing_labels_are_refused_with_their_place_and_number(missing: Any) -> None:
    for given in (["a", missing, "b", missing], pd.Series(["a", missing, "b", missing], dtype="O")):
        assert refusal(lambda given=given: labels_of(given, "validation")) == (
            "expected a label for every validation text, got 2 of 4 without one, the first, "
            f"{np.float64('nan').item() if isinstance(missing, np.float32) else missing!r}, at "
            "index 1; label them, or leave these texts out"
        )
    assert "row 2: expected names of labels, got" in refusal(
        lambda: label_lists_of([["a"], ["b", missing]], "test", None)
    )
    assert refusal(lambda: tag_lists_of([["O"], ["O", missing], [missing]], "training")).endswith(
        ", and 2 missing ones in all; write O outside of entities"
    )


def test_numbers_with_missing_ones_are_refused() -> None:
    for given in (
        pd.Series([1, None, 2]),
        pd.Series([1, None, 2], dtype="Int64"),
        pd.Series(["a", None, "b"], dtype="category"),
        np.array([1.0, np.nan, 2.0]),
    ):
        assert "got 1 of 3 without one, the first, " in refusal(
            lambda given=given: labels_of(given, "training")
        )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            ["a", 1],
            "expected labels of one type, got 'a' at index 0 and 1 at index 1; bring them to one",
        ),
        ([True, 1], "got True at index 0 and 1 at index 1; bring them to one"),
        ([1, 1.5], "got 1 at index 0 and 1.5 at index 1; bring them to one"),
        (
            [["a"], ["b"]],
            "expected a text, an integer, a number or a boolean as a label, got list at index 0: "
            "['a']; write its name",
        ),
        (pd.to_datetime(["2020-01-01"]), "as a label, got Timestamp at index 0: "),
        ("ab", "expected a list of labels, got one text; write [label]"),
        ({"a": 1}, f"expected a list of labels, got dict; {ANY}"),
        (FRAME, "expected a list of labels, got DataFrame of 2 columns; give one column"),
        (["a", HALF], "half a character ('\\ud83d' at 2) in the text at index 1; decode it"),
    ],
    ids=str,
)
def test_what_is_no_column_of_labels_is_refused(given: Any, sentence: str) -> None:
    assert sentence in refusal(lambda: labels_of(given, "training"))


def test_lists_of_labels_may_be_columns_and_arrays() -> None:
    lists = [["a"], [], ["b", "a"]]
    for given in (lists, pd.Series(lists), iter(lists), pd.DataFrame({"labels": lists})):
        assert label_lists_of(given, "training", None) == (lists, "text")
    assert label_lists_of([np.array([1, 2]), ()], "training", None) == ([["1", "2"], []], "integer")


def test_a_table_of_zeros_and_ones_is_no_list_of_names() -> None:
    table = [[0, 1], [1, 1], [1, 0]]
    sentence = (
        "training: expected the names of the labels that apply to each text, got a table of 0 and "
        "1 with 2 columns; write [[name for name, applies in zip(names, row) if applies] for row "
        "in table]"
    )
    for given in (
        table,
        np.array(table),
        np.array(table, dtype=float),
        np.array(table, dtype=bool),
        pd.DataFrame(table),
        [["0", "1"], ["1", "0"]],
        [[0, 1], [1, 0]],
    ):
        assert refusal(lambda given=given: label_lists_of(given, "training", None)) == sentence
    # These say nothing that is not said: 0 and 1 are labels.
    assert label_lists_of([[0], [1], [0]], "training", None)[0] == [["0"], ["1"], ["0"]]
    assert label_lists_of([[0, 1], [1], []], "training", None)[0] == [["0", "1"], ["1"], []]


def test_words_and_tags_may_be_columns_and_arrays() -> None:
    words, tags = [["a", "b"], ["c"]], [["O", "B-x"], ["O"]]
    expected = [Sentence.of_tokens(row) for row in words]
    for given in (words, pd.Series(words), iter(words), [np.array(row) for row in words], expected):
        assert sentences_of(given, "training") == expected
    for given in (tags, pd.Series(tags), (iter(row) for row in tags)):
        assert tag_lists_of(given, "training") == tags


def test_words_and_tags_that_are_none_are_refused() -> None:
    assert refusal(lambda: sentences_of([["a"], ["b", 3]], "test")).startswith(
        "test, row 2: expected a list of words, got ['b', 3]; split it"
    )
    assert refusal(lambda: sentences_of([["a", HALF]], "test")).startswith(
        "expected whole characters, got half a character ('\\ud83d' at 4) in the text at test, row "
    )
    assert refusal(lambda: sentences_of({"a": "b"}, "test")).startswith(
        "expected a list of sentences, got dict; give a list"
    )
    assert refusal(lambda: tag_lists_of([["O"], ["O", 3]], "test")) == (
        "test, row 2, word 2: expected a tag as text, such as 'O' or 'B-person', got 3; write its "
        "name"
    )
    assert refusal(lambda: tag_lists_of([["O"], "O"], "test")).startswith(
        "test, row 2: expected a list of tags, got 'O'; give every word one tag"
    )


def test_validation_is_two_things() -> None:
    assert pair_of((TEXTS, ["a"])) == (TEXTS, ["a"])
    assert refusal(lambda: pair_of(FRAME)) == (
        "expected validation as (texts, labels), got DataFrame; give both in a tuple"
    )
