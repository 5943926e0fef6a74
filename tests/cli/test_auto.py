"""`ltuning train --method auto`, and the line for who names no method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Command = Callable[..., Any]


def test_what_is_taken_is_said_and_kept(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.cli.run_folder import RunFolder

    began: list[str] = []
    own = RunFolder.begin

    def begin(folder: RunFolder, config: Any, digest: str) -> None:
        began.append(config.method.name)
        own(folder, config, digest)

    monkeypatch.setattr(RunFolder, "begin", begin)
    folder = tmp_path / "run"
    outcome = run("--output", folder, "--method", "auto", "--time", "1.5h")
    assert outcome.code == 0, outcome.stderr
    # An interrupted run is gone on with by the method that it began with.
    assert began == ["lt-prefix"]
    chosen = json.loads((folder / "metrics.json").read_text())["choice"]
    assert chosen["method"] == "lt-prefix"
    assert f"auto took lt-prefix: {chosen['why']}" in outcome.stderr
    assert "trained lt-prefix on " in " ".join(outcome.stdout.split())
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert (kept["method"]["name"], kept["stopping"]["seconds"]) == ("lt-prefix", None)


def test_an_interrupted_run_goes_on_with_what_was_chosen(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.cli import train
    from ltuning.cli.run_folder import RunFolder
    from ltuning.config import Config, MethodOptions

    begun = Config(method=MethodOptions(name="probe"))
    RunFolder(tmp_path / "run").begin(begun, "digest")
    asked: list[Any] = []
    monkeypatch.setattr(train, "_run", lambda config, *_: asked.append(config))
    words = ("--output", tmp_path / "run", "--method", "auto", "--time", "5m", "--resume")
    assert run(*words).code == 0
    assert (asked[0].method.name, asked[0].stopping.seconds) == ("probe", None)


@pytest.mark.parametrize("words", ["10", "m", "ten m", "-1m", "nanm"])
def test_a_time_needs_a_number_and_a_unit(ltuning: Command, tmp_path: Path, words: str) -> None:
    outcome = ltuning(
        "train", "texts.csv", "--method", "auto", "--time", words, "--output", tmp_path / "run"
    )
    assert outcome.code == 1
    said = " ".join(outcome.stderr.split())
    assert (
        f"--time: expected a time such as 90s, 10m or 1.5h, got '{words}'" in said
        or "stopping.seconds: expected a number above 0, got" in said
    )


def test_a_better_method_is_named_to_who_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.cli import train
    from ltuning.config import Config, MethodOptions
    from ltuning.data.examples import Examples

    texts = [f"text {row}" for row in range(2000)]
    many = Examples(texts, ["a", "b"] * 1000, "test")
    line = train._better(Config(), many)
    assert line is not None
    assert line.startswith("for 2,000 texts of 2 labels full may be better: ")
    assert line.endswith("; --method auto takes it")
    few = Examples(texts[:20], ["a", "b"] * 10, "test")
    assert train._better(Config(), few) is None
    # Who names a method, or another backbone, which has not been measured, is left alone.
    assert train._better(Config(method=MethodOptions(name="prefix")), many) is None
