"""Labels that are added after training, by their texts alone.

    python benchmarks/prepare.py DATA
    python benchmarks/new_labels.py clinc150 --data DATA --output new-labels.jsonl
    python benchmarks/new_labels.py wnut17_types --data DATA --output new-labels.jsonl
    python benchmarks/new_labels.py --report new-labels.jsonl

clinc150: trained on 10 texts of each of 100 intents, drawn by the seed, 300 steps of 32 texts; the
other 50 are added by their names. `cosine` is the frozen backbone: the mean state of a text against
those of the labels. wnut17_types: several labels or none for each text, 150 steps of 16 texts;
`person` is left out and added. Its F1 is given at thresholds that need no text with it, and at the
best one on test texts, which nobody has. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, add_row, circumstances, grouped, mean_and_each, parsed, parser_of, read_rows
from sklearn.metrics import f1_score
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier, MultilabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.sources import read_multilabel_splits, read_splits
from ltuning.data.splits import take_shots
from ltuning.labels import Labels
from ltuning.metrics import best_thresholds
from ltuning.scoring import mean_states

BACKBONE = "builtin:minilm"
INTENTS = 100
SHOTS = 10
BATCH = "training.per_device_train_batch_size"
TYPES = {
    "person": "the text names a person",
    "location": "the text names a place",
    "group": "the text names a band, a sports team or another group of people",
    "corporation": "the text names a company",
    "creative-work": "the text names a film, a song, a book or a game",
    "product": "the text names a product",
}
ADDED = "person"


def main() -> None:
    """Run a data set, or print the tables of a results file."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    backbone = Backbone.load(BackboneOptions(name=BACKBONE))
    run, methods = RUNS[options.set]
    steps = {} if options.steps is None else {"steps": options.steps}
    done = {(row["set"], row["method"], row["seed"]) for row in read_rows(options.output)}
    for seed in options.seeds:
        for method in methods:
            if (options.set, method, seed) not in done:
                found = run(backbone, options.data / options.set, method, seed, **steps)
                row = {"set": options.set, "method": method, "seed": seed, **found}
                add_row(options.output, row | circumstances(BACKBONE))
                print(row, flush=True)


def run_intents(backbone: Backbone, data: Path, method: str, seed: int, steps: int = 300) -> Row:
    """Train on some labels, add the others by name, measure both."""
    splits = read_splits(data, splits=("train", "test"))
    train, test = splits["train"], splits["test"]
    assert train.labels is not None and test.labels is not None
    known = sorted(set(train.labels))
    seen = sorted(random.Random(seed).sample(known, INTENTS))
    added = [name for name in known if name not in seen]
    if method == "cosine":
        names, table = [*seen, *added], _cosines(backbone, test.texts, [*seen, *added])
    else:
        rows = [row for row, label in enumerate(train.labels) if label in seen]
        few = take_shots(train.part(rows), SHOTS, seed)
        made = LabelClassifier(
            backbone, seen, method, seed=seed, steps=steps, options={BATCH: 32}
        ).fit(few.texts, few.labels)
        made.add_labels(added)
        names, table = [str(name) for name in made.classes_], made.scores(test.texts)
    truth = np.array([names.index(label) for label in test.labels])
    is_added = np.isin(test.labels, added)

    def accuracy(rows: np.ndarray, among: Sequence[str]) -> float:
        columns = np.array([names.index(name) for name in among])
        return float((columns[table[rows][:, columns].argmax(1)] == truth[rows]).mean())

    return {
        "added_among_all": accuracy(is_added, names),
        "added_among_added": accuracy(is_added, added),
        "seen_among_all": accuracy(~is_added, names),
        "seen_among_seen": accuracy(~is_added, seen),
    }


def run_types(backbone: Backbone, data: Path, method: str, seed: int, steps: int = 150) -> Row:
    """Train without a label, add it, and find it at several thresholds."""
    splits = read_multilabel_splits(data)
    test = splits.pop("test")
    parts = {
        name: (
            part.texts,
            [[label for label in labels if label != ADDED] for labels in part.labels],
        )
        for name, part in splits.items()
    }
    trained = {name: text for name, text in TYPES.items() if name != ADDED}
    made = MultilabelClassifier(
        backbone, trained, method, seed=seed, steps=steps, options={BATCH: 16}
    ).fit(*parts["train"], parts["validation"])
    made.add_labels({ADDED: TYPES[ADDED]})
    chances = made.predict_proba(test.texts)[:, -1:]
    truth = np.array([[ADDED in labels] for labels in test.labels])
    thresholds = {
        "half": 0.5,
        "median": float(made.thresholds_[-1]),
        "best": float(best_thresholds(chances, truth)[0]),
        "all": 0.0,
    }
    return {name: float(f1_score(truth, chances >= at)) for name, at in thresholds.items()}


RUNS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "clinc150": (run_intents, ("cosine", "lt-prefix")),
    "wnut17_types": (run_types, ("lt-prefix",)),
}
FIGURES = {
    "clinc150": {
        "added_among_all": "added, among all",
        "added_among_added": "added, among the added",
        "seen_among_all": "trained, among all",
        "seen_among_seen": "trained, among the trained",
    },
    "wnut17_types": {
        "half": "F1 at .5",
        "median": "at the others' median",
        "best": "at the best on test",
        "all": "of all texts",
    },
}


def _cosines(backbone: Backbone, texts: Sequence[Any], names: Sequence[str]) -> np.ndarray:
    """`[N, K]` cosines of the frozen mean states of texts and of the labels' texts."""

    def states(texts: Sequence[Any]) -> np.ndarray:
        found = mean_states(backbone, backbone.tokenize(list(texts)), 64).cpu().numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    cosines: np.ndarray = states(texts) @ states(Labels.from_any(list(names)).flat_texts).T
    return cosines


def report(rows: Sequence[Row]) -> str:
    """A Markdown table of each data set: mean and standard deviation over seeds, each seed."""
    parts = []
    for data, of_set in grouped(rows, "set").items():
        titles = " | ".join(f"{title} | each seed" for title in FIGURES[data].values())
        parts += ["", f"| {data} | {titles} |", "|---" * (2 * len(FIGURES[data]) + 1) + "|"]
        for method, group in grouped(of_set, "method").items():
            cells = (mean_and_each([row[figure] for row in group]) for figure in FIGURES[data])
            parts.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(parts[1:])


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "new-labels.jsonl")
    parser.add_argument("set", nargs="?", choices=RUNS)
    parser.add_argument("--steps", type=int, help="another number of optimizer steps")
    return parsed(parser, "a data set and --data", "set")


if __name__ == "__main__":
    main()
