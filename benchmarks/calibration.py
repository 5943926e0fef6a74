"""How far probabilities can be trusted, with a temperature and without; what abstaining leaves.

    python benchmarks/prepare.py DATA
    python benchmarks/calibration.py trec6 sst2 banking77 clinc150 --data DATA --output cal.jsonl
    python benchmarks/calibration.py --report cal.jsonl

A cell is a data set, a number of training texts (`few`: 16 a class, of the last two sets 10;
`many`: all), a method and a seed. With few texts those to validate on are held out from the
training split: as many a class, and 100 in all at least; with many they are the validation split,
or a tenth of the training split where there is none. They choose the weights, and the temperature,
the threshold and the prediction sets are fitted to them; SetFit, whose weights they do not choose,
has a temperature of the logarithms of its logistic head's probabilities. Figures are of the test
split. Finished cells are skipped; cells of SetFit need setfit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, add_row, circumstances, grouped, mean_and_each, parsed, parser_of, read_rows
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.calibration import (
    Answers,
    calibration_figures,
    fit_temperature,
    prediction_set,
    probabilities_of,
)
from ltuning.config import BackboneOptions
from ltuning.data.sources import Examples, read_splits
from ltuning.data.splits import hold_out, take_shots
from ltuning.errors import DataError
from ltuning.experiments.entries import Budget
from ltuning.experiments.fitting import Job
from ltuning.experiments.grid import Grid
from ltuning.experiments.peers import fit_setfit
from ltuning.metrics import risk_coverage
from ltuning.tasks.table import TASKS

BACKBONE = BackboneOptions(name="builtin:minilm")
# Name -> folder in DATA, few texts a class.
SETS = {
    "trec6": ("trec6", 16),
    "sst2": ("sst2_sentence", 16),
    "banking77": ("banking77", 10),
    "clinc150": ("clinc150", 10),
}
SIZES = ("few", "many")
METHODS = ("lt-prefix", "setfit")
COVERAGES = (0.8, 0.9, 0.95)
PRECISION = 0.95
# Label texts, and SetFit's rate, steps and batch, are those of this grid.
GRID = Path(__file__).parent.parent / "grids" / "fewshot.yaml"
LEAST_VALIDATION = 100

Scores = Callable[[Sequence[Any]], np.ndarray]


def main() -> None:
    """Measure cells, or print the tables of a results file."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    backbone = Backbone.load(BACKBONE)
    keys = ("set", "size", "method", "seed")
    done = {tuple(row[key] for key in keys) for row in read_rows(options.output)}
    for seed in options.seeds:
        for name in options.sets:
            for size in options.sizes:
                for method in options.methods:
                    cell = dict(zip(keys, (name, size, method, seed), strict=True))
                    if tuple(cell.values()) in done or _is_left_out(method, size):
                        continue
                    found = measure(backbone, options.data, steps=options.steps, **cell)
                    add_row(options.output, cell | found | circumstances(BACKBONE.name))
                    print(cell | found, flush=True)


def _is_left_out(method: str, size: str) -> bool:
    # SetFit on all texts takes hours, and is meant for few.
    return method == "setfit" and (size == "many" or find_spec("setfit") is None)


def measure(
    backbone: Backbone,
    data: Path,
    set: str,
    size: str,
    method: str,
    seed: int,
    steps: int | None = None,
) -> Row:
    """Train, fit to the validation texts, and measure on the test texts."""
    folder, few = SETS[set]
    train, validation, test = parts_of(data / folder, few, size, seed)
    names = sorted({*(train.labels or ())})
    texts = Grid.from_yaml(GRID).data[set].labels if set in ("trec6", "sst2") else None
    labels = texts or {name: [name] for name in names}
    began = time.perf_counter()
    if method == "setfit":
        scores = _setfit(backbone, train, validation, labels, seed, steps)
    else:
        made = LabelClassifier(backbone, labels, method, seed=seed, steps=steps)
        made.fit(train.texts, train.labels, (validation.texts, validation.labels), progress=False)
        scores = made.scores
    seconds = time.perf_counter() - began
    found = _figures(scores, validation, test, list(labels), seed)
    sizes = {"train": len(train), "validation": len(validation), "test": len(test)}
    return {**found, "texts": sizes, "seconds": round(seconds, 1)}


