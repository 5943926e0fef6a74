"""Intents with 10 texts per class, beside other methods; labels that are added after training.

    python benchmarks/intents.py banking77 --data DATA/banking77 --output intents.jsonl
    python benchmarks/intents.py clinc150 --data DATA/clinc150_oos --output intents.jsonl
    python benchmarks/intents.py new-labels --data DATA/clinc150_oos --output new-labels.jsonl
    python benchmarks/intents.py banking77 --data DATA/banking77 --search --output search.jsonl
    python benchmarks/intents.py --report FILE

Test rows: all 3,080 of BANKING77, the 4,500 of CLINC150 that are not `oos`. Label texts are the
names with `_` as spaces. lt-prefix reads a text once with all labels; lt-prefix-apart and lt-prompt
read it once per label, and a step of theirs has `label_batch` texts with one true and `negatives`
wrong labels each, a step of the others `plain_batch` texts. Finished runs are skipped.

new-labels: trained on 100 of CLINC150's intents, drawn by the seed; the other 50 are added by their
names alone. `cosine` is the frozen backbone: mean state of the text against that of the label.

`--search` tries three learning rates of each peer, on seeds of its own and on training rows that
are not among the 10 (BANKING77) or on the validation split (CLINC150), never on test rows.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from peers import (
    GRID,
    PEERS,
    Budget,
    Encoder,
    Texts,
    accuracy,
    add_row,
    circumstances,
    rate_of,
    read_rows,
    search_report,
    seeds_of,
)
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.examples import Examples
from ltuning.data.sources import read_splits
from ltuning.data.splits import take_shots
from ltuning.labels import Labels
from ltuning.metrics import classification_report


@dataclass(frozen=True)
class Task:
    """A data set, and how long each kind of method is trained on it.

    Attributes:
        classes: how many of its labels training has.
        methods: what is run, in this order.
        shots: training texts per class.
        label_steps: optimizer steps of the methods that read a text once per label.
        label_batch: texts in a step of theirs.
        negatives: wrong labels of each of these texts.
        plain_steps: optimizer steps of the methods that read a text once.
        plain_batch: texts in a step of theirs.
        setfit_steps: SetFit's steps of 16 pairs; 0 = one pass over the pairs.
        setfit_iterations: SetFit's pairs of each kind per text; 0 = its default, every pair, or
            as many as `setfit_steps` takes, with which iterations have no meaning.
        searched: texts per class that rates are searched on.
    """

    classes: int
    methods: tuple[str, ...] = (
        "probe", "lt-prefix", "lt-prefix-apart", "prefix", "peft-lora", "setfit",
    )  # fmt: skip
    shots: int = 10
    label_steps: int = 150
    label_batch: int = 16
    negatives: int = 7
    plain_steps: int = 300
    plain_batch: int = 32
    setfit_steps: int = 0
    setfit_iterations: int = 2
    searched: int = 5


TASKS = {
    "banking77": Task(classes=77),
    "clinc150": Task(classes=150),
    "new-labels": Task(classes=100, methods=("cosine", "lt-prefix", "lt-prefix-apart")),
}
# ltuning's own: method, options, and whether it reads a text once per label.
OURS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "lt-prefix": ("lt-prefix", {"method.labels": "together"}, False),
    "lt-prefix-apart": ("lt-prefix", {"method.labels": "apart"}, True),
    "lt-prompt": ("lt-prompt", {"method.labels": "apart"}, True),
    "prefix": ("prefix", {}, False),
}
OUT_OF_SCOPE = "oos"


def main() -> None:
    """Run a task, or print the tables of a results file."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    task = replace(TASKS[options.task], **dict(options.budget))
    splits = {name: _in_scope(part) for name, part in read_splits(str(options.data)).items()}
    backbone = Backbone.load(BackboneOptions(name=options.backbone))
    done = {_key(row) for row in read_rows(options.output)}
    for seed in options.seeds or (range(100, 101) if options.search else range(3)):
        for method, rate in _candidates(options, task):
            row = {
                "part": "search" if options.search else "measured",
                "task": options.task,
                "method": method,
                "rate": rate,
                "seed": seed,
            }
            if _key(row) not in done:
                runs = run_new_labels if options.task == "new-labels" else run_intents
                row |= runs(backbone, task, splits, method, rate, seed, options)
                row |= {"budget": _budget_of(task), **circumstances(options.backbone)}
                add_row(options.output, row)
                print(*_key(row), _said(row), flush=True)


def _candidates(options: argparse.Namespace, task: Task) -> list[tuple[str, float | None]]:
    methods = options.methods or task.methods
    if options.search:
        return [
            (name, rate) for name in methods if name in GRID for rate in options.rates or GRID[name]
        ]
    return [(name, rate_of(name, "intents") if name in GRID else None) for name in methods]


