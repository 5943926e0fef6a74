from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..hub_server import HubServer


def test_what_is_pushed_predicts_and_is_measured_as_its_folder(
    ltuning: Callable[..., Any], trained: Path, data: Path, hub: HubServer, tmp_path: Path
) -> None:
    outcome = ltuning("push", trained, "me/topics", "--private", "--revision", "v1")
    assert outcome.code == 0, outcome.stderr
    pushed = hub.repositories["me/topics"]
    assert pushed.private
    assert f"pushed  {hub.url}/me/topics/commit/{pushed.branches['v1']}\n" in outcome.stdout
    assert "ltuning predict me/topics@v1 texts.txt\n" in outcome.stdout
    assert pushed.files("v1").keys() == {
        ".gitattributes",
        "README.md",
        "adapter_model.safetensors",
        "calibration/answers.json",
        "ltuning_config.json",
    }
    # The folder's own card says where it is; where its texts are is nobody else's affair.
    assert "me/topics" not in (trained / "README.md").read_text()
    assert str(data) in (trained / "ltuning_config.json").read_text()
    assert not any(str(data) in text.decode("latin-1") for text in pushed.files("v1").values())
    asked = ("--text", "bread and cheese", "--probabilities")
    there = ltuning("predict", "me/topics@v1", *asked)
    assert (there.code, there.stderr) == (0, "")
    assert there.stdout == ltuning("predict", trained, *asked).stdout
    figures = [tmp_path / "there.json", tmp_path / "here.json"]
    for place, file in zip(("me/topics@v1", trained), figures, strict=True):
        assert ltuning("evaluate", place, "--data", data, "--output", file, "--quiet").code == 0
    there, here = (json.loads(file.read_text()) for file in figures)
    assert (there.pop("classifier"), here.pop("classifier")) == ("me/topics@v1", str(trained))
    assert there == here


def test_a_path_is_never_asked_of_the_hub(
    ltuning: Callable[..., Any],
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for missing in ("runs/topics", "./me/topics", tmp_path / "none"):
        outcome = ltuning("predict", missing, "--text", "bread")
        assert outcome.code == 1
        assert "does not exist: check the path" in " ".join(outcome.stderr.split())
    outcome = ltuning("push", "me/topics", "me/topics")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "does not exist: check the path" in " ".join(outcome.stderr.split())
    assert hub.asked == []
