"""The report of a comparison: Markdown tables, and one HTML page that needs no network."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ltuning.data.files import replace_file
from ltuning.errors import MissingExtraError
from ltuning.experiments.analysis import Comparison, Interval, Row, Setting, settings_of
from ltuning.experiments.grid import Cell, Grid
from ltuning.experiments.peers import PEERS
from ltuning.experiments.results import Result, ResultFolder
from ltuning.tasks.task import Task
from ltuning.texts import visible

MARKDOWN, PAGE = "report.md", "report.html"
_MOST_WARNINGS = 20
# What Markdown would take for marks; `<.001` and `[.8, .9]` it leaves alone.
_MARKS = re.compile(r"[\\`*_|~]|&(?=#?\w+;)|<(?=[A-Za-z/!?])|\[(?=[^\]]*\]\()")
_PAIRED = (
    "beside", "seeds", "difference, 95 %", "p", "right alone", "McNemar p",
    "area", "steps to its best",
)  # fmt: skip
_COSTS = ("seconds", "trainable", "memory")


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
    from ltuning.experiments.page import render

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


def columns(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Heads of the two tables of a setting."""
    main, *others = task.figures.values()
    methods = ("method", f"{main}, 95 %", "each seed", *others, "validation", "area", *_COSTS)
    return methods, ("label method" if task.reads_labels else "method", *_PAIRED)


@dataclass(frozen=True)
class Overview:
    """Several settings of a backbone side by side.

    Attributes:
        title: the backbone.
        settings: what the columns are.
        tables: what a table is of, and its lines: the figure of the task and the seconds of each
            method, and the difference of each pair that is compared, in points of that figure.
    """

    title: str
    settings: list[str]
    tables: list[tuple[str, list[list[str]]]]


def overviews(settings: Sequence[Setting]) -> list[Overview]:
    """Of every backbone, and of every task, with two settings or more."""
    found = []
    tasks = {setting.task.name for setting in settings}
    for backbone, task in dict.fromkeys((setting.backbone, setting.task) for setting in settings):
        of_it = [one for one in settings if (one.backbone, one.task) == (backbone, task)]
        if len(of_it) < 2:
            continue
        figure = [{row.title: interval(row.figure(task.main)) for row in s.rows} for s in of_it]
        majority = [one.majority for one in of_it if one.majority is not None]
        lines = [["majority class", *map(decimal, majority)]] if majority else []
        seconds = [{row.title: _seconds(row) for row in setting.rows} for setting in of_it]
        differences = [
            {
                f"{pair.label.title} over {pair.plain.title}": _points(pair.difference)
                for pair in setting.comparisons
            }
            for setting in of_it
        ]
        tables = [
            (f"{task.words}, 95 %", [*_lines(figure), *lines]),
            ("difference, 95 %", _lines(differences)),
            ("seconds", _lines(seconds)),
        ]
        tables = [(name, lines) for name, lines in tables if lines]
        title = backbone if len(tasks) == 1 else f"{backbone}, {task.words}"
        found.append(Overview(title, [setting.texts for setting in of_it], tables))
    return found


def _lines(columns: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """A line for each key of any column; what a column lacks is empty."""
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(column.get(name, "") for column in columns)] for name in names]


def method_cells(row: Row) -> list[str]:
    """A line of the table of methods."""
    main, *others = row.task.figures
    area, peak = row.area, row.peak_memory
    return [
        row.title,
        interval(row.figure(main)),
        " ".join(decimal(one.record["test"][main]) for one in row.results),
        *(decimal(row.figure(name).mean) for name in others),
        decimal(row.figure(main, "validation").mean),
        "" if area is None else decimal(area.mean),
        _seconds(row),
        f"{row.median('trainable_parameters'):,.0f}",
        "" if peak is None else f"{peak / 2**20:,.0f} MiB",
    ]


def _seconds(row: Row) -> str:
    return f"{row.median('seconds'):.1f}"


def comparison_cells(pair: Comparison) -> list[str]:
    """A line of the table of methods beside others."""
    steps = ", ".join(
        f"{'never' if ours is None else ours} ({theirs})"
        for ours, theirs in zip(pair.steps, pair.twin_steps, strict=True)
    )
    area = "" if pair.area_difference is None else f"{100 * pair.area_difference:+.1f}"
    return [
        pair.label.title,
        pair.plain.title,
        str(pair.seeds),
        _points(pair.difference),
        _p_value(pair.p_bootstrap),
        f"{pair.only_label} : {pair.only_plain}",
        _p_value(pair.p_mcnemar),
        area,
        steps,
    ]


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


def interval(value: Interval) -> str:
    """`.854 [.820, .880]`."""
    if value.low is None or value.high is None:
        return decimal(value.mean)
    return f"{decimal(value.mean)} [{decimal(value.low)}, {decimal(value.high)}]"


def decimal(value: float) -> str:
    """Three places, without the zero in front."""
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _points(value: Interval) -> str:
    """A difference in points of a hundred."""
    low, high = value.low or 0.0, value.high or 0.0
    return f"{100 * value.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _p_value(value: float) -> str:
    return "<.001" if value < 0.001 else decimal(value)


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


def legend(settings: Sequence[Setting]) -> list[str]:
    """What the columns say, of the tasks that there are; nothing where there is no setting."""
    tasks = list(dict.fromkeys(setting.task for setting in settings))
    main = " or ".join(task.words for task in tasks)
    answers = " or ".join(task.answers for task in tasks)
    interval = "in brackets the 95 % bootstrap interval of the mean over seeds, which is too "
    lines = [f"{task.legend}; {interval}narrow with few seeds" for task in tasks]
    pairs = _PAIRS if any(task.reads_labels for task in tasks) else _PAIRS_WITHOUT_LABELS
    shared = [words.format(main=main, answers=answers, pairs=pairs) for words in _LEGEND]
    return lines + shared if tasks else []


_PAIRS = (
    "a label method over its plain twin, over what the grid sets it beside, or over itself with "
    "other label texts"
)
_PAIRS_WITHOUT_LABELS = "a method over what the grid sets it beside"
_LEGEND = (
    "validation: {main} on the texts that chose weights and rates; area: the mean height of that "
    "{main} over the steps",
    "seconds: median of training, without measurements; trainable: parameters; memory: the most "
    "that was in use, of the GPU or else of the process",
    "difference: points of {main} of {pairs}, with seeds and test texts drawn anew; p: two-sided, "
    "of the same draws, not corrected for the number of tests",
    "right alone: {answers} over all seeds that one of the two has right alone, tested by McNemar; "
    "it takes the answers of several seeds for independent",
    "steps to its best: where the first one's validation {main} reached the other's best of the "
    "same seed, and in brackets where the other did",
)


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


def _pairs(mapping: dict[str, Any]) -> str:
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
