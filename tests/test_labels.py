from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.config import yaml
from ltuning.errors import LabelError
from ltuning.labels import Labels, joined_hints, wordless
from ltuning.values import joined_names


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(value: object) -> str:
    with pytest.raises(LabelError) as caught:
        Labels.from_any(value)  # type: ignore[arg-type]
    return str(caught.value)


def test_names_stand_for_themselves_with_spaces():
    labels = Labels.from_any(["card_arrival", "lost-or-stolen", "Top Up", "_edge_"])
    assert labels.names == ("card_arrival", "lost-or-stolen", "Top Up", "_edge_")
    assert labels.texts == (("card arrival",), ("lost or stolen",), ("Top Up",), ("edge",))


def test_a_mapping_gives_one_text_or_several():
    labels = Labels.from_any({"neg": "bad", "pos": ["good", "The text is positive"]})
    assert labels.names == ("neg", "pos")
    assert labels.texts == (("bad",), ("good", "The text is positive"))
    assert labels.to_dict() == {"neg": ["bad"], "pos": ["good", "The text is positive"]}


def test_flat_texts_and_their_owners():
    labels = Labels.from_any({"a": ["x", "y"], "b": "z", "c": ("u", "v")})
    assert labels.flat_texts == ("x", "y", "z", "u", "v")
    assert labels.owners == (0, 0, 1, 2, 2)
    assert len(labels) == 3


def test_labels_pass_through_unchanged():
    labels = Labels.from_any(("a", "b"))
    assert Labels.from_any(labels) is labels


def test_equal_labels_are_equal_and_hash_alike():
    first, second = Labels.from_any(["a", "b"]), Labels.from_any({"a": "a", "b": ["b"]})
    first.index("a")
    assert first == second
    assert hash(first) == hash(second)


def test_the_texts_of_numpy_become_plain_ones():
    labels = Labels.from_any(list(np.array(["neg", "pos"])))
    assert {type(text) for text in labels.names + labels.flat_texts} == {str}
    assert yaml.parse(yaml.dump(labels.to_dict())) == {"neg": ["neg"], "pos": ["pos"]}


def test_index_gives_the_place_and_suggests():
    labels = Labels.from_any(["negative", "positive"])
    assert [labels.index(name) for name in labels.names] == [0, 1]
    with pytest.raises(LabelError) as caught:
        labels.index("postive")
    assert str(caught.value) == (
        "unknown label 'postive': expected one of 'negative', 'positive'; did you mean 'positive'?"
    )


def test_add_appends_and_leaves_the_first_as_they_were():
    labels = Labels.from_any(["a", "b"])
    more = labels.add({"c": ["see", "sea"]})
    assert more.to_dict() == {"a": ["a"], "b": ["b"], "c": ["see", "sea"]}
    assert labels.names == ("a", "b")
    assert labels.add(["c_d"]).texts[-1] == ("c d",)


def test_add_refuses_a_name_or_a_text_that_exists():
    labels = Labels.from_any(["a", "b"])
    with pytest.raises(LabelError, match="^there is a label 'a' already$"):
        labels.add({"a": "something else"})
    with pytest.raises(LabelError, match="^the labels 'b' and 'c' have the same text 'b': give"):
        labels.add({"c": "b"})
    with pytest.raises(LabelError, match="got the number 3 "):
        labels.add({"c": 3})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (["a"], "expected two labels or more, got 1: ['a']"),
        ([], "expected two labels or more, got 0: []"),
        ({}, "expected two labels or more, got 0: []"),
        (["a", "b", "a"], "the label 'a' stands twice"),
        ({"": "x", "b": "y"}, "expected a name for every label, got an empty one"),
        ({" ": "x", "b": "y"}, "expected a name for every label, got an empty one"),
        ({"a": "", "b": "y"}, "the label 'a' has an empty text: write what it means"),
        ({"a": ["x", " "], "b": "y"}, "the label 'a' has an empty text: write what it means"),
        (["_", "b"], "the label '_' has an empty text: write what it means"),
        ({"a": [], "b": "y"}, "the label 'a' has an empty list of texts: give it one or more"),
        ({"a": ["x", "x"], "b": "y"}, "the label 'a' has the text 'x' twice"),
        (
            {"a": "x y", "b": ["z", " x  y"]},
            "the labels 'a' and 'b' have the same text 'x y': give each its own",
        ),
        (
            ["a_b", "a-b", "a b"],
            "the labels 'a_b', 'a-b' and 'a b' have the same text 'a b': give each its own",
        ),
        ([1, "b"], "expected a text as the name of a label, got the number 1 (put it in quotes)"),
        (
            [True, "b"],
            "expected a text as the name of a label, got True (YAML reads yes, no, on, off, true "
            "and false as booleans: put it in quotes)",
        ),
        ([None, "b"], "expected a text as the name of a label, got nothing"),
        ([{"a": "x"}, "b"], "expected a text as the name of a label, got {'a': 'x'}"),
        (
            {"a": 1.5, "b": "y"},
            "expected a text or a list of texts for the label 'a', got the number 1.5 "
            "(put it in quotes)",
        ),
        (
            {"a": ["x", None], "b": "y"},
            "expected a text or a list of texts for the label 'a', got nothing",
        ),
        (
            {"a": {"x": "y"}, "b": "y"},
            "expected a text or a list of texts for the label 'a', got {'x': 'y'}",
        ),
        ({"a"}, "expected a list of names or a mapping of names to texts, got {'a'}"),
        (None, "expected a list of names or a mapping of names to texts, got nothing"),
        (b"ab", "expected a list of names or a mapping of names to texts, got b'ab'"),
    ],
)
def test_what_is_refused_and_why(value: object, sentence: str):
    assert refusal(value) == sentence


