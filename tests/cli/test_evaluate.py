from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import write_csv


def test_the_figures_are_shown_and_written(
    ltuning: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    outcome = ltuning("evaluate", trained, "--data", data, "--output", tmp_path / "metrics.json")
    assert outcome.code == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert found["accuracy"] > 0.6
    assert found["num_examples"] == 30
    assert found["split"] == "test"
    assert {"macro_f1", "mcc", "log_loss", "expected_calibration_error"} < found.keys()
    assert [row["label"] for row in found["per_class"]] == ["food", "sport", "travel"]
    assert sum(map(sum, found["confusion"]["counts"])) == 30
    assert f"accuracy              {found['accuracy']:.4f}\n" in outcome.stdout
    assert f"texts                 30 of {data} (test)\n" in outcome.stdout
    for words in ("calibration error", "precision", "rows are the truth, columns the prediction"):
        assert words in outcome.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_another_split_and_quiet(
    ltuning: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    arguments = ("--data", data, "--split", "train", "--output", tmp_path / "m.json", "--quiet")
    outcome = ltuning("evaluate", trained, *arguments)
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    assert json.loads((tmp_path / "m.json").read_text())["num_examples"] == 48


def test_the_figures_leave_a_link_and_the_mode_of_its_file(
    ltuning: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    target, link, planted = (tmp_path / name for name in ("m.json", "link.json", "planted"))
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    planted.write_text("precious")
    (tmp_path / f".link.json.{os.getpid()}").symlink_to(planted)
    (tmp_path / f".m.json.{os.getpid()}").symlink_to(planted)
    arguments = ("evaluate", trained, "--data", data, "--output", link, "--quiet")
    outcome = ltuning(*arguments)
    assert outcome.code == 1 and target.read_text() == "old"
    refused = f"{link} exists already: choose another file, or add --overwrite"
    assert refused in " ".join(outcome.stderr.split())
    assert ltuning(*arguments, "--overwrite").code == 0
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert json.loads(target.read_text())["num_examples"] == 30
    assert planted.read_text() == "precious"


def test_many_classes_show_the_pairs_that_are_confused_most() -> None:
    from rich.console import Console

    from ltuning.cli.figure_tables import confusion

    labels = [f"class {number}" for number in range(13)]
    counts = [[9 * (row == column) for column in range(13)] for row in range(13)]
    counts[2][5], counts[7][1] = 3, 1
    output = io.StringIO()
    console = Console(width=100, file=output)
    console.print(confusion({"confusion": {"labels": labels, "counts": counts}}))
    lines = [line.split("│")[1:-1] for line in output.getvalue().splitlines()]
    rows = [[cell.strip() for cell in cells] for cells in lines if cells]
    assert rows == [["class 2", "class 5", "3", "25%"], ["class 7", "class 1", "1", "10%"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--split", "tset"],
            "unknown split 'tset': expected one of 'test', 'train'; did you mean",
        ),
        (["--text-column", "txt"], "unknown column 'txt': expected one of 'text', 'label'"),
        (
            ["--empty-texts", "skpi"],
            "unknown value of --empty-texts 'skpi': expected one of 'refuse', ",
        ),
        (["--output", "no/folder/m.json"], "there is no folder no/folder to write it to"),
        (["--output", "m.csv"], "m.csv: expected a file ending of .json, which is what is written"),
    ],
)
def test_bad_arguments(
    ltuning: Callable[..., Any], trained: Path, data: Path, arguments: list[str], message: str
) -> None:
    outcome = ltuning("evaluate", trained, "--data", data, *arguments)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert message in outcome.stderr


def test_a_file_has_no_splits(ltuning: Callable[..., Any], trained: Path, data: Path) -> None:
    file = data / "test.csv"
    outcome = ltuning("evaluate", trained, "--data", file, "--split", "train")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "error: expected a folder or a hub data set for --split train, got the file "
        f"{file}, which is read whole; leave it out\n"
    )


def test_problems_of_several_arguments_come_at_once(
    ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = ltuning("evaluate", tmp_path / "none", "--data", "no.csv", "--output", "no/m.json")
    assert outcome.code == 1
    assert outcome.stderr.splitlines() == [
        "error: 3 problems:",
        "  no/m.json: there is no folder no to write it to; make it",
        "  no.csv: no such file or folder; give a file, a folder with a file per split, or a data "
        "set of the hub (owner/name)",
        f"  expected the folder of a saved classifier, but {tmp_path / 'none'} does not exist: "
        "check the path",
    ]


def test_a_label_that_the_classifier_does_not_know(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    file = write_csv(tmp_path / "x.csv", ["a ball"], ["sports"])
    outcome = ltuning("evaluate", trained, "--data", file)
    assert outcome.code == 1
    assert "unknown label 'sports'" in outcome.stderr
    assert "did you mean 'sport'?" in outcome.stderr


def test_a_folder_that_is_no_classifier(
    ltuning: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    outcome = ltuning("evaluate", tmp_path, "--data", data)
    assert outcome.code == 1
    assert "is not a whole saved classifier" in outcome.stderr


def test_an_artifact_that_is_damaged_or_changed(
    ltuning: Callable[..., Any], trained: Path, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    config = folder / "ltuning_config.json"
    original = config.read_text()
    config.write_text(original.replace('"seed": 0', '"seed": 1'))
    outcome = ltuning("evaluate", folder, "--data", data)
    assert outcome.code == 1
    assert "was changed or damaged since it was saved" in outcome.stderr
    config.write_text(original)
    (folder / "adapter_model.safetensors").unlink()
    outcome = ltuning("evaluate", folder, "--data", data)
    assert outcome.code == 1
    assert "adapter_model.safetensors missing" in outcome.stderr


def test_another_backbone(
    ltuning: Callable[..., Any], trained: Path, data: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    moved = tmp_path / "bert"
    shutil.copytree(tiny_bert, moved)
    assert ltuning("evaluate", trained, "--data", data, "--backbone", moved).code == 0
    tensors = load_file(moved / "model.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name] + torch.ones_like(tensors[name])
    save_file(tensors, moved / "model.safetensors", metadata={"format": "pt"})
    outcome = ltuning("evaluate", trained, "--data", data, "--backbone", moved)
    assert outcome.code == 1
    assert f"'{tiny_bert}' with fingerprint" in outcome.stderr
    assert f"got '{moved}'" in outcome.stderr