def parts_of(folder: Path, few: int, size: str, seed: int) -> tuple[Examples, Examples, Examples]:
    """Training, validation and test texts; with size `few` so many a class to train on."""
    splits = read_splits(folder)
    train, test = splits["train"], splits["test"]
    if size == "many":
        if "validation" in splits:
            return train, splits["validation"], test
        return *hold_out(train, 0.1, seed), test
    drawn = take_shots(train, few, seed)
    taken = {*zip(drawn.texts, drawn.labels or (), strict=True)}
    pairs = list(zip(train.texts, train.labels or (), strict=True))
    rest = train.part([row for row, pair in enumerate(pairs) if pair not in taken])
    classes = len({*(rest.labels or ())})
    validation = take_shots(rest, max(few, -(-LEAST_VALIDATION // classes)), seed)
    return drawn, validation, test


def _setfit(
    backbone: Backbone,
    train: Examples,
    validation: Examples,
    labels: dict[str, list[str]],
    seed: int,
    steps: int | None,
) -> Scores:
    """Logarithms of the probabilities of SetFit's logistic head."""
    grid = Grid.from_yaml(GRID)
    job = Job(
        task=TASKS["classes"],
        backbone=BACKBONE,
        outline=backbone,
        load=lambda: backbone,
        release=lambda: None,
        train=train,
        validation=validation,
        labels=labels,
        budget=Budget(steps=steps or grid.budget.steps, batch=64 if len(labels) > 50 else 16),
        metric="accuracy",
        seed=seed,
        recipe="default",
        options={},
    )
    fitted = fit_setfit(job, grid.methods["setfit"].learning_rate)
    return lambda texts: np.log(np.maximum(fitted.probabilities(texts), 1e-12))


def _figures(
    scores: Scores, validation: Examples, test: Examples, names: list[str], seed: int
) -> Row:
    fitted_to, measured = (np.asarray(scores(part.texts)) for part in (validation, test))
    held, truth = (
        np.array([names.index(label) for label in part.labels or ()]) for part in (validation, test)
    )
    temperature = fit_temperature(fitted_to, held)
    said = probabilities_of(measured, temperature)
    plain = probabilities_of(measured, 1.0)
    answers = Answers.of(probabilities_of(fitted_to, temperature), held, seed)
    curve, area = risk_coverage(said, truth)
    return {
        "accuracy": float((said.argmax(axis=1) == truth).mean()),
        **calibration_figures(measured, truth, temperature),
        "aurc": area,
        "aurc_before": risk_coverage(plain, truth)[1],
        "risk_coverage": {name: [round(one, 4) for one in of] for name, of in curve.items()},
        **_sets(answers, said, truth),
        **_at_precision(answers, said, truth),
    }


def _sets(answers: Answers, said: np.ndarray, truth: np.ndarray) -> Row:
    """Coverage of prediction sets on the test texts, their mean size, how many are empty."""
    found: Row = {}
    for coverage in COVERAGES:
        least = answers.least_probability(coverage)
        sets = [prediction_set(row, least) for row in said]
        covered = [label in labels for label, labels in zip(truth, sets, strict=True)]
        found[f"covered_{coverage}"] = float(np.mean(covered))
        found[f"set_size_{coverage}"] = float(np.mean([len(labels) for labels in sets]))
        found[f"empty_sets_{coverage}"] = float(np.mean([not labels for labels in sets]))
    return found


def _at_precision(answers: Answers, said: np.ndarray, truth: np.ndarray) -> Row:
    """What the threshold for a precision leaves of the test texts; nothing without one."""
    try:
        threshold = answers.threshold_for(PRECISION).threshold
    except DataError:
        return {}
    kept = said.max(axis=1) >= threshold
    right = said.argmax(axis=1) == truth
    return {
        "threshold": threshold,
        "answered": float(kept.mean()),
        "precision": float(right[kept].mean()) if kept.any() else 1.0,
    }


FIGURES = {
    "accuracy": "accuracy",
    "temperature": "temperature",
    "log_loss_before": "log loss at temperature 1",
    "log_loss": "log loss",
    "expected_calibration_error_before": "calibration error at temperature 1",
    "expected_calibration_error": "calibration error",
    "brier_score_before": "Brier score at temperature 1",
    "brier_score": "Brier score",
    "aurc_before": "risk-coverage area at temperature 1",
    "aurc": "risk-coverage area",
    **{
        f"{name}_{coverage}": f"{words}, {coverage} asked for"
        for coverage in COVERAGES
        for name, words in (("covered", "coverage of sets"), ("set_size", "labels in a set"))
    },
    "answered": f"answered, {PRECISION} right asked for",
    "precision": f"right of these, {PRECISION} asked for",
}


def report(rows: Sequence[Row]) -> str:
    """A Markdown table of each data set and size: mean and deviation over seeds, and each seed."""
    parts = []
    for (name, size), of_set in grouped(rows, "set", "size").items():
        methods = grouped(of_set, "method")
        titles = " | ".join(f"{method} | each seed" for method in methods)
        parts += ["", f"| {name}, {size} | {titles} |", "|---" * (2 * len(methods) + 1) + "|"]
        for figure, words in FIGURES.items():
            values = [[row[figure] for row in of if figure in row] for of in methods.values()]
            cells = (mean_and_each(found) if found else "- | -" for found in values)
            parts.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(parts[1:])


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "calibration.jsonl")
    parser.add_argument("sets", nargs="*", choices=[*SETS, []], metavar="SET")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--steps", type=int, help="another number of optimizer steps")
    return parsed(parser, "data sets and --data", "sets")


if __name__ == "__main__":
    main()
