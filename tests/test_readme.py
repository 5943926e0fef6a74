"""The pages: the README's example prints what it says, commands name options that exist, links
lead somewhere, and the page of the Python interface is of the docstrings as they are."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_example_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # it saves a classifier
    (example,), printed = blocks("python"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(example, "README.md", "exec"), {})
    assert printed.getvalue() == blocks("text")[0]


def commands() -> list[list[str]]:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    whole = [block.replace("\\\n", "") for block in blocks("console", pages)]
    lines = [line for block in whole for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("ltuning ")]


@pytest.mark.parametrize("command", commands(), ids=lambda words: " ".join(words[:2]))
def test_every_option_of_a_command_exists(command: list[str]) -> None:
    from typer.main import get_command

    from ltuning.cli.main import app

    verb = get_command(app).commands[command[1]]  # type: ignore[attr-defined]
    known = {option for parameter in verb.params for option in parameter.opts}
    assert {word for word in command if word.startswith("--")} <= known


def test_the_makefile_has_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_linked_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b(?:src/ltuning|tests|benchmarks|grids|scripts)/[\w/.-]+\.\w+", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_heading_that_is_linked_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text):
        linked = (page.parent / target if target else page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)", linked, flags=re.MULTILINE)
        anchors = [
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        ]
        assert anchor in anchors, f"{target}#{anchor}"


def test_the_page_of_the_python_interface_is_of_today() -> None:
    place = ROOT / "scripts" / "api_page.py"
    spec = importlib.util.spec_from_file_location("api_page", place)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    committed = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    renew = "docs/api.md is not of these docstrings: run `python scripts/api_page.py`"
    assert script.render() == committed, renew
