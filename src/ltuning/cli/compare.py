"""`ltuning compare`: methods beside each other on a grid of backbones, data sets and seeds."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, results, show_facts, silence_libraries
from ltuning.errors import ConfigError, Problem
from ltuning.ray_cluster import require_ray
from ltuning.suggestions import listed, unknown
from ltuning.texts import counted

if TYPE_CHECKING:
    from ltuning.experiments.grid import Cell, Grid
    from ltuning.experiments.results import ResultFolder
    from ltuning.experiments.runner import Outcome

logger = logging.getLogger("ltuning")

# The time left is told from the mean of all cells: they are few, and of very different lengths.
_WHOLE_RUN = 1e9

_GridFile = Annotated[
    Path,
    typer.Argument(
        parser=options.user_path,
        metavar="GRID.yaml",
        help="What is compared.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path,
    typer.Option(
        parser=options.user_path,
        metavar="DIR",
        help="Folder for the results; given again, finished cells are not run again.",
        show_default=False,
    ),
]
_DataFolder = Annotated[
    Path | None,
    typer.Option(
        parser=options.user_path,
        metavar="DIR",
        help="Folder in which the grid's data folders are.",
        show_default=False,
    ),
]
_Jobs = Annotated[int, typer.Option(min=1, help="Cells at a time, each in a process of its own.")]
_LabelTexts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND",
        help="What stands for a label: names, descriptions, shuffled, random-tokens or "
        "single-token. Give it several times to compare; wins over the grid.",
        show_default=False,
    ),
]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Any option of the grid by its path, such as budget.steps=20 or seeds=[0].",
        show_default=False,
    ),
]
_ListOnly = Annotated[
    bool, typer.Option("--list", help="Show the cells and what became of them; run nothing.")
]
_ReportOnly = Annotated[
    bool,
    typer.Option("--report-only", help="Write the report of what is finished; run nothing."),
]
_Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="local, or ray: jobs run on the cluster of RAY_ADDRESS; DIR and the data are there on "
        "all of its machines.",
    ),
]
_Texts = Annotated[
    bool,
    typer.Option("--texts/--no-texts", help="Show the most confident mistakes, with their texts."),
]


def compare(
    grid: _GridFile,
    output: _Output,
    data: _DataFolder = None,
    jobs: _Jobs = 1,
    engine: _Engine = "local",
    label_text: _LabelTexts = None,
    set_: _Settings = None,
    list_: _ListOnly = False,
    report_only: _ReportOnly = False,
    texts: _Texts = True,
    quiet: options.Quiet = False,
) -> None:
    """Compare methods with equal budgets, several seeds and intervals.

    Each cell (method, backbone, data set, seed) is trained, chosen on validation texts and measured
    once on test texts; its result is a file in DIR. A run that was stopped goes on where it was. At
    the end DIR holds report.md and report.html.
    """
    if list_ and report_only:
        message = "expected one of --list and --report-only, got both"
        raise ConfigError([Problem("--list", message)])
    if engine not in options.ENGINES:
        raise ConfigError([Problem("--engine", unknown("engine", engine, options.ENGINES))])
    if engine == "ray":
        require_ray("--engine ray")
    terminal = Terminal(quiet)
    settings = [*(set_ or [])]
    if label_text:
        settings.append(f"label_texts=[{', '.join(label_text)}]")
    with terminal.waiting("checking the grid"):
        from ltuning.experiments.grid import Grid
        from ltuning.experiments.report import require_plots
        from ltuning.experiments.results import ResultFolder

        silence_libraries()
        chosen = Grid.from_yaml(grid, tuple(settings))
        folder = ResultFolder(output)
        if not list_:
            require_plots()
        if not list_ and not report_only:
            _check_run(chosen, data)
    cells = list(chosen.cells())
    if list_:
        folder.check(chosen)
        _list(cells, folder)
        return
    folder.open(chosen)
    try:
        failed = []
        if not report_only:
            with folder.running():
                failed = _run(cells, folder, data, (engine, jobs), terminal)
    except KeyboardInterrupt:
        terminal.note("stopped; what is finished is kept, and the same command goes on")
        raise
    _report(chosen, folder, terminal, texts)
    if failed:
        words = counted(len(failed), "cell")
        logger.warning("%s failed; the same command runs what failed again", words)
        raise typer.Exit(1)


def _check_run(grid: Grid, data: Path | None) -> None:
    """Refuse, and warn of, what a run would meet."""
    from ltuning.experiments.cell import require_search
    from ltuning.experiments.cell_texts import check_data

    if grid.search is not None:
        require_search()
    check_data(grid, data)
    if unread := grid.unread_texts:
        logger.warning(
            "no method of the grid reads label texts: those of the data sets %s have no effect",
            listed(unread),
        )


def _run(
    cells: Sequence[Cell],
    folder: ResultFolder,
    data: Path | None,
    where: tuple[str, int],
    terminal: Terminal,
) -> list[Outcome]:
    """What became of the cells that were not finished, and failed; `where` is engine and jobs."""
    from ltuning.experiments import ray, runner
    from ltuning.experiments.peers import PEERS

    engine, jobs = where
    run = {"local": runner.run, "ray": ray.run}[engine]
    todo = [cell for cell in cells if folder.read(cell) is None]
    missing = [
        cell
        for cell in todo
        if cell.settings.method in PEERS and not PEERS[cell.settings.method].is_installed
    ]
    todo = [cell for cell in todo if cell not in missing]
    for method, count in Counter(cell.settings.method for cell in missing).items():
        terminal.note(
            f"{counted(count, 'cell')} of '{method}' left out: the package "
            f"{PEERS[method].package} is not installed"
        )
    done = len(cells) - len(todo) - len(missing)
    if done:
        terminal.note(f"{done} of {counted(len(cells), 'cell')} finished already")
    failed, began = [], time.monotonic()
    with terminal.bar("cells", over=_WHOLE_RUN) as bar:
        task = bar.add_task("comparing", total=len(todo), rate="")
        outcomes = run(todo, folder, data, jobs, lambda cell: bar.update(task, rate=str(cell)))
        for number, outcome in enumerate(outcomes, start=1):
            bar.update(task, completed=number)
            left = (time.monotonic() - began) / number * (len(todo) - number)
            if outcome.error is not None:
                failed.append(outcome)
                logger.warning("failed: %s: %s", outcome.cell, outcome.error)
            elif not terminal.has_bars:
                terminal.note(_line(number, len(todo), outcome, left))
    return failed


def _line(number: int, total: int, outcome: Outcome, left: float) -> str:
    figures, task = outcome.figures or {}, outcome.cell.settings.task
    return (
        f"{number}/{total} {outcome.cell}: {task.words} {figures[task.main]:.3f}, "
        f"{figures['seconds']:.0f} s; about {_duration(left)} left"
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _list(cells: Sequence[Cell], folder: ResultFolder) -> None:
    for cell in cells:
        result, failure = folder.read(cell), folder.failure(cell)
        state = "open"
        if result is not None:
            task = cell.settings.task
            state = f"done    {task.words} {result.record['test'][task.main]:.3f}"
        elif failure is not None:
            state = f"failed  {failure}"
        results().print(f"{cell}: {state}", soft_wrap=True)


def _report(grid: Grid, folder: ResultFolder, terminal: Terminal, texts: bool) -> None:
    from ltuning.experiments.report import write_report

    with terminal.waiting("writing the report"), folder.writing():
        table, files = write_report(grid, folder, texts)
    results().print(table, soft_wrap=True)
    if not terminal.quiet:
        show_facts({"report": ", ".join(map(str, files))})
