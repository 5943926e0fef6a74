"""Paths that are given on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltuning.cli.configuration import configure
from ltuning.cli.run_folder import RunFolder
from ltuning.config import Config, absolute_path
from ltuning.errors import ArtifactError, ConfigError


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 300, "x/" * 2500])
def test_a_path_that_nothing_can_have_stays_as_it_is(name: str) -> None:
    assert configure({}, {"backbone.name": name}, [], []).backbone.name == name
    assert absolute_path(name) == name


def test_the_home_folder_is_meant_in_every_option_with_a_path(
    ltuning: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "grid.yaml").write_text("{}\n")
    outcome = ltuning("compare", "~/grid.yaml", "--output=~/results", "--list")
    assert "error: 3 problems in the configuration" in outcome.stderr
    outcome = ltuning("train", "--config=~/none.yaml", "--output=~/run")
    assert f"{tmp_path}/none.yaml: no such file" in outcome.stderr
    outcome = ltuning("evaluate", "~/none", "--data=x.csv", "--output=~/none/metrics.json")
    assert f"there is no folder {tmp_path}/none to write it to" in outcome.stderr
    (tmp_path / "old.csv").write_text("mine\n")
    outcome = ltuning("predict", "~/none", "~/texts.txt", "--output=~/old.csv")
    assert f"{tmp_path}/old.csv exists already" in outcome.stderr


def test_a_name_of_results_that_is_too_long_is_said(
    ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("{backbones: [builtin:minilm], data: {d: {path: x}}, methods: [prefix]}\n")
    outcome = ltuning("compare", grid, "--output", tmp_path / ("x" * 300), "--list")
    assert outcome.code == 1
    assert outcome.stderr == (
        f"error: {tmp_path / ('x' * 300)}: cannot be read (File name too long)\n"
    )


@pytest.mark.parametrize(
    ("setting", "is_there"),
    [
        ("data.path=here", True),
        ("data.path = here", True),
        ("data={path: here}", True),
        ("data.path=", False),
        ("data.shots=4", False),
    ],
)
def test_data_may_be_named_by_a_setting(setting: str, is_there: bool) -> None:
    if is_there:
        assert configure({}, {}, [setting], [], needs_data=True).data.path == "here"
        return
    with pytest.raises(ConfigError) as caught:
        configure({}, {}, [setting], [], needs_data=True)
    assert [str(problem) for problem in caught.value.problems] == [
        "data.path: missing; say with --data where the texts are"
    ]


def test_an_unfinished_run_from_before_an_option_was_there_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    lines = Config().to_yaml().splitlines(keepends=True)
    before = "".join(line for line in lines if "missing_labels" not in line)
    (folder.checkpoints / "config.yaml").write_text(before)
    folder.check_same(Config())
    with pytest.raises(ArtifactError, match="data.missing_labels: 'refuse' -> 'skip'"):
        folder.check_same(Config().with_set(["data.missing_labels=skip"]))


@pytest.mark.parametrize("arguments", [("demo",), ("train", "--resume", "--data", "x.csv")])
def test_a_name_of_a_run_that_is_too_long_is_said(
    ltuning: Callable[..., Any], arguments: tuple[str, ...], tmp_path: Path
) -> None:
    outcome = ltuning(*arguments, "--output", tmp_path / ("x" * 300))
    assert outcome.code == 1
    assert outcome.stderr.startswith("error: expected a")


def test_a_name_of_a_backbone_that_is_too_long_is_said(ltuning: Callable[..., Any]) -> None:
    outcome = ltuning("params", "--backbone", "x" * 300)
    assert outcome.code == 1
    assert outcome.stderr.startswith("error: expected ")
