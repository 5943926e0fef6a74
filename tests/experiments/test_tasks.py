"""Comparisons of other tasks than classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ltuning.errors import ConfigError
from ltuning.experiments.analysis import settings_of
from ltuning.experiments.grid import Grid
from ltuning.experiments.own import _applying
from ltuning.experiments.page import _details
from ltuning.experiments.report import circumstances, write_report
from ltuning.experiments.report_tables import decimal, legend, overviews
from ltuning.experiments.results import Result, ResultFolder
from ltuning.metrics import multilabel_report, span_report
from ltuning.tag_decoding import tag_names
from ltuning.tasks.table import TASKS

from ..estimators import test_multilabel_classifier, test_token_classifier

Make, Measured = Callable[..., Grid], Callable[..., ResultFolder]


def write_rows(path: Path, keys: tuple[str, str], rows: Any) -> None:
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in zip(*rows, strict=True)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A data set with tags, which holds out its validation, and one with several labels."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "tagged").mkdir()
    (folder / "several").mkdir()
    for split in ("TRAINING", "TEST"):
        name = {"TRAINING": "train", "TEST": "test"}[split]
        rows = getattr(test_token_classifier, split)
        write_rows(folder / "tagged" / f"{name}.jsonl", ("tokens", "tags"), rows)
        rows = getattr(test_multilabel_classifier, split)
        write_rows(folder / "several" / f"{name}.jsonl", ("text", "labels"), rows)
    return {
        "tagged": {"path": str(folder / "tagged"), "task": "tags", "max_test": 12},
        "several": {"path": str(folder / "several"), "task": "multilabel"},
    }


def of(grid: Grid, results: ResultFolder) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in results.results(list(grid.cells())):
        found.setdefault(result.cell.method, []).append(result)
    return found


@pytest.fixture
def tagged(make: Make, sets: Any, measured: Measured) -> tuple[Grid, ResultFolder]:
    methods = {
        "ls-lora": {"learning_rate": 1e-2},
        "probe": {"learning_rate": 5e-2},
    }
    grid = make(data={"tagged": sets["tagged"]}, methods=methods, beside=["probe"])
    return grid, measured(grid)


@pytest.fixture
def several(make: Make, sets: Any, measured: Measured) -> tuple[Grid, ResultFolder]:
    grid = make(
        data={"several": sets["several"]},
        methods=["lt-prefix", "prefix", "logistic", "tfidf"],
        beside=["logistic"],
    )
    return grid, measured(grid)


# --- what a cell holds


def test_a_cell_of_tags_is_measured_by_its_entities(tagged: Any) -> None:
    found = of(*tagged)
    assert found.keys() == {"ls-lora", "probe"}
    for result in (one for several in found.values() for one in several):
        record, predictions = result.record, result.predictions
        assert result.names == ["food", "sport"] and record["config"]["metric"] == "f1"
        assert record["validation"].keys() == {"loss", "f1", "precision", "recall"}
        assert [point["step"] for point in record["history"]] == [2, 4]
        assert record["texts"]["test"] == len(predictions.truth) == 12
        tags = tag_names(result.names)
        sides = [
            [[tags[place] for place in row if place >= 0] for row in side]
            for side in (predictions.truth, predictions.predicted)
        ]
        assert record["test"]["f1"] == pytest.approx(span_report(*sides)["f1"])
        assert predictions.probabilities.shape == (sum(map(len, sides[0])), 5)
        for mistake in record["mistakes"]:
            assert mistake["truth"] != mistake["predicted"]


def test_a_cell_of_several_labels_is_measured_at_its_thresholds(several: Any) -> None:
    found = of(*several)
    assert found.keys() == {"lt-prefix", "prefix", "logistic", "tfidf"}
    for result in (one for many in found.values() for one in many):
        record, predictions = result.record, result.predictions
        report = multilabel_report(predictions.truth, predictions.predicted, result.names)
        assert record["test"]["micro_f1"] == pytest.approx(report["micro_f1"])
        assert record["config"]["metric"] == "micro_f1"
        assert predictions.probabilities.shape == predictions.truth.shape == (60, 3)
        # One threshold for each label: what applies is above what does not.
        for chances, said in zip(predictions.probabilities.T, predictions.predicted.T, strict=True):
            lowest = chances[said == 1].min(initial=np.inf)
            assert lowest >= chances[said == 0].max(initial=-np.inf)


def test_a_head_for_each_label_is_fitted_to_its_end(several: Any) -> None:
    for result in of(*several)["tfidf"]:
        assert result.record["trainable_parameters"] % 3 == 0
        assert result.record["validation"]["micro_f1"] > 0.5
        assert result.record["history"] == []


def test_a_label_without_a_text_to_train_on_is_never_predicted(
    make: Make, sets: Any, measured: Measured
) -> None:
    names = ["food", "never", "sport", "travel"]
    data = {"several": {**sets["several"], "labels": names}}
    grid = make(data=data, methods=["tfidf"], seeds=[0])
    (result,) = measured(grid).results(list(grid.cells()))
    assert result.names == names and not result.predictions.predicted[:, 1].any()
    assert result.record["test"]["micro_f1"] > 0.5
    assert result.record["trainable_parameters"] % 3 == 0


def test_passes_of_a_text_are_counted_with_the_labels_that_apply() -> None:
    labels: list[list[list[str]]] = [[["a"], [], ["a", "b", "c"]], [["a"], ["b"]], [[]]]
    for name, expected in (("multilabel", [2, 1, 1]), ("classes", [1, 1, 1])):
        jobs: list[Any] = [
            SimpleNamespace(task=TASKS[name], train=SimpleNamespace(labels=one)) for one in labels
        ]
        assert [_applying(job) for job in jobs] == expected


# --- the report


def test_the_report_of_tags_names_its_figures(tagged: Any) -> None:
    grid, folder = tagged
    tables, (text, page) = write_report(grid, folder)
    head = "| method | F1 of entities, 95 % | each seed | precision | recall | validation | area |"
    assert head in tables and "majority class" not in tables and "accuracy" not in tables
    # No method of the task reads label texts: every one is set beside what the grid names.
    (pair,) = settings_of(grid, folder.results(list(grid.cells())))[0].comparisons
    assert (pair.label.method, pair.plain.method, pair.seeds) == ("ls-lora", "probe", 2)
    means = [row.figure("f1").mean for row in (pair.label, pair.plain)]
    assert pair.difference.mean == pytest.approx(means[0] - means[1])
    assert "| method | beside | seeds | difference, 95 % |" in tables
    assert "right alone: sentences (all their tags) over all seeds that one" in text.read_text()
    assert "f1 there is kept" in text.read_text()
    assert "points of F1 of entities of a method over what the grid sets it beside, with" in (
        text.read_text()
    )
    written = page.read_text()
    assert "Validation F1 of entities over the steps" in written
    assert "F1 of entities on test" in written and "F1 of each type" in written
    assert "ls-lora: most confident mistakes</summary>" in written
    # Nor is there a matrix of confusions, so that without texts nothing is left to unfold.
    assert _details(pair.label, texts=False)["summary"] == ""


def test_the_report_of_several_labels_pairs_them_by_their_f1(several: Any) -> None:
    grid, folder = several
    tables, (text, page) = write_report(grid, folder)
    head = "| method | micro F1, 95 % | each seed | macro F1 | exact match | validation | area |"
    assert head in tables and "majority class" not in tables
    (setting,) = settings_of(grid, folder.results(list(grid.cells())))
    assert [pair.plain.method for pair in setting.comparisons] == ["prefix", "logistic"]
    for pair in setting.comparisons:
        means = [row.figure("micro_f1").mean for row in (pair.label, pair.plain)]
        assert pair.difference.mean == pytest.approx(means[0] - means[1])
        low, high = pair.difference.low, pair.difference.high
        assert low is not None and high is not None and low <= pair.difference.mean <= high
        alone = [
            (a.predictions.predicted == a.predictions.truth).all(1)
            & ~(b.predictions.predicted == b.predictions.truth).all(1)
            for a, b in zip(pair.label.results, pair.plain.results, strict=True)
        ]
        assert pair.only_label == np.sum(alone)
    assert "right alone: texts (all their labels) over all seeds that one" in text.read_text()
    assert "F1 of each label" in page.read_text()


def test_tasks_of_one_backbone_have_tables_of_their_own(
    make: Make, sets: Any, measured: Measured
) -> None:
    data = {**sets, "again": {**sets["tagged"], "max_test": 5}, "toy": {"path": "toy"}}
    grid = make(data=data, methods={"probe": {"learning_rate": 5e-2}}, seeds=[0])
    results = measured(grid).results(list(grid.cells()))
    settings = settings_of(grid, results)
    (overview,) = overviews(settings)
    assert (overview.title, overview.settings) == ("bert, F1 of entities", ["tagged", "again"])
    assert [name for name, _ in overview.tables] == ["F1 of entities, 95 %", "seconds"]
    found = {
        one.cell.data: decimal(one.record["test"]["f1"])
        for one in results
        if one.cell.settings.data.task == "tags"
    }
    assert overview.tables[0][1] == [["probe", found["tagged"], found["again"]]]
    budget = dict(circumstances(grid, results))["budget"]
    assert budget.endswith("the best f1 or micro_f1 or accuracy there is kept")
    said = legend(settings)
    assert [words.partition(":")[0] for words in said[:3]] == [
        "F1 of entities, precision, recall", "micro F1, macro F1, exact match",
        "accuracy, macro F1, Matthews correlation",
    ]  # fmt: skip
    assert said[3].startswith("validation: F1 of entities or micro F1 or accuracy on the texts")


# --- what a grid may say


def test_the_metric_is_the_tasks_own_where_the_grid_names_none(make: Make, sets: Any) -> None:
    alone = make(data={"tagged": sets["tagged"]}, methods=["probe"])
    assert alone.metric == "f1"
    mixed = make(data={**sets, "toy": {"path": "toy"}}, methods=["probe"])
    chosen = {cell.data: cell.settings.metric for cell in mixed.cells()}
    assert chosen == {"tagged": "f1", "several": "micro_f1", "toy": "accuracy"}
    assert Grid.from_dict(mixed.to_dict()) == mixed
    both = make(data=sets, methods=["probe"], metric="loss")
    assert {cell.settings.metric for cell in both.cells()} == {"loss"}


def test_a_grid_of_classes_is_told_as_before_there_were_tasks(make: Make, sets: Any) -> None:
    """So that what is finished stays finished."""
    cell, *_ = make().cells()
    assert cell.config["metric"] == "accuracy" and "task" not in cell.config["data"]
    written = make().to_dict()
    assert written["metric"] == "accuracy" and "task" not in written["data"]["toy"]
    grown = make(data={"toy": make().to_dict()["data"]["toy"], **sets}, methods=["probe"])
    before, *_ = make(methods=["probe"]).cells()
    (after,) = (cell for cell in grown.cells() if (cell.data, cell.seed) == ("toy", before.seed))
    assert (after.stem, after.config) == (before.stem, before.config)


def test_all_that_a_task_has_not_is_refused_at_once(make: Make, sets: Any) -> None:
    data = {"tagged": {**sets["tagged"], "text_pair_column": "other"}}
    data["tagged"]["labels"] = {"O": "O", "food": "what one eats"}
    data["toy"] = {"path": "toy"}
    with pytest.raises(ConfigError) as caught:
        make(
            data=data,
            methods={"lt-prefix": {}, "peft-lora": {}, "tfidf": {}, "logistic": {}, "probe": {}},
            shots=[4],
            metric="accuracy",
        )
    assert [str(problem) for problem in caught.value.problems] == [
        "data.tagged.labels: expected types of entities, of one word each and not 'O', got 'O'; "
        "rename it",
        "data.tagged.labels: no method reads texts of types; give the name 'food' alone",
        "data.tagged.text_pair_column: task 'tags' has no pairs of texts; leave it out",
        "methods.lt-prefix: expected a method that gives every word a score ('ls-lora', "
        "'ls-unmask', 'probe', 'full') with task 'tags', got 'lt-prefix', which scores a text as "
        "a whole",
        "methods.peft-lora: expected a method for task 'tags' of the data set 'tagged', got "
        "'peft-lora', which knows 'classes' only; leave it out, or compare it in another grid",
        "methods.tfidf: expected a method for task 'tags' of the data set 'tagged', got 'tfidf', "
        "which knows 'classes', 'multilabel' only; leave it out, or compare it in another grid",
        "methods.logistic: expected a method for task 'tags' of the data set 'tagged', got "
        "'logistic', which knows 'classes', 'multilabel' only; leave it out, or compare it in "
        "another grid",
        "metric: expected 'loss' or 'f1' with task 'tags' of the data set 'tagged', got "
        "'accuracy'; leave it out, and each task has its own",
        "shots: task 'tags' of the data set 'tagged' has no texts of one class to draw from; "
        "leave it out, or set max_train of the data set",
    ]


def test_a_type_that_the_grid_does_not_name_ends_its_cell_with_a_sentence(
    make: Make, sets: Any, tmp_path: Path
) -> None:
    from ltuning.experiments.runner import run

    data = {"tagged": {**sets["tagged"], "labels": {"food": "food"}}}
    grid = make(data=data, methods=["probe"], seeds=[0])
    results = ResultFolder(tmp_path / "results")
    results.open(grid)
    (outcome,) = run(list(grid.cells()), results, None)
    assert outcome.error is not None and outcome.error.endswith(
        "expected labels among food, got sport; name every label under labels of the grid"
    )
