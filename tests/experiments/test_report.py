from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt  # what rich reads Markdown with

from ltuning.experiments.analysis import Row, settings_of
from ltuning.experiments.grid import Grid
from ltuning.experiments.plots import COLOURS, short, styles
from ltuning.experiments.report import write_report
from ltuning.experiments.report_tables import decimal
from ltuning.experiments.results import Result, ResultFolder

Make, Measured = Callable[..., Grid], Callable[..., ResultFolder]
EVIL = "<script>alert('x')</script> & \"quotes\""


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("paper", ["#ffffff", "#14161a"])
def test_every_line_is_seen_on_light_and_on_dark(colour: str, paper: str) -> None:
    """A contrast of 3, what WCAG 2.2 asks of graphics (1.4.11)."""
    darker, lighter = sorted([_luminance(colour), _luminance(paper)])
    assert (lighter + 0.05) / (darker + 0.05) >= 3


class _Page(HTMLParser):
    """Tags, attributes and whether every tag that is opened is closed."""

    VOID = frozenset({"meta", "br", "path", "use", "stop", "rect", "line", "circle"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def grid(make: Make) -> Grid:
    return make(methods=["lt-prefix", "prefix", "logistic", "cosine"])


@pytest.fixture
def folder(grid: Grid, measured: Measured) -> ResultFolder:
    return measured(grid)


def test_the_tables_hold_every_method_and_the_state(grid: Grid, folder: ResultFolder) -> None:
    tables, files = write_report(grid, folder)
    assert [path.name for path in files] == ["report.md", "report.html"]
    text = files[0].read_text()
    assert tables in text and "8 of 8 cells are finished" in text
    for row in ("lt-prefix", "prefix", "logistic", "cosine", "majority class"):
        assert f"\n| {row} |" in tables
    for result in folder.results(list(grid.cells())):
        assert decimal(result.record["test"]["accuracy"]) in tables
    assert "| lt-prefix | prefix | 2 |" in tables
    assert "24 of" not in text and "30 to measure on (of the test split)" in text
    assert grid.to_yaml() in text
    assert "torch" in text and "cores" in text


def test_wrong_answers_are_drawn_over_the_share_that_is_answered(
    grid: Grid, folder: ResultFolder
) -> None:
    (setting,) = settings_of(grid, folder.results(list(grid.cells())))
    row = next(row for row in setting.rows if row.method == "logistic")
    risks = row.risks(np.array([1.0]))
    assert risks is not None
    accuracies = [result.record["test"]["accuracy"] for result in row.results]
    np.testing.assert_allclose(1 - risks[:, 0], accuracies)
    _, (_, page) = write_report(grid, folder)
    assert page.read_text().count("share of wrong answers over the share answered") == 1


def test_settings_of_a_backbone_stand_side_by_side(make: Make, measured: Measured) -> None:
    grid = make(methods=["lt-prefix", "prefix", "cosine"], shots=[4, "all"], seeds=[0])
    folder = measured(grid)
    tables, (_, page) = write_report(grid, folder)
    accuracy, difference, seconds = tables.split("\n\n")[1:4]
    assert accuracy.startswith("| accuracy, 95 % | toy, 4 texts per class | toy |\n")
    for method in ("lt-prefix", "prefix", "cosine"):
        few, every = (
            decimal(result.record["test"]["accuracy"])
            for result in folder.results(list(grid.cells()))
            if result.cell.method == method
        )
        assert f"\n| {method} | {few} | {every} |" in accuracy
    assert "\n| majority class | " in accuracy
    (line,) = difference.splitlines()[2:]
    assert re.fullmatch(r"\| lt-prefix over prefix \| [+-]\S+ \[.*\] \| [+-]\S+ \[.*\] \|", line)
    assert seconds.startswith("| seconds | toy, 4 texts per class | toy |\n")
    assert re.search(r"\n\| lt-prefix \| \d+\.\d \| \d+\.\d \|", seconds)
    assert "<td>lt-prefix over prefix</td>" in page.read_text()


def test_every_line_of_a_table_has_as_many_cells(grid: Grid, folder: ResultFolder) -> None:
    tables, _ = write_report(grid, folder)
    for block in re.split(r"\n\n", tables):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_the_page_needs_nothing_from_elsewhere(grid: Grid, folder: ResultFolder) -> None:
    page = _Page(write_report(grid, folder)[1][1].read_text())
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "data", "action"):
                assert value is not None and value.startswith("#"), (tag, name, value)
    assert sum(tag == "svg" for tag, _ in page.tags) == 6
    assert not any(name == "svg" and "width" in found for name, found in page.tags)


def test_the_page_is_for_light_dark_phones_and_paper(grid: Grid, folder: ResultFolder) -> None:
    text = write_report(grid, folder)[1][1].read_text()
    for words in ("prefers-color-scheme: dark", "width=device-width", "@media print"):
        assert words in text
    assert "currentColor" in text and "#010203" not in text and "url(http" not in text


def test_what_ids_a_figure_refers_to_are_there(grid: Grid, folder: ResultFolder) -> None:
    text = write_report(grid, folder)[1][1].read_text()
    referred = set(re.findall(r'xlink:href="#([^"]+)"', text)) | set(
        re.findall(r"url\(#([^)]+)\)", text)
    )
    assert referred and referred <= set(re.findall(r'\bid="([^"]+)"', text))


def _put_mistake(folder: ResultFolder, text: str) -> None:
    for path in folder.cells.glob("*.json"):
        record = json.loads(path.read_text())
        record["mistakes"] = [
            {"row": 0, "text": text, "truth": text, "predicted": "b", "probability": 0.9}
        ]
        path.write_text(json.dumps(record))


def test_texts_of_the_data_are_escaped(grid: Grid, folder: ResultFolder) -> None:
    _put_mistake(folder, EVIL)
    text = write_report(grid, folder)[1][1].read_text()
    assert "<script>" not in text and "&lt;script&gt;alert(&#39;x&#39;)" in text


def test_the_page_can_do_without_texts(grid: Grid, folder: ResultFolder) -> None:
    _put_mistake(folder, "a private text")
    assert "a private text" in write_report(grid, folder)[1][1].read_text()
    page = write_report(grid, folder, texts=False)[1][1].read_text()
    assert "a private text" not in page and "mistakes" not in page
    assert "confusions</summary>" in page


def test_markdown_shows_a_reason_as_it_is(grid: Grid, folder: ResultFolder) -> None:
    cell = next(iter(grid.cells()))
    (path,) = folder.cells.glob(f"{cell.stem}.json")
    path.unlink()
    reason = "expected `one`, got *two* | __three__ [x](y) a_b <i>\\nfour"
    folder.fail(cell, reason)
    rendered = MarkdownIt().render(write_report(grid, folder)[1][0].read_text())
    assert html.escape(" ".join(reason.split()), quote=False) in rendered


@pytest.mark.parametrize("name", ["*a* <b>c</b> [x](y) ~~d~~ &lt;", "a\n```\n# b", "a\x1b[31mb"])
def test_names_of_the_grid_are_shown_as_they_are(
    make: Make, measured: Measured, toy: Any, name: str
) -> None:
    data = {name: {"path": "toy", "labels": toy.label_texts}}
    grid = make(name=name, data=data, methods={name: {"method": "cosine"}}, seeds=[0])
    folder = measured(grid)
    text, page = (path.read_text() for path in write_report(grid, folder)[1])
    rendered = MarkdownIt().enable("table").render(text)
    shown = html.escape(" ".join(name.split()).replace("\x1b", "\\x1b"), quote=False)
    assert f"<h1>{shown}</h1>" in rendered
    assert f"<td>{shown}</td>" in rendered
    assert rendered.count("<h1>") == 1 and rendered.count("<pre>") == 1
    assert "\x1b" not in text and "<b>" not in page


def test_twins_share_a_colour_and_label_methods_are_dashed(
    grid: Grid, folder: ResultFolder
) -> None:
    (setting,) = settings_of(grid, folder.results(list(grid.cells())))
    looks = styles(setting.rows)
    label, plain = looks["lt-prefix"], looks["prefix"]
    assert label[0] == plain[0] and (label[1], plain[1]) == ("--", "-")
    assert len({colour for colour, _, _ in looks.values()}) == 3
    assert len({marker for _, _, marker in looks.values()}) == 4


def test_more_methods_than_colours_are_told_apart(folder: ResultFolder, grid: Grid) -> None:
    (setting,) = settings_of(grid, folder.results(list(grid.cells())))
    label, plain = setting.rows[:2]
    rows = [replace(row, method=f"{row.method}-{n}") for row in (plain, label) for n in range(7)]
    looks = styles(rows)
    assert len({(colour, line) for colour, line, _ in looks.values()}) == 14
    assert len({marker for _, _, marker in looks.values()}) == 14


def test_loss_is_drawn_against_the_texts_seen_and_the_seconds(
    make: Make, measured: Measured
) -> None:
    apart = {"method": "lt-prefix", "options": {"method.labels": "apart"}}
    together = {"method": "lt-prefix", "options": {"method.labels": "together"}}
    grid = make(methods={"lt-prefix": together, "lt-prefix-apart": apart, "prefix": {}})
    folder = measured(grid)
    (setting,) = settings_of(grid, folder.results(list(grid.cells())))
    seen = {}
    for row in setting.rows:
        curve, clock = row.curve("texts", "loss"), row.curve("seconds", "loss")
        assert curve is not None and clock is not None
        histories = [result.record["history"] for result in row.results]
        assert curve[1].tolist() == [[point["loss"] for point in one] for one in histories]
        times = [[point["seconds"] for point in one] for one in histories]
        assert clock[0] == pytest.approx(np.mean(times, axis=0))
        seen[row.method] = curve[0].tolist()
    # An epoch of the 42 texts has four steps of up to twelve passes; three labels apart take three
    # passes of a text, up to four texts in each of eleven steps.
    assert seen == {
        "lt-prefix": [21, 42],
        "lt-prefix-apart": pytest.approx([2 * 42 / 11, 4 * 42 / 11]),
        "prefix": [21, 42],
    }
    pairs = [(pair.label.method, pair.plain.method) for pair in setting.comparisons]
    assert pairs == [("lt-prefix", "prefix"), ("lt-prefix-apart", "prefix")]
    looks = styles(setting.rows)
    assert looks["lt-prefix"][0] == looks["prefix"][0] != looks["lt-prefix-apart"][0]
    page = write_report(grid, folder)[1][1].read_text()
    for words in ("texts seen", "seconds"):
        (svg,) = re.findall(rf'<svg role="img" aria-label="validation loss over {words}".*?</svg>',
                            page, re.DOTALL)  # fmt: skip
        assert svg.count("lt-prefix-apart") == 1
    single = Row("logistic", None, (_without_history(setting.rows[0].results[0]),))
    assert single.curve("texts", "loss") is None


def _without_history(result: Result) -> Result:
    return replace(result, record={**result.record, "history": []})


def test_numbers_at_an_axis_are_short() -> None:
    found = [short(value) for value in (0.5, 20, 999, 5e4, 2e5, 2.2e7, 7e9)]
    assert found == ["0.5", "20", "999", "50k", "200k", "22M", "7B"]


def test_names_are_drawn_as_they_are_and_ids_are_of_one_figure(
    make: Make, measured: Measured
) -> None:
    methods = {"of $1 and $2^{": {"method": "prefix"}, "plain": {"method": "prefix"}}
    grid = make(methods=methods, seeds=[0], shots=[4, "all"])
    folder = measured(grid)
    text = write_report(grid, folder)[1][1].read_text()
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 12
    assert all("of $1 and $2^{" in svg and "mathdefault" not in svg for svg in svgs)
    ids = re.findall(r' id="([^"]+)"', text)
    assert ids and len(set(ids)) == len(ids)


def test_what_was_warned_of_is_said_with_the_number_of_cells(
    grid: Grid, folder: ResultFolder
) -> None:
    for path in sorted(folder.cells.glob("*.json"))[:3]:
        record = json.loads(path.read_text())
        record["warnings"] = ["not at its end"] * 2
        path.write_text(json.dumps(record))
    text = write_report(grid, folder)[1][0].read_text()
    assert "- warned of in 3 of 8 cells: not at its end" in text


def test_cells_without_a_result_are_listed_with_their_reason(
    make: Make, grid: Grid, folder: ResultFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.experiments.peers import Peer

    monkeypatch.setattr(Peer, "is_installed", property(lambda peer: peer.package is None))
    grown = make(methods=["lt-prefix", "prefix", "logistic", "cosine", "setfit"], seeds=[0, 1, 2])
    folder.open(grown)
    failed = next(cell for cell in grown.cells() if cell.seed == 2)
    folder.fail(failed, "no memory <left>")
    _, files = write_report(grown, folder)
    text, page = (path.read_text() for path in files)
    assert "8 of 15 cells are finished" in text
    assert f"- {failed}: no memory \\<left>" in text and "no memory &lt;left&gt;" in page
    assert text.count("the package setfit is not installed") == 3
    assert text.count(": not run yet") == 3


def test_nothing_finished_is_a_report_too(make: Make, tmp_path: Path) -> None:
    folder, grid = ResultFolder(tmp_path), make()
    folder.open(grid)
    tables, files = write_report(grid, folder)
    assert tables == "no cell is finished"
    assert "0 of 6 cells are finished" in files[1].read_text()


def test_many_classes_are_told_by_their_confused_pairs(
    make: Make, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltuning.experiments.page.LARGEST_MATRIX", 2)
    grid = make(methods=["cosine"], seeds=[0])
    folder = measured(grid)
    (result,) = folder.results(list(grid.cells()))
    counts = result.record["test"]["confusion"]["counts"]
    most = max(counts[i][j] for i in range(3) for j in range(3) if i != j)
    text = write_report(grid, folder)[1][1].read_text()
    assert f"<td>{most}</td>" in text and 'class="matrix"' not in text


def test_label_texts_that_are_compared_are_said_and_have_colours_of_their_own(
    make: Make, measured: Measured
) -> None:
    grid = make(methods=["lt-prefix", "prefix"], seeds=[0], label_texts=["names", "shuffled"])
    folder = measured(grid)
    tables, _ = write_report(grid, folder)
    for kind in ("names", "shuffled"):
        assert f"| lt-prefix ({kind}) | prefix | 1 |" in tables
    (setting,) = settings_of(grid, folder.results(list(grid.cells())))
    assert len({colour for colour, _, _ in styles(setting.rows).values()}) == 3
