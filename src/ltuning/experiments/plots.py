"""Figures as SVG that takes the colours of the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ltuning.experiments.analysis import Row, Setting
from ltuning.metrics import WORDS
from ltuning.texts import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Legible on white and on black: a contrast of 3 or more with both, which a test holds.
COLOURS = (
    "#3b7dd8", "#d9622b", "#2a9d6f", "#b0519e", "#a87b00", "#d0453a", "#5f7f8f", "#7d6bd0",
    "#6b8e23", "#b5651d",
)  # fmt: skip
_MARKERS = "osD^vPX<>hp*d8"
# Of plain methods and of label methods: first, and where the colours come round again.
_LINES = (("-", "-."), ("--", ":"))
# Stands in for the colour of the page's text, which matplotlib does not know.
_INK = "#010203"
# Inches: the width, the height with up to eight methods, and what two methods more add to it.
_WIDTH, _HEIGHT, _HEIGHT_OF_TWO = 5.4, 3.9, 0.22
_FEW_METHODS = 8
# From lowest to highest, so far apart that ticks at powers of ten are enough.
_FEW_TICKS = 300
# Shares of answers that a curve goes over, from where to where and at how many places.
_COVERED = (0.05, 1.0, 60)


def figures(setting: Setting) -> list[tuple[str, str]]:
    """Title and SVG of each figure of a setting that there is something to show in."""
    words = setting.task.words
    made = [
        (f"Validation {words} over the steps; bands from the lowest to the highest seed",
         _curves(setting, setting.task.main, "step", "steps")),
        ("Validation loss against texts seen",
         _curves(setting, "loss", "texts", "texts seen")),
        ("Validation loss against seconds of training",
         _curves(setting, "loss", "seconds", "seconds")),
        (f"Test {words} against seconds of training", _scatter(setting, "seconds", "seconds")),
        (f"Test {words} against trainable parameters",
         _scatter(setting, "trainable_parameters", "trainable parameters")),
        ("Wrong answers on test where the surest ones alone are given",
         _risks(setting)),
    ]  # fmt: skip
    return [(title, svg) for title, svg in made if svg]


def styles(rows: Sequence[Row]) -> dict[str, tuple[str, str, str]]:
    """Colour, line and marker by title: twins share a colour, label methods are dashed."""
    found: dict[str, tuple[str, str, str]] = {}
    colours: dict[str, int] = {}
    kinds = {row.label_text for row in rows if row.is_label_method}
    for place, row in enumerate(rows):
        # The id of a label method ends in that of its plain twin.
        shared = row.method.removeprefix("lt-") if len(kinds) <= 1 else row.title
        if not row.is_label_method:
            shared = row.title
        again, colour = divmod(colours.setdefault(shared, len(colours)), len(COLOURS))
        line = _LINES[row.is_label_method][again % 2]
        found[row.title] = (COLOURS[colour], line, _MARKERS[place % len(_MARKERS)])
    return found


def _curves(setting: Setting, name: str, over: str, words: str) -> str:
    """A figure of the validation texts over steps, texts or seconds."""
    figure, axes, save = _figure(setting)
    called = WORDS[name]
    looks = styles(setting.rows)
    for row in setting.rows:
        curve = row.curve(over, name)
        if curve is None:
            continue
        places, heights = curve
        colour, line, _ = looks[row.title]
        axes.plot(
            places, heights.mean(0), line, color=colour, label=visible(row.title), linewidth=1.8
        )
        if len(heights) > 1:
            axes.fill_between(
                places, heights.min(0), heights.max(0), color=colour, alpha=0.13, linewidth=0
            )
    if not axes.lines:
        return ""
    if over != "step":  # methods differ by factors
        _log_axis(axes)
    axes.set_xlabel(words)
    axes.set_ylabel(f"{called} on validation")
    return save(figure, axes, f"validation {called} over {words}")


def _scatter(setting: Setting, name: str, words: str) -> str:
    figure, axes, save = _figure(setting)
    looks = styles(setting.rows)
    for row in setting.rows:
        x, height = row.median(name), row.figure(setting.task.main)
        if x <= 0:
            continue  # nothing trained, and no place on a logarithmic axis
        colour, line, marker = looks[row.title]
        axes.plot(
            [x], [height.mean], marker, color=colour, label=visible(row.title), markersize=8,
            markerfacecolor="none" if row.is_label_method else colour, markeredgewidth=1.8,
        )  # fmt: skip
        if height.low is not None and height.high is not None:
            axes.plot([x, x], [height.low, height.high], line, color=colour, linewidth=1.5)
    if not axes.lines:
        return ""
    _log_axis(axes)
    axes.set_xlabel(words)
    axes.set_ylabel(f"{setting.task.words} on test")
    return save(figure, axes, f"test {setting.task.words} against {words}")


def _risks(setting: Setting) -> str:
    figure, axes, save = _figure(setting)
    looks = styles(setting.rows)
    coverage = np.linspace(*_COVERED)
    for row in setting.rows:
        risks = row.risks(coverage)
        if risks is not None:
            colour, line, _ = looks[row.title]
            axes.plot(
                coverage, risks.mean(0), line, color=colour, label=visible(row.title), linewidth=1.8
            )
    if not axes.lines:
        return ""
    axes.set_ylim(bottom=0)
    axes.set_xlabel("share of the texts that are answered")
    axes.set_ylabel("share of wrong answers")
    return save(figure, axes, "share of wrong answers over the share answered")


def _log_axis(axes: Axes) -> None:
    """A logarithmic x axis with few ticks, in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1.0, 2.0, 5.0) if high < _FEW_TICKS * low else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """`0.5`, `20`, `50k`, `22M`, `7B`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _figure(setting: Setting) -> tuple[Figure, Axes, Callable[[Figure, Axes, str], str]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a $ in a method's name is a $
        "font.size": 11,
        "font.family": "sans-serif",
        **{
            name: _INK
            for name in (
                "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color",
                "grid.color",
            )
        },
    }  # fmt: skip
    lines = max(0, len(setting.rows) - _FEW_METHODS + 1) // 2
    with rc_context(style):
        figure = Figure((_WIDTH, _HEIGHT + lines * _HEIGHT_OF_TWO), layout="constrained")
        axes = figure.add_subplot()
    axes.grid(alpha=0.2, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)

    def save(figure: Figure, axes: Axes, words: str) -> str:
        with rc_context(dict(style, **{"svg.hashsalt": f"{setting.title}: {words}"})):
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                frameon=False, fontsize=10,
            )  # fmt: skip
            written = io.StringIO()
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        return _inline(written.getvalue(), words)

    return figure, axes, save


def _inline(svg: str, words: str) -> str:
    """Without what only a file of its own needs, as wide as there is room, in the page's ink."""
    svg = svg[svg.index("<svg") :]
    # A style sheet inside the page would be one of the whole page.
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)\s(?:width|height)="[^"]*"', r"\1", svg)
    svg = re.sub(r'(<svg [^>]*?)\s(?:width|height)="[^"]*"', r"\1", svg)
    svg = svg.replace(_INK, "currentColor")
    used = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg) for name in pair}
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)
