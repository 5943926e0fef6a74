from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltuning.data.files import replace_file
from ltuning.errors import ArtifactError
from ltuning.experiments.grid import Cell, Grid
from ltuning.experiments.results import Predictions, ResultFolder

from ..conftest import Faults, PowerCut

RECORD: dict[str, Any] = {
    "test": {"accuracy": 0.5},
    "validation": {},
    "history": [],
    "seconds": 1.0,
    "trainable_parameters": 3,
    "labels": {"a": ["a"], "b": ["b"]},
    "texts": {},
    "peak_memory": None,
    "mistakes": [],
    "warnings": [],
    "versions": {},
    "git": None,
    "machine": {},
    "date": "2026-01-01",
}
PREDICTIONS = Predictions(np.array([[0.25, 0.75]]), np.array([1]), np.array([0]))


@pytest.fixture
def folder(make: Callable[..., Grid], tmp_path: Path) -> ResultFolder:
    results = ResultFolder(tmp_path / "results")
    results.open(make())
    return results


@pytest.fixture
def cell(make: Callable[..., Grid]) -> Cell:
    return next(make().cells())


def test_what_is_written_is_read_back(folder: ResultFolder, cell: Cell) -> None:
    assert folder.read(cell) is None
    folder.finish(cell, RECORD, PREDICTIONS)
    found = folder.read(cell)
    assert found is not None
    assert found.record.items() >= RECORD.items()
    assert found.predictions.probabilities.tolist() == [[0.25, 0.75]]
    assert (found.predictions.predicted.tolist(), found.predictions.truth.tolist()) == ([1], [0])


def test_a_success_ends_a_failure(folder: ResultFolder, cell: Cell) -> None:
    folder.fail(cell, "no memory")
    assert folder.failure(cell) == "no memory"
    assert folder.read(cell) is None
    folder.finish(cell, RECORD, PREDICTIONS)
    assert folder.failure(cell) is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _swap(path: Path) -> None:
    record = json.loads(path.read_text())
    record["config"]["seed"] = 9
    path.write_text(json.dumps(record))


def _forget(path: Path) -> None:
    record = json.loads(path.read_text())
    del record["history"]
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("ending", "damage", "words"),
    [
        (".json", _cut, "Unterminated string"),
        (".json", _swap, "of another cell: seed"),
        (".json", _forget, "without history"),
        (".npz", _cut, "not those that were written"),
        (".npz", Path.unlink, "No such file"),
    ],
)
def test_a_damaged_result_is_named_and_moved_aside(
    folder: ResultFolder,
    cell: Cell,
    caplog: pytest.LogCaptureFixture,
    ending: str,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    folder.finish(cell, RECORD, PREDICTIONS)
    damage(folder.cells / f"{cell.stem}{ending}")
    assert folder.read(cell) is None
    assert f"{cell.stem}.json is damaged" in caplog.text and words in caplog.text
    assert (folder.cells / "damaged" / f"{cell.stem}.json").exists()
    assert not (folder.cells / f"{cell.stem}.json").exists()
    folder.finish(cell, RECORD, PREDICTIONS)
    assert folder.read(cell) is not None


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(b"old", path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            replace_file(b"new", path)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"old")]


def test_what_a_killed_process_left_half_written_goes_with_the_next_run(
    folder: ResultFolder, make: Callable[..., Grid]
) -> None:
    left = folder.cells / ".x.json.123.tmp"
    left.write_text("{")
    folder.open(make())
    assert left.exists()  # a report may be written while a run is at work
    with folder.running():
        assert not left.exists()


def test_two_runs_at_a_time_are_refused(folder: ResultFolder) -> None:
    other = ResultFolder(folder.folder)
    refused = pytest.raises(ArtifactError, match="expected a folder that no other run is at work")
    with folder.running(), refused, other.running():
        pass
    with other.running():
        pass


