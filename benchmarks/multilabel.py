"""Several labels per text: which types of entities a sentence of WNUT-17 names, or none.

    python benchmarks/multilabel.py --data DATA/wnut17 --seeds 0-2 --output results.jsonl
    python benchmarks/multilabel.py --data DATA/wnut17 --added person --output results.jsonl
    python benchmarks/multilabel.py --report results.jsonl

The data is of tags; a text is a sentence's words joined by spaces, its labels are the types of its
entities. Thresholds are fitted on the validation split. With `--added` a label is left out of
training and added by its text; its F1 is given at thresholds that need no text with it, and at the
best one on test texts, which nobody has. Runs that the output file holds already are skipped.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from peers import add_row, circumstances, read_rows, seeds_of
from sklearn.metrics import f1_score
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, MultilabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.sources import read_tagged_splits
from ltuning.metrics import best_thresholds, multilabel_report

METHODS = ("lt-prefix", "ls-lora", "probe")
LABELS = {
    "person": "the text names a person",
    "location": "the text names a place",
    "group": "the text names a band, a sports team or another group of people",
    "corporation": "the text names a company",
    "creative-work": "the text names a film, a song, a book or a game",
    "product": "the text names a product",
}
FIGURES = ("micro_f1", "macro_f1", "exact_match")
Rows = tuple[list[str], list[list[str]]]


def main() -> None:
    """Run the methods, or print the tables of a results file."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    splits = {name: _rows(part) for name, part in read_tagged_splits(options.data).items()}
    backbone = Backbone.load(BackboneOptions(name="builtin:minilm"))
    done = {_key(row) for row in read_rows(options.output)}
    for seed in options.seeds:
        for method, added in _wanted(options):
            row = {"method": method, "added": added, "seed": seed, "steps": options.steps}
            if _key(row) in done:
                continue
            row |= run(backbone, splits, method, added, seed, options.steps)
            add_row(options.output, row | circumstances("builtin:minilm"))
            print(row, flush=True)


def run(
    backbone: Backbone,
    splits: dict[str, Rows],
    method: str,
    added: str | None,
    seed: int,
    steps: int,
) -> dict[str, Any]:
    """Train and measure one method."""
    labels = {name: text for name, text in LABELS.items() if name != added}
    train, validation, test = (
        _without(splits[name], added) if name != "test" else splits[name]
        for name in ("train", "validation", "test")
    )
    made = MultilabelClassifier(backbone, labels, method, seed=seed, steps=steps)
    made.fit(*train, validation)
    assert made.result_ is not None
    row: dict[str, Any] = {
        "seconds": round(made.result_.seconds, 1),
        "trainable_parameters": made.num_parameters,
        "thresholds": made.thresholds_.round(3).tolist(),
    }
    if added is not None:
        made.add_labels({added: LABELS[added]})
    names = list(made.classes_)
    truth = np.array([[name in labels for name in names] for labels in test[1]])
    chances = made.predict_proba(test[0])
    if added is not None:
        best = float(best_thresholds(chances[:, -1:], truth[:, -1:])[0])
        tried = {"half": 0.5, "median": float(made.thresholds_[-1]), "best": best}
        of = {
            name: (at, f1_score(truth[:, -1], chances[:, -1] >= at)) for name, at in tried.items()
        }
        return row | {"f1_of_added": of, "all": float(f1_score(truth[:, -1], truth[:, -1] | True))}
    figures = made.evaluate(*test)
    at_half = multilabel_report(truth, chances >= 0.5, names)
    every = multilabel_report(truth, np.ones_like(truth), names)
    return row | {
        "test": {name: figures[name] for name in FIGURES},
        "per_label": {of["label"]: of["f1"] for of in figures["per_class"]},
        "at_half": {name: at_half[name] for name in FIGURES},
        "every_label": {name: every[name] for name in FIGURES},
        "validation": made.figures["validation"],
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown tables: mean and standard deviation over seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups[row["method"], row["added"]].append(row)
    lines = [
        "| method | trainable | training s | micro-F1 (each seed) | macro-F1 | exact match "
        "| at .5: micro-F1 | macro-F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    added = [
        "| label added | F1 at .5 | at the others' median | at the best on test | of all texts |",
        "|---|---|---|---|---|",
    ]
    for (method, name), group in groups.items():
        if name is not None:
            cells = (
                " ".join(f"{row['f1_of_added'][at][1]:.3f}" for row in group)
                for at in ("half", "median", "best")
            )
            added.append(f"| {name} | {' | '.join(cells)} | {group[0]['all']:.3f} |")
            continue
        seeds = " ".join(f"{row['test']['micro_f1']:.3f}" for row in group)
        seconds = statistics.median(row["seconds"] for row in group)
        cells = (_spread(group, "test", figure) for figure in FIGURES)
        half = (_spread(group, "at_half", figure) for figure in FIGURES[:2])
        first, *others = cells
        lines.append(
            f"| {method} | {group[0]['trainable_parameters']:,} | {seconds:.0f} "
            f"| {first} ({seeds}) | {' | '.join(others)} | {' | '.join(half)} |"
        )
    return "\n".join([*lines, "", *added])


def _spread(group: list[dict[str, Any]], part: str, figure: str) -> str:
    values = [row[part][figure] for row in group]
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def _rows(part: Any) -> Rows:
    lists = [sorted({tag[2:] for tag in tags} - {""}) for tags in part.tags]
    return [" ".join(words) for words in part.texts], lists


def _without(rows: Rows, label: str | None) -> Rows:
    return rows[0], [[name for name in labels if name != label] for labels in rows[1]]


def _wanted(options: argparse.Namespace) -> list[tuple[str, str | None]]:
    if options.added:
        return [("lt-prefix", label) for label in options.added]
    return [(method, None) for method in options.methods]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["method"], row["added"], row["seed"], row["steps"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--added", nargs="+", choices=LABELS, help="labels left out and added")
    parser.add_argument("--seeds", type=seeds_of, default=range(3), help="first-last")
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of 16 texts")
    parser.add_argument("--output", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if not options.report and not options.data:
        parser.error("give --data, or --report FILE")
    return options


if __name__ == "__main__":
    main()
