"""Data sources: columns by name and by convention, labels, empty texts, folders and the hub."""

from __future__ import annotations

import gzip
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.data.sources import (
    Columns,
    Dialect,
    Examples,
    Table,
    examples_from_table,
    read_split,
    read_splits,
    read_tagged_split,
    write_table,
)
from ltuning.errors import DataError, MissingExtraError


def table(*rows: dict[str, Any]) -> Table:
    return Table(list(dict.fromkeys(name for row in rows for name in row)), list(rows), "csv", "t")


def labelled(*labels: Any) -> Table:
    return table(
        *({"text": f"text {number}", "label": label} for number, label in enumerate(labels))
    )


def refused(source: Table, *arguments: Any, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        examples_from_table(source, *arguments, **options)
    return str(caught.value)


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["text", "sentence", "sentence1", "premise", "question1", "content", "message"]
)
@pytest.mark.parametrize("label", ["label", "labels", "category", "class", "intent"])
def test_conventional_columns(text: str, label: str) -> None:
    examples = examples_from_table(table({"id": 7, label: "x", text: "a"}))
    assert examples == Examples(["a"], ["x"], "t")
    assert len(examples) == 1


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("text", "text_pair"),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
    ],
)
def test_conventional_pairs(text: str, pair: str) -> None:
    assert examples_from_table(table({pair: "b", "label": "x", text: "a"})).texts == [("a", "b")]


def test_the_first_convention_wins() -> None:
    row = {"message": "m", "sentence": "s", "content": "c", "intent": "i", "category": "k"}
    assert examples_from_table(table(row)) == Examples(["s"], ["k"], "t")


def test_named_columns() -> None:
    row = {"text": "a", "label": "x", "body": "b", "title": "c", "topic": "y", "text_pair": "p"}
    source = table(row)
    assert examples_from_table(source, Columns(text="body")).texts == ["b"]
    assert examples_from_table(source, Columns(text_pair="title")).texts == [("a", "c")]
    assert examples_from_table(source, Columns("body", "title", "topic")) == Examples(
        [("b", "c")], ["y"], "t"
    )


def test_no_text_column() -> None:
    assert refused(table({"body": "a", "label": "x"})) == (
        "t: expected a text column (text, sentence, sentence1, premise, question1, content, "
        "message), got the columns 'body', 'label'; name the text column with --text-column "
        "(data.text_column)"
    )


def test_no_label_column() -> None:
    source = table({"text": "a", "topic": "x"})
    assert refused(source) == (
        "t: expected a label column (label, labels, category, class, intent), got the columns "
        "'text', 'topic'; name the label column with --label-column (data.label_column)"
    )
    assert examples_from_table(source, need_labels=False).labels is None


def test_neither_text_nor_label_column() -> None:
    message = refused(table({"Satz": "a", "Art": "x"}), Columns(label="art"))
    assert message.startswith("t: 2 problems:\n  expected a text column (text, ")
    assert message.endswith(
        "\n  unknown column 'art': expected one of 'Satz', 'Art'; did you mean 'Art'?"
    )


@pytest.mark.parametrize("option", ["text", "text_pair", "label"])
def test_named_column_that_is_not_there(option: str) -> None:
    source = table({"text": "a", "label": "x", "topic": "y"})
    assert refused(source, Columns(**{option: "topics"})) == (
        "t: unknown column 'topics': expected one of 'text', 'label', 'topic'; "
        "did you mean 'topic'?"
    )


def test_named_label_column_may_be_absent_where_labels_are_not_needed() -> None:
    source = table({"text": "a", "label": "x"})
    assert examples_from_table(source, Columns(label="topic"), need_labels=False).labels is None


def test_one_column_for_both_texts() -> None:
    assert refused(table({"text": "a", "label": "x"}), Columns(text_pair="text")) == (
        "t: the text and the second text are both column 'text'; "
        "name another with --text-pair-column (data.text_pair_column)"
    )


# --- texts ----------------------------------------------------------------------------------------


def with_empty(*empty: Any, count: int) -> Table:
    rows = [{"text": "a", "label": "x"} for _ in range(count)]
    return table(*rows, *({"text": text, "label": "y"} for text in empty))


def test_empty_texts_are_refused_with_their_rows() -> None:
    assert refused(with_empty(" \n", count=2)) == (
        "t: 1 empty text (row 3); "
        "fill in, remove, or skip with --empty-texts skip (data.empty_texts)"
    )
    assert refused(with_empty("", None, float("nan"), "\t", "", "\u3000", count=1)) == (
        "t: 6 empty texts (rows 2, 3, 4, 5, 6, ...); "
        "fill in, remove, or skip with --empty-texts skip (data.empty_texts)"
    )


