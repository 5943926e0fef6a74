from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from ltuning.errors import DataError

ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, **options
    )


def test_help_names_every_verb(ltuning: Callable[..., Any]) -> None:
    outcome = ltuning("--help")
    assert outcome.code == 0
    for verb in ("demo", "train", "evaluate", "predict", "params"):
        assert f" {verb} " in outcome.stdout


@pytest.mark.parametrize("verb", ["demo", "train", "evaluate", "predict", "params"])
def test_every_verb_has_help(ltuning: Callable[..., Any], verb: str) -> None:
    assert ltuning(verb, "--help").code == 0


def test_version(ltuning: Callable[..., Any]) -> None:
    assert ltuning("--version").stdout == f"ltuning {version('ltuning')}\n"


def test_showing_help_imports_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'sklearn', 'pyarrow', 'datasets', 'pandas'}"
    code = f"import sys, ltuning.cli.main; print(sorted({heavy} & sys.modules.keys()))"
    assert python("-c", code).stdout == "[]\n"


def test_the_module_is_the_command() -> None:
    done = python("-m", "ltuning", "trian")
    assert done.returncode == 2
    assert "Usage: ltuning" in done.stderr
    assert "No such command 'trian'. Did you mean 'train'?" in done.stderr
    assert done.stdout == ""


def test_an_unknown_option_names_the_near_one(ltuning: Callable[..., Any]) -> None:
    outcome = ltuning("train", "--bakbone", "x")
    assert outcome.code == 2
    assert "No such option: --bakbone" in outcome.stderr
    assert "--backbone" in outcome.stderr


def test_an_error_is_a_message_without_a_traceback(tmp_path: Path) -> None:
    done = python("-m", "ltuning", "predict", str(tmp_path / "none"), "missing.csv")
    assert done.returncode == 1
    assert done.stderr == "error: missing.csv: no such file\n"
    assert done.stdout == ""


def test_ltuning_debug_lets_an_error_through(
    ltuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTUNING_DEBUG", "1")
    with pytest.raises(DataError, match="missing.csv: no such file"):
        ltuning("predict", "none", "missing.csv")


def test_an_unexpected_error_is_not_hidden(
    ltuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("ltuning.data.sources.read_table", broken)
    with pytest.raises(ZeroDivisionError):
        ltuning("predict", "none", "some.csv")


def test_an_interrupt_ends_with_130(
    ltuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltuning.data.sources.read_table", interrupt)
    outcome = ltuning("predict", "none", "some.csv")
    assert (outcome.code, outcome.stdout) == (130, "")


def test_a_closed_pipe_is_no_error(trained: Path) -> None:
    command = f"{sys.executable} -m ltuning predict {trained} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        input="a ball\n",
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stdout == "141\n"
    assert done.stderr == ""
