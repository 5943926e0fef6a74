"""One cell: search, training, choice on the validation texts, and one look at the test texts."""

from __future__ import annotations

import gc
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import load_tokenizer, meta_backbone
from ltuning.config import BackboneOptions
from ltuning.errors import DataError, MissingExtraError, TrainingError
from ltuning.experiments import own
from ltuning.experiments.cell_texts import Texts, digest, read_measured, read_texts
from ltuning.experiments.entries import Search
from ltuning.experiments.fitting import Fitted, Job, is_better
from ltuning.experiments.grid import Cell
from ltuning.experiments.labelling import label_texts
from ltuning.experiments.machine import PeakMemory, git_hash, machine, versions
from ltuning.experiments.peers import PEERS
from ltuning.experiments.results import Predictions, ResultFolder
from ltuning.memory import return_memory
from ltuning.sentences import Sentence
from ltuning.tasks.task import Labelled, Task
from ltuning.texts import Text
from ltuning.training.isolation import sound_attention

_MOST_MISTAKES = 10
_MOST_NAMED = 5
_LONGEST_SHOWN = 400  # characters of a text in a result


class Backbones:
    """The backbone that was used last stays loaded; cells of one follow each other."""

    def __init__(self) -> None:
        self._options: BackboneOptions | None = None
        self._backbone: Backbone | None = None

    def load(self, options: BackboneOptions) -> Backbone:
        """The frozen model of these options."""
        if self._backbone is None or self._options != options:
            self.release()
            self._backbone, self._options = Backbone.load(options), options
        return self._backbone

    def keep_only(self, options: BackboneOptions) -> None:
        """Release what a cell of these options would carry along without using it."""
        if self._options != options:
            self.release()
        else:
            _collect()

    def release(self) -> None:
        """Give the memory back."""
        self._backbone = self._options = None
        _collect()


def _collect() -> None:
    """Give back what only itself refers to, as a Trainer and its model do after a cell."""
    gc.collect()
    return_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def outline(options: BackboneOptions) -> Backbone:
    """A backbone without weights: its tokenizer, sizes and limits."""
    model, family = meta_backbone(options)
    tokenizer = load_tokenizer(options, model.config, family)
    return Backbone(model, tokenizer, name=options.name, max_length=options.max_length)


