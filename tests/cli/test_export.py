"""`ltuning export`, and `ltuning predict` with what it wrote."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .test_main import ENVIRONMENT, imported_of

LINES = ["the ball and the team", "", "bread with cheese", "a hotel"]
Command = Callable[..., Any]


def rows(text: str, delimiter: str = "\t") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


@pytest.fixture(scope="module")
def exported(
    ltuning: Command, trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A folder, and what was said when it was made."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    outcome = ltuning("export", trained, "--output", folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    return folder, outcome


@pytest.fixture
def as_before(exported: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that is written is the one before, without the time that it takes to trace it."""
    from ltuning.exporting import export

    def copied(_: Any, __: Any, path: Path) -> tuple[str, ...]:
        shutil.copy(exported[0] / "model.onnx", path)
        return ("input_ids", "attention_mask", "token_type_ids")

    monkeypatch.setattr(export, "save_graph", copied)


def test_what_was_written_and_what_to_type_next(exported: tuple[Path, Any]) -> None:
    folder, outcome = exported
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("difference  ") and lines[0].endswith(
        " from torch at most, on texts of many lengths"
    )
    assert lines[1].startswith("size        ") and lines[1].endswith(" MB")
    assert lines[2] == f"saved       {folder}"
    assert lines[-1] == f"  ltuning predict {folder} texts.txt"


@pytest.mark.parametrize("wanted", [[], ["--probabilities"], ["--abstain", "0.9"]])
def test_the_prediction_is_that_of_the_run(
    ltuning: Command, exported: tuple[Path, Any], trained: Path, wanted: list[str]
) -> None:
    given = {"input": "\n".join(LINES) + "\n"}
    ours, torchs = (
        ltuning("predict", folder, *wanted, **given) for folder in (exported[0], trained)
    )
    assert (ours.code, ours.stderr) == (torchs.code, torchs.stderr)
    for found, expected in zip(rows(ours.stdout), rows(torchs.stdout), strict=True):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if name.startswith("probability"):
                assert float(found[name]) == pytest.approx(float(value), abs=1e-4)
            else:
                assert found[name] == value


def test_sets_of_labels_go_by_the_held_out_answers(
    ltuning: Command, exported: tuple[Path, Any], trained: Path
) -> None:
    words = ["--coverage", "0.5", "--text", "a ball and the team"]
    ours, torchs = (ltuning("predict", folder, *words) for folder in (exported[0], trained))
    assert ours.code == 0
    assert rows(ours.stdout)[0]["prediction_set"] == rows(torchs.stdout)[0]["prediction_set"]


def test_it_predicts_without_torch(exported: tuple[Path, Any]) -> None:
    heavy = {"torch", "transformers", "sklearn", "peft", "pandas", "pyarrow", "datasets", "onnx"}
    words = ["predict", str(exported[0]), "--text", "bread and cheese"]
    done = subprocess.run(
        [sys.executable, "-c", imported_of(heavy), *words],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert rows(done.stdout)[0]["predicted_label"] == "food"


def test_it_has_its_backbone_in_it(ltuning: Command, exported: tuple[Path, Any]) -> None:
    outcome = ltuning("predict", exported[0], "--backbone", "x", "--text", "a ball")
    assert outcome.code == 1
    assert outcome.stderr == (
        "error: expected no --backbone with an exported classifier, which has its backbone in it, "
        f"got one in {exported[0]}; leave it out\n"
    )


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_other_verbs_take_the_run(
    ltuning: Command, exported: tuple[Path, Any], data: Path, tmp_path: Path, verb: str
) -> None:
    words = ["--data", data] if verb == "evaluate" else ["--output", tmp_path / "again"]
    outcome = ltuning(verb, exported[0], *words)
    assert outcome.code == 1
    assert outcome.stderr == (
        f"error: expected the folder of a trained classifier, got an exported one, {exported[0]}, "
        "which `ltuning predict` alone takes; give the folder that it was exported from\n"
    )


def test_what_8_bits_cost_is_measured(
    ltuning: Command, trained: Path, data: Path, as_before: None, tmp_path: Path
) -> None:
    words = ["--quantize", "int8", "--data", data, "--split", "test"]
    outcome = ltuning("export", trained, "--output", tmp_path / "int8", *words)
    assert (outcome.code, outcome.stderr) == (0, "")
    said = next(line for line in outcome.stdout.splitlines() if line.startswith("int8"))
    start, _, end = said.partition("; ")
    assert start.startswith("int8        of answers ") and " right, before " in start
    assert end.endswith("% changed, on 30")
    small, whole = ((tmp_path / "int8/model.onnx"), trained)
    assert small.stat().st_size > 0 and whole.exists()
    assert ltuning("predict", tmp_path / "int8", "--text", "a ball").code == 0


def test_without_texts_8_bits_are_not_measured(
    ltuning: Command, trained: Path, as_before: None, tmp_path: Path
) -> None:
    outcome = ltuning("export", trained, "--output", tmp_path / "int8", "--quantize", "int8")
    said = "what it costs was not measured; --data FILE with labelled texts says it"
    assert f"int8        {said}" in outcome.stdout.splitlines()
    again = ltuning("export", trained, "--output", tmp_path / "int8", "--quiet", "--overwrite")
    assert (again.code, again.stdout) == (0, "")
    assert os.listdir(tmp_path) == ["int8"]


def test_what_does_not_go_together_is_said_at_once(
    ltuning: Command, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    words = ["--output", tmp_path, "--quantize", "int4", "--label-column", "x"]
    outcome = ltuning("export", trained, *words)
    assert outcome.code == 1
    assert "unknown value of --quantize 'int4': expected one of 'int8'; did you mean" in (
        outcome.stderr
    )
    assert "holds no exported classifier, so it is never" in outcome.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["--data", "x.csv"],
            "expected --data, on which the cost of quantisation is measured, with --quantize int8, "
            "got it without; leave it out",
        ),
        (
            ["--quantize", "int8", "--text-column", "x"],
            "expected columns, splits and files to be described with --data, got none; leave their "
            "options out",
        ),
    ],
)
def test_options_without_what_they_are_for(
    ltuning: Command, trained: Path, tmp_path: Path, words: list[str], problem: str
) -> None:
    outcome = ltuning("export", trained, "--output", tmp_path / "new", *words)
    assert (outcome.code, outcome.stderr) == (1, f"error: {problem}\n")
    assert os.listdir(tmp_path) == []


def test_the_optional_libraries_are_named(
    ltuning: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltuning.exporting.export.find_spec", lambda _: None)
    outcome = ltuning("export", trained, "--output", tmp_path / "new")
    assert (outcome.code, outcome.stderr) == (
        1,
        "error: `ltuning export` needs an optional library: pip install 'ltuning[onnx]'\n",
    )
