"""The HTML page of a comparison: everything in one file, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from ltuning.experiments import report_tables as tables
from ltuning.experiments.analysis import Row, Setting
from ltuning.experiments.grid import Grid
from ltuning.metrics import LARGEST_MATRIX, most_confused

_MOST_MISTAKES = 8


def render(
    grid: Grid,
    settings: Sequence[Setting],
    state: str,
    open_cells: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    texts: bool = True,
) -> str:
    """The page. Every text of the data and of the grid is escaped.

    Args:
        grid: what was compared.
        settings: what came of it.
        state: how much is finished.
        open_cells: those without a result, and why.
        facts: how it was measured.
        texts: whether to show mistakes, with the texts of the data.
    """
    from jinja2 import Environment, StrictUndefined

    from ltuning.experiments.plots import figures

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("ltuning.experiments").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        title=grid.name,
        state=state,
        overviews=tables.overviews(settings),
        settings=[
            {
                "title": setting.title,
                "problems": setting.problems,
                "columns": tables.columns(setting.task),
                "methods": [tables.method_cells(row) for row in setting.rows],
                "majority": None if (share := setting.majority) is None else tables.decimal(share),
                "pairs": [tables.comparison_cells(pair) for pair in setting.comparisons],
                "figures": figures(setting),
                "each": setting.task.each,
                "classes": _classes(setting),
                "details": [_details(row, texts) for row in setting.rows],
            }
            for setting in settings
        ],
        legend=tables.legend(settings),
        open_cells=open_cells,
        facts=facts,
        grid=grid.to_yaml(),
    )


def _classes(setting: Setting) -> dict[str, Any]:
    """F1 of each class by each method, the mean over seeds."""
    names = setting.rows[0].results[0].names
    columns = []
    for row in setting.rows:
        scores = [
            {one["label"]: one["f1"] for one in result.record["test"]["per_class"]}
            for result in row.results
        ]
        # Of types that are neither predicted nor true there is no row.
        means = [float(np.mean([score.get(name, 0.0) for score in scores])) for name in names]
        columns.append(means)
    return {
        "methods": [row.title for row in setting.rows],
        "rows": [
            (name, [f"{column[place]:.2f}" for column in columns])
            for place, name in enumerate(names)
        ],
    }


def _details(row: Row, texts: bool) -> dict[str, Any]:
    """Confusions of a method, and its most confident mistakes if texts may be shown."""
    names, counts = row.results[0].names, row.confusion()
    is_small = len(names) <= LARGEST_MATRIX
    mistakes = row.mistakes(_MOST_MISTAKES) if texts else None
    parts = {"confusions": counts, "most confident mistakes": mistakes}
    return {
        "title": row.title,
        "summary": " and ".join(name for name, part in parts.items() if part is not None),
        "names": names,
        "matrix": _matrix(names, counts) if is_small and counts is not None else [],
        "pairs": [] if is_small or counts is None else _most_confused(names, counts),
        "mistakes": mistakes,
    }


def _matrix(names: Sequence[str], counts: np.ndarray) -> list[tuple[str, list[tuple[int, str]]]]:
    """Of each true class the counts, and their share of the class as a percentage."""
    totals = np.maximum(counts.sum(1, keepdims=True), 1)
    shares = 100 * counts / totals
    return [
        (name, [(int(n), f"{share:.0f}") for n, share in zip(line, percent, strict=True)])
        for name, line, percent in zip(names, counts, shares, strict=True)
    ]


def _most_confused(names: Sequence[str], counts: np.ndarray) -> list[tuple[str, str, int]]:
    return [(names[row], names[column], count) for row, column, count in most_confused(counts)]
