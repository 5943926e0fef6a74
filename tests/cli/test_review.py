from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from .conftest import write_csv

Command = Callable[..., Any]


@pytest.fixture
def unlabelled(toy: Any, tmp_path: Path) -> Path:
    """Twenty texts, one of them twice, and one that is empty."""
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        texts = [*toy.test_texts[:20], "", toy.test_texts[0]]
        csv.writer(file).writerows([("id", "text"), *enumerate(texts)])
    return path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_rows_of_the_chosen_texts_come_with_what_is_predicted(
    ltuning: Command, trained: Path, unlabelled: Path
) -> None:
    outcome = ltuning("review", trained, unlabelled, "--count", 4)
    assert outcome.code == 0
    assert outcome.stderr == f"warning: {unlabelled}: 1 empty text (line 22) skipped\n"
    found = rows(outcome.stdout)
    assert list(found[0]) == ["id", "text", "predicted_label", "probability"]
    assert len({row["text"] for row in found}) == 4
    said = {row["id"]: row for row in rows(ltuning("predict", trained, unlabelled).stdout)}
    assert all(row == said[row["id"]] for row in found)
    chances = [float(row["probability"]) for row in said.values() if row["text"]]
    assert min(float(row["probability"]) for row in found) < sum(chances) / len(chances)
    assert ltuning("review", trained, unlabelled, "--count", 4).stdout == outcome.stdout


def test_all_texts_where_there_are_no_more(
    ltuning: Command, trained: Path, unlabelled: Path, tmp_path: Path
) -> None:
    output = tmp_path / "chosen.jsonl"
    outcome = ltuning("review", trained, unlabelled, "--output", output)
    assert outcome.stderr.endswith("20 texts, as there are no more\n")
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert sorted(int(row["id"]) for row in found) == [*range(20)]
    again = ltuning("review", trained, unlabelled, "--output", output)
    assert (again.code, "exists already" in again.stderr) == (1, True)
    more = ("--overwrite", "--replace-columns", "--count", 3, "--quiet")
    assert ltuning("review", trained, output, "--output", output, *more).code == 0
    assert len(output.read_text().splitlines()) == 3


def test_an_earlier_prediction_goes_with_all_its_columns(
    ltuning: Command, trained: Path, unlabelled: Path, tmp_path: Path
) -> None:
    predicted, output = tmp_path / "predicted.jsonl", tmp_path / "chosen.jsonl"
    asked = ("--probabilities", "--output", predicted, "--quiet")
    assert ltuning("predict", trained, unlabelled, *asked).code == 0
    rows = [json.loads(line) for line in predicted.read_text().splitlines()]
    lines = [json.dumps(row | {"prediction_set": ["sport"]}) for row in rows]
    predicted.write_text("\n".join(lines))
    more = ("--output", output, "--replace-columns", "--count", 2, "--quiet")
    assert ltuning("review", trained, predicted, *more).code == 0
    columns = {name for line in output.read_text().splitlines() for name in json.loads(line)}
    assert columns == {"id", "text", "predicted_label", "probability"}


def test_columns_of_parquet_keep_their_types(
    ltuning: Command, trained: Path, toy: Any, tmp_path: Path
) -> None:
    import pyarrow.parquet

    texts, numbers = toy.test_texts[:6], pyarrow.array(range(6), pyarrow.int32())
    times = pyarrow.array(range(6), pyarrow.timestamp("ns"))
    table = pyarrow.table({"text": texts, "n": numbers, "at": times})
    source, output = tmp_path / "x.parquet", tmp_path / "y.parquet"
    pyarrow.parquet.write_table(table, source)
    assert ltuning("review", trained, source, "--count", 3, "--output", output).code == 0
    found = pyarrow.parquet.read_table(output)
    assert found.schema.field("n").type == pyarrow.int32()
    assert found.schema.field("at").type == pyarrow.timestamp("ns")
    assert [texts[row] for row in found["n"].to_pylist()] == found["text"].to_pylist()
    assert found["at"].cast(pyarrow.int64()).to_pylist() == found["n"].to_pylist()
    assert len(found) == 3


