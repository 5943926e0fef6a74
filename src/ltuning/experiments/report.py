"""The report of a comparison: Markdown tables, and one HTML page that needs no network."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ltuning.data.files import replace_file
from ltuning.errors import MissingExtraError
from ltuning.experiments.analysis import Setting, settings_of
from ltuning.experiments.grid import Cell, Grid
from ltuning.experiments.page import render
from ltuning.experiments.peers import PEERS
from ltuning.experiments.report_tables import (
    Overview,
    columns,
    comparison_cells,
    decimal,
    legend,
    method_cells,
    overviews,
)
from ltuning.experiments.results import Result, ResultFolder
from ltuning.texts import visible

MARKDOWN, PAGE = "report.md", "report.html"
_MOST_WARNINGS = 20
# What Markdown would take for marks; `<.001` and `[.8, .9]` it leaves alone.
_MARKS = re.compile(r"[\\`*_|~]|&(?=#?\w+;)|<(?=[A-Za-z/!?])|\[(?=[^\]]*\]\()")


def require_plots() -> None:
    """Refuse early what the report would fail at.

    Raises:
        MissingExtraError: a library of the report is not installed.
    """
    if find_spec("matplotlib") is None or find_spec("jinja2") is None:
        raise MissingExtraError("`ltuning compare`", "compare")


def write_report(grid: Grid, folder: ResultFolder, texts: bool = True) -> tuple[str, list[Path]]:
    """Write `report.md` and `report.html` of what is finished.

    Args:
        grid: of the folder.
        folder: of the results.
        texts: whether the page may show texts of the data; the Markdown never does.

    Returns:
        The tables as Markdown, and the files.
    """
    cells = list(grid.cells())
    results = folder.results(cells)
    settings = settings_of(grid, results)
    open_cells = _open_cells(cells, results, folder)
    parts = [_overview(one) for one in overviews(settings)] + [_setting(one) for one in settings]
    tables = "\n\n".join(parts) or "no cell is finished"
    facts = circumstances(grid, results)
    parts = [f"# {_escaped(grid.name)}", _state(cells, results), tables, _legend(settings)]
    parts += [_open(open_cells), _facts(facts), f"## The grid\n\n{_fenced(grid.to_yaml())}"]
    text = "\n\n".join(part for part in parts if part) + "\n"
    files = [folder.folder / MARKDOWN, folder.folder / PAGE]
    replace_file(text.encode(), files[0])
    page = render(grid, settings, _state(cells, results), open_cells, facts, texts)
    replace_file(page.encode(), files[1])
    return tables, files


def circumstances(grid: Grid, results: Sequence[Result]) -> list[tuple[str, str]]:
    """Where, when and with what the figures were made, and how to make them again."""
    records = [result.record for result in results]
    command = f"ltuning compare {shlex.quote(f'{grid.name}.yaml')} --output DIR --data DATA"
    facts = [("to run it again", f"save the grid below as {grid.name}.yaml, then: {command}")]
    budget, metrics = grid.budget, {cell.settings.metric: None for cell in grid.cells()}
    facts.append(
        (
            "budget",
            f"{budget.steps} steps of {budget.batch} passes of the backbone, unless a data set "
            f"says otherwise; {budget.evaluations} measurements on the validation texts, the best "
            f"{' or '.join(metrics)} there is kept",
        )
    )
    if grid.search is not None:
        span = f"within a factor of {grid.search.span:g}"
        facts.append(("search", f"{grid.search.trials} rates per cell and method, {span}"))
    facts += [(f"texts of {name}", words) for name, words in _texts(results)]
    facts += [(f"texts in a step on {name}", words) for name, words in _in_a_step(results)]
    for title, found in (
        ("versions", [_pairs(record["versions"]) for record in records]),
        ("source", [record["git"] or "not under git" for record in records]),
        ("machine", [_pairs(record["machine"]) for record in records]),
    ):
        facts += [(title, words) for words in dict.fromkeys(found)]
    warned = Counter(words for record in records for words in {*record["warnings"]})
    counts = warned.most_common(_MOST_WARNINGS)
    facts += [(f"warned of in {count} of {len(records)} cells", words) for words, count in counts]
    if records:
        dates = sorted(record["date"] for record in records)
        facts.append(("measured", f"{dates[0]} to {dates[-1]}"))
    return facts


def _overview(overview: Overview) -> str:
    tables = [_table([name, *overview.settings], lines) for name, lines in overview.tables]
    return "\n\n".join([f"## {_escaped(overview.title)}", *tables])


def _setting(setting: Setting) -> str:
    lines = [f"## {_escaped(setting.title)}", ""]
    lines += [f"**{_escaped(problem)}**\n" for problem in setting.problems]
    heads, paired = columns(setting.task)
    rows = [*map(method_cells, setting.rows)]
    if setting.majority is not None:
        rows.append(["majority class", decimal(setting.majority), *[""] * (len(heads) - 2)])
    lines.append(_table(heads, rows))
    if setting.comparisons:
        lines += ["", _table(paired, map(comparison_cells, setting.comparisons))]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """One line that Markdown shows as it is."""
    return _MARKS.sub(r"\\\g<0>", visible(" ".join(text.split())))


def _fenced(text: str) -> str:
    """A block of YAML, between marks that do not stand in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}yaml\n{text}{marks}"


