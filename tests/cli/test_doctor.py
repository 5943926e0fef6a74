"""`ltuning doctor` through its entry point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltuning.backbones import selftest


def test_the_doctor_says_what_a_backbone_is(ltuning: Callable[..., Any], tiny_llama: Path) -> None:
    outcome = ltuning("doctor", "--backbone", tiny_llama)
    assert outcome.code == 0
    assert "llama (in the table of families), causal" in outcome.stdout
    assert "2 key/value heads of 8" in outcome.stdout
    assert "rotary, 64 tokens" in outcome.stdout
    assert outcome.stdout.count("holds") == len(selftest._CHECKS)
    assert "FAILS" not in outcome.stdout


def test_the_doctor_fails_with_what_fails(
    ltuning: Callable[..., Any], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = ("water is wet", "every method", lambda _: (False, "it was dry"))
    monkeypatch.setattr(selftest, "_CHECKS", (*selftest._CHECKS, check))
    outcome = ltuning("doctor", "--backbone", tiny_bert)
    assert outcome.code == 1
    assert "FAILS" in outcome.stdout
    assert "it was dry" in outcome.stdout


def test_the_doctor_takes_options_of_the_backbone(
    ltuning: Callable[..., Any], tiny_bert: Path
) -> None:
    outcome = ltuning("doctor", "--backbone", tiny_bert, "--set", "backbone.attention=eager")
    assert outcome.code == 0
    assert "eager; a prefix enters through the attention interface" in outcome.stdout


def test_the_doctor_reads_options_of_the_backbone_alone(ltuning: Callable[..., Any]) -> None:
    words = ("--set", "method.rank=3", "--set", "task=tags", "--set", "backbone.dtype=float32")
    outcome = ltuning("doctor", *words)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "error: 2 problems in the configuration:\n"
        "  task: `ltuning doctor` tries the backbone alone; leave it out\n"
        "  method: `ltuning doctor` tries the backbone alone; leave it out\n"
    )


def test_the_doctor_of_nothing(ltuning: Callable[..., Any], tmp_path: Path) -> None:
    outcome = ltuning("doctor", "--backbone", tmp_path / "nothing")
    assert outcome.code == 1
    assert "expected a model folder with a config.json" in outcome.stderr
