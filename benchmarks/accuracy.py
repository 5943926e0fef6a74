"""Accuracy of the four methods under both recipes, with equal numbers of branch forwards.

    python benchmarks/accuracy.py trec6 --data DATA/trec6 --seeds 0-4 --output results.jsonl
    python benchmarks/accuracy.py --report results.jsonl

`--data` is a folder with train, test and (where there is one) validation, as the library reads it.
Runs that the output file holds already are skipped, so a stopped benchmark goes on where it was.

Budget: every method takes the same number of steps with the same number of (text, label) branches
in each. `lt-prompt` scores all K labels of a text, each in a branch (`contrast`), so its batch
holds `branches / K` texts; the paper's recipe scores one (`pairs`), lt-prefix all in one, and a
plain method runs a text once: `branches` texts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from peers import read_rows, seeds_of
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.sources import Examples, read_splits
from ltuning.data.splits import take_shots
from ltuning.estimators.base import versions

METHODS = ("prefix", "prompt", "lt-prefix", "lt-prompt")


@dataclass(frozen=True)
class Task:
    """A data set as it is measured here.

    Attributes:
        labels: label texts, written before anything was measured.
        measured: the split that figures are computed on.
        steps: optimizer steps of every method.
        branches: (text, label) pairs in a step of every method.
        shots: training texts per class; None = all.
        recipes: which recipes are run.
        selects: whether the validation split chooses the best weights.
    """

    labels: dict[str, str]
    measured: str
    steps: int
    branches: int
    shots: int | None = None
    recipes: tuple[str, ...] = ("default",)
    selects: bool = False


TASKS = {
    "trec6": Task(
        labels={
            "ABBR": "an abbreviation or what it stands for",
            "DESC": "a definition, a description, a reason or a manner",
            "ENTY": "a thing: an animal, plant, food, product, color, word, event or work",
            "HUM": "a person or a group of people",
            "LOC": "a place: a city, country, mountain or state",
            "NUM": "a number: a date, count, distance, price or age",
        },
        measured="test",
        steps=100,
        branches=96,
        shots=16,
    ),
    "sst2": Task(
        labels={"negative": "a negative movie review", "positive": "a positive movie review"},
        measured="test",
        steps=300,
        branches=32,
        recipes=("default", "paper"),
        selects=True,
    ),
    "rte": Task(
        labels={
            "entailment": "the second sentence follows from the first",
            "not_entailment": "the second sentence does not follow from the first",
        },
        measured="validation",
        steps=100,
        branches=32,
    ),
    "cola": Task(
        labels={
            "acceptable": "a grammatical sentence",
            "unacceptable": "an ungrammatical sentence",
        },
        measured="validation",
        steps=250,
        branches=32,
    ),
}


def main() -> None:
    """Run a task, or print the table of a results file."""
    options = _arguments()
    transformers_logging.disable_progress_bar()
    if options.report:
        print(report(read_rows(options.report)))
        return
    task = TASKS[options.task]
    backbone = Backbone.load(BackboneOptions(name=options.backbone))
    splits = read_splits(str(options.data))
    done = {_key(row) for row in read_rows(options.output)}
    for seed in options.seeds:
        for recipe in options.recipes or task.recipes:
            for method in options.methods:
                if (options.task, recipe, method, seed) not in done:
                    row = run(backbone, options.task, splits, recipe, method, seed)
                    with options.output.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    result = f"{row['accuracy']:.3f} in {row['seconds']:.0f} s"
                    print(*_key(row), result, flush=True)


def run(
    backbone: Backbone, name: str, splits: dict[str, Examples], recipe: str, method: str, seed: int
) -> dict:
    """Train and measure one classifier."""
    task = TASKS[name]
    train = splits["train"]
    if task.shots is not None:
        train = take_shots(train, task.shots, seed)
    is_apart = (method, recipe) == ("lt-prompt", "default")
    per_text = len(task.labels) if is_apart else 1
    options = {"training.per_device_train_batch_size": task.branches // per_text}
    validation = None
    if task.selects:
        validation = (splits["validation"].texts, splits["validation"].labels)
        every = task.steps // 5
        options |= {"training.eval_strategy": "steps", "training.eval_steps": every}
    classifier = LabelClassifier(
        backbone, task.labels, method, recipe=recipe, seed=seed, steps=task.steps, options=options
    )
    classifier.fit(train.texts, train.labels, validation)
    measured = splits[task.measured]
    figures = classifier.evaluate(measured.texts, measured.labels)
    majority = Counter(measured.labels).most_common(1)[0][1] / len(measured)
    return {
        "task": name,
        "recipe": recipe,
        "method": method,
        "seed": seed,
        **{key: figures[key] for key in ("accuracy", "macro_f1", "mcc", "num_examples")},
        "majority": majority,
        "seconds": round(classifier.result_.seconds, 1),
        "steps": task.steps,
        "branches": task.steps * task.branches,
        "trainable_parameters": classifier.num_parameters,
        "train_texts": len(train),
        "backbone": backbone.name,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


def report(rows: list[dict]) -> str:
    """Markdown tables: mean and standard deviation over seeds."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[row["task"], row["recipe"], row["method"]].append(row)
    lines = [
        "| task | recipe | method | accuracy, mean ± sd | each seed | macro-F1 | MCC "
        "| training s | trainable |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    shown = set()
    for (task, recipe, method), group in groups.items():
        if task not in shown:
            lines.append(f"| {task} | | majority class | {group[0]['majority']:.3f} | | | | | |")
            shown.add(task)
        accuracies = [row["accuracy"] for row in sorted(group, key=lambda row: row["seed"])]
        spread = statistics.stdev(accuracies) if len(group) > 1 else 0.0
        mean = {key: statistics.mean(row[key] for row in group) for key in ("macro_f1", "mcc")}
        seconds = statistics.median(row["seconds"] for row in group)
        lines.append(
            f"| {task} | {recipe} | {method} | {statistics.mean(accuracies):.3f} ± {spread:.3f} "
            f"| {' '.join(f'{value:.3f}' for value in accuracies)} | {mean['macro_f1']:.3f} "
            f"| {mean['mcc']:.3f} | {seconds:.0f} | {group[0]['trainable_parameters']:,} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="builtin:minilm")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--recipes", nargs="+", choices=("default", "paper"))
    parser.add_argument("--seeds", type=seeds_of, default=range(3), help="first-last")
    parser.add_argument("--output", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if not options.report and not (options.task and options.data):
        parser.error("give a task and --data, or --report FILE")
    return options


def _key(row: dict) -> tuple:
    return row["task"], row["recipe"], row["method"], row["seed"]


if __name__ == "__main__":
    main()
