from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MUSIC = "music=a song or a concert"


def test_a_label_is_added_and_the_first_classifier_stays(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    outcome = ltuning("add-labels", trained, "--label", MUSIC, "--output", tmp_path / "more")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "added   music\nlabels  4\n" in outcome.stdout
    found = ltuning(
        "predict", tmp_path / "more", "--text", "the band played a song", "--probabilities"
    )
    header = found.stdout.splitlines()[0].split("\t")
    assert header[-4:] == [f"probability_{name}" for name in ("food", "sport", "travel", "music")]
    assert {path.name: path.read_bytes() for path in trained.iterdir() if path.is_file()} == before


def test_labels_of_a_file_and_quiet(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.yaml").write_text(
        "music: the song\nart: [ball and song, the song and the team]\n"
    )
    arguments = ("--labels", tmp_path / "labels.yaml", "--output", tmp_path / "more", "--quiet")
    outcome = ltuning("add-labels", trained, *arguments)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    found = ltuning("predict", tmp_path / "more", "--text", "a song", "--probabilities")
    assert found.stdout.splitlines()[0].endswith("probability_music\tprobability_art")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--label: missing; give NAME=TEXT for each new label"),
        (("--label", "music"), "expected NAME=TEXT such as \"pos=a good review\", got 'music'"),
        (("--label", "food=a meal"), "there is a label 'food' already"),
    ],
)
def test_what_adds_nothing_is_refused(
    arguments: tuple[str, ...],
    said: str,
    ltuning: Callable[..., Any],
    trained: Path,
    tmp_path: Path,
) -> None:
    outcome = ltuning("add-labels", trained, *arguments, "--output", tmp_path / "more")
    assert outcome.code == 1
    assert said in " ".join(outcome.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_and_a_missing_label_are_said_at_once(
    ltuning: Callable[..., Any], trained: Path
) -> None:
    outcome = ltuning("add-labels", trained, "--output", trained)
    assert outcome.code == 1
    words = " ".join(outcome.stderr.split())
    assert "2 problems" in words
    assert "--label: missing" in words
    assert "holds" in words
