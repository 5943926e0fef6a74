"""Tags through the command line: train, evaluate, predict, resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..estimators.test_token_classifier import TEST, TRAINING

Command = Callable[..., Any]


def write_jsonl(path: Path, tokens: list[list[str]], tags: list[list[str]]) -> Path:
    rows = [{"tokens": t, "tags": g} for t, g in zip(tokens, tags, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tagged")
    write_jsonl(folder / "train.jsonl", *TRAINING)
    lines = ["\n".join(map("\t".join, zip(*row, strict=True))) for row in zip(*TEST, strict=True)]
    (folder / "test.conll").write_text("\n\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(
    ltuning: Command, tagged: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tagger"
    outcome = ltuning(
        "train", "--task", "tags", "--data", tagged, "--backbone", tiny_llama, "--steps", 60,
        "--method", "ls-unmask", "--set", "training.learning_rate=1e-2", "--output", folder,
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert "of 40 training texts 4 are held out for validation; 36 are trained on" in outcome.stderr
    assert "F1 " in outcome.stdout
    return folder


def test_evaluate(ltuning: Command, trained: Path, tagged: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    outcome = ltuning("evaluate", trained, "--data", tagged, "--output", file)
    assert outcome.code == 0, outcome.stderr
    assert "F1 of entities" in outcome.stdout
    assert "per type" in outcome.stdout
    report = json.loads(file.read_text())
    assert report["f1"] >= 0.6
    assert report["num_examples"] == 15


def test_predict_texts(ltuning: Command, trained: Path) -> None:
    outcome = ltuning("predict", trained, "-", input="the bread the\n\nball the\n")
    assert outcome.code == 0, outcome.stderr
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["the bread the", "", "ball the"]
    assert rows[1]["predicted_spans"] == []
    (span,) = rows[0]["predicted_spans"]
    assert (span["start"], span["end"], span["text"], span["type"]) == (4, 9, "bread", "food")


def test_predict_words(ltuning: Command, trained: Path, tagged: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.conll"
    outcome = ltuning("predict", trained, tagged / "test.conll", "--output", output)
    assert outcome.code == 0, outcome.stderr
    lines = output.read_text().splitlines()
    assert len(lines[0].split("\t")) == 3
    assert [line.split("\t")[0] for line in lines if line] == [
        word for tokens in TEST[0] for word in tokens
    ]
    said = [line.split("\t")[1:] for line in lines if line]
    assert sum(real == guess for real, guess in said) / len(said) > 0.8
    outcome = ltuning("predict", trained, tagged / "test.conll", "--probabilities")
    assert outcome.code == 1
    assert "got a tagger, whose spans come with theirs" in outcome.stderr


def test_the_method_is_chosen_for_tags_where_none_is_named(
    ltuning: Command, tagged: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    words = ["train", "--task", "tags", "--data", tagged, "--backbone", tiny_bert, "--steps", 1]
    outcome = ltuning(*words, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert "trained ls-lora on" in " ".join(outcome.stdout.split())
    words[1:3] = ["--set", "task=tags"]
    outcome = ltuning(*words, "--output", tmp_path / "set")
    assert outcome.code == 0, outcome.stderr
    assert "trained ls-lora on" in " ".join(outcome.stdout.split())
    again = ltuning(
        "train", "--config", tmp_path / "run" / "config.yaml", "--output", tmp_path / "again"
    )
    assert again.code == 0, again.stderr
    refused = ltuning(*words, "--method", "lt-prefix", "--output", tmp_path / "other")
    assert refused.code == 1
    assert "expected a method that gives every word a score" in refused.stderr


def test_a_second_text_is_refused(
    ltuning: Command, trained: Path, tagged: Path, tmp_path: Path
) -> None:
    column = ("--text-pair-column", "other")
    refused = ltuning(
        "train", "--task", "tags", "--data", tagged, *column, "--output", tmp_path / "run"
    )
    assert refused.code == 1
    assert refused.stderr == (
        "error: 1 problem in the configuration:\n"
        "  data.text_pair_column: task 'tags' has no pairs of texts; leave it out\n"
    )
    for words in (
        ["evaluate", trained, "--data", tagged],
        ["predict", trained, tagged / "test.conll"],
    ):
        refused = ltuning(*words, *column)
        assert (refused.code, refused.stdout) == (1, "")
        assert refused.stderr == (
            "error: expected no --text-pair-column, as task 'tags' has no pairs of texts, got "
            "'other'; leave it out\n"
        )


def test_params_counts_virtual_tokens_only(ltuning: Command, tiny_bert: Path) -> None:
    outcome = ltuning("params", "--backbone", tiny_bert, "--method", "ls-lora")
    assert outcome.code == 1
    assert "expected a method with virtual tokens" in outcome.stderr


def test_review_is_of_texts(ltuning: Command, trained: Path, tagged: Path) -> None:
    outcome = ltuning("review", trained, tagged / "train.jsonl")
    assert outcome.code == 1
    assert outcome.stderr == (
        f"error: expected a classifier of texts, got one of words (task 'tags') in {trained}; "
        "choose sentences for it at random\n"
    )