def run_intents(
    backbone: Backbone,
    task: Task,
    splits: dict[str, Examples],
    method: str,
    rate: float | None,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train one method on a few texts of every class and measure it."""
    train = take_shots(splits["train"], task.shots, seed)
    measured = _searched_on(splits, train, task, seed) if options.search else splits["test"]
    measured = _limited(measured, options.limit)
    start = time.perf_counter()
    if method in OURS:
        classifier = fit_ours(backbone, task, method, train, seed)
        predict, parameters = classifier.predict, classifier.num_parameters
        seconds = time.perf_counter() - start
    else:
        peer = PEERS[method](
            backbone.name,
            train.texts,
            train.labels,
            budget=_peer_budget(task),
            rate=rate or 0.0,
            seed=seed,
        )
        predict, parameters, seconds = peer.predict, peer.num_parameters, peer.clock.seconds
    start = time.perf_counter()
    predicted = [str(name) for name in predict(measured.texts)]
    scoring = time.perf_counter() - start
    figures = classification_report(measured.labels, predicted, sorted(set(train.labels)))
    return {
        "accuracy": figures["accuracy"],
        "macro_f1": figures["macro_f1"],
        "measured": len(measured),
        "train_texts": len(train),
        "seconds": round(seconds, 1),
        "scoring_seconds": round(scoring, 1),
        "trainable_parameters": parameters,
    }


def fit_ours(
    backbone: Backbone, task: Task, method: str, train: Examples, seed: int
) -> LabelClassifier:
    """One of ltuning's methods, trained; its learning rate is the library's default."""
    labels = sorted(set(train.labels))
    name, options, once_per_label = OURS[method]
    if once_per_label:
        steps, batch = task.label_steps, task.label_batch
        options = options | {"method.negatives": task.negatives}
    else:
        steps, batch = task.plain_steps, task.plain_batch
    options = options | {"training.per_device_train_batch_size": batch}
    classifier = LabelClassifier(backbone, labels, name, seed=seed, steps=steps, options=options)
    return classifier.fit(train.texts, train.labels)


def _peer_budget(task: Task) -> Budget:
    return Budget(
        task.plain_steps,
        task.plain_batch,
        setfit_iterations=task.setfit_iterations or None,
        setfit_steps=task.setfit_steps or None,
    )


def _searched_on(splits: dict[str, Examples], train: Examples, task: Task, seed: int) -> Examples:
    """Texts to choose a rate on: of the validation split, or training rows that are left over."""
    held_out = splits.get("validation")
    if held_out is None:
        used = set(train.texts)
        rest = splits["train"]
        held_out = _part(rest, [row for row, text in enumerate(rest.texts) if text not in used])
    return take_shots(held_out, task.searched, seed)


def run_new_labels(
    backbone: Backbone,
    task: Task,
    splits: dict[str, Examples],
    method: str,
    rate: float | None,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train on some labels, add the others by name, measure both."""
    known = sorted(set(splits["train"].labels))
    seen = sorted(random.Random(seed).sample(known, task.classes))
    added = [name for name in known if name not in set(seen)]
    test = _limited(splits["test"], options.limit)
    start = time.perf_counter()
    if method == "cosine":
        names, scores = [*seen, *added], cosine(backbone.name, [*seen, *added])
    else:
        train = take_shots(_of_labels(splits["train"], seen), task.shots, seed)
        classifier = fit_ours(backbone, task, method, train, seed)
        classifier.add_labels(added)
        names, scores = [str(name) for name in classifier.classes_], classifier.scores
    seconds = time.perf_counter() - start
    table = np.asarray(scores(test.texts))
    is_new = np.isin(test.labels, added)
    columns = {"all": names, "added": added, "seen": seen}
    found = {
        which: _best_of(table, names, among).astype(object) for which, among in columns.items()
    }
    truth = np.array(test.labels, dtype=object)
    return {
        "added_among_all": accuracy(truth[is_new], found["all"][is_new]),
        "added_among_added": accuracy(truth[is_new], found["added"][is_new]),
        "seen_among_all": accuracy(truth[~is_new], found["all"][~is_new]),
        "seen_among_seen": accuracy(truth[~is_new], found["seen"][~is_new]),
        "measured": len(test),
        "measured_added": int(is_new.sum()),
        "added": added,
        "seconds": round(seconds, 1),
    }


def cosine(backbone: str, names: Sequence[str]) -> Callable[[Texts], np.ndarray]:
    """`[N, K]` cosines of the frozen mean states of texts and of the labels' texts."""
    encoder = Encoder.load(backbone)

    def states(texts: Texts) -> np.ndarray:
        found = encoder.mean_states(texts).numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    labels = states(Labels.from_any(list(names)).flat_texts)
    return lambda texts: states(texts) @ labels.T


def _best_of(table: np.ndarray, names: Sequence[str], among: Sequence[str]) -> np.ndarray:
    """The best of some labels for each text."""
    places = [names.index(name) for name in among]
    return np.array(among)[table[:, places].argmax(1)]


def _in_scope(examples: Examples) -> Examples:
    return _of_labels(examples, set(examples.labels) - {OUT_OF_SCOPE})


def _of_labels(examples: Examples, names: Sequence[str] | set[str]) -> Examples:
    wanted = set(names)
    return _part(examples, [row for row, label in enumerate(examples.labels) if label in wanted])


def _limited(examples: Examples, limit: int | None) -> Examples:
    """A sample, to try the script with."""
    if limit is None or limit >= len(examples):
        return examples
    return _part(examples, sorted(random.Random(0).sample(range(len(examples)), limit)))


def _part(examples: Examples, rows: Sequence[int]) -> Examples:
    return Examples(
        [examples.texts[row] for row in rows],
        [examples.labels[row] for row in rows],
        examples.origin,
    )


def report(rows: list[dict[str, Any]]) -> str:
    """Markdown tables: mean and standard deviation over seeds; the rates of a search."""
    searched = [row for row in rows if row["part"] == "search"]
    rows = [row for row in rows if row["part"] == "measured"]
    added = [row for row in rows if row["task"] == "new-labels"]
    intents = [row for row in rows if row["task"] != "new-labels"]
    parts = []
    if intents:
        parts.append(_intents_table(intents))
    if added:
        parts.append(_new_labels_table(added))
    if searched:
        parts.append(search_report(searched))
    return "\n\n".join(parts)


def _intents_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| task | method | rate | accuracy, mean ± sd | each seed | macro-F1 | training s, median "
        "| scoring s | trainable | test texts |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, method), group in _grouped(rows).items():
        first = group[0]
        macro = statistics.mean(row["macro_f1"] for row in group)
        rate = first["rate"] or "default"
        lines.append(
            f"| {task} | {method} | {rate} | {_over_seeds(group, 'accuracy')} "
            f"| {macro:.3f} | {statistics.median(row['seconds'] for row in group):.0f} "
            f"| {statistics.median(row['scoring_seconds'] for row in group):.0f} "
            f"| {first['trainable_parameters']:,} | {first['measured']:,} |"
        )
    return "\n".join(lines)


def _new_labels_table(rows: list[dict[str, Any]]) -> str:
    figures = {
        "added_among_all": "added, among all",
        "added_among_added": "added, among the added",
        "seen_among_all": "trained, among all",
        "seen_among_seen": "trained, among the trained",
    }
    titles = " | ".join(f"{title} | each seed" for title in figures.values())
    lines = [f"| method | {titles} |", "|---" * (2 * len(figures) + 1) + "|"]
    for (_, method), group in _grouped(rows).items():
        cells = " | ".join(_over_seeds(group, figure) for figure in figures)
        lines.append(f"| {method} | {cells} |")
    return "\n".join(lines)


def _grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["seed"]):
        groups[row["task"], row["method"]].append(row)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def _over_seeds(group: list[dict[str, Any]], figure: str) -> str:
    """Two cells: mean and standard deviation, and every seed's value."""
    values = [row[figure] for row in group]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    each = " ".join(f"{value:.3f}" for value in values)
    return f"{statistics.mean(values):.3f} ± {spread:.3f} | {each}"


