"""What of a text reaches a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from ltuning.cli import terminal

CODES = "a\x1b[31mb\x9b1mc\x07"
REPORT = {
    "per_class": [
        {"label": name, "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
        for name in ("[bold]x[/y] :smile:", CODES)
    ],
    "confusion": {"labels": ["[bold]x[/y] :smile:", CODES], "counts": [[2, 0], [0, 2]]},
}


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal of 60 columns is sent."""
    output = io.StringIO()
    console = terminal._Console(file=output, width=60, force_terminal=True, color_system=None)
    for name in ("messages", "results"):
        monkeypatch.setattr(terminal, name, lambda: console)
    return output


def test_control_characters_and_marks_of_names_are_shown_and_not_obeyed(
    screen: io.StringIO,
) -> None:
    from ltuning.cli import figure_tables as figures
    from ltuning.tasks.classes import Classes

    terminal.results().print(figures.per_class(REPORT, Classes()))
    terminal.results().print(figures.confusion(REPORT))
    terminal.show_facts({"label": CODES})
    terminal.show_error(CODES)
    terminal.Terminal(quiet=False).note(CODES)
    terminal.results().print(CODES)
    said = screen.getvalue()
    assert "\x1b" not in said and "\x9b" not in said and "\x07" not in said
    assert said.count(r"a\x1b[31mb\x9b1mc") == 6
    assert said.count("[bold]x[/y] :smile:") == 2


def test_an_error_of_another_process_comes_after_that_of_the_main_one(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("ltuning.cli.terminal.time.sleep", waited.append)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    terminal.show_error("a")
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    terminal.show_error("b")
    assert waited == [2.0]
    assert screen.getvalue() == "error: a\nerror in process 1: b\n"


def test_a_bar_shows_names_as_they_are(screen: io.StringIO) -> None:
    with terminal.Terminal(quiet=False).bar("cells") as bar:
        task = bar.add_task("x[/y]", total=2, rate="")
        bar.update(task, completed=1, rate="prefix on [/y]")
        bar.refresh()
    assert "x[/y]" in screen.getvalue() and "prefix on [/y]" in screen.getvalue()


def test_a_pass_within_the_training_is_told_in_its_bar(screen: io.StringIO) -> None:
    from ltuning.training.bar import Bars

    shown = terminal.Terminal(quiet=False)
    bars = Bars(shown.bar, shown.note, shown.loading)
    said = []
    with bars.counting("tokenizing", 4) as advance:
        advance(4)
    with bars.steps(0, 9) as update:
        update(3, "loss 0.25")
        with bars.counting("validating", 8) as advance:
            advance(5)
            assert bars._outer is not None
            said.append(bars._outer[0].tasks[0].description)
        said.append(bars._outer[0].tasks[0].description)
    assert said == ["validating 5/8 texts", "training"]
    assert "tokenizing" in screen.getvalue() and "loss 0.25" in screen.getvalue()


def test_a_terminal_that_lacks_a_character_is_sent_its_number() -> None:
    code = (
        "from ltuning.cli import figure_tables as figures, streams, terminal\n"
        "from ltuning.tasks.classes import Classes\n"
        "streams.guard()\n"
        f"report_of = {REPORT!r}\n"
        "report_of['per_class'][0]['label'] = '\\u0435\\u0434\\u0430'\n"
        "terminal.results().print(figures.per_class(report_of, Classes()))\n"
        "terminal.show_error('\\u0435')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert r"| \u0435\u0434\u0430" in done.stdout
    assert done.stderr == "error: \\u0435\n"


@pytest.mark.parametrize("found", [None, "/usr/bin/ltuning"])
def test_commands_to_type_next_work_where_ltuning_is_not_on_the_path(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    monkeypatch.setattr("sys.argv", [".venv/bin/ltuning", "demo"])
    monkeypatch.setattr("shutil.which", lambda _: found)
    terminal.show_next(["echo 'a ltuning b' | ltuning predict x -", "ltuning --help"])
    name = "ltuning" if found else ".venv/bin/ltuning"
    assert screen.getvalue().splitlines()[2:] == [
        f"  echo 'a ltuning b' | {name} predict x -",
        f"  {name} --help",
    ]
