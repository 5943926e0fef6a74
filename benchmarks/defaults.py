"""What the defaults were chosen from: candidates on data sets that no reported figure is of.

    python benchmarks/defaults.py --data DATA --seeds 0 1 --output defaults.jsonl
    python benchmarks/defaults.py --report defaults.jsonl

`--data` holds the folders twitter_financial_news, sst5 and clinc150_oos (train and validation).
Every candidate of a method has the same steps and the same number of (text, label) branches in
each, and every method has three learning rates a factor of three apart. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from peers import read_rows
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.sources import Examples, read_splits
from ltuning.data.splits import take_shots
from ltuning.estimators.base import versions

TEXTS = 16
MEASURED = 400
RATE = "training.learning_rate"
DEPTH = "method.first_layer"
START = "method.start"

Candidates = list[tuple[str, dict[str, Any]]]
RATES: Candidates = [
    *(("lt-prefix", {RATE: rate}) for rate in (7e-4, 2e-3, 6e-3)),
    *(("lt-prompt", {RATE: rate}) for rate in (1e-4, 3e-4, 1e-3)),
    *(("prefix", {RATE: rate}) for rate in (3e-3, 1e-2, 3e-2)),
    *(("prompt", {RATE: rate}) for rate in (3e-3, 1e-2, 3e-2)),
]
# The default of the backbone's six layers is a prefix from layer 3 on.
EVERY_LAYER: Candidates = [("lt-prefix", {RATE: 2e-3, DEPTH: 0})]
DEPTHS: Candidates = [*EVERY_LAYER, ("lt-prefix", {RATE: 2e-3, DEPTH: 3})]
# One step further where the best of the three was at an end.
FURTHER: Candidates = [
    ("lt-prefix", {RATE: 2e-2}),
    ("lt-prompt", {RATE: 3e-3}),
    ("prefix", {RATE: 1e-3}),
    ("prompt", {RATE: 1e-3}),
]
STARTS: Candidates = [(name, {RATE: 1e-2, START: "text"}) for name in ("prefix", "prompt")]


@dataclass(frozen=True)
class DevelopmentSet:
    """Training texts, texts to measure on, label texts, and what is tried on them."""

    train: Examples
    measured: Examples
    shots: int | None
    steps: int
    labels: dict[str, str] | list[str]
    candidates: Candidates


def development_sets(data: Path) -> dict[str, DevelopmentSet]:
    """The sets, the texts to measure on drawn with a fixed seed."""
    twitter = read_splits(str(data / "twitter_financial_news"))
    sst5 = read_splits(str(data / "sst5"), splits=("train", "validation"))
    finance = {
        "Bearish": "bad news for the stock price",
        "Bullish": "good news for the stock price",
        "Neutral": "neutral news about a company",
    }
    opinions = sorted(set(sst5["train"].labels))
    clinc = read_splits(str(data / "clinc150_oos"), splits=("train", "validation"))
    intents = random.Random(7).sample(sorted(set(clinc["train"].labels) - {"oos"}), 10)
    rows = {name: _of_classes(examples, intents) for name, examples in clinc.items()}
    return {
        "twitter": _development(twitter, finance, RATES + EVERY_LAYER + STARTS + FURTHER, 64, 100),
        "sst5": _development(sst5, opinions, RATES + EVERY_LAYER + FURTHER, 64, 100),
        "clinc, 10 intents": _development(rows, intents, DEPTHS, 16, 100),
        "twitter, all texts": _development(twitter, finance, DEPTHS, None, 400),
        "sst5, all texts": _development(sst5, opinions, DEPTHS, None, 400),
    }


def _development(
    splits: dict[str, Examples],
    labels: dict[str, str] | list[str],
    candidates: Candidates,
    shots: int | None,
    steps: int,
) -> DevelopmentSet:
    validation = splits["validation"] if shots is None else _some(splits["validation"])
    return DevelopmentSet(splits["train"], validation, shots, steps, labels, candidates)


def _of_classes(examples: Examples, names: list[str]) -> Examples:
    rows = [row for row, label in enumerate(examples.labels) if label in names]
    return _rows(examples, rows)


def main() -> None:
    """Run the candidates, or print the table of a results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    backbone = Backbone.load(BackboneOptions())
    done = [_key(row) for row in read_rows(options.output)]
    for seed in options.seeds:
        for name, chosen in development_sets(options.data).items():
            for method, choices in chosen.candidates:
                row = {"set": name, "seed": seed, "method": method, "choices": choices}
                if _key(row) not in done:
                    row |= run(backbone, method, choices, chosen, seed)
                    with options.output.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps(row), flush=True)


def run(
    backbone: Backbone, method: str, choices: dict[str, Any], chosen: DevelopmentSet, seed: int
) -> dict[str, Any]:
    """Accuracy of one candidate on one set."""
    train = chosen.train
    if chosen.shots is not None:
        train = take_shots(train, chosen.shots, seed)
    texts = TEXTS if method.startswith("lt-") else TEXTS * min(8, len(chosen.labels))
    options = {"training.per_device_train_batch_size": texts, **choices}
    classifier = LabelClassifier(
        backbone, chosen.labels, method, seed=seed, steps=chosen.steps, options=options
    )
    classifier.fit(train.texts, train.labels)
    figures = classifier.evaluate(chosen.measured.texts, chosen.measured.labels)
    return {
        "accuracy": round(figures["accuracy"], 4),
        "log_loss": round(figures["log_loss"], 4),
        "seconds": round(classifier.result_.seconds, 1),
        "date": date.today().isoformat(),
        "versions": versions(),
    }


def report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: a row per candidate, a column per set, means over seeds."""
    found: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        choices = ", ".join(
            f"{path.split('.')[1]} {value}" for path, value in row["choices"].items()
        )
        found[row["method"], choices][row["set"]].append(row["accuracy"])
    names = list(dict.fromkeys(row["set"] for row in rows))
    lines = ["| method | choices | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for (method, choices), sets in found.items():
        cells = [_cell(sets[name]) for name in names]
        lines.append(f"| {method} | {choices} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    each = " ".join(f"{value:.3f}" for value in values)
    return f"{sum(values) / len(values):.3f} ({each})"


def _key(row: dict[str, Any]) -> tuple[str, int, str, str]:
    return row["set"], row["seed"], row["method"], json.dumps(row["choices"])


def _some(examples: Examples) -> Examples:
    number = min(MEASURED, len(examples))
    return _rows(examples, sorted(random.Random(7).sample(range(len(examples)), number)))


def _rows(examples: Examples, rows: list[int]) -> Examples:
    return Examples(
        [examples.texts[row] for row in rows],
        [examples.labels[row] for row in rows],
        examples.origin,
    )


if __name__ == "__main__":
    main()
