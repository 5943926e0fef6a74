from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ..conftest import Toy

if TYPE_CHECKING:
    from .conftest import Outcome


@pytest.fixture
def grid(tiny_bert: Path, toy: Toy, tmp_path: Path) -> Path:
    mapping = {
        "name": "tiny",
        "backbones": {"bert": {"name": str(tiny_bert)}},
        "data": {"toy": {"path": "toy", "labels": toy.label_texts}},
        "methods": ["lt-prefix", "prefix", "logistic"],
        "seeds": [0],
        "budget": {"steps": 2, "batch": 12, "evaluations": 1},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path


@pytest.fixture
def compare(ltuning: Callable[..., Outcome], data: Path, grid: Path, tmp_path: Path) -> Any:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "toy").symlink_to(data)
    where = ("--data", tmp_path / "sets", "--output", tmp_path / "out")

    def call(*words: Any) -> Outcome:
        return ltuning("compare", grid, *where, *words)

    return call


def test_a_grid_is_run_reported_and_not_run_again(compare: Any, tmp_path: Path) -> None:
    first = compare()
    assert first.code == 0, first.stderr
    assert "1/3 lt-prefix (descriptions) on toy seed 0, bert: accuracy" in first.stderr
    assert " left" in first.stderr
    assert "| logistic | " in first.stdout and "report.html" in first.stdout
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()}
    again = compare("--jobs", 2)
    assert "3 of 3 cells finished already" in again.stderr
    assert again.stdout == first.stdout
    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out/cells").iterdir()}
    assert "done    accuracy" in compare("--list").stdout
    assert compare("--report-only").stdout == first.stdout


def test_the_list_writes_nothing(compare: Any, tmp_path: Path) -> None:
    outcome = compare("--list", "--set", "seeds=[0, 1]")
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert lines[0] == "lt-prefix (descriptions) on toy seed 0, bert: open"
    assert len(lines) == 6
    assert not (tmp_path / "out").exists()


def test_label_texts_of_the_command_line_win(compare: Any) -> None:
    outcome = compare("--list", "--label-text", "names", "--label-text", "single-token")
    labelled = [line for line in outcome.stdout.splitlines() if line.startswith("lt-prefix")]
    assert [line.split()[1] for line in labelled] == ["(names)", "(single-token)"]


def test_all_problems_are_said_before_anything_runs(compare: Any, tmp_path: Path) -> None:
    outcome = compare("--set", "methods=[lt-prefx]", "--set", "budgt.steps=3", "--label-text", "x")
    assert outcome.code == 1
    for words in ("unknown method 'lt-prefx'", "unknown option 'budgt'", "unknown label text 'x'"):
        assert words in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_failed_cells_are_named_and_the_exit_code_says_so(compare: Any, tmp_path: Path) -> None:
    backbone = f"backbones.gone={{name: {tmp_path / 'gone'}}}"
    outcome = compare("--set", backbone, "--set", "methods=[logistic]", "--quiet")
    assert outcome.code == 1
    assert "failed: logistic on toy seed 0, gone: expected a model folder" in outcome.stderr
    assert "1 cell failed; the same command runs what failed again" in outcome.stderr
    assert "| logistic | " in outcome.stdout
    assert (
        ": failed  expected a model folder"
        in compare("--list", "--set", backbone, "--set", "methods=[logistic]").stdout
    )


def test_a_run_that_is_interrupted_keeps_what_is_finished_and_says_so(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.experiments import own

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(own, "fit", interrupt)
    outcome = compare("--set", "methods=[logistic, prefix]")
    assert outcome.code == 130
    assert "what is finished is kept, and the same command goes on" in outcome.stderr
    assert len(list((tmp_path / "out" / "cells").glob("*.json"))) == 1


def test_data_that_is_missing_is_named(ltuning: Any, grid: Path, tmp_path: Path) -> None:
    outcome = ltuning("compare", grid, "--output", tmp_path / "out", "--data", tmp_path)
    assert outcome.code == 1
    assert "data.toy.path: expected a folder, got no 'toy'" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_said_before_anything_runs(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltuning.experiments.report.find_spec", lambda name: None)
    outcome = compare()
    assert outcome.code == 1
    assert "pip install 'ltuning[compare]'" in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_a_package_that_is_not_installed_leaves_its_cells_out(
    compare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.experiments.peers import Peer

    monkeypatch.setattr(Peer, "is_installed", property(lambda peer: peer.package is None))
    outcome = compare("--set", "methods=[logistic, setfit]")
    assert outcome.code == 0
    assert "1 cell of 'setfit' left out: the package setfit is not installed" in outcome.stderr


@pytest.mark.parametrize("folder", ["cells", "out"])
def test_a_full_disk_ends_the_run_with_one_sentence(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    from ltuning.experiments import report, results

    write = results.replace_file

    def full(data: bytes, target: Path) -> None:
        if target.parent.name == folder and target.name != "grid.yaml":
            raise OSError(28, "No space left on device")
        write(data, target)

    for module in (report, results):
        monkeypatch.setattr(module, "replace_file", full)
    outcome = compare("--set", "methods=[logistic]")
    assert outcome.code == 1
    assert outcome.stderr.splitlines()[-1] == (
        f"error: {tmp_path / 'out'}: cannot be written (No space left on device); what is finished "
        "is kept. Make room or rights for it, and the same command goes on"
    )


def test_label_texts_that_no_method_reads_are_told_of(compare: Any) -> None:
    said = "no method of the grid reads label texts: those of the data sets 'toy' have no effect"
    outcome = compare("--set", "methods=[probe]")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.startswith(f"warning: {said}\n")
    assert "reads no label texts" not in outcome.stderr + outcome.stdout
    assert said not in compare("--list", "--set", "methods=[probe, lt-prefix]").stderr


def test_a_list_and_a_report_are_not_asked_for_together(compare: Any) -> None:
    outcome = compare("--list", "--report-only")
    assert outcome.code == 1
    assert "--list: expected one of --list and --report-only, got both" in outcome.stderr


def test_engines(ltuning: Any, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning import ray_cluster

    monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    words = {
        "dask": "--engine: unknown engine 'dask': expected one of 'local', 'ray'",
        "ray": "--engine ray needs an optional library: pip install 'ltuning[ray]'",
    }
    for engine, error in words.items():
        result = ltuning("compare", grid, "--output", tmp_path / "out", "--engine", engine)
        assert result.code == 1
        assert error in result.stderr
        assert not (tmp_path / "out").exists()
