"""Cells of the tables that both reports show, in words and decimals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ltuning.experiments.analysis import Comparison, Interval, Row, Setting
from ltuning.metrics import WORDS
from ltuning.tasks.task import Task

_PAIRED = (
    "beside", "seeds", "difference, 95 %", "p", "right alone", "McNemar p",
    "area", "steps to its best",
)  # fmt: skip
_COSTS = ("seconds", "trainable", "memory")
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


def columns(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Heads of the two tables of a setting."""
    main, *others = (WORDS[name] for name in task.figures)
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


def legend(settings: Sequence[Setting]) -> list[str]:
    """What the columns say, of the tasks that there are; nothing where there is no setting."""
    tasks = list(dict.fromkeys(setting.task for setting in settings))
    main = " or ".join(task.words for task in tasks)
    answers = " or ".join(task.answers for task in tasks)
    interval = "in brackets the 95 % bootstrap interval of the mean over seeds, which is too "
    lines = [
        f"{', '.join(WORDS[name] for name in task.figures)}: {task.legend}; {interval}narrow with "
        "few seeds"
        for task in tasks
    ]
    pairs = _PAIRS if any(task.reads_labels for task in tasks) else _PAIRS_WITHOUT_LABELS
    shared = [words.format(main=main, answers=answers, pairs=pairs) for words in _LEGEND]
    return lines + shared if tasks else []
