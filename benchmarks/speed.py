"""Speed: training beside other methods, scoring against the number of labels, peak memory.

    python benchmarks/speed.py train --data DATA/sst2_sentence --output train.jsonl
    python benchmarks/speed.py train --data DATA/sst2_sentence --search --output search.jsonl
    python benchmarks/speed.py score --data DATA --output score.jsonl
    python benchmarks/speed.py memory --data DATA --output memory.jsonl
    python benchmarks/speed.py PART --report FILE

train: SST-2, the same steps for all, 32 texts in a step where a text runs once and 16 texts with
both labels (32 branches) for lt-prefix-apart. A seed is a repeat, and within a repeat every method
has its turn, in one process. Validation is measured on the way; its seconds do not count, those of
everything else in `fit` do: tokenizing, label states, filling a store of lower layers. `--search`
tries three learning rates of each peer on a tenth of the training rows, which it does not train on.

score: texts per second among K labels, from BANKING77 up to 77 and CLINC150 for 150, of classifiers
trained briefly on 10 texts per class; methods alternate over repeats in one process. A text is read
by lt-prefix-apart once per label: it scores fewer, for at most `--branches` readings. Then the
accuracies on the same texts. More than 150 labels are made up: each is named by an intent of either
data set and given one text, of any intent, so that they have a speed and no accuracy.

memory: the peak of a fresh process for each case, with 2, 150 and 1,000 such labels.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accuracy import TASKS
from peers import (
    GRID,
    PEERS,
    Budget,
    Clock,
    Texts,
    accuracy,
    add_row,
    circumstances,
    fit_probe,
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
from ltuning.data.splits import hold_out, take_shots

LABELS = TASKS["sst2"].labels
BRANCHES = 32
DEPTH = "method.first_layer"
TOGETHER, APART = {"method.labels": "together"}, {"method.labels": "apart"}
BATCH = "training.per_device_train_batch_size"

# ltuning's own: method and options. The first has the default depth.
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "lt-prefix": ("lt-prefix", TOGETHER),
    "lt-prefix s=3": ("lt-prefix", TOGETHER | {DEPTH: 3}),
    "lt-prefix-apart": ("lt-prefix", APART),
    "prefix": ("prefix", {}),
}
TRAINED = [*OURS, "peft-prefix", "peft-lora", "full", "published"]
TARGET = "peft-prefix"

SHOTS = 10
CLINC_LABELS = 150
LABEL_NUMBERS = (2, 6, 20, 77, 150, 1000)
MEMORY_LABELS = (2, 150, 1000)
# Of scoring and memory.
LABELLED: dict[str, tuple[str, dict[str, Any]]] = {
    "lt-prefix": ("lt-prefix", TOGETHER),
    "lt-prefix, mean tokens": ("lt-prefix", TOGETHER | {"method.label_tokens": "mean"}),
    "lt-prefix-apart": ("lt-prefix", APART),
    "prefix": ("prefix", {}),
}


def main() -> None:
    """Measure one part, or print the table of a results file."""
    options = _arguments()
    if options.report:
        print(REPORTS[options.part](read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    PARTS[options.part](options)


# train


def run_train(options: argparse.Namespace) -> None:
    """Every method in turn, seed after seed; or, with `--search`, every rate of every peer."""
    splits = read_splits(str(options.data), splits=("train", "validation"))
    backbone = Backbone.load(BackboneOptions(name=options.backbone))
    done = {(row["part"], row["method"], row["rate"], row["seed"]) for row in _rows(options)}
    process = time.time()
    for seed in options.seeds or (range(100, 101) if options.search else range(3)):
        train, held_out = splits["train"], splits["validation"]
        if options.search:
            train, held_out = hold_out(train, 0.1, seed)
        candidates = _candidates(options)
        # Nobody is always the first, or always after the same one.
        shift = seed % len(candidates)
        for part, method, rate in candidates[shift:] + candidates[:shift]:
            if (part, method, rate, seed) not in done:
                row = train_one(backbone, method, rate, train, held_out, seed, options)
                row = {"part": part, **row, "process": process}
                add_row(options.output, row | circumstances(options.backbone))
                print(part, method, rate or "", seed, _said(row), flush=True)


def _candidates(options: argparse.Namespace) -> list[tuple[str, str, float | None]]:
    methods = options.methods or TRAINED
    if options.search:
        searched = [method for method in methods if method in GRID]
        return [
            ("search", method, rate)
            for method in searched
            for rate in options.rates or GRID[method]
        ]
    return [
        ("train", method, None if method in OURS else rate_of(method, "sst2")) for method in methods
    ]


def train_one(
    backbone: Backbone,
    method: str,
    rate: float | None,
    train: Examples,
    held_out: Examples,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train once, measured on the way; a row of the results."""
    every = options.steps if options.search else options.every
    validation = (held_out.texts, held_out.labels)
    start = time.perf_counter()
    if method in OURS:
        texts = BRANCHES // len(LABELS) if method == "lt-prefix-apart" else BRANCHES
        clock, parameters = _train_ours(
            backbone, method, texts, every, train, validation, seed, options.steps
        )
    else:
        texts = BRANCHES
        budget = Budget(options.steps, texts, eval_steps=every)
        extra = {"label_texts": LABELS} if method == "published" else {}
        peer = PEERS[method](
            backbone.name,
            train.texts,
            train.labels,
            budget=budget,
            rate=rate,
            seed=seed,
            validation=validation,
            **extra,
        )
        clock, parameters = peer.clock, peer.num_parameters
    return {
        "method": method,
        "rate": rate,
        "seed": seed,
        "steps": options.steps,
        "texts_in_step": texts,
        "seconds": round(clock.seconds, 2),
        "texts_per_second": round(options.steps * texts / clock.seconds, 2),
        "branches_per_second": round(options.steps * BRANCHES / clock.seconds, 2),
        "accuracy": clock.curve[-1][2],
        "curve": [[step, round(seconds, 2), value] for step, seconds, value in clock.curve],
        "trainable_parameters": parameters,
        "wall_seconds": round(time.perf_counter() - start, 1),
    }


