"""`ltuning predict --zero-shot`: no classifier, the label texts alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
LABELS = ("--label", "food=bread", "--label", "sport=ball and team")


def test_texts_get_the_nearest_label(ltuning: Command, tiny_bert: Path, tmp_path: Path) -> None:
    from ltuning import LabelClassifier

    file = tmp_path / "texts.csv"
    file.write_text("id,text\n1,bread and cheese\n2,the team\n")
    outcome = ltuning("predict", "--zero-shot", *LABELS, "--backbone", tiny_bert, file)
    guess = LabelClassifier(tiny_bert, {"food": "bread", "sport": "ball and team"})
    texts = ["bread and cheese", "the team"]
    answers = zip(guess.predict(texts), guess.predict_proba(texts).max(1), strict=True)
    lines = [line.split(",") for line in outcome.stdout.splitlines()]
    assert lines[0] == ["id", "text", "predicted_label", "probability"]
    assert [(label, float(chance)) for *_, label, chance in lines[1:]] == [
        (label, pytest.approx(chance, abs=1e-5)) for label, chance in answers
    ]
    assert (outcome.code, outcome.stderr.count("every answer is a guess")) == (0, 1)


def test_a_text_of_the_command_line_and_labels_of_a_file(
    ltuning: Command, tiny_bert: Path, tmp_path: Path
) -> None:
    file = tmp_path / "labels.yaml"
    file.write_text("[food, sport]\n")
    words = ("--labels", file, "--backbone", tiny_bert, "--text", "food")
    outcome = ltuning("predict", "--zero-shot", *words, "--probabilities")
    assert outcome.code == 0
    header, row = (line.split("\t") for line in outcome.stdout.splitlines())
    assert header[1:] == ["predicted_label", "probability", "probability_food", "probability_sport"]
    assert row[:2] == ["food", "food"]


def test_the_guess_is_measured(ltuning: Command, tiny_bert: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "test.csv", tmp_path / "figures.json"
    file.write_text("text,label\nbread,food\nthe team,sport\na ball,food\n")
    words = (*LABELS, "--backbone", tiny_bert, "--data", file, "--output", output)
    outcome = ltuning("evaluate", "--zero-shot", *words)
    assert outcome.code == 0, outcome.stderr
    figures = json.loads(output.read_text())
    assert (figures["num_examples"], figures["classifier"]) == (3, None)
    assert figures["accuracy"] == pytest.approx(2 / 3)
    outcome = ltuning("evaluate", "runs/mine", "--zero-shot", *words)
    said = "--zero-shot: expected no trained classifier beside it, got runs/mine; leave one of them"
    assert outcome.code == 1 and said in " ".join(outcome.stderr.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--zero-shot", "--text", "bread"),
            "--label: missing; give NAME=TEXT for each label",
        ),
        (
            ("--zero-shot", *LABELS, "runs/mine", "texts.txt"),
            "expected no trained classifier with --zero-shot, got runs/mine before the file "
            "texts.txt; leave one of them out",
        ),
        (
            ("runs/mine", *LABELS, "--text", "bread"),
            "--label: expected with --zero-shot alone, as a trained classifier has its own labels; "
            "leave it out",
        ),
        (("--zero-shot", "--label", "bread", "--text", "x"), "--label: expected NAME=TEXT"),
        (
            ("--zero-shot", *LABELS, Path(), "--text", "bread"),
            "expected no trained classifier with --zero-shot, got .; leave one of them out",
        ),
        (
            ("--zero-shot", *LABELS, "--coverage", ".9", "--text", "bread"),
            "expected a trained classifier for --coverage, which goes by held-out texts, got "
            "--zero-shot; leave one of them out",
        ),
    ],
)
def test_what_does_not_go_together(
    ltuning: Command, words: tuple[str | Path, ...], said: str
) -> None:
    outcome = ltuning("predict", *words)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert said in " ".join(outcome.stderr.split())


def test_a_classifier_is_asked_for_without_it(ltuning: Command) -> None:
    outcome = ltuning("predict", "--text", "bread")
    assert outcome.code == 2
    words = " ".join(outcome.stderr.replace("│", " ").split())
    assert "missing; give the folder of a trained classifier, or say --zero-shot" in words