def test_empty_texts_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ltuning"):
        examples = examples_from_table(with_empty("", " ", count=2), empty_texts="skip")
    assert examples == Examples(["a", "a"], ["x", "x"], "t")
    assert caplog.messages == ["t: 2 empty texts (rows 3, 4) skipped"]


def test_empty_texts_are_kept() -> None:
    examples = examples_from_table(with_empty(None, " ", count=1), empty_texts="keep")
    assert examples == Examples(["a", "", " "], ["x", "y", "y"], "t")


def test_nothing_but_empty_texts() -> None:
    assert refused(with_empty("", count=0), empty_texts="skip") == (
        "t: every text is empty; expected at least one that is not"
    )


def test_a_pair_with_one_empty_text_is_empty() -> None:
    source = table({"text": "a", "text_pair": "", "label": "x"})
    assert "1 empty text (row 1)" in refused(source)
    assert examples_from_table(source, empty_texts="keep").texts == [("a", "")]


@pytest.mark.parametrize(("value", "kind"), [(404, "int"), (["a"], "list"), (True, "bool")])
def test_text_that_is_no_text(value: Any, kind: str) -> None:
    assert refused(table({"text": "a", "label": "x"}, {"text": value, "label": "x"})) == (
        "t: expected texts in column 'text', got 1 of another kind (row 2), the first is "
        f"{value!r} ({kind}); write them as text or name another column"
    )


# --- labels ---------------------------------------------------------------------------------------


def test_labels_become_strings() -> None:
    assert examples_from_table(labelled("x", " y ")).labels == ["x", "y"]
    assert examples_from_table(labelled(3, 3.0, -1, 2.5)).labels == ["3", "3", "-1", "2.5"]
    assert examples_from_table(labelled(True, False)).labels == ["True", "False"]


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan"), ["x"], {"name": "x"}])
def test_missing_labels(missing: Any) -> None:
    source = labelled("x", missing, "y")
    several = "; lists of labels are for --task multilabel" if isinstance(missing, list) else ""
    assert refused(source) == (
        f"t: 1 of 3 rows have no label in column 'label' (row 2), the first is {missing!r}"
        f"{several}; label, remove, or skip them with --missing-labels skip (data.missing_labels)"
    )
    assert examples_from_table(source, need_labels=False).labels is None


def test_labels_are_read_where_they_are_though_not_needed() -> None:
    assert examples_from_table(labelled("x", "y"), need_labels=False).labels == ["x", "y"]


def test_a_skipped_row_needs_no_label() -> None:
    source = table({"text": "", "label": ""}, {"text": "a", "label": "x"}, {"text": "b"})
    assert "1 of 2 rows have no label in column 'label' (row 3)" in refused(
        source, empty_texts="skip"
    )


def test_rows_without_a_label_are_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    source = labelled("x", None, "y", "", float("nan"))
    with caplog.at_level(logging.WARNING, logger="ltuning"):
        examples = examples_from_table(source, missing_labels="skip")
    assert examples == Examples(["text 0", "text 2"], ["x", "y"], "t")
    assert caplog.messages == ["t: 3 rows without a label (rows 2, 4, 5) skipped"]
    assert refused(labelled("", None), missing_labels="skip") == (
        "t: no row has a label in column 'label'; expected at least one that has"
    )


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([True, 1, False, 0], "booleans (rows 1, 3) and numbers (rows 2, 4)"),
        (["1", 1.0], "texts (row 1) and numbers (row 2)"),
    ],
)
def test_labels_of_several_types_are_refused(labels: list[Any], found: str) -> None:
    assert refused(labelled(*labels)) == (
        f"t: expected labels of one type in column 'label', got {found}; write all as texts"
    )


def test_all_that_is_wrong_with_the_rows_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('text,label\n"two\nlines",x\n,x\nb,\n,\nc,\nd,y\n')
    with pytest.raises(DataError) as caught:
        read_split(path, "train")
    assert str(caught.value) == (
        f"{path}: 2 problems:\n"
        "  2 empty texts (lines 4, 6); "
        "fill in, remove, or skip with --empty-texts skip (data.empty_texts)\n"
        "  2 of 4 rows have no label in column 'label' (lines 5, 7), the first is ''; "
        "label, remove, or skip them with --missing-labels skip (data.missing_labels)"
    )
    examples = read_split(path, "train", empty_texts="skip", missing_labels="skip")
    assert examples == Examples(["two\nlines", "d"], ["x", "y"], str(path))


