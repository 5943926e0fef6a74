"""Texts with several labels: lists, cells with names between separators, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.data.label_sets import MultilabelExamples, refuse_joined
from ltuning.data.sources import (
    Columns,
    Table,
    multilabel_from_table,
    read_multilabel_split,
    read_multilabel_splits,
    write_table,
)
from ltuning.data.splits import hold_out
from ltuning.errors import DataError


def table(*labels: Any, format: str = "jsonl", column: str = "labels") -> Table:
    rows = [{"text": f"text {number}", column: value} for number, value in enumerate(labels)]
    return Table(["text", column], rows, format, "t")


def refused(source: Table, *arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        multilabel_from_table(source, *arguments)
    return str(caught.value)


@pytest.mark.parametrize("format", ["jsonl", "parquet", "hub"])
def test_lists(format: str) -> None:
    found = multilabel_from_table(table(["b", "a"], [], ["a", 7, 2.0], format=format))
    assert found.labels == [["b", "a"], [], ["a", "7", "2"]]
    assert found.texts == found.inputs == ["text 0", "text 1", "text 2"]
    assert len(found) == 3


@pytest.mark.parametrize("format", ["csv", "tsv", "parquet", "hub"])
def test_names_with_a_separator(format: str) -> None:
    found = multilabel_from_table(table("b|a", "", " a | c d ", "  ", format=format))
    assert found.labels == [["b", "a"], [], ["a", "c d"], []]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_files_and_folders(ending: str, tmp_path: Path) -> None:
    lists = [["b", "a"], [], ["a"]]
    cells = lists if ending in ("jsonl", "parquet") else ["|".join(names) for names in lists]
    path = tmp_path / f"dev.{ending}"
    write_table(table(*cells), path)
    assert read_multilabel_split(path, "test").labels == lists
    found = read_multilabel_splits(tmp_path, splits=("train", "validation"))
    assert list(found) == ["validation"] and found["validation"].labels == lists


def test_columns_pairs_and_empty_texts(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"premise": "a", "hypothesis": "b", "of": ["x"], "label": 1},
        {"premise": " ", "hypothesis": "b", "of": [], "label": 2},
        {"premise": "c", "hypothesis": "d", "of": [], "label": 3},
    ]
    source = Table(list(rows[0]), rows, "jsonl", "t")
    with caplog.at_level(logging.WARNING, "ltuning"):
        found = multilabel_from_table(source, Columns(label="of"), "skip")
    assert (found.texts, found.labels) == ([("a", "b"), ("c", "d")], [["x"], []])
    assert caplog.messages == ["t: 1 empty text (row 2) skipped"]
    assert "t: 1 empty text (row 2); fill in" in refused(source, Columns(label="of"))
    assert "row 1: expected a list of label names in column 'label', got 1" in refused(
        source, Columns(), "skip"
    )


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (table(["a"], "a|b"), "t, row 2: expected a list of label names in column 'labels', got "
         "'a|b'; write [\"name\"], and [] where no label applies"),
        (table(["a"], None), "t, row 2: expected a list of label names in column 'labels', got No"),
        (table(["a"], 3, format="parquet"), "got 3; write [\"name\"], and an empty text where no"),
        (table(["a"], {"a": 1}), "t, row 2: expected a list of label names in column 'labels', go"),
        (table([], ["a", ""]), "t, row 2: expected names of labels in column 'labels', got '' in "),
        (table([], ["a", ["b"]]), "t, row 2: expected names of labels in column 'labels', got ['b"),
        (table("a", "a||b", format="csv"), "t, row 2: expected names of labels in column 'labels'"),
        (table([], ["a", "b", "a"]), "t, row 2: expected every label once in column 'labels', got "
         "'a' twice; keep one of them"),
        (table("a|a", format="csv"), "t, row 1: expected every label once in column 'labels', got"),
        (table(["a"], column="kinds"), "t: expected a label column (labels, label, categories, cl"),
    ],
)  # fmt: skip
def test_what_is_refused(source: Table, sentence: str) -> None:
    assert sentence in refused(source)


def test_a_missing_key_is_not_an_empty_list(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"text": "a", "labels": []}) + "\n" + json.dumps({"text": "b"}))
    with pytest.raises(
        DataError, match="line 2: expected a list of label names in column 'labels'"
    ):
        read_multilabel_split(path, "train")


# --- a validation part ----------------------------------------------------------------------------


@settings(deadline=None)
@given(
    lists=st.lists(st.lists(st.sampled_from("abcd"), unique=True), min_size=4, max_size=30),
    seed=st.integers(0, 9),
)
def test_hold_out_parts_the_examples(lists: list[list[str]], seed: int) -> None:
    texts: list[Any] = [str(number) for number in range(len(lists))]
    examples = MultilabelExamples(texts, lists, "t")
    if max(examples.classes.count(name) for name in examples.classes) < 2:
        return
    rest, held = hold_out(examples, 0.2, seed)
    assert sorted(rest.texts + held.texts, key=lambda text: int(str(text))) == texts
    for part in (rest, held):
        assert part.labels == [lists[int(str(text))] for text in part.texts]
        assert part.origin == "t" and len(part)
    trained = {name for names in rest.labels for name in names}
    assert trained == {name for names in lists for name in names}


def test_no_label_is_held_out_whole() -> None:
    """Both texts of x count as ones of a and of b, one of each two of which is drawn."""
    lists = [["a", "x"], ["a"], ["b", "x"], ["b"]]
    examples = MultilabelExamples(["0", "1", "2", "3"], lists, "t")
    assert examples.classes == ["a", "a", "b", "b"]
    sizes = set()
    for seed in range(20):
        rest, held = hold_out(examples, 0.5, seed)
        assert {name for names in rest.labels for name in names} == {"a", "b", "x"}
        sizes.add(len(held))
    assert sizes == {1, 2}


def test_hold_out_gives_rare_labels_and_texts_without_labels_their_share() -> None:
    lists = [["often"]] * 60 + [["often", "rare"]] * 10 + [[]] * 30
    examples = MultilabelExamples([str(number) for number in range(100)], lists, "t")
    rest, held = hold_out(examples, 0.1, 0)
    assert (len(rest), len(held)) == (90, 10)
    assert held.labels.count([]) == 3
    assert held.labels.count(["often", "rare"]) == 1


@pytest.mark.parametrize(
    ("labels", "joined"),
    [
        (["a|b", "a", "b"], "a|b"),
        (["a", "a | b", "b|c", "c"], "a | b"),
        (["a|b", "c"], None),
        (["a|x", "b|x"], None),
        (["a", "b"], None),
    ],
)
def test_classes_that_are_other_classes_joined_are_refused(
    labels: list[str], joined: str | None
) -> None:
    if joined is None:
        refuse_joined(labels, "t.csv")
        return
    with pytest.raises(DataError) as caught:
        refuse_joined(labels, "t.csv")
    assert str(caught.value) == (
        f"t.csv: expected one label for each text, got {joined!r}, whose parts are labels too; "
        "train with --task multilabel, or rename it where it is one class"
    )