def _train_ours(
    backbone: Backbone,
    method: str,
    texts: int,
    every: int,
    train: Examples,
    validation: tuple[Texts, Sequence[str]],
    seed: int,
    steps: int,
) -> tuple[Clock, int]:
    name, choices = OURS[method]
    evaluation = {"training.eval_strategy": "steps", "training.eval_steps": every}
    classifier = LabelClassifier(
        backbone,
        LABELS,
        name,
        seed=seed,
        steps=steps,
        options={BATCH: texts} | evaluation | choices,
    )
    clock = Clock()
    clock.start()
    classifier.fit(train.texts, train.labels, validation, callbacks=[clock])
    clock.stop()
    return clock, classifier.num_parameters


def _said(row: dict[str, Any]) -> str:
    return (
        f"{row['texts_per_second']:.1f} texts/s, {row['accuracy']:.3f} after "
        f"{row['seconds']:.0f} s ({row['wall_seconds']:.0f} s with validation)"
    )


def report_train(rows: list[dict[str, Any]]) -> str:
    """Markdown tables: speed and accuracy, and seconds until the target's accuracy."""
    searched = [row for row in rows if row["part"] == "search"]
    rows = [row for row in rows if row["part"] == "train"]
    parts = [_speed_table(rows), _target_table(rows)] if rows else []
    if searched:
        parts.append(search_report(searched))
    return "\n\n".join(parts)


def _speed_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| method | rate | texts in a step | texts/s, median (range) | branches/s | seconds "
        "| validation accuracy, mean | each seed | trainable |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method, group in _grouped(rows, "method").items():
        first = group[0]
        accuracies = [row["accuracy"] for row in group]
        lines.append(
            f"| {method} | {first['rate'] or 'default'} | {first['texts_in_step']} "
            f"| {_spread([row['texts_per_second'] for row in group])} "
            f"| {statistics.median(row['branches_per_second'] for row in group):.0f} "
            f"| {_spread([row['seconds'] for row in group])} "
            f"| {statistics.mean(accuracies):.3f} | {_each(accuracies)} "
            f"| {first['trainable_parameters']:,} |"
        )
    return "\n".join(lines)


def _target_table(rows: list[dict[str, Any]]) -> str:
    """Seconds until a method's validation accuracy is what the target ends with, seed by seed."""
    targets = {row["seed"]: row for row in rows if row["method"] == TARGET}
    lines = [
        f"| method | seconds until {TARGET}'s last accuracy, each seed | part of its seconds |",
        "|---|---|---|",
    ]
    for method, group in _grouped(rows, "method").items():
        pairs = [(row, targets[row["seed"]]) for row in group if row["seed"] in targets]
        reached = [(_seconds_until(row, target["accuracy"]), target) for row, target in pairs]
        shown = " ".join("never" if s is None else f"{s:.1f}" for s, _ in reached)
        parts = " ".join("-" if s is None else f"{s / t['seconds']:.2f}" for s, t in reached)
        lines.append(f"| {method} | {shown} | {parts} |")
    last = " ".join(f"{seed}: {row['accuracy']:.3f}" for seed, row in sorted(targets.items()))
    return "\n".join([*lines, "", f"Last validation accuracy of {TARGET}, by seed: {last}."])


