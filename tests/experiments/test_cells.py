"""Cells as they are run: what they hold, what they read, how they fail, how they go on."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ltuning.config import BackboneOptions
from ltuning.errors import ScoresError, TrainingError
from ltuning.experiments import cell as cells
from ltuning.experiments import own
from ltuning.experiments.cell_texts import read_measured, read_texts
from ltuning.experiments.grid import Grid
from ltuning.experiments.report import circumstances
from ltuning.experiments.results import Result, ResultFolder
from ltuning.experiments.runner import Outcome, run
from ltuning.tasks.table import TASKS

Make = Callable[..., Grid]
Measured = Callable[..., ResultFolder]
FIGURES = ("accuracy", "macro_f1", "mcc", "loss")


def outcomes(grid: Grid, folder: Path, data: Path, jobs: int = 1) -> list[Outcome]:
    results = ResultFolder(folder)
    results.open(grid)
    return list(run(list(grid.cells()), results, data, jobs))


def by_method(grid: Grid, results: ResultFolder) -> dict[str, Result]:
    return {result.cell.method: result for result in results.results(list(grid.cells()))}


def test_the_options_of_a_method_reach_its_training() -> None:
    options = {"data.class_weight": "balanced", "method.head": "match"}
    job: Any = SimpleNamespace(
        task=TASKS["classes"],
        backbone=BackboneOptions(),
        labels={"a": ["a"], "b": ["b"]},
        recipe="default",
        metric="macro_f1",
        seed=0,
        options=options,
    )
    config = own._config("probe", job)
    assert (config.data.class_weight, config.method.head) == ("balanced", "match")
    # Methods are compared by their scores as they are.
    assert not config.calibrate


# --- what a cell holds


def test_a_cell_holds_what_the_report_and_a_reader_need(make: Make, measured: Measured) -> None:
    grid = make(seeds=[0])
    found = by_method(grid, measured(grid))
    assert found.keys() == {"lt-prefix", "prefix", "logistic"}
    for result in found.values():
        record, predictions = result.record, result.predictions
        assert record["test"].keys() >= {*FIGURES, "per_class", "confusion"}
        assert record["validation"].keys() == {*FIGURES}
        assert record["texts"]["test"] == len(predictions.truth) == 30
        assert record["texts"]["validation_from"] == "train"
        assert predictions.probabilities.shape == (30, 3)
        right = (predictions.predicted == predictions.truth).mean()
        assert record["test"]["accuracy"] == pytest.approx(right)
        assert record["config"] == result.cell.config
        assert record["versions"].keys() >= {"ltuning", "torch", "transformers"}
        assert record["machine"]["cores"] == os.cpu_count()
        assert record["seconds"] > 0 and record["trainable_parameters"] > 0
        assert {"git", "date", "peak_memory", "total_seconds"} <= record.keys()
    history = found["lt-prefix"].record["history"]
    assert [point["step"] for point in history] == [2, 4]
    assert history[0].keys() == {"step", "seconds", *FIGURES}


def test_every_method_has_the_same_passes_in_a_step(make: Make, measured: Measured) -> None:
    methods: dict[str, Any] = {
        "prefix": {},
        "together": {"method": "lt-prefix", "options": {"method.labels": "together"}},
        "contrast": {"method": "lt-prefix", "options": {"method.labels": "apart"}},
        "one wrong label": {
            "method": "lt-prefix",
            "options": {"method.labels": "apart", "method.negatives": 1},
        },
        "pairs": {"method": "lt-prefix", "recipe": "paper"},
        "peft-prompt": {},
    }
    grid = make(methods=methods, seeds=[0], budget={"steps": 1, "batch": 12, "evaluations": 1})
    found = by_method(grid, measured(grid))
    texts = {name: result.record["texts"]["in_a_step"] for name, result in found.items()}
    # Three labels, one branch each: four texts are twelve passes.
    assert texts == {
        "prefix": 12, "together": 12, "contrast": 4, "one wrong label": 6, "pairs": 12,
        "peft-prompt": 12,
    }  # fmt: skip


@pytest.mark.parametrize("method", ["prefix", "peft-lora"])
def test_a_step_has_no_more_texts_than_there_are(
    make: Make, measured: Measured, method: str
) -> None:
    budget = {"steps": 1, "batch": 12, "evaluations": 1}
    grid = make(methods=[method], shots=[2], seeds=[0], budget=budget)
    (result,) = by_method(grid, measured(grid)).values()
    assert result.record["texts"]["in_a_step"] == result.record["texts"]["train"] == 6


def test_tfidf_reads_words_and_loads_no_backbone(make: Make, data: Path) -> None:
    sets = {"toy": {"path": "toy"}, "pairs": {"path": "pairs", "measure_on": "validation"}}
    single, pairs = make(data=sets, methods=["tfidf"], seeds=[0]).cells()
    backbones = cells.Backbones()
    for cell in (single, pairs):
        texts = read_texts(cell, data)
        job = cells._job(cell, texts, backbones)
        fitted = cells._fit(cell, job, None)
        joined = [t if isinstance(t, str) else " ".join(t) for t in texts.train.texts]
        words = [re.findall(r"\w\w+", text) for text in joined]
        grams = {gram for row in words for gram in [*row, *pairwise(row)]}
        assert fitted.num_parameters == 3 * (len(grams) + 1)
        assert fitted.texts_per_step is None and fitted.history == []
        found = fitted.probabilities(texts.train.texts)
        assert found.sum(1) == pytest.approx(1.0)
        names = [job.names[place] for place in found.argmax(1)]
        assert names == texts.train.labels
    assert backbones._backbone is None


def test_tfidf_without_words_says_so(make: Make, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    rows = [f"{letter},{label}" for label in ("food", "sport") for letter in "abcdefgh"]
    (tmp_path / "toy" / "train.csv").write_text("\n".join(["text,label", *rows]))
    grid = make(data={"toy": {"path": "toy"}}, methods=["tfidf"], seeds=[0])
    (outcome,) = outcomes(grid, tmp_path / "results", tmp_path)
    assert outcome.error is not None and outcome.error.endswith(
        "without the part held out: expected words of two letters or more for 'tfidf', got none; "
        "leave it out for this data"
    )


class _SetFit:
    """The little of the package `setfit` that a fit calls, which remembers its arguments."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.logging = SimpleNamespace(set_verbosity_error=lambda: None)
        self.SetFitModel = SimpleNamespace(from_pretrained=lambda _: self._model())
        self.TrainingArguments = dict
        self.Trainer = self._trainer

    def _model(self) -> Any:
        head = SimpleNamespace(
            classes_=np.arange(3), coef_=np.zeros((3, 4)), intercept_=np.zeros(3)
        )
        body = SimpleNamespace(parameters=lambda: [])

        def answer(texts: Any, **_: Any) -> np.ndarray:
            return np.full((len(texts), 3), 1 / 3)

        return SimpleNamespace(model_head=head, model_body=body, predict_proba=answer)

    def _trainer(self, model: Any, arguments: dict[str, Any], train_dataset: Any) -> Any:
        self.asked.append(arguments)
        number = arguments["num_iterations"]
        pairs = range(1000 if number is None else 2 * number * len(train_dataset))
        inner = SimpleNamespace(remove_callback=lambda _: None, train_dataset=pairs)
        return SimpleNamespace(st_trainer=inner, train=lambda: None)