def test_a_folder_of_something_else_is_refused(make: Callable[..., Grid], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"without a grid\.yaml; choose another folder"):
        ResultFolder(tmp_path).open(make())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_of_another_grid_is_refused(
    folder: ResultFolder, make: Callable[..., Grid]
) -> None:
    before = (folder.folder / "grid.yaml").read_bytes()
    with pytest.raises(ArtifactError) as caught:
        folder.open(make(budget={"steps": 5, "batch": 12, "evaluations": 2}))
    assert "got those of another one" in str(caught.value)
    assert "settings" not in str(caught.value)
    assert "budget.steps: 4 -> 5" in str(caught.value)
    with pytest.raises(ArtifactError, match="not in the grid: prefix on toy seed 0"):
        folder.open(make(methods=["lt-prefix", "logistic"]))
    assert (folder.folder / "grid.yaml").read_bytes() == before


def test_a_grid_may_grow(folder: ResultFolder, make: Callable[..., Grid], cell: Cell) -> None:
    folder.finish(cell, RECORD, PREDICTIONS)
    grown = make(seeds=[1, 0, 2], methods=["cosine", "prefix", "logistic", "lt-prefix"])
    folder.open(grown)
    assert len(folder.results(list(grown.cells()))) == 1


def test_a_grid_file_that_cannot_be_read_is_said(
    folder: ResultFolder, make: Callable[..., Grid]
) -> None:
    (folder.folder / "grid.yaml").write_text("name: [")
    with pytest.raises(ArtifactError, match=r"grid\.yaml cannot be read"):
        folder.open(make())


def test_whenever_a_beginning_is_killed_the_same_command_goes_on(
    make: Callable[..., Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for number in range(100):
        folder = ResultFolder(tmp_path / str(number))
        faults = Faults(number, PowerCut())
        with suppress(PowerCut):
            faults.during(lambda folder=folder: folder.open(make()))
        folder.open(make())
        with folder.running():
            assert folder.grid().to_yaml() == make().to_yaml()
        assert {path.name for path in folder.folder.iterdir()} == {"grid.yaml", "cells"}
        if not faults.struck:
            break
    assert number > 5


def test_what_is_called_as_ours_and_is_not_is_refused(
    make: Callable[..., Grid], tmp_path: Path
) -> None:
    for name in ("cells/mine.json", ".grid.yaml.tmp", "grid.yaml.1a2b3c4d.tmp"):
        path = tmp_path / name[:5] / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        with pytest.raises(ArtifactError, match="expected a new or empty folder"):
            ResultFolder(tmp_path / name[:5]).open(make())
        assert path.read_text() == "mine"


def test_a_larger_grid_waits_for_the_run_that_is_at_work(
    folder: ResultFolder, make: Callable[..., Grid]
) -> None:
    before = (folder.folder / "grid.yaml").read_bytes()
    with folder.running():
        ResultFolder(folder.folder).open(make())  # a report may be asked for
        with pytest.raises(ArtifactError, match="expected a folder that no other run is at work"):
            ResultFolder(folder.folder).open(make(seeds=[0, 1, 2, 3]))
    assert (folder.folder / "grid.yaml").read_bytes() == before


FULL = (
    r": cannot be written \(No space left on device\); what is finished is kept. Make room or "
    "rights for it, and the same command goes on$"
)


def test_a_full_disk_is_said_wherever_something_is_written(
    folder: ResultFolder, cell: Cell, make: Callable[..., Grid], tmp_path: Path
) -> None:
    writes: list[Callable[[], object]] = [
        lambda: folder.fail(cell, "no memory"),
        lambda: folder.finish(cell, RECORD, PREDICTIONS),
        lambda: ResultFolder(tmp_path / "other").open(make()),
    ]
    for write in writes:
        for number in range(30):
            faults = Faults(number, OSError(errno.ENOSPC, "No space left on device"))
            try:
                faults.during(write)
            except ArtifactError as error:
                is_lock = "which keeps two processes apart, cannot be written" in str(error)
                assert is_lock or re.search(FULL, str(error)), error
            if not faults.struck:
                break
        assert number > 1
    assert folder.read(cell) is not None
