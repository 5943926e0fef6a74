"""Texts that are longer than the model reads, on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


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
    assert "data.long_texts: " in outcome.stderr and "window" in outcome.stderr