def _seconds_until(row: dict[str, Any], wanted: float) -> float | None:
    return next((seconds for _, seconds, value in row["curve"] if value >= wanted), None)


# score


@dataclass(frozen=True)
class LabelledSet:
    """K labels of a data set, or made up.

    Attributes:
        names: the labels.
        train: 10 training texts of each; of one that is made up, one.
        test: all test texts of them.
        is_made_up: whether labels say nothing of the texts.
    """

    names: list[str]
    train: Examples
    test: Examples
    is_made_up: bool = False


def labelled_set(data: Path, number: int, most_of_banking: int = 77) -> LabelledSet:
    """K labels of BANKING77 or CLINC150, drawn at random; of both, in pairs, where these are few.

    Args:
        data: the folder of both.
        number: K.
        most_of_banking: up to so many are of BANKING77.
    """
    if number > CLINC_LABELS:
        return _made_up(data, number)
    folder = data / ("banking77" if number <= most_of_banking else "clinc150_oos")
    splits = read_splits(str(folder), splits=("train", "test"))
    known = sorted(set(splits["train"].labels) - {"oos"})
    names = sorted(random.Random(0).sample(known, number))
    train, test = (_of_labels(splits[name], names) for name in ("train", "test"))
    return LabelledSet(names, take_shots(train, SHOTS, seed=0), test)


def _made_up(data: Path, number: int) -> LabelledSet:
    banking = read_splits(str(data / "banking77"), splits=("train",))["train"]
    clinc = read_splits(str(data / "clinc150_oos"), splits=("train", "test"))
    intents = sorted(set(clinc["train"].labels) - {"oos"})
    pairs = [f"{one} or {other}" for one in intents for other in sorted(set(banking.labels))]
    draw = random.Random(0)
    names = sorted(draw.sample(pairs, number))
    texts = draw.sample([*banking.texts, *clinc["train"].texts], number)
    return LabelledSet(names, Examples(texts, names, "made up"), clinc["test"], is_made_up=True)


def _of_labels(examples: Examples, names: Sequence[str]) -> Examples:
    wanted = set(names)
    rows = [row for row, label in enumerate(examples.labels) if label in wanted]
    return _part(examples, rows)


def _part(examples: Examples, rows: Sequence[int]) -> Examples:
    return Examples(
        [examples.texts[row] for row in rows],
        [examples.labels[row] for row in rows],
        examples.origin,
    )


def scored_methods(
    backbone: Backbone, chosen: LabelledSet, options: argparse.Namespace
) -> dict[str, Callable[[Texts], Sequence[str]]]:
    """The ways of scoring, texts -> labels, trained and warm."""
    train, budget = chosen.train, Budget(0, 0)
    probe = fit_probe(backbone.name, train.texts, train.labels, budget=budget, rate=0.0, seed=0)
    found: dict[str, Callable[[Texts], Sequence[str]]] = {"probe": probe.predict}
    for name in options.methods or LABELLED:
        method, choices = LABELLED[name]
        found[name] = fit_briefly(backbone, chosen, method, choices, options.steps).predict
    for predict in found.values():
        predict(chosen.test.texts[:8])
    return found


def fit_briefly(
    backbone: Backbone,
    chosen: LabelledSet,
    method: str,
    choices: dict[str, Any],
    steps: int,
) -> LabelClassifier:
    """A classifier of these labels; a step has 16 texts."""
    options = {BATCH: 16, **choices}
    classifier = LabelClassifier(backbone, chosen.names, method, steps=steps, options=options)
    return classifier.fit(chosen.train.texts, chosen.train.labels)


