"""Several labels per text through the command line: train, evaluate, predict, resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..estimators.test_multilabel_classifier import LABELS, TEST, TRAINING, VALIDATION

Command = Callable[..., Any]


def write_jsonl(path: Path, texts: list[str], lists: list[list[str]]) -> Path:
    rows = [{"text": text, "labels": labels} for text, labels in zip(texts, lists, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, texts: list[str], lists: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [(text, "|".join(labels)) for text, labels in zip(texts, lists, strict=True)]
        csv.writer(file).writerows([("text", "labels"), *rows])
    return path


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_jsonl(folder / "train.jsonl", *TRAINING)
    write_csv(folder / "dev.csv", *VALIDATION)
    write_jsonl(folder / "test.jsonl", *TEST)
    return folder


@pytest.fixture(scope="module")
def trained(
    ltuning: Command, several: Path, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "several"
    labels = [word for pair in LABELS.items() for word in ("--label", "=".join(pair))]
    outcome = ltuning(
        "train", "--task", "multilabel", "--data", several, "--backbone", tiny_bert, "--steps", 60,
        "--set", "training.learning_rate=1e-2", *labels, "--output", folder,
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert "64 texts to train on, 40 to validate on" in outcome.stderr
    said = " ".join(outcome.stdout.split())
    assert "micro F1 " in said and "macro F1 " in said and "exact match " in said
    assert "for each label the best of the validation texts" in said
    return folder


def test_the_folder_says_thresholds_and_figures(trained: Path) -> None:
    config = json.loads((trained / "ltuning_config.json").read_text())
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["thresholds"] == dict(zip(LABELS, config["thresholds"], strict=True))
    card = (trained / "README.md").read_text()
    assert f"| sport | ball and team | {config['thresholds'][1]:.4f} |" in card
    assert "those of 3 labels that apply to it" in card
    assert f"| micro F1 | {metrics['validation']['micro_f1']:.4f} |" in card


def test_evaluate(ltuning: Command, trained: Path, several: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    outcome = ltuning("evaluate", trained, "--data", several, "--output", file)
    assert outcome.code == 0, outcome.stderr
    for words in ("micro F1", "macro recall", "exact match", "per label", "threshold", "texts"):
        assert words in outcome.stdout
    assert "confusion" not in outcome.stdout
    report = json.loads(file.read_text())
    assert report["micro_f1"] > 0.8
    assert report["num_examples"] == 60
    thresholds = json.loads((trained / "metrics.json").read_text())["thresholds"]
    assert {row["label"]: row["threshold"] for row in report["per_class"]} == thresholds


def test_predict_lists(ltuning: Command, trained: Path, several: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    words = ["predict", trained, several / "test.jsonl", "--probabilities", "--output", output]
    outcome = ltuning(*words)
    assert outcome.code == 0, outcome.stderr
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in found] == TEST[0]
    thresholds = json.loads((trained / "metrics.json").read_text())["thresholds"]
    for row in found:
        reached = [name for name, at in thresholds.items() if row[f"probability_{name}"] >= at]
        assert row["predicted_labels"] == reached
    assert any(row["predicted_labels"] == [] for row in found)
    assert any(len(row["predicted_labels"]) > 1 for row in found)


def test_predict_cells_that_can_be_read_again(
    ltuning: Command, trained: Path, several: Path, tmp_path: Path
) -> None:
    lines = "\n".join(TEST[0]) + "\n\n"
    outcome = ltuning("predict", trained, "-", input=lines)
    assert outcome.code == 0, outcome.stderr
    rows = list(csv.DictReader(outcome.stdout.splitlines(), delimiter="\t"))
    assert list(rows[0]) == ["text", "predicted_labels"]
    assert [row["text"] for row in rows] == [*TEST[0], ""]
    assert any("|" in row["predicted_labels"] for row in rows)
    said = tmp_path / "said.tsv"
    lines = outcome.stdout.replace("predicted_labels", "labels").splitlines(keepends=True)
    said.write_text("".join(lines[:-1]))
    agreement = ltuning("evaluate", trained, "--data", said, "--output", tmp_path / "report.json")
    assert agreement.code == 0, agreement.stderr
    assert json.loads((tmp_path / "report.json").read_text())["exact_match"] == 1.0


def test_a_part_is_held_out_and_the_options_repeat_the_run(
    ltuning: Command, tiny_bert: Path, tmp_path: Path
) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", *TRAINING)
    words = ["--data", data, "--backbone", tiny_bert, "--steps", 2, "--method", "probe"]
    outcome = ltuning("train", "--task", "multilabel", *words, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert "are held out for validation, from each label its share" in outcome.stderr
    again = ltuning(
        "train", "--config", tmp_path / "run" / "config.yaml", "--output", tmp_path / "again"
    )
    assert again.code == 0, again.stderr
    first, second = (tmp_path / name / "adapter_model.safetensors" for name in ("run", "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("lists", "arguments", "sentence"),
    [
        ([["food"], "food"], [], "train.jsonl, line 2: expected a list of label names"),
        ([["food", "food"], []], [], "train.jsonl, line 1: expected every label once"),
        ([[], []], [], "expected labels in the training texts, got an empty list for every one"),
        (
            [["food"], ["fod"]],
            ["--label", "food=a", "--label", "sport=b"],
            "for every label of the data or for none, got none for 'fod'; no text has the label "
            "'sport': add",
        ),
        ([["food"], []], ["--shots", 3], "data.shots: task 'multilabel' has no texts of one class"),
        ([["food"], []], ["--set", "stopping.metric=mcc"], "expected 'loss', 'micro_f1' or 'macro"),
        (
            [["food"], []],
            ["--set", "method.negatives=2"],
            "none is drawn; leave it out, or set method.labels=apart",
        ),
    ],
)
def test_what_is_refused(
    lists: Any, arguments: Any, sentence: str, ltuning: Command, tiny_bert: Path, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "train.jsonl", ["one", "two"], lists)
    write_jsonl(tmp_path / "dev.jsonl", ["one"], [[]])
    outcome = ltuning(
        "train", "--task", "multilabel", "--data", tmp_path, "--backbone", tiny_bert,
        "--steps", 1, "--output", tmp_path / "run", *arguments,
    )  # fmt: skip
    assert outcome.code == 1
    assert sentence in " ".join(outcome.stderr.split())
    assert not (tmp_path / "run" / "ltuning_config.json").exists()


def test_a_name_with_the_separator_needs_a_format_with_lists(
    ltuning: Command, tiny_bert: Path, tmp_path: Path
) -> None:
    lists = [[{"food": "food|drink"}.get(name, name) for name in names] for names in TRAINING[1]]
    data = write_jsonl(tmp_path / "train.jsonl", TRAINING[0], lists)
    outcome = ltuning(
        "train", "--task", "multilabel", "--data", data, "--backbone", tiny_bert, "--steps", 20,
        "--method", "full", "--set", "training.learning_rate=3e-3", "--output", tmp_path / "run",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    refused = ltuning("predict", tmp_path / "run", data, "--output", tmp_path / "out.csv")
    assert refused.code == 1
    assert "expected label names without '|', which stands between them in csv" in refused.stderr
    outcome = ltuning("predict", tmp_path / "run", data, "--output", tmp_path / "out.jsonl")
    assert outcome.code == 0, outcome.stderr
