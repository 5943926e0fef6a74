"""What the defaults were chosen from: candidates on data sets that no reported figure is of.

    python benchmarks/defaults.py --data DATA --output defaults.jsonl
    python benchmarks/defaults.py --report defaults.jsonl

`--data` holds the folders twitter_financial_news and sst5 (train and validation are used); the
third set is the demo's own. Every candidate of a method has the same steps and the same number of
(text, label) branches in each, and every method has three learning rates.
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

from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.classifier import versions
from ltuning.config import BackboneOptions
from ltuning.data import demo
from ltuning.data.sources import Examples, read_splits
from ltuning.data.splits import take_shots

STEPS = 100
TEXTS = 16
MEASURED = 400
RATE = "training.learning_rate"

CANDIDATES: list[tuple[str, dict[str, Any]]] = [
    *(("lt-prefix", {RATE: rate}) for rate in (3e-4, 1e-3, 3e-3)),
    ("lt-prefix", {RATE: 1e-3, "method.first_layer": 0}),
    ("lt-prefix", {RATE: 1e-3, "method.start": "label-kv"}),
    *(("lt-prompt", {RATE: rate}) for rate in (3e-4, 1e-3, 3e-3)),
    *(("prefix", {RATE: rate}) for rate in (3e-3, 1e-2, 3e-2)),
    *(("prompt", {RATE: rate}) for rate in (3e-3, 1e-2, 3e-2)),
]


@dataclass(frozen=True)
class DevelopmentSet:
    """Few-shot training texts, texts to measure on, and label texts."""

    train: Examples
    measured: Examples
    shots: int
    labels: dict[str, str] | list[str]


def development_sets(data: Path) -> dict[str, DevelopmentSet]:
    """The three sets, the texts to measure on drawn with a fixed seed."""
    own = demo.load()
    twitter = read_splits(str(data / "twitter_financial_news"))
    sst5 = read_splits(str(data / "sst5"), splits=("train", "validation"))
    finance = {
        "Bearish": "bad news for the stock price",
        "Bullish": "good news for the stock price",
        "Neutral": "neutral news about a company",
    }
    return {
        "demo": DevelopmentSet(_examples(own.train), _examples(own.test), 8, own.labels),
        "twitter": DevelopmentSet(twitter["train"], _some(twitter["validation"]), 64, finance),
        "sst5": DevelopmentSet(
            sst5["train"], _some(sst5["validation"]), 64, sorted(set(sst5["train"].labels))
        ),
    }


def main() -> None:
    """Run the candidates, or print the table of a results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=Path("defaults.jsonl"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if options.report:
        print(report([json.loads(line) for line in options.report.read_text().splitlines()]))
        return
    transformers_logging.disable_progress_bar()
    backbone = Backbone.load(BackboneOptions())
    for seed in options.seeds:
        sets = development_sets(options.data)
        for method, choices in CANDIDATES:
            for name, chosen in sets.items():
                row = {"set": name, "seed": seed, "method": method, "choices": choices}
                row |= run(backbone, method, choices, chosen, seed)
                with options.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)


def run(
    backbone: Backbone, method: str, choices: dict[str, Any], chosen: DevelopmentSet, seed: int
) -> dict[str, Any]:
    """Accuracy of one candidate on one set."""
    train = take_shots(chosen.train, chosen.shots, seed)
    texts = TEXTS if method.startswith("lt-") else TEXTS * min(8, len(chosen.labels))
    options = {"training.per_device_train_batch_size": texts, **choices}
    classifier = LabelClassifier(
        backbone, chosen.labels, method, seed=seed, steps=STEPS, options=options
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
    lines = ["| method | choices | " + " | ".join([*names, "mean"]) + " |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for (method, choices), sets in found.items():
        means = [sum(sets[name]) / len(sets[name]) for name in names]
        cells = [f"{value:.3f}" for value in [*means, sum(means) / len(means)]]
        lines.append(f"| {method} | {choices} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _examples(rows: list[tuple[str, str]]) -> Examples:
    return Examples([text for text, _ in rows], [label for _, label in rows], "demo")


def _some(examples: Examples) -> Examples:
    rows = sorted(random.Random(7).sample(range(len(examples)), MEASURED))
    return Examples(
        [examples.texts[row] for row in rows],
        [examples.labels[row] for row in rows],
        examples.origin,
    )


if __name__ == "__main__":
    main()
