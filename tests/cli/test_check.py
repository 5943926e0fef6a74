from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import write_csv

Check = Callable[..., Any]


@pytest.fixture
def check(tiny_bert: Path, ltuning: Callable[..., Any], tmp_path: Path) -> Check:
    """Looks at a source and gives the outcome and the record that was written."""

    def call(source: Path, *arguments: Any) -> tuple[Any, dict[str, Any]]:
        output = tmp_path / "found.json"
        words = ("--backbone", tiny_bert, "--output", output, "--overwrite")
        outcome = ltuning("check", source, *words, *arguments)
        assert outcome.code == 0, outcome.stderr
        return outcome, json.loads(output.read_text())

    return call


def kinds(record: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(one["kind"], one["split"], one["count"]) for one in record["findings"]]


def test_nothing_is_found_in_good_texts(check: Check, data: Path) -> None:
    outcome, record = check(data)
    assert outcome.stdout.startswith(
        f"data    {data}\ntexts   train 48, test 30\nlabels  3 in train\n"
    )
    assert outcome.stdout.endswith("nothing found\n")
    labels = {"food": 16, "sport": 16, "travel": 16}
    assert record["splits"]["train"] == {"texts": 48, "labels": labels}
    assert (record["task"], record["data"], record["findings"]) == ("classes", str(data), [])


def test_what_is_found_is_shown_and_written(check: Check, toy: Any, tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    texts = [*toy.texts, "a ball " * 60, "gestern immer wieder brot"]
    write_csv(folder / "train.csv", texts, [*toy.labels, "1", "sport|1"])
    write_csv(folder / "test.csv", ["gestern immer wieder brot"], ["1"])
    outcome, record = check(folder, "--label", "1=2", "--label", "sport|1=sport")
    assert kinds(record) == [
        ("few texts", "train", 2),
        ("in both", "test", 1),
        ("label names", "train", 1),
        ("label texts", "train", 1),
        ("long texts", "train", 1),
        ("language", "test", 1),
    ]
    assert record["findings"][4]["found"] == [{"line": 50, "tokens": 122}]
    windows = check(folder, "--no-model", "--set", "data.long_texts=windows")[1]
    assert "long texts" not in [kind for kind, _, _ in kinds(windows)]
    assert "the label 'sport|1' looks like several" in outcome.stdout.replace("\n", " ")
    assert "│ food   " in outcome.stdout


def test_it_is_told_how_long_the_model_reads(
    check: Check, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check(data)[0].stderr == ""
    monkeypatch.setattr("ltuning.cli.check._TOLD_FROM", 0.0)
    assert re.fullmatch(
        r"label errors: the model reads 48 training texts, which takes about \d+ s; --no-model "
        r"leaves them out\n",
        check(data)[0].stderr,
    )


@pytest.mark.usefixtures("no_model")
def test_without_the_model_no_weights_are_read(check: Check, data: Path) -> None:
    assert check(data, "--no-model")[1]["findings"] == []


def test_label_errors_come_with_a_table(
    check: Check, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setattr("ltuning.cli.check._MOST", 40)
    labels = [*toy.labels[3:6][::-1], *toy.labels[3:]]  # the first and the third are wrong

    def states(config: Any, examples: Any, terminal: Any) -> np.ndarray:
        rows = [toy.texts.index(text) for text in examples.texts]
        return np.array([np.eye(3)[toy.names.index(toy.labels[row])] for row in rows])

    monkeypatch.setattr("ltuning.cli.check._states", states)
    source = write_csv(tmp_path / "train.csv", toy.texts, labels)
    outcome, record = check(source)
    (finding,) = record["findings"]
    assert f"{finding['count']} of 40 labels may be wrong" in finding["sentence"]
    likelier = {one["line"]: one["likelier"] for one in finding["found"]}
    assert likelier and likelier.items() <= {2: toy.labels[0], 4: toy.labels[2]}.items()
    assert "labels that may be wrong, the least likely first" in outcome.stdout
    assert "of 48 training texts 40 are looked at, drawn at random" in outcome.stderr


def test_a_label_method_and_labels_it_cannot_read(check: Check, toy: Any, tmp_path: Path) -> None:
    signs = {"food": "+", "sport": "-", "travel": "a"}
    source = write_csv(tmp_path / "t.csv", toy.texts, [signs[label] for label in toy.labels])
    (finding,) = check(source, "--no-model")[1]["findings"]
    assert finding["sentence"] == "the label '-' has an empty text: write what it means"
    assert check(source, "--no-model", "--method", "probe")[1]["findings"] == []


def test_a_test_split_that_cannot_be_used_is_left_out(
    check: Check, ltuning: Callable[..., Any], toy: Any, tmp_path: Path
) -> None:
    (folder := tmp_path / "data").mkdir()
    write_csv(folder / "train.csv", toy.texts, toy.labels)
    (folder / "test.csv").write_text("text\na ball\nbread\n")
    _, record = check(folder)
    assert kinds(record) == [("left out", "test", 0)]
    assert record["splits"].keys() == {"train"}
    assert "expected a label column" in record["findings"][0]["sentence"]
    (folder / "train.csv").unlink()
    alone = ltuning("check", folder)
    assert alone.code == 1
    assert "expected a label column" in alone.stderr


def test_other_tasks(check: Check, tmp_path: Path) -> None:
    several = tmp_path / "several.csv"
    several.write_text("text,labels\n" + "a ball,food|sport\nbread,\n" * 8)
    outcome, record = check(several, "--task", "multilabel")
    assert kinds(record) == [("repeated", "train", 2)]
    assert "50.0%" in outcome.stdout
    tags = tmp_path / "tags.jsonl"
    row = {"tokens": ["a", "ball"] * 100, "tags": ["O", "B-thing"] * 100}
    tags.write_text(json.dumps(row) + "\n")
    assert kinds(check(tags, "--task", "tags")[1]) == [("few texts", "train", 1)]


def test_quiet_writes_and_shows_nothing(check: Check, data: Path) -> None:
    outcome, record = check(data, "--quiet", "--no-model")
    assert (outcome.stdout, outcome.stderr) == ("", "")
    assert record["splits"].keys() == {"train", "test"}


@pytest.mark.usefixtures("no_model")
def test_what_is_refused(ltuning: Callable[..., Any], data: Path, tmp_path: Path) -> None:
    taken = tmp_path / "found.json"
    taken.write_text("{}")
    outcome = ltuning("check", tmp_path / "no.csv", "--output", taken)
    assert outcome.code == 1
    assert f"{tmp_path / 'no.csv'}: no such file or folder" in outcome.stderr
    assert f"{taken} exists already: choose another file, or add --overwrite" in outcome.stderr
    assert taken.read_text() == "{}"
    source = tmp_path / "missing.csv"
    source.write_text("text,label\n,a\nb,\nc,a\nd,b\n")
    outcome = ltuning("check", source)
    assert outcome.code == 1
    assert "1 empty text (line 2)" in outcome.stderr
    assert "1 of 3 rows have no label in column 'label' (line 3)" in outcome.stderr
    skipping = ("--empty-texts", "skip", "--missing-labels", "skip", "--no-model")
    assert ltuning("check", data, *skipping, "--set", "method.rnk=1").code == 1