def test_setfit_has_the_grids_budget_or_its_own(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setfit = _SetFit()
    monkeypatch.setitem(sys.modules, "setfit", setfit)
    own = {"method": "setfit", "options": {"iterations": 20}}
    few = {"method": "setfit", "options": {"iterations": 1}}
    methods = {"setfit": {"learning_rate": 2.0e-4}, "own": own, "few": few}
    grid = make(methods=methods, shots=[2], seeds=[0])
    assert [outcome.error for outcome in outcomes(grid, tmp_path / "r", data)] == [None] * 3
    names = ("batch_size", "max_steps", "num_iterations", "body_learning_rate", "num_epochs")
    # Three classes of two texts: 2 x 20 x 6 = 240 pairs are fifteen steps of 16.
    assert [[asked[name] for name in names] for asked in setfit.asked] == [
        [6, 4, None, 2e-4, 1], [16, 15, 20, 2e-5, 1], [16, 1, 1, 2e-5, 1],
    ]  # fmt: skip
    found = by_method(grid, ResultFolder(tmp_path / "r"))
    texts = {name: result.record["texts"] for name, result in found.items()}
    spent = {name: (one["in_a_step"], one["steps"]) for name, one in texts.items()}
    assert spent == {"setfit": (12, 4), "own": (32, 15), "few": (24, 1)}
    said = dict(circumstances(grid, list(found.values())))
    words = "setfit 12, own 32 (steps: 15), few 24 (steps: 1)"
    assert said["texts in a step on toy, 2 per class"] == words


def test_the_mistakes_are_the_most_confident_ones(make: Make, measured: Measured) -> None:
    grid = make(seeds=[0], methods=["cosine"])
    (result,) = by_method(grid, measured(grid)).values()
    predictions, mistakes = result.predictions, result.record["mistakes"]
    wrong = predictions.predicted != predictions.truth
    confidence = np.sort(predictions.probabilities.max(1)[wrong])[::-1]
    shown = [mistake["probability"] for mistake in mistakes]
    assert shown == pytest.approx(confidence[: len(shown)].tolist(), abs=1e-4)
    assert len(shown) == min(10, wrong.sum()) > 0
    assert all(mistake["truth"] != mistake["predicted"] for mistake in mistakes)


@pytest.mark.parametrize("method", ["peft-prefix", "peft-prompt", "peft-ptuning", "peft-lora"])
@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_peft_learns_the_toy_on_single_texts_and_pairs(
    make: Make, measured: Measured, tiny_models: dict[str, Path], family: str, method: str
) -> None:
    grid = make(
        backbones={family: {"name": str(tiny_models[family])}},
        data={"toy": {"path": "toy"}, "pairs": {"path": "pairs", "measure_on": "validation"}},
        methods=[method],
        seeds=[0],
    )
    results = measured(grid)
    found = results.results(list(grid.cells()))
    assert len(found) == 2
    for result in found:
        assert np.isfinite(result.predictions.probabilities).all()
        assert [point["step"] for point in result.record["history"]] == [2, 4]


def test_peft_keeps_its_best_weights(make: Make, measured: Measured) -> None:
    budget = {"steps": 12, "batch": 8, "evaluations": 6}
    methods = {"peft-lora": {"learning_rate": 0.05}}
    grid = make(methods=methods, seeds=[0, 1, 2], budget=budget)
    results = measured(grid).results(list(grid.cells()))
    for result in results:
        best = max(point["accuracy"] for point in result.record["history"])
        assert result.record["validation"]["accuracy"] == pytest.approx(best)
    lasts = [result.record["history"][-1]["accuracy"] for result in results]
    bests = [result.record["validation"]["accuracy"] for result in results]
    assert lasts != bests  # or this test shows nothing


@pytest.mark.parametrize("method", ["peft-prefix", "peft-prompt", "peft-lora", "lt-prefix"])
def test_half_precision_trains_too(
    make: Make, measured: Measured, tiny_bert: Path, method: str
) -> None:
    backbones = {"half": {"name": str(tiny_bert), "dtype": "bfloat16"}}
    grid = make(backbones=backbones, methods=[method], seeds=[0])
    (result,) = measured(grid).results(list(grid.cells()))
    assert np.isfinite(result.predictions.probabilities).all()
    losses = [point["loss"] for point in result.record["history"]]
    assert losses[0] != losses[1]


def test_a_peer_with_a_model_of_its_own_has_the_memory_for_itself(
    make: Make, data: Path, tiny_bert: Path
) -> None:
    backbones = cells.Backbones()
    order = list(make(methods=["peft-lora", "lt-prefix"]).cells())
    assert [cell.method for cell in order] == ["lt-prefix"] * 2 + ["peft-lora"] * 2
    for cell, is_loaded in ((order[0], True), (order[-1], False)):
        job = cells._job(cell, read_texts(cell, data), backbones)
        with cells._captured():
            cells._fit(cell, job, None)
        assert (backbones._backbone is not None) == is_loaded
        assert job.outline.max_length == job.load().max_length


# Between PEFT's virtual tokens and a padded text there are places, and it takes no positions.
@pytest.mark.parametrize(("method", "tolerance"), [("peft-lora", 1e-5), ("peft-prompt", 0.02)])
def test_a_decoders_answers_are_read_at_its_last_word(
    make: Make, data: Path, tiny_llama: Path, method: str, tolerance: float
) -> None:
    """PEFT gives the classifier embeddings, of which it reads the last place."""
    grid = make(backbones={"llama": {"name": str(tiny_llama)}}, methods=[method], seeds=[0])
    (cell,) = grid.cells()
    texts = read_texts(cell, data)
    job = cells._job(cell, texts, cells.Backbones())
    with cells._captured():
        fitted = cells._fit(cell, job, 1e-2)
        several = ["apple", "ball team goal race match player coach score", "hotel ticket"]
        together = fitted.probabilities(several)
        alone = np.concatenate([fitted.probabilities([text]) for text in several])
    assert together == pytest.approx(alone, abs=tolerance)


# --- what a cell reads


def test_the_measured_split_is_opened_once_and_after_every_choice(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fit, measure = cells._fit, cells.read_measured

    def fitting(*given: Any) -> Any:
        calls.append("fit")
        return fit(*given)

    def measuring(*given: Any) -> Any:
        calls.append("test")
        return measure(*given)

    monkeypatch.setattr(cells, "_fit", fitting)
    monkeypatch.setattr(cells, "read_measured", measuring)
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    grid = make(methods=["prefix"], seeds=[0], search={"trials": 3})
    (outcome,) = outcomes(grid, tmp_path / "results", folder)
    assert outcome.error is None
    assert calls == ["fit", "fit", "fit", "test"]


def test_without_a_test_split_the_validation_split_is_measured_on_and_never_chosen_by(
    make: Make, data: Path
) -> None:
    grid = make(data={"pairs": {"path": "pairs", "measure_on": "validation"}}, seeds=[0])
    cell = next(grid.cells())
    texts, measured = read_texts(cell, data), read_measured(cell, data)
    assert texts.held_out and len(texts.train) + len(texts.validation) == 48
    assert len(measured) == 30
    assert not {*texts.validation.texts} & {*measured.texts}


def test_texts_are_drawn_by_the_seed_and_measured_ones_are_not(make: Make, data: Path) -> None:
    sets = {"toy": {"path": "toy", "max_test": 9, "max_train": 20, "max_validation": 2}}
    first, second = make(data=sets, methods=["prefix"]).cells()
    assert read_measured(first, data).texts == read_measured(second, data).texts
    one, other = read_texts(first, data), read_texts(second, data)
    assert (len(one.train), len(one.validation)) == (20, 2)
    assert one.train.texts != other.train.texts
    assert one.train.texts == read_texts(first, data).train.texts


def test_labels_that_nothing_is_trained_on_choose_nothing(make: Make, data: Path) -> None:
    sets = {"toy": {"path": "toy", "max_train": 2, "validation_fraction": 0.5}}
    cell = next(make(data=sets).cells())
    texts = read_texts(cell, data)
    assert texts.train.labels is not None and texts.validation.labels is not None
    assert {*texts.validation.labels} <= {*texts.train.labels} < {"food", "sport", "travel"}


def test_a_part_to_hold_out_beside_a_validation_split_is_told_of(
    make: Make, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fraction = {"path": "pairs", "validation_fraction": 0.5}
    for measured, said in (("validation", 0), ("test", 1)):
        sets = {"pairs": {**fraction, "measure_on": measured}}
        read_texts(next(make(data=sets).cells()), data)
        words = "validation_fraction 0.5 has no effect: pairs has a validation split"
        assert caplog.messages == [words] * said


def test_a_method_is_trained_at_its_own_rate(make: Make, measured: Measured) -> None:
    """The rate of few texts is of labels that are read together."""
    apart = {"method": "lt-prefix", "options": {"method.labels": "apart"}}
    budget = {"steps": 1, "batch": 12, "evaluations": 1}
    grid = make(methods={"apart": apart, "lt-prefix": {}, "prefix": {}}, seeds=[0], budget=budget)
    found = by_method(grid, measured(grid))
    rates = {name: result.record["rate"] for name, result in found.items()}
    assert rates == {"apart": 6e-3, "lt-prefix": 3e-3, "prefix": 3e-2}
    assert not any(result.record["warnings"] for result in found.values())


def test_with_few_texts_as_many_choose(make: Make, data: Path) -> None:
    sets = {"toy": {"path": "toy", "validation_fraction": 0.5}}
    cell = next(make(data=sets, shots=[4]).cells())
    texts = read_texts(cell, data)
    assert (len(texts.train), len(texts.validation)) == (12, 12)


def test_what_was_warned_of_does_not_say_where_the_data_folder_lies(
    make: Make, data: Path, measured: Measured
) -> None:
    grid = make(seeds=[0], methods=["logistic"], shots=[1000])
    found = measured(grid).read(next(grid.cells()))
    assert found is not None
    said = found.record["warnings"]
    assert [words.partition(" examples of ")[0] for words in said] == [
        str(Path("toy", "train.csv, without the part held out: fewer than 1000")),
        str(Path("toy", "train.csv, the part held out to choose by: fewer than 1000")),
    ]


# --- search


def test_a_search_has_as_many_trials_for_each_and_takes_the_best_on_validation(
    make: Make, measured: Measured
) -> None:
    methods = ["lt-prefix", "peft-lora", "logistic", "cosine"]
    grid = make(methods=methods, seeds=[0], search={"trials": 3, "span": 4})
    found = by_method(grid, measured(grid))
    for name, default in (("lt-prefix", 3e-3), ("peft-lora", 3e-3), ("logistic", 10.0)):
        record = found[name].record
        rates = [trial["rate"] for trial in record["trials"]]
        assert len(rates) == 3 and rates[0] == pytest.approx(default)
        assert all(default / 4.001 <= rate <= default * 4.001 for rate in rates)
        best = max(record["trials"], key=lambda trial: trial["accuracy"])
        assert record["rate"] == best["rate"]
        assert record["validation"]["accuracy"] == best["accuracy"]
    assert found["cosine"].record["trials"] == [] and found["cosine"].record["rate"] is None


def test_a_rate_that_does_not_train_loses_and_only_that(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = cells._fit
    first: list[float | None] = []

    def diverge(cell: Any, job: Any, rate: float | None) -> Any:
        first.append(rate)
        if rate != first[0] or cell.seed == 1:
            raise TrainingError("expected a finite loss, got nan")
        return fit(cell, job, rate)

    monkeypatch.setattr(cells, "_fit", diverge)
    grid = make(methods=["logistic"], search={"trials": 3})
    good, bad = outcomes(grid, tmp_path / "results", data)
    assert good.error is None
    (result,) = ResultFolder(tmp_path / "results").results([good.cell])
    errors = [trial.get("error") for trial in result.record["trials"]]
    assert errors == [None, *["expected a finite loss, got nan"] * 2]
    assert result.record["rate"] == first[0]
    assert bad.error is not None and "a rate that trains among 3 trials, got none" in bad.error


# --- failures, interruptions, several processes


def test_labels_that_the_grid_does_not_name_are_said(
    make: Make, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    with (folder / "toy" / "test.csv").open("a") as file:
        file.write("apple,astronomy\n")
    (outcome,) = outcomes(make(methods=["cosine"], seeds=[0]), tmp_path / "results", folder)
    assert outcome.error is not None
    assert "expected labels among food, sport, travel, got astronomy;" in outcome.error
    sets = {"toy": {"path": "toy", "labels": {"food": "an apple", "sport": "a ball"}}}
    grid = make(data=sets, methods=["cosine"], seeds=[0])
    (outcome,) = outcomes(grid, tmp_path / "other", folder)
    assert outcome.error is not None
    assert "expected labels among food, sport, got travel;" in outcome.error


def test_a_step_of_fewer_passes_than_a_text_takes_is_refused(
    make: Make, data: Path, tmp_path: Path
) -> None:
    apart = {"method": "lt-prefix", "options": {"method.labels": "apart"}}
    grid = make(methods={"apart": apart}, seeds=[0], budget={"steps": 1, "batch": 2})
    (outcome,) = outcomes(grid, tmp_path / "results", data)
    assert outcome.error is not None
    assert "budget.batch: expected 3 or more, the passes of one text" in outcome.error


@pytest.mark.parametrize("method", ["prefix", "peft-lora"])
def test_measurements_that_do_not_divide_the_steps_end_with_the_last_step(
    make: Make, measured: Measured, method: str
) -> None:
    budget = {"steps": 5, "batch": 4, "evaluations": 2}
    grid = make(methods=[method], seeds=[0], budget=budget)
    (result,) = measured(grid).results(list(grid.cells()))
    assert [point["step"] for point in result.record["history"]] == [3, 5]


def test_a_cell_does_not_carry_the_backbone_of_another_grid_entry(tiny_bert: Path) -> None:
    backbones, options = cells.Backbones(), BackboneOptions(name=str(tiny_bert))
    loaded = backbones.load(options)
    backbones.keep_only(options)
    assert backbones.load(options) is loaded
    backbones.keep_only(BackboneOptions())
    assert backbones._backbone is None


def test_a_backbone_that_does_not_load_fails_its_own_cells_only(
    make: Make, data: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    (tmp_path / "empty").mkdir()
    backbones = {"bad": {"name": str(tmp_path / "empty")}, "good": {"name": str(tiny_bert)}}
    grid = make(backbones=backbones, methods=["prefix", "logistic"], seeds=[0])
    found = outcomes(grid, tmp_path / "results", data)
    assert [outcome.cell.backbone for outcome in found if outcome.error] == ["bad", "bad"]
    assert "expected a model folder with a config.json" in str(found[0].error)
    results = ResultFolder(tmp_path / "results")
    failure = results.failure(found[0].cell)
    assert failure is not None and "config.json" in failure
    assert len(results.results(list(grid.cells()))) == 2


def test_every_method_is_fitted_without_attention_of_cudnn(
    make: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(*_: object) -> None:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        raise ZeroDivisionError

    peer = dataclasses.replace(cells.PEERS["tfidf"], fit=look)
    monkeypatch.setattr(cells.own, "fit", look)
    monkeypatch.setitem(cells.PEERS, "tfidf", peer)
    outcomes(make(methods=["prefix", "tfidf"], seeds=[0]), tmp_path / "r", data)
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("deep inside"), "ZeroDivisionError: deep inside"),
        (ScoresError("expected finite scores"), "expected finite scores"),
    ],
)
def test_whatever_a_library_raises_is_a_failure_of_the_cell(
    make: Make,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    def crash(*_: object) -> None:
        raise error

    monkeypatch.setattr(cells.own, "fit", crash)
    found = outcomes(make(methods=["prefix", "logistic"], seeds=[0]), tmp_path / "r", data)
    assert [outcome.error for outcome in found] == [words, None]


def figures(grid: Grid, folder: Path) -> dict[str, list[float]]:
    results = ResultFolder(folder).results(list(grid.cells()))
    return {
        str(result.cell): [result.record["test"][name] for name in FIGURES] for result in results
    }


def test_several_processes_give_the_same_figures_and_one_that_is_killed_fails_its_cell(
    make: Make, data: Path, tmp_path: Path
) -> None:
    grid = make(methods=["lt-prefix", "logistic"])
    one, several = tmp_path / "one", ResultFolder(tmp_path / "several")
    assert all(outcome.error is None for outcome in outcomes(grid, one, data))
    several.open(grid)
    found: list[Outcome] = []
    for outcome in run(list(grid.cells()), several, data, jobs=2):
        found.append(outcome)
        if len(found) == 1:
            workers = multiprocessing.active_children()
            os.kill(workers[0].pid or 0, signal.SIGKILL)
    errors = [outcome.error for outcome in found if outcome.error]
    assert len(found) == 4
    assert [worker.exitcode for worker in workers] == [-9, 0]  # the other one left by itself
    assert len(errors) == 1 and "its process ended with exit code -9" in errors[0]
    expected, came = figures(grid, one), figures(grid, several.folder)
    assert len(came) == 3 and {name.split()[0] for name in came} == {"lt-prefix", "logistic"}
    for name, values in came.items():
        assert values == pytest.approx(expected[name], abs=1e-4)


def _begin(path: Path, folder: Path, data: Path, jobs: int = 1) -> subprocess.Popen[str]:
    """Run a grid in a process of its own, which prints `started` with every cell."""
    code = (
        "import sys; from pathlib import Path; from ltuning.experiments.grid import Grid;"
        "from ltuning.experiments.results import ResultFolder;"
        "from ltuning.experiments.runner import run;"
        "grid, folder, data = Grid.from_yaml(sys.argv[1]), *map(Path, sys.argv[2:4]);"
        "results = ResultFolder(folder); results.open(grid);"
        "started = lambda cell: print('started', flush=True);"
        "list(run(list(grid.cells()), results, data, int(sys.argv[4]), started))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(folder), str(data), str(jobs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_killed_run_leaves_no_process_behind(
    mapping: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    mapping["budget"]["steps"] = 1_000_000
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(mapping))
    process = _begin(path, tmp_path / "run", data, jobs=2)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["started\n"] * 2
    process.kill()
    process.communicate(timeout=100)  # its output ends when the last process that has it does


def test_a_killed_run_goes_on_and_gives_the_same_table(
    mapping: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    mapping["methods"], mapping["seeds"] = ["logistic", "prefix"], [0, 1, 2]
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(mapping))
    grid = Grid.from_yaml(path)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = _begin(path, broken, data)
    deadline = time.monotonic() + 200
    while len(list(broken.glob("cells/*.json"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    results = ResultFolder(broken)
    results.open(grid)
    todo = [cell for cell in grid.cells() if results.read(cell) is None]
    kept = {path.name: path.read_bytes() for path in broken.glob("cells/*.json")}
    assert 2 <= len(kept) < 6 and len(todo) == 6 - len(kept)
    assert all(outcome.error is None for outcome in run(todo, results, data))
    assert all((broken / "cells" / name).read_bytes() == old for name, old in kept.items())
    assert all(outcome.error is None for outcome in outcomes(grid, whole, data))
    again, straight = figures(grid, broken), figures(grid, whole)
    assert len(again) == 6 and again.keys() == straight.keys()
    for name, values in straight.items():
        assert again[name] == pytest.approx(values, abs=1e-4)
