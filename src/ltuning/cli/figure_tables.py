"""Figures of a classifier as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ltuning.metrics import LARGEST_MATRIX, WORDS, Report, figures_of, most_confused
from ltuning.texts import visible

if TYPE_CHECKING:
    from ltuning.tasks.task import Task

_OUT_OF_SCOPE = {
    "in_domain_accuracy": "in-domain accuracy",
    "f1": "out-of-scope F1",
    "precision": "its precision",
    "recall": "its recall",
    "auroc": "its AUROC",
}


def figures(report: Report) -> dict[str, str]:
    """The figures over all texts, by their names in words."""
    found, before = figures_of(report), figures_of(report.get("uncalibrated", {}))
    shown = {name: f"{found[name]:.4f}" for name in WORDS if name in found}
    for name in shown.keys() & before.keys():
        shown[name] += f" ({before[name]:.4f} without the temperature)"
    told = {WORDS[name]: text for name, text in shown.items()}
    if "out_of_scope" in report:
        outside = figures_of(report["out_of_scope"])
        told |= {words: f"{outside[name]:.4f}" for name, words in _OUT_OF_SCOPE.items()}
    return told


def calibration(figures: Mapping[str, Any]) -> str:
    """What a temperature did to the figures of probabilities, on one line."""
    found = figures["calibration"]
    changes = ", ".join(
        f"{words} {found[f'{name}_before']:.3f} -> {found[name]:.3f}"
        for name, words in WORDS.items()
        if f"{name}_before" in found
    )
    return f"temperature {found['temperature']:.2f}, fitted on {found['texts']:,} texts: {changes}"


def per_class(report: Report, task: Task) -> RenderableType:
    """Precision, recall and F1 of each class, with its threshold where it has one."""
    table = Table(header_style="bold")
    table.add_column("label", overflow="fold")
    has_thresholds = any("threshold" in row for row in report["per_class"])
    shown = {"precision": "precision", "recall": "recall", "f1": "F1"}
    if has_thresholds:
        shown = {"threshold": "threshold", **shown}
    for name in (*shown.values(), "entities" if task.of_words else "texts"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report["per_class"]:
        found = figures_of(row)
        numbers = [f"{found[name]:.3f}" for name in shown]
        table.add_row(Text(visible(row["label"])), *numbers, f"{row['support']:,}")
    return titled(f"per {task.each}", table)


def confusion(report: Report) -> RenderableType:
    """The confusion matrix, or of many classes the pairs that are confused most."""
    labels, counts = report["confusion"]["labels"], report["confusion"]["counts"]
    if len(labels) <= LARGEST_MATRIX:
        return _matrix(labels, counts)
    return _confused_pairs(labels, counts)


def _matrix(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> RenderableType:
    table = Table(header_style="bold")
    table.add_column("")
    table.add_column("label", overflow="fold")
    for number in range(1, len(labels) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for place, (label, row) in enumerate(zip(labels, counts, strict=True)):
        cells = [
            Text(str(count), "bold green" if column == place else "red" if count else "dim")
            for column, count in enumerate(row)
        ]
        table.add_row(Text(str(place + 1)), Text(visible(label)), *cells)
    return titled("confusion: rows are the truth, columns the prediction", table)


def _confused_pairs(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> RenderableType:
    pairs = most_confused(counts)
    if not pairs:
        return Text("no text got a wrong label")
    table = Table(header_style="bold")
    table.add_column("truth", overflow="fold")
    table.add_column("predicted", overflow="fold")
    table.add_column("texts", justify="right", no_wrap=True)
    table.add_column("of the truth's", justify="right", no_wrap=True)
    for row, column, count in pairs:
        share = count / sum(counts[row])
        truth, predicted = Text(visible(labels[row])), Text(visible(labels[column]))
        table.add_row(truth, predicted, f"{count:,}", f"{share:.0%}")
    return titled("most confused", table)


def titled(title: str, table: Table) -> RenderableType:
    """A table with a line above it."""
    # A table's own title is folded to the table's width.
    return Group("", Text(title, "bold"), table)