def run_cell(
    cell: Cell, results: ResultFolder, folder: Path | None, backbones: Backbones
) -> dict[str, Any]:
    """Measure a cell and write its result.

    Args:
        cell: of a checked grid.
        results: where to.
        folder: of the data sets.
        backbones: what is loaded.

    Returns:
        What was written about it.
    """
    source, task = git_hash(), cell.settings.task
    with _captured() as said:
        backbones.keep_only(cell.settings.backbone)
        peak, started = PeakMemory(), time.perf_counter()
        texts = read_texts(cell, folder)
        job = _job(cell, texts, backbones)
        fitted, validation, rate, trials = _choose(cell, job)
        # Every choice is made: only now the texts are opened that the cell is measured on.
        measured = read_measured(cell, folder)
        _check_labels(task, measured, job.names)
        scored = fitted.probabilities(measured.inputs)
        predicted = task.decide(scored, fitted.thresholds)
        truth = task.truth(measured, job.names)
        record = {
            "test": task.measure(scored, predicted, truth, job.names),
            "validation": {name: validation[name] for name in ("loss", *task.figures)},
            "history": fitted.history,
            "rate": rate,
            "trials": trials,
            "seconds": round(fitted.seconds, 3),
            "total_seconds": round(time.perf_counter() - started, 3),
            "peak_memory": peak.read(),
            "trainable_parameters": fitted.num_parameters,
            "labels": job.labels,
            "texts": _counts(cell, texts, measured, fitted),
            "mistakes": _mistakes(job, scored, predicted, truth, measured),
            # A report may be published: where the data folder lies is nobody's business.
            "warnings": [words.removeprefix(f"{folder}{os.sep}") for words in said],
            "versions": versions(),
            "git": source,
            "machine": machine(),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
    results.finish(cell, record, Predictions(task.packed(scored), predicted, truth))
    return record


def require_search() -> Any:
    """Optuna.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("a search in `ltuning compare`", "compare") from error
    return optuna


def _job(cell: Cell, texts: Texts, backbones: Backbones) -> Job:
    settings = cell.settings
    sketch, given = outline(settings.backbone), settings.data.labels
    if settings.task.reads_labels:
        labels = label_texts(cell.label_text, given, texts.names, sketch.tokenizer, cell.seed)
    else:
        labels = {name: [name] for name in given or texts.names}
    for examples in (texts.train, texts.validation):
        _check_labels(settings.task, examples, list(labels))
    return Job(
        task=settings.task,
        backbone=settings.backbone,
        outline=sketch,
        load=lambda: backbones.load(settings.backbone),
        release=backbones.release,
        train=texts.train,
        validation=texts.validation,
        labels=labels,
        budget=settings.budget,
        metric=settings.metric,
        seed=cell.seed,
        recipe=settings.entry.recipe,
        options=settings.entry.options,
    )


def _check_labels(task: Task, examples: Labelled, names: Sequence[str]) -> None:
    strange = [name for name in task.names(examples) if name not in names]
    if strange:
        more = ", ..." if len(strange) > _MOST_NAMED else ""
        raise DataError(
            f"{examples.origin}: expected labels among {', '.join(names)}, got "
            f"{', '.join(strange[:_MOST_NAMED])}{more}; name every label under labels of the grid"
        )


def _fit(cell: Cell, job: Job, rate: float | None) -> Fitted:
    method = cell.settings.method
    with sound_attention():  # of every method, as `fit` has it
        return PEERS[method].fit(job, rate) if method in PEERS else own.fit(method, job, rate)


def _rate(cell: Cell, job: Job) -> float | None:
    """The rate that a method has without a search; None where nothing is trained."""
    entry, method = cell.settings.entry, cell.settings.method
    if entry.learning_rate is not None:
        return entry.learning_rate
    return PEERS[method].rate if method in PEERS else own.own_rate(method, job)


def _choose(
    cell: Cell, job: Job
) -> tuple[Fitted, dict[str, Any], float | None, list[dict[str, Any]]]:
    """The best of the trials on the validation texts, its figures there, its rate, all trials."""
    search, rate, trials = cell.settings.search, _rate(cell, job), []
    best: tuple[Fitted, dict[str, Any], float | None] | None = None

    def attempt(rate: float | None) -> float:
        nonlocal best
        try:
            fitted = _fit(cell, job, rate)
        except TrainingError as error:
            trials.append({"rate": rate, job.metric: None, "error": str(error)})
            raise
        scored = fitted.probabilities(job.validation.inputs)
        figures = job.on_validation(scored, fitted.thresholds)
        value = float(figures[job.metric])
        trials.append({"rate": rate, job.metric: value, "seconds": round(fitted.seconds, 3)})
        if is_better(value, None if best is None else best[1][job.metric], job.metric):
            best = (fitted, figures, rate)
        return value

    if search is None or rate is None:
        attempt(rate)
        trials.clear()
    else:
        _search(search, rate, job, attempt)
    if best is None:
        raise TrainingError(
            f"expected a rate that trains among {len(trials)} trials, got none: "
            f"{trials[-1]['error']}"
        )
    return *best, trials


def _search(
    search: Search, rate: float, job: Job, attempt: Callable[[float | None], float]
) -> None:
    optuna = require_search()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    low, high = sorted((rate / search.span, rate * search.span))
    study = optuna.create_study(
        direction="minimize" if job.metric == "loss" else "maximize",
        sampler=optuna.samplers.TPESampler(seed=job.seed),
    )
    study.enqueue_trial({"rate": rate})
    study.optimize(
        lambda trial: attempt(trial.suggest_float("rate", low, high, log=True)),
        n_trials=search.trials,
        catch=TrainingError,  # a rate that is too high loses; it is not the end of the cell
    )


def _counts(cell: Cell, texts: Texts, measured: Labelled, fitted: Fitted) -> dict[str, Any]:
    data = cell.settings.data
    return {
        "train": len(texts.train),
        "validation": len(texts.validation),
        "validation_from": "train" if texts.held_out else "validation",
        "test": len(measured),
        "test_from": data.measure_on,
        "test_sha256": digest(measured),
        "train_sha256": digest(texts.train),
        "validation_sha256": digest(texts.validation),
        "in_a_step": fitted.texts_per_step,
        "steps": fitted.steps,
    }


def _mistakes(
    job: Job, scored: object, predicted: np.ndarray, truth: np.ndarray, measured: Labelled
) -> list[dict[str, Any]]:
    """The wrong answers with the highest probabilities."""
    task, names, inputs = job.task, job.names, measured.inputs
    sure = task.surest_mistakes(scored, predicted, truth)
    return [
        {
            "row": row,
            "text": _shown(inputs[row]),
            "truth": task.shown(truth[row], inputs[row], names),
            "predicted": task.shown(predicted[row], inputs[row], names),
            "probability": round(sure[row], 4),
        }
        for row in sorted(sure, key=lambda row: -sure[row])[:_MOST_MISTAKES]
    ]


def _shown(given: Text | Sentence) -> str:
    whole = given.text if isinstance(given, Sentence) else given
    whole = whole if isinstance(whole, str) else " | ".join(whole)
    return whole if len(whole) <= _LONGEST_SHOWN else whole[: _LONGEST_SHOWN - 1] + "…"


@contextmanager
def _captured() -> Iterator[list[str]]:
    """What ltuning warns of goes into the result instead of through a progress bar."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log = logging.getLogger("ltuning")
    handlers, propagates = log.handlers[:], log.propagate
    log.handlers, log.propagate = [Keep(logging.WARNING)], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield said
    finally:
        log.handlers, log.propagate = handlers, propagates
