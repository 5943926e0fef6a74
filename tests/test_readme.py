"""The README's example prints what the README says, and its commands name options that exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_example_prints_what_it_says() -> None:
    (example,), printed = blocks("python"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    assert printed.getvalue() == blocks("text")[0]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("ltuning ")]


@pytest.mark.parametrize("command", commands(), ids=lambda words: " ".join(words[:2]))
def test_every_option_of_a_command_exists(command: list[str]) -> None:
    from typer.main import get_command

    from ltuning.cli.main import app

    verb = get_command(app).commands[command[1]]  # type: ignore[attr-defined]
    known = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= known


def test_the_makefile_has_the_two_commands() -> None:
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_file_that_is_linked_is_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
