from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def demo(
    ltuning: Callable[..., Any], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """The demo with a tiny backbone in place of the builtin one, and two steps."""
    monkeypatch.setattr("ltuning.backbones.loading.source_of", lambda _: str(tiny_bert))
    monkeypatch.setattr("ltuning.cli.demo.STEPS", 2)
    return lambda *arguments: ltuning("demo", *arguments)


def test_the_demo_shows_the_whole_way(
    demo: Callable[..., Any], ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    outcome = demo("--output", folder)
    assert outcome.code == 0, outcome.stderr
    for words in ("refund_request", "accuracy", "per class", "A few of them", "job_application"):
        assert words in outcome.stdout
    assert "its messages  " in outcome.stdout
    assert f"saved  {folder}, with all nine labels" in outcome.stdout
    assert f"| ltuning predict {folder} -" in outcome.stdout
    predicted = ltuning("predict", folder, "--probabilities", input="where is it\n")
    assert predicted.code == 0
    assert "probability_job_application" in predicted.stdout


def test_the_demo_replaces_its_own_run_and_nothing_else(
    demo: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    assert demo("--output", own, "--quiet").stdout == ""
    assert demo("--output", own, "--quiet").code == 0
    shutil.copytree(trained, other)
    outcome = demo("--output", other)
    assert outcome.code == 1
    assert "holds a trained classifier already" in outcome.stderr