def test_lines_of_text(ltuning: Command, trained: Path, toy: Any, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(toy.test_texts))
    outcome = ltuning("review", trained, lines, "--count", 2)
    assert outcome.stdout.startswith("text\tpredicted_label\tprobability\n")
    assert len(outcome.stdout.splitlines()) == 3


def test_tasks_for_label_studio(
    ltuning: Command, trained: Path, unlabelled: Path, tmp_path: Path
) -> None:
    """The names of the tags are those of the interface that is told."""
    output = tmp_path / "tasks.json"
    words = ("--format", "label-studio", "--count", 3)
    outcome = ltuning("review", trained, unlabelled, *words, "--output", output)
    assert (outcome.code, outcome.stdout) == (0, "")
    tasks = json.loads(output.read_text())
    said = {row["id"]: row for row in rows(ltuning("predict", trained, unlabelled).stdout)}
    assert len(tasks) == 3
    for number, task in enumerate(tasks, start=1):
        row = said[task["data"]["id"]]
        assert task["data"] == {"id": row["id"], "text": row["text"]}
        result = {
            "id": f"ltuning-{number}",
            "from_name": "label",
            "to_name": "text",
            "type": "choices",
            "value": {"choices": [row["predicted_label"]]},
        }
        score = float(row["probability"])
        assert task["predictions"] == [
            {"model_version": "ltuning", "score": score, "result": [result]}
        ]
    assert json.loads(ltuning("review", trained, unlabelled, *words, "--quiet").stdout) == tasks
    view = ElementTree.fromstring(outcome.stderr[outcome.stderr.index("<View>") :])
    assert [tag.attrib for tag in view] == [
        {"name": "text", "value": "$text"},
        {"name": "label", "toName": "text", "choice": "single"},
    ]
    assert [tag.attrib["value"] for tag in view[1]] == ["food", "sport", "travel"]


def test_texts_with_several_labels(
    ltuning: Command, tiny_bert: Path, toy: Any, tmp_path: Path
) -> None:
    data, run = tmp_path / "several.csv", tmp_path / "several"
    write_csv(data, toy.texts, [f"{label}|word" for label in toy.labels])
    words = ("--task", "multilabel", "--backbone", tiny_bert, "--steps", 1, "--method", "probe")
    assert ltuning("train", data, "--output", run, *words).code == 0
    found = rows(ltuning("review", run, data, "--count", 3, "--quiet").stdout)
    assert list(found[0]) == ["text", "label", "predicted_labels"] and len(found) == 3
    words = ("--count", 1, "--format", "label-studio")
    outcome = ltuning("review", run, data, *words)
    (task,) = json.loads(outcome.stdout)
    assert task["data"].keys() == {"text", "label"}
    (prediction,) = task["predictions"]
    assert prediction.keys() == {"model_version", "result"}
    assert 'choice="multiple"' in outcome.stderr


def test_what_is_refused(ltuning: Command, trained: Path, unlabelled: Path, tmp_path: Path) -> None:
    def refusal(*arguments: Any) -> str:
        outcome = ltuning("review", trained, *arguments)
        assert (outcome.code, outcome.stdout) == (1, "")
        return outcome.stderr.splitlines()[-1]

    assert refusal(unlabelled, "--format", "labelstudio") == (
        "error: unknown format 'labelstudio': expected one of 'table', 'label-studio'; did you "
        "mean 'label-studio'?"
    )
    tasks = ("--format", "label-studio", "--output")
    assert refusal(unlabelled, *tasks, tmp_path / "tasks.csv") == (
        f"error: {tmp_path / 'tasks.csv'}: expected a file ending of .json for Label Studio, got "
        "'.csv'; rename it"
    )
    empty = tmp_path / "empty.csv"
    empty.write_text("text,id\n,1\n ,2\n")
    assert "every text is empty" in refusal(empty)
    empty.write_text("id\n1\n")
    assert "expected a text column" in refusal(empty)