def run_score(options: argparse.Namespace) -> None:
    """Texts per second of each way of scoring among K labels, then accuracies."""
    backbone = Backbone.load(BackboneOptions(name=options.backbone))
    done = {row["labels"] for row in _rows(options) if row["part"] == "score-end"}
    process = time.time()
    for number in options.labels or LABEL_NUMBERS:
        if number in done:
            continue
        chosen = labelled_set(options.data, number)
        methods = scored_methods(backbone, chosen, options)
        common = {"labels": number, "process": process, **circumstances(options.backbone)}
        for repeat in range(options.repeats):
            for name, predict in methods.items():
                wanted = min(options.texts, max(8, options.branches // _readings(name, number)))
                row = {"part": "score", "method": name, "repeat": repeat}
                row |= _timed(predict, chosen.test.texts, wanted, repeat)
                add_row(options.output, row | common)
                print(number, name, f"{row['texts_per_second']:.1f} texts/s", flush=True)
        sample = _sample(len(chosen.test), options.accuracy_texts, 0)
        test = _part(chosen.test, sample)
        for name, predict in () if chosen.is_made_up else methods.items():
            value = accuracy(test.labels, list(predict(test.texts)))
            row = {"part": "score-accuracy", "method": name, "accuracy": value, "texts": len(test)}
            add_row(options.output, row | common)
            print(number, name, f"accuracy {value:.4f}", flush=True)
        add_row(options.output, {"part": "score-end"} | common)


def _readings(method: str, number: int) -> int:
    """Of a text that is scored among K labels."""
    return number if method == "lt-prefix-apart" else 1


def _timed(
    predict: Callable[[Texts], Sequence[str]], texts: Texts, wanted: int, repeat: int
) -> dict[str, Any]:
    """Texts per second; where there are fewer texts than wanted they come several times."""
    rows = _sample(len(texts), wanted, repeat)
    rows = (rows * -(-wanted // len(rows)))[:wanted]
    chosen = [texts[row] for row in rows]
    start = time.perf_counter()
    predict(chosen)
    seconds = time.perf_counter() - start
    return {
        "texts": wanted,
        "seconds": round(seconds, 3),
        "texts_per_second": round(wanted / seconds, 2),
    }


def _sample(number: int, wanted: int, seed: int) -> list[int]:
    """Places drawn without replacement; all of them where `wanted` is 0 or more than there are."""
    wanted = min(wanted or number, number)
    return sorted(random.Random(seed).sample(range(number), wanted))


def report_score(rows: list[dict[str, Any]]) -> str:
    """Markdown tables: texts per second by K, and accuracies."""
    timed = [row for row in rows if row["part"] == "score"]
    measured = [row for row in rows if row["part"] == "score-accuracy"]
    numbers = sorted({row["labels"] for row in timed})
    header = "| method | " + " | ".join(f"K = {number}" for number in numbers) + " |"
    line = "|---" * (len(numbers) + 1) + "|"
    speeds = ["Texts per second, median (range), and times the probe's:", "", header, line]
    floor = {number: _speed(timed, "probe", number) for number in numbers}
    for method, group in _grouped(timed, "method").items():
        cells = []
        for number in numbers:
            values = [row["texts_per_second"] for row in group if row["labels"] == number]
            slower = floor[number] / statistics.median(values) if values else 0.0
            cells.append(f"{_spread(values)}, 1/{slower:.1f}" if values else "")
        speeds.append(f"| {method} | " + " | ".join(cells) + " |")
    accuracies = ["Accuracy on the same texts:", "", header, line]
    for method, group in _grouped(measured, "method").items():
        found = {row["labels"]: f"{row['accuracy']:.4f} ({row['texts']})" for row in group}
        cells = [found.get(number, "") for number in numbers]
        accuracies.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*speeds, "", *accuracies])


def _speed(rows: list[dict[str, Any]], method: str, number: int) -> float:
    return statistics.median(
        row["texts_per_second"]
        for row in rows
        if row["method"] == method and row["labels"] == number
    )


# memory


def run_memory(options: argparse.Namespace) -> None:
    """Peak memory of training and of scoring, a fresh process for each.

    This process loads no model: a child's figure starts from its parent's.
    """
    done = {(row["phase"], row["method"], row["labels"], row["repeat"]) for row in _rows(options)}
    for repeat in range(options.repeats):
        for number in options.labels or MEMORY_LABELS:
            for method in ["backbone only", *(options.methods or LABELLED)]:
                phases = ("load",) if method == "backbone only" else ("train", "score")
                if (phases[-1], method, number, repeat) in done:
                    continue
                with tempfile.TemporaryDirectory(prefix="memory-") as folder:
                    for phase in phases:
                        case = {"phase": phase, "method": method, "labels": number}
                        row = case | {"part": "memory", "repeat": repeat}
                        row |= _in_child(options, case | {"artifact": f"{folder}/artifact"})
                        add_row(options.output, row | circumstances(options.backbone))
                        print(phase, method, number, f"{row['peak_mib']:.0f} MiB", flush=True)


def _in_child(options: argparse.Namespace, case: dict[str, Any]) -> dict[str, Any]:
    case |= {
        "data": str(options.data),
        "backbone": options.backbone,
        "steps": options.steps,
        "texts": options.texts,
    }
    command = [sys.executable, __file__, "memory-case", "--case", json.dumps(case)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def run_memory_case(options: argparse.Namespace) -> None:
    """One case, in the process that is measured; prints a row."""
    case = json.loads(options.case)
    backbone = Backbone.load(BackboneOptions(name=case["backbone"]))
    chosen = labelled_set(Path(case["data"]), case["labels"], most_of_banking=0)
    loaded = _peak_mib()
    if case["phase"] == "load":
        backbone.encode(chosen.test.texts[:8])
    elif case["phase"] == "train":
        method, choices = LABELLED[case["method"]]
        classifier = fit_briefly(backbone, chosen, method, choices, case["steps"])
        peak = _peak_mib()
        classifier.save_pretrained(case["artifact"])
        print(json.dumps({"peak_mib": peak, "loaded_mib": loaded}))
        return
    else:
        classifier = LabelClassifier.from_pretrained(case["artifact"], backbone=backbone)
        texts, number = chosen.test.texts, case["labels"]
        wanted = max(8, case["texts"] // _readings(case["method"], number))
        classifier.predict((list(texts) * -(-wanted // len(texts)))[:wanted])
    print(json.dumps({"peak_mib": _peak_mib(), "loaded_mib": loaded}))


def _peak_mib() -> float:
    """Most memory that this process has held; Linux counts in KiB, macOS in bytes."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def report_memory(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: MiB by K, and how many more than with the fewest labels."""
    numbers = sorted({row["labels"] for row in rows})
    header = " | ".join(f"K = {number}, MiB (range)" for number in numbers)
    lines = [f"| phase | method | {header} |", "|---" * (len(numbers) + 2) + "|"]
    groups: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["phase"], row["method"]][row["labels"]].append(row["peak_mib"])
    for (phase, method), found in groups.items():
        cells = []
        for number in numbers:
            values, few = found.get(number), found.get(numbers[0])
            cell = _spread(values, 0) if values else ""
            if values and few and number != numbers[0]:
                cell += f", {statistics.median(values) - statistics.median(few):+.0f}"
            cells.append(cell)
        lines.append(f"| {phase} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


# all


def _grouped(rows: list[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.get("seed", 0)):
        groups[row[key]].append(row)
    return groups


def _spread(values: Sequence[float], digits: int = 1) -> str:
    median = statistics.median(values)
    if len(values) == 1:
        return f"{median:.{digits}f}"
    return f"{median:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _each(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    return read_rows(options.output)


PARTS = {
    "train": run_train,
    "score": run_score,
    "memory": run_memory,
    "memory-case": run_memory_case,
}
REPORTS = {"train": report_train, "score": report_score, "memory": report_memory}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="builtin:minilm")
    parser.add_argument("--output", type=Path, default=Path("speed.jsonl"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--methods", nargs="+", help="not all of them")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=10, help="train: steps between measurements")
    parser.add_argument("--seeds", type=seeds_of, help="train: first-last")
    parser.add_argument("--search", action="store_true", help="train: learning rates of the peers")
    parser.add_argument("--rates", type=float, nargs="+", help="train: to search, not the grid's")
    parser.add_argument("--repeats", type=int, default=3, help="score and memory")
    parser.add_argument("--labels", type=int, nargs="+", help="score and memory: K")
    parser.add_argument("--texts", type=int, default=1000, help="score, memory: texts at most")
    parser.add_argument("--branches", type=int, default=20_000, help="score: of labels read apart")
    parser.add_argument("--accuracy-texts", type=int, default=1000, help="score: 0 = all")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.report or options.data or options.case):
        parser.error("give --data, or --report FILE")
    known = TRAINED if options.part == "train" else list(LABELLED)
    for method in options.methods or ():
        if method not in known:
            parser.error(f"expected --methods of {known}, got {method!r}")
    return options


if __name__ == "__main__":
    main()