def _said(row: dict[str, Any]) -> str:
    if "accuracy" in row:
        return f"{row['accuracy']:.3f} in {row['seconds']:.0f} s + {row['scoring_seconds']:.0f} s"
    shown = ("added_among_all", "added_among_added", "seen_among_all")
    return " ".join(f"{figure} {row[figure]:.3f}" for figure in shown)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["part"], row["task"], row["method"], row["rate"], row["seed"]


def _budget_of(task: Task) -> dict[str, int]:
    return {name: getattr(task, name) for name in _BUDGET}


_BUDGET = [field.name for field in fields(Task) if field.type == "int" and field.name != "classes"]


def _one_of_budget(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if name not in _BUDGET or not value.isdecimal():
        raise argparse.ArgumentTypeError(f"expected NAME=NUMBER with one of {_BUDGET}, got {text}")
    return name, int(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="builtin:minilm")
    parser.add_argument("--methods", nargs="+", choices=sorted({*OURS, *PEERS, "cosine"}))
    parser.add_argument("--seeds", type=seeds_of, help="first-last")
    parser.add_argument("--output", type=Path, default=Path("intents.jsonl"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--search", action="store_true", help="learning rates of the peers")
    parser.add_argument("--rates", type=float, nargs="+", help="to search, not the grid's")
    parser.add_argument(
        "--budget", type=_one_of_budget, nargs="+", default=[], help="such as plain_steps=20"
    )
    parser.add_argument("--limit", type=int, help="measured texts at most, to try the script")
    options = parser.parse_args()
    if not options.report and not (options.task and options.data):
        parser.error("give a task and --data, or --report FILE")
    if options.search and options.task == "new-labels":
        parser.error("new-labels has no rates of its own to search")
    return options


if __name__ == "__main__":
    main()