def test_an_encoding_and_a_delimiter_reach_every_file(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes("text~label\ngrün~x\n".encode("cp1252"))
    dialect = Dialect("cp1252", "~")
    assert read_splits(tmp_path, dialect=dialect)["test"].texts == ["grün"]
    assert read_split(tmp_path, "train", dialect=dialect).texts == ["grün"]
    with pytest.raises(DataError) as caught:
        read_split("owner/name", "train", dialect=dialect)
    assert str(caught.value) == (
        "owner/name: expected a file or a folder for an encoding or a delimiter, got a data set of "
        "the hub; leave it out"
    )


_texts = st.none() | st.sampled_from(["", " ", "a", "b"])


@settings(deadline=None)
@given(rows=st.lists(st.tuples(_texts, st.sampled_from(["x", "y"])), min_size=1))
def test_no_row_is_lost_or_moved(rows: list[tuple[str | None, str]]) -> None:
    source = table(*({"text": text, "label": label} for text, label in rows))
    kept = examples_from_table(source, empty_texts="keep")
    assert kept.texts == [text or "" for text, _ in rows]
    assert kept.labels == [label for _, label in rows]
    full = [(text, label) for text, label in rows if text and text.strip()]
    if full:
        skipped = examples_from_table(source, empty_texts="skip")
        assert list(zip(skipped.texts, skipped.labels or [], strict=True)) == full


# --- files and folders ----------------------------------------------------------------------------


def write(path: Path, *labels: str) -> Path:
    write_table(labelled(*labels), path)
    return path


def test_a_file_is_the_training_split_and_counts_as_any(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl.gz", "x", "y")
    expected = Examples(["text 0", "text 1"], ["x", "y"], str(path))
    assert read_splits(str(path)) == {"train": expected}
    assert read_splits(path, splits=["validation"]) == {}
    for split in ("train", "dev", "anything"):
        assert read_split(str(path), split) == expected


@pytest.mark.parametrize("validation", ["validation", "dev", "valid", "val"])
def test_folder_with_splits_in_several_formats(validation: str, tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a")
    write(tmp_path / f"{validation}.jsonl.gz", "b")
    write(tmp_path / "test.parquet", "c")
    write(tmp_path / "train.old.csv", "d")
    (tmp_path / "train.md").write_text("about the data")
    splits = read_splits(str(tmp_path))
    labels = {name: examples.labels for name, examples in splits.items()}
    assert labels == {"train": ["a"], "validation": ["b"], "test": ["c"]}
    for name in ("validation", "dev"):
        assert read_split(str(tmp_path), name).labels == ["b"]


def test_splits_that_are_not_asked_for_are_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a")
    (tmp_path / "test.csv").write_text("")
    assert list(read_splits(tmp_path, splits=["train", "dev"])) == ["train"]
    assert read_split(tmp_path, "train").labels == ["a"]
    with pytest.raises(DataError, match=r"test\.csv: expected at least one row, got an empty file"):
        read_splits(tmp_path)


def test_options_reach_the_examples(tmp_path: Path) -> None:
    rows = ({"body": "a", "label": "x"}, {"body": "", "label": "y"})
    write_table(table(*rows), tmp_path / "test.csv")
    for read in (
        lambda **options: read_splits(tmp_path, Columns(text="body"), **options)["test"],
        lambda **options: read_split(tmp_path, "test", Columns(text="body"), **options),
    ):
        assert read(empty_texts="keep").texts == ["a", ""]


def test_unknown_split(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a")
    write(tmp_path / "test.csv", "a")
    with pytest.raises(DataError) as caught:
        read_split(str(tmp_path), "tests")
    assert str(caught.value) == (
        f"{tmp_path}: unknown split 'tests': expected one of 'test', 'train'; did you mean 'test'?"
    )


def test_two_files_for_one_split(tmp_path: Path) -> None:
    write(tmp_path / "dev.csv", "a")
    write(tmp_path / "val.csv", "a")
    with pytest.raises(DataError) as caught:
        read_splits(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: dev.csv and val.csv are both the split 'validation'; keep one of them"
    )


@pytest.mark.parametrize(("names", "found"), [([], "an empty folder"), (["a", "b"], "a, b")])
def test_folder_without_splits(names: list[str], found: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(DataError) as caught:
        read_splits(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: expected files named train, validation (or dev, valid, val) or test, "
        f"ending in .csv, .tsv, .jsonl, .parquet, .txt, .conll (or with .gz), got {found}"
    )


@pytest.mark.parametrize(
    "source",
    [
        "/nowhere/data",
        "./data",
        "../data",
        "~/nowhere",
        "data.csv",
        "my data",
        "a/b/c",
        "",
        "a/b.gz",
        "a" * 300 + ".csv",
    ],
)
def test_no_such_source(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = (
        f"{source}: no such file or folder; give a file, a folder with a file per split, "
        "or a data set of the hub (owner/name)"
    )
    for read in (lambda: read_splits(source), lambda: read_split(source, "train")):
        with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
            read()


def test_lines_from_other_tools(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    rows = [{"sentence1": "é", "sentence2": "b\u2028c", "label": 0, "idx": 1}]
    path.write_bytes(gzip.compress("\r\n".join(map(json.dumps, rows)).encode()))
    assert read_split(tmp_path, "train") == Examples([("é", "b\u2028c")], ["0"], str(path))


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """A hub with one data set, held in memory; the list of what was asked for."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    contents = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {"text": [f"text {index}" for index in range(len(labels))], "label": labels},
                features=features,
            )
            for name, labels in {"train": [1, 0], "dev": [0, 1], "test": [-1, -1]}.items()
        }
    )
    asked: list[tuple[str, ...]] = []

    def load_dataset(*arguments: str) -> datasets.DatasetDict:
        asked.append(arguments)
        return contents

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    return asked


def test_class_numbers_become_names(hub: list[tuple[str, ...]]) -> None:
    splits = read_splits("owner/name", splits=["train", "validation"])
    assert splits == {
        "train": Examples(["text 0", "text 1"], ["pos", "neg"], "owner/name (train)"),
        "validation": Examples(["text 0", "text 1"], ["neg", "pos"], "owner/name (dev)"),
    }
    assert hub == [("owner/name",)]


def test_class_numbers_in_lists_become_names(
    hub: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    kind = datasets.ClassLabel(names=["O", "B-place", "I-place"])
    words = datasets.Sequence(datasets.Value("string"))
    features = datasets.Features({"tokens": words, "ner_tags": datasets.Sequence(kind)})
    rows = {"tokens": [["in", "New", "York"], ["no"]], "ner_tags": [[0, 1, 2], [0]]}
    split = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": split})
    found = read_tagged_split("owner/name", "train")
    assert found.tags == [["O", "B-place", "I-place"], ["O"]]
    assert found.texts == rows["tokens"]


def test_configuration_of_a_hub_data_set(hub: list[tuple[str, ...]]) -> None:
    for source in ("owner/name-v1.1:small", "name:small"):
        assert read_split(source, "dev").labels == ["neg", "pos"]
    assert hub == [("owner/name-v1.1", "small"), ("name", "small")]


def test_secret_labels_are_missing_labels(hub: list[tuple[str, ...]]) -> None:
    for read in (lambda: read_split("owner/name", "test"), lambda: read_splits("owner/name")):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value) == (
            "owner/name (test): 2 of 2 rows have no label in column 'label' (rows 1, 2), "
            "the first is None; label, remove, or skip them with --missing-labels skip "
            "(data.missing_labels)"
        )


def test_unknown_split_of_a_hub_data_set(hub: list[tuple[str, ...]]) -> None:
    expected = "^owner/name: unknown split 'extra': expected one of 'train', 'validation', 'test'"
    with pytest.raises(DataError, match=expected):
        read_split("owner/name", "extra")


def test_empty_split_of_a_hub_data_set(
    hub: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    empty = datasets.Dataset.from_dict({"text": [], "label": []})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {"train": empty})
    with pytest.raises(DataError) as caught:
        read_splits("owner/name")
    assert str(caught.value) == "owner/name (train): expected at least one row, got an empty split"


def test_local_files_come_before_the_hub(hub: list[tuple[str, ...]], tmp_path: Path) -> None:
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").mkdir()
    write(tmp_path / "owner" / "name" / "train.csv", "local")
    assert read_split("owner/name", "train").labels == ["local"]
    assert hub == []


def test_hub_that_cannot_be_reached(
    hub: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def offline(name: str) -> None:
        raise ConnectionError("no route to the hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError) as caught:
        read_splits("owner/name")
    assert str(caught.value) == (
        "owner/name: no file or folder of this name is here, and it could not be loaded as a "
        "data set of the hub (ConnectionError: no route to the hub); check the name (owner/name, "
        "or owner/name:config) and the network, or give a local file or folder"
    )
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_hub_without_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError) as caught:
        read_splits("owner/name")
    assert str(caught.value) == (
        "reading a data set from the hub needs an optional library: pip install 'ltuning[hub]'"
    )