def _legend(settings: Sequence[Setting]) -> str:
    return "\n".join(f"- {words}" for words in legend(settings))


def _state(cells: Sequence[Cell], results: Sequence[Result]) -> str:
    return f"{len(results)} of {len(cells)} cells are finished."


def _open_cells(
    cells: Sequence[Cell], results: Sequence[Result], folder: ResultFolder
) -> list[tuple[str, str]]:
    finished = {result.cell.stem for result in results}
    found = []
    for cell in cells:
        if cell.stem not in finished:
            failure = folder.failure(cell)
            peer = PEERS.get(cell.settings.method)
            if failure is None and peer is not None and not peer.is_installed:
                failure = f"the package {peer.package} is not installed"
            found.append((str(cell), failure or "not run yet"))
    return found


def _open(cells: Sequence[tuple[str, str]]) -> str:
    if not cells:
        return ""
    lines = [f"- {_escaped(cell)}: {_escaped(reason)}" for cell, reason in cells]
    return "\n".join(["## Cells without a result", "", *lines])


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    lines = [f"- {_escaped(name)}: {_escaped(fact)}" for name, fact in facts]
    return "\n".join(["## How it was measured", "", *lines])


def _pairs(mapping: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in mapping.items() if value is not None)


def _texts(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Counts of each data set, with the splits that they are from."""
    found: dict[str, str] = {}
    for result in results:
        texts = result.record["texts"]
        origin = "held out from the training split"
        if texts["validation_from"] == "validation":
            origin = "of the validation split"
        found.setdefault(
            _trained_on(result.cell),
            f"{texts['train']:,} to train on, {texts['validation']:,} to choose by ({origin}), "
            f"{texts['test']:,} to measure on (of the {texts['test_from']} split)",
        )
    return list(found.items())


def _in_a_step(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Of each data set and method that has steps, and how many these are if not the budget's."""
    found: dict[str, dict[str, str]] = {}
    for result in results:
        texts, cell = result.record["texts"], result.cell
        if texts["in_a_step"] is not None:
            own = texts.get("steps")  # results of earlier versions have none
            words = f"{cell.method} {texts['in_a_step']}"
            words += "" if own in (None, cell.settings.budget.steps) else f" (steps: {own:,})"
            found.setdefault(_trained_on(cell), {}).setdefault(cell.method, words)
    return [(name, ", ".join(words.values())) for name, words in found.items()]


def _trained_on(cell: Cell) -> str:
    return cell.data if cell.shots is None else f"{cell.data}, {cell.shots} per class"
