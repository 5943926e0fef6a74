"""`ltuning calibrate`, and what `ltuning predict` says with held-out texts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import write_csv

if TYPE_CHECKING:
    from ..conftest import Toy

LINES = "the ball and the team\nbread with cheese\nof the and\n"


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t"))


@pytest.fixture(scope="module")
def labelled(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """78 texts, every tenth with a wrong label."""
    labels = toy.labels + toy.test_labels
    wrong = [labels[row - 1] if row % 10 == 9 else label for row, label in enumerate(labels)]
    folder = tmp_path_factory.mktemp("labelled")
    return write_csv(folder / "texts.csv", toy.texts + toy.test_texts, wrong)


@pytest.fixture(scope="module")
def calibrated(
    ltuning: Callable[..., Any],
    trained: Path,
    labelled: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    outcome = ltuning("calibrate", trained, "--data", labelled, "--output", folder)
    assert (outcome.code, outcome.stderr) == (0, "")
    found = json.loads((folder / "ltuning_config.json").read_text())
    of, figures = found["temperature"], found["figures"]["calibration"]
    assert f"calibration  temperature {of:.2f}, fitted on 78 texts: log loss " in outcome.stdout
    assert (figures["temperature"], figures["texts"]) == (of, 78)
    card = (folder / "README.md").read_text()
    assert f"Scores are divided by {of:.4f}, the temperature" in card
    assert f"| log loss | {figures['log_loss_before']:.4f} | {figures['log_loss']:.4f} |" in card
    return folder


def test_the_labels_stay_and_the_probabilities_change(
    ltuning: Callable[..., Any], trained: Path, calibrated: Path, data: Path
) -> None:
    before, after = (
        rows(ltuning("predict", one, input=LINES).stdout) for one in (trained, calibrated)
    )
    assert [row["predicted_label"] for row in before] == [row["predicted_label"] for row in after]
    assert [row["probability"] for row in before] != [row["probability"] for row in after]
    shown = ltuning("evaluate", calibrated, "--data", data).stdout
    assert "without the temperature)\n" in shown
    assert "risk-coverage area" in shown


def test_labels_are_left_empty_where_they_are_unsure(
    ltuning: Callable[..., Any], calibrated: Path, tmp_path: Path
) -> None:
    every = rows(ltuning("predict", calibrated, input=LINES).stdout)
    at = sorted(float(row["probability"]) for row in every)[0] + 1e-4
    outcome = ltuning("predict", calibrated, "--abstain", at, input=LINES)
    assert outcome.stderr == f"1 of 3 texts have no label: no probability reaches {at:.4f}\n"
    for row, whole in zip(rows(outcome.stdout), every, strict=True):
        said = "" if float(whole["probability"]) < at else whole["predicted_label"]
        assert row == {**whole, "predicted_label": said}
    arguments = ("--abstain", 0.999999, "--format", "jsonl")
    outcome = ltuning("predict", calibrated, *arguments, input='{"text": "a ball"}\n')
    assert json.loads(outcome.stdout)["predicted_label"] is None
    target = tmp_path / "out.parquet"
    outcome = ltuning("predict", calibrated, *arguments[:2], "--output", target, input=LINES)
    assert outcome.code == 0


def test_labels_that_are_added_leave_the_temperature(
    ltuning: Callable[..., Any], calibrated: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more"
    outcome = ltuning("add-labels", calibrated, "--label", "music=the song", "--output", more)
    assert outcome.code == 0
    assert (
        "calibration  the temperature stays; answers on held-out texts were of the labels before, "
        "and are left out until `ltuning calibrate`\n"
    ) in outcome.stdout
    of = [json.loads((one / "ltuning_config.json").read_text()) for one in (calibrated, more)]
    assert of[0]["temperature"] == of[1]["temperature"] != 1
    outcome = ltuning("predict", more, "--coverage", 0.9, input=LINES)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "labels that are added take the answers away" in outcome.stderr


def test_a_threshold_is_found_for_a_precision(
    ltuning: Callable[..., Any], calibrated: Path
) -> None:
    from ltuning import LabelClassifier

    found = LabelClassifier.from_pretrained(calibrated).threshold_for(0.7)
    outcome = ltuning("predict", calibrated, "--target-precision", 0.7, input=LINES)
    assert outcome.stderr.startswith(
        f"0.7 of the labels were right from the probability {found.threshold:.4f} on, which "
        f"{found.coverage:.1%} of the held-out texts reach\n"
    )
    for row in rows(outcome.stdout):
        assert (row["predicted_label"] == "") == (float(row["probability"]) < found.threshold)
    outcome = ltuning("predict", calibrated, "--target-precision", 0.999, input=LINES)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "expected a threshold from which on 0.999 of the answers are right" in outcome.stderr


def test_sets_are_a_column(ltuning: Callable[..., Any], calibrated: Path) -> None:
    from ltuning import LabelClassifier

    sets = LabelClassifier.from_pretrained(calibrated).predict_sets(LINES.splitlines(), 0.95)
    assert max(map(len, sets)) > 1
    outcome = ltuning("predict", calibrated, "--coverage", 0.95, "--probabilities", input=LINES)
    found = rows(outcome.stdout)
    assert list(found[0])[:4] == ["text", "predicted_label", "probability", "prediction_set"]
    assert [row["prediction_set"] for row in found] == ["|".join(names) for names in sets]
    given = "".join(json.dumps({"text": line}) + "\n" for line in LINES.splitlines())
    arguments = ("--coverage", 0.95, "--format", "jsonl")
    outcome = ltuning("predict", calibrated, *arguments, input=given)
    found = [json.loads(line)["prediction_set"] for line in outcome.stdout.splitlines()]
    assert found == sets


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--abstain", "1.5"],
            "expected a number above 0 and below 1 for --abstain, got 1.5",
        ),
        (
            ["--abstain", ".5", "--target-precision", ".9"],
            "expected one of --abstain and --target-precision, got both; leave one out",
        ),
        (["--coverage", ".99"], "expected 99 or more held-out texts for a coverage of 0.99"),
    ],
)
def test_what_cannot_be_asked(
    ltuning: Callable[..., Any], calibrated: Path, arguments: list[str], message: str
) -> None:
    outcome = ltuning("predict", calibrated, *arguments, input=LINES)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert message in outcome.stderr


def test_rows_without_a_label_may_be_skipped(
    ltuning: Callable[..., Any], trained: Path, labelled: Path, tmp_path: Path
) -> None:
    source = tmp_path / "texts.csv"
    source.write_text(labelled.read_text() + "a ball,\n,food\n")
    given = ("calibrate", trained, "--data", source, "--output", tmp_path / "run")
    refused = ltuning(*given)
    assert refused.code == 1
    assert "skip them with --missing-labels skip" in refused.stderr
    assert "skip with --empty-texts skip" in refused.stderr
    unknown = ltuning(*given, "--empty-texts", "keep")
    assert "unknown value of --empty-texts 'keep'" in unknown.stderr
    outcome = ltuning(*given, "--missing-labels", "skip", "--empty-texts", "skip")
    assert outcome.code == 0
    assert "fitted on 78 texts" in outcome.stdout


def test_what_cannot_be_calibrated(
    ltuning: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    outcome = ltuning("calibrate", trained, "--data", data, "--output", tmp_path / "x")
    assert outcome.code == 1
    assert "unknown split 'validation'" in outcome.stderr
    arguments = ("--data", data, "--split", "train", "--output", tmp_path / "x")
    outcome = ltuning("calibrate", trained, *arguments)
    assert outcome.code == 1
    assert "expected 50 or more texts to fit a temperature to, got 48" in outcome.stderr
    outcome = ltuning("calibrate", trained, "--data", data, "--output", trained)
    assert outcome.code == 1
    # Of no --overwrite, which it does not have.
    assert outcome.stderr.endswith("holds a trained classifier already: choose another folder\n")
    assert not (tmp_path / "x").exists()
