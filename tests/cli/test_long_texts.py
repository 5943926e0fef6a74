"""Texts that are longer than the model reads, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .conftest import write_csv


def test_texts_are_read_whole_by_who_was_trained_so(
    run: Callable[..., Any], ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    filler = " ".join(["the"] * 70)
    lines = f"the ball\n{filler} the ball\n{filler} the hotel\n"
    whole = tmp_path / "whole"
    assert run("--output", whole, "--long-texts", "windows", "--quiet").stderr == ""
    assert yaml.safe_load((whole / "config.yaml").read_text())["data"]["long_texts"] == "windows"
    assert "read in parts that overlap" in (whole / "README.md").read_text()
    found = ltuning("predict", whole, input=lines)
    assert found.stderr == ""
    probabilities = [line.split("\t")[-1] for line in found.stdout.splitlines()]
    assert probabilities[2] != probabilities[3]

    found = ltuning("predict", trained, input=lines)
    assert found.stderr == (
        "warning: 2 of 3 texts are longer than the 64 tokens that the model reads, and are cut: of "
        "the longest, 74 tokens, 10 are not read; train with --long-texts windows "
        "(data.long_texts) to read texts whole\n"
    )
    probabilities = [line.split("\t")[-1] for line in found.stdout.splitlines()]
    assert probabilities[2] == probabilities[3]
    outcome = run("--output", tmp_path / "other", "--long-texts", "window")
    assert outcome.code == 1
    assert (
        "data.long_texts: expected one of 'cut', 'windows', got 'window'; did you mean 'windows'?"
        in outcome.stderr
    )


def test_check_tells_of_texts_that_training_would_cut(
    ltuning: Callable[..., Any], tiny_bert: Path, tmp_path: Path
) -> None:
    rows = ["the ball", "the " * 70, "bread", "cheese"]
    file = write_csv(tmp_path / "long.csv", rows, ["sport", "sport", "food", "food"])
    arguments = ("check", file, "--backbone", tiny_bert, "--no-model", "--overwrite")
    said = "1 of 4 texts are longer than the 64 tokens that the model reads"
    for settings, is_said in (((), True), (("--set", "data.long_texts=windows"), False)):
        outcome = ltuning(*arguments, "--output", tmp_path / "found.json", *settings)
        assert outcome.code == 0
        assert (said in (tmp_path / "found.json").read_text()) == is_said