def test_a_long_value_is_cut_in_the_message():
    assert refusal(set("x" * 1 + letter * 60 for letter in "ab")).endswith("...")


def test_several_problems_come_together():
    assert refusal({"a": "x", "b": "x", "c": " "}) == (
        "2 problems with the labels:\n"
        "  the label 'c' has an empty text: write what it means\n"
        "  the labels 'a' and 'b' have the same text 'x': give each its own"
    )


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (["a", "b"], (("x",), ("y",))),
        (("a", "b"), ("x", "y")),
        (("a", "b"), [["x"], ["y"]]),
        (("a", "b"), (("x",),)),
        (("a", 2), (("x",), ("y",))),
    ],
)
def test_labels_made_by_hand_must_have_the_exact_form(names, texts):
    expected = "^expected a tuple of names and, for each, a tuple of texts: use Labels.from_any$"
    with pytest.raises(LabelError, match=expected):
        Labels(names, texts)


def test_labels_made_by_hand_are_checked():
    with pytest.raises(LabelError, match="^the label 'a' stands twice$"):
        Labels(("a", "a"), (("x",), ("y",)))
    with pytest.raises(LabelError, match="^the label 'a' has an empty text: write what it means$"):
        Labels(("a", "b"), ((), ("y",)))


def test_a_yaml_file_of_either_form(tmp_path):
    path = write(tmp_path, "- card_arrival\n- 'no'\n")
    expected = {"card_arrival": ["card arrival"], "no": ["no"]}
    assert Labels.from_yaml(path).to_dict() == expected
    assert Labels.from_any(str(path)) == Labels.from_any(path) == Labels.from_yaml(path)
    path = write(tmp_path, b"\xef\xbb\xbfneg: bad\npos:\n  - good\n  - sch\xc3\xb6n\n")
    assert Labels.from_any(path).to_dict() == {"neg": ["bad"], "pos": ["good", "schön"]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: x\na: y\n", "line 2: the key 'a' stands twice"),
        ("a: x\n'a': y\n", "line 2: the key 'a' stands twice"),
        ("a: [x\n", "line 2: while parsing a flow sequence, expected ',' or ']', but got"),
        ("a\n", "expected a list of names or a mapping of names to texts, got 'a'"),
        ("", "expected a list of names or a mapping of names to texts, got nothing"),
        ("- only\n", "expected two labels or more, got 1: ['only']"),
        ("yes: a\nb: c\n", "expected a text as the name of a label, got True (YAML reads yes, no,"),
        ("a: 1e3\nb: c\n", "for the label 'a', got the number 1000.0 (put it in quotes)"),
        ("a: 2024-01-01\nb: c\n", "for the label 'a', got the date 2024-01-01 (put it in quotes)"),
        (b"- sch\xf6n\n", "not UTF-8 at byte 6: save the file as UTF-8"),
    ],
)
def test_a_yaml_file_that_is_refused_is_named(tmp_path, text, sentence):
    path = write(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"labels file {path}: ")
    assert sentence in message


def test_a_missing_yaml_file(tmp_path):
    path = tmp_path / "absent.yaml"
    assert refusal(path) == f"labels file {path}: no such file"
    assert refusal("positive") == "labels file positive: no such file"


words = st.text(min_size=1).filter(lambda text: text.strip() != "")


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(words, st.lists(words, min_size=1, max_size=3)),
        min_size=2,
        max_size=6,
        unique_by=lambda pair: pair[0],
    )
)
def test_round_trip_through_a_mapping_and_yaml(pairs):
    # The number keeps texts apart that differ in nothing but their spaces.
    given_texts = {
        name: [f"{place} {turn} {text}" for turn, text in enumerate(several)]
        for place, (name, several) in enumerate(pairs)
    }
    labels = Labels.from_any(given_texts)
    assert labels.to_dict() == given_texts
    assert Labels.from_any(yaml.parse(yaml.dump(labels.to_dict()))) == labels
    assert [labels.names[place] for place in labels.owners] == [
        name for name, several in given_texts.items() for _ in several
    ]


@pytest.mark.parametrize(
    ("labels", "wordless_names"),
    [
        (["0", "1"], ["0", "1"]),
        (["A", "refund"], ["A"]),
        (["+1", "c-3", "LABEL_2", "class 1"], ["+1", "c-3", "LABEL_2", "class 1"]),
        ({"0": "a bad review", "1": ["1", "a good one"]}, []),
        (["no", "ok", "好", "label printer"], []),
    ],
)
def test_labels_whose_texts_say_nothing(labels: Any, wordless_names: list[str]) -> None:
    assert wordless(Labels.from_any(labels)) == wordless_names


def test_names_that_are_other_names_joined() -> None:
    names = ["a;b", "a", "b", "c, d", "c", "e|f", "salt, pepper", "a; b, c"]
    assert joined_names(["a|b", "a", "b"], "|") == ["a|b"]
    assert [joined for joined, _ in joined_hints(names)] == [["a;b"]]
    assert joined_hints(["a;b", "a", "b"])[0][1] == (
        "the label 'a;b' looks like several with ';' between them, which are labels too: if so, "
        "list them for a MultilabelClassifier (--task multilabel, with | between labels in csv "
        "files), else rename it"
    )
