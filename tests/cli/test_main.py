from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from ltuning.cli import train
from ltuning.cli.main import app
from ltuning.config import TASK_FACTS
from ltuning.errors import DataError
from ltuning.methods.catalog import ROWS

ENVIRONMENT = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "HF_HUB_OFFLINE": "1"}


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, **options
    )


def imported_of(modules: set[str]) -> str:
    """A program that is the command, and at its end names on stderr which of these are there."""
    return (
        "import sys, ltuning.cli.main\n"
        "try: ltuning.cli.main.run()\n"
        f"finally: print(sorted({modules} & sys.modules.keys()), file=sys.stderr)"
    )


def named_of(function: Any) -> str:
    name: str = function.__name__
    return name.replace("_", "-")


VERBS = [named_of(command.callback) for command in app.registered_commands]


def test_help_names_every_verb(ltuning: Callable[..., Any]) -> None:
    outcome = ltuning("--help")
    assert outcome.code == 0
    for verb in VERBS:
        assert f" {verb} " in outcome.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(ltuning: Callable[..., Any], verb: str) -> None:
    assert ltuning(verb, "--help").code == 0


def test_the_help_of_train_names_every_task_and_method() -> None:
    options = get_type_hints(train.train, include_extras=True)
    said = {name: options[name].__metadata__[0].help for name in ("task", "method")}
    words = {name: set(re.findall(r"[\w-]+", text)) for name, text in said.items()}
    assert words["task"] >= TASK_FACTS.keys() and words["method"] >= ROWS.keys()


def test_version(ltuning: Callable[..., Any]) -> None:
    assert ltuning("--version").stdout == f"ltuning {version('ltuning')}\n"


def test_showing_help_imports_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "numpy", "sklearn", "pyarrow", "datasets", "pandas", "yaml"}
    done = python("-c", imported_of(heavy), "--help")
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_a_first_prediction_imports_nothing_of_training(trained: Path) -> None:
    training = {"peft", "datasets", "pandas", "pyarrow", "sklearn", "transformers.trainer"}
    done = python("-c", imported_of(training), "predict", trained, "--text", "bread and cheese")
    assert (done.returncode, done.stderr) == (0, "[]\n")


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


LTUNING = f"{sys.executable} -m ltuning"


def shell(command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, **options
    )


def test_a_closed_pipe_is_no_error(trained: Path) -> None:
    done = shell(f"{LTUNING} predict {trained} | true; echo ${{PIPESTATUS[0]}}", input="a ball\n")
    assert (done.stdout, done.stderr) == ("141\n", "")


SHOWN = "from ltuning.cli import streams, terminal; streams.guard(); terminal.results().print('x')"


@pytest.mark.parametrize("words", ["-m ltuning train --help", f'-c "{SHOWN}"'])
def test_nothing_that_is_shown_minds_a_reader_that_goes_away(words: str) -> None:
    done = shell(f"{sys.executable} {words} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(
    ("redirection", "reason"),
    [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")],
)
def test_an_output_that_cannot_be_written_is_said(redirection: str, reason: str) -> None:
    done = shell(f"{LTUNING} --version {redirection}")
    assert done.returncode == 1
    assert done.stderr == f"error: standard output: cannot be written ({reason})\n"


def test_a_closed_input_is_said() -> None:
    code = "import sys; from ltuning.cli import streams; streams.guard(); sys.stdin.buffer.read()"
    done = shell(f"{sys.executable} -c '{code}' <&-")
    message = "standard input: cannot be read (Bad file descriptor)"
    assert done.stderr.endswith(f"ltuning.errors.DataError: {message}\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- >&- 2>&-"])
def test_messages_that_nobody_can_read_are_no_error_of_their_own(redirection: str) -> None:
    assert shell(f"{LTUNING} --no-such-option {redirection}").returncode == 2


SCRIPT = """
import sys
from ltuning.cli import main
def fail(*_, **__):
    raise {error}
main.show_warnings = fail
sys.argv = ["ltuning", "params"]
main.run()
"""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            "KeyError('x\\x1b[31m')",
            70,
            "a bug of ltuning, please report it (KeyError: 'x\\x1b[31m'); LTUNING_DEBUG=1 in "
            "front of the command shows where it happened",
        ),
        (
            "EOFError('Ran out of input')",
            70,
            "a bug of ltuning, please report it (RuntimeError: EOFError: Ran out of input); "
            "LTUNING_DEBUG=1 in front of the command shows where it happened",
        ),
        (
            "PermissionError(13, 'Permission denied', 'some/place')",
            1,
            "some/place: cannot be read or written (Permission denied)",
        ),
        (
            "MemoryError",
            1,
            "out of memory; a smaller backbone.max_length or max_branches needs less",
        ),
    ],
)
def test_what_no_verb_expected_ends_in_one_line(error: str, code: int, message: str) -> None:
    done = python("-c", SCRIPT.format(error=error))
    assert (done.returncode, done.stderr, done.stdout) == (code, f"error: {message}\n", "")


def test_ltuning_debug_shows_where_a_bug_is() -> None:
    done = python(
        "-c", "import os; os.environ['LTUNING_DEBUG'] = '1'" + SCRIPT.format(error="KeyError")
    )
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError\n") and "line" in done.stderr


def test_every_exit_code_stands_in_the_table() -> None:
    from ltuning.cli import main

    codes = re.findall(r"^\| (\d+) \|", main.__doc__ or "", flags=re.MULTILINE)
    assert codes == ["0", "1", "2", "70", "130", "141"]
