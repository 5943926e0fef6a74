"""Speed: training beside other methods, scoring against the number of labels, peak memory.

    python benchmarks/speed.py train --data DATA --output train.jsonl
    python benchmarks/speed.py score --data DATA --output score.jsonl
    python benchmarks/speed.py memory --data DATA --output memory.jsonl
    python benchmarks/speed.py floor --data DATA --backbone builtin:smollm2 --output floor.jsonl
    python benchmarks/speed.py large --data DATA --backbone builtin:minilm --output large.jsonl
    python benchmarks/speed.py PART --report FILE

train: SST-2, methods as `ltuning compare` fits them, each at its own rate, 32 passes in a step. A
seed is a repeat, and within a repeat every method has its turn, in one process. Validation is
measured on the way; its seconds do not count, those of everything else in a fit do.

score: texts per second among K labels, from BANKING77 up to 77 and CLINC150 for 150, of classifiers
trained briefly on 10 texts per class; methods alternate over repeats in one process. Then the
accuracies on the same texts. More than 150 labels are made up: each is named by an intent of either
data set and given one text, of any intent, so that they have a speed and no accuracy.

memory: the peak of a fresh process for each case, with 2, 150 and 1,000 such labels.

floor: on one thread, seconds of a training step of 16 texts of SST-2 and of scoring 64, beside what
the matrix products of the layers would take alone, at the speed of one such product by itself:
of a step 4 times parameters times tokens, of scoring 2 times, and for a method that leaves lower
layers out of its steps what the cost model counts.

large: the layers of Llama-2-7B with random weights, on a GPU in bfloat16, and the tokenizer of the
backbone named: tokens of pairs of RTE per second in training steps of 32 passes and in scoring, and
the peak memory of the GPU, with 2 labels and with 6, of which 4 are made up.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rows import Row, add_row, circumstances, grouped, median_and_range, read_rows, seeds_of
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.backbones.loading import load_config, load_tokenizer
from ltuning.config import BackboneOptions
from ltuning.data.examples import Examples
from ltuning.data.sources import read_splits
from ltuning.data.splits import take_shots
from ltuning.experiments import own
from ltuning.experiments.entries import Budget
from ltuning.experiments.fitting import Fitted, Job
from ltuning.experiments.peers import PEERS
from ltuning.methods.step_costs import Step, training_step
from ltuning.tasks.table import TASKS

BACKBONE = BackboneOptions(name="builtin:minilm")
SENTIMENTS = {"negative": ["a negative movie review"], "positive": ["a positive movie review"]}
PASSES = 32
# Of training: a method as compare knows it, and its options.
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "lt-prefix": ("lt-prefix", {"method.labels": "together"}),
    "lt-prefix-apart": ("lt-prefix", {"method.labels": "apart"}),
    "prefix": ("prefix", {}),
    "peft-prefix": ("peft-prefix", {}),
    "peft-lora": ("peft-lora", {}),
    "full": ("full", {}),
}
TARGET = "peft-prefix"

SHOTS = 10
CLINC_LABELS = 150
LABEL_NUMBERS = (2, 6, 20, 77, 150, 1000)
MEMORY_LABELS = (2, 150, 1000)
# Of scoring and memory.
LABELLED = ("lt-prefix", "prefix")
Predict = Callable[[Sequence[Any]], Sequence[str]]


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
    """Every method in turn, seed after seed."""
    splits = read_splits(options.data / "sst2_sentence", splits=("train", "validation"))
    backbone = Backbone.load(BACKBONE)
    done = {(row["method"], row["seed"]) for row in read_rows(options.output)}
    methods = options.methods or list(TRAINED)
    for seed in options.seeds:
        # Nobody is always the first, or always after the same one.
        shift = seed % len(methods)
        for method in methods[shift:] + methods[:shift]:
            if (method, seed) not in done:
                row = train_one(backbone, method, splits, seed, options)
                add_row(options.output, row | circumstances(backbone.name))
                print(method, seed, f"{row['accuracy']:.3f} after {row['seconds']} s", flush=True)


def train_one(
    backbone: Backbone,
    method: str,
    splits: Mapping[str, Examples],
    seed: int,
    options: argparse.Namespace,
) -> Row:
    """Train once, measured on the way; a row of the results."""
    name, choices = TRAINED[method]
    budget = Budget(options.steps, PASSES, max(1, options.steps // options.every))
    job = _job(backbone, splits["train"], splits["validation"], SENTIMENTS, budget, seed, choices)
    fitted = PEERS[name].fit(job, None) if name in PEERS else own.fit(name, job, None)
    assert fitted.texts_per_step is not None
    return {
        "method": method,
        "seed": seed,
        "steps": options.steps,
        "texts_in_step": fitted.texts_per_step,
        "seconds": round(fitted.seconds, 2),
        "texts_per_second": round(options.steps * fitted.texts_per_step / fitted.seconds, 2),
        "accuracy": fitted.history[-1]["accuracy"],
        "curve": [[at["step"], at["seconds"], at["accuracy"]] for at in fitted.history],
        "trainable_parameters": fitted.num_parameters,
    }


def _job(
    backbone: Backbone,
    train: Examples,
    validation: Examples,
    labels: dict[str, list[str]],
    budget: Budget,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Job:
    return Job(
        task=TASKS["classes"],
        backbone=BACKBONE,
        outline=backbone,
        load=lambda: backbone,
        release=lambda: None,
        train=train,
        validation=validation,
        labels=labels,
        budget=budget,
        metric="accuracy",
        seed=seed,
        recipe="default",
        options=options or {},
    )


def report_train(rows: Sequence[Row]) -> str:
    """Markdown tables: speed and accuracy, and seconds until the target's last accuracy."""
    targets = {row["seed"]: row for row in rows if row["method"] == TARGET}
    speed = [
        "| method | texts in a step | texts/s, median (range) | seconds | validation accuracy "
        "| each seed | trainable |",
        "|---|---|---|---|---|---|---|",
    ]
    reached = [f"| method | part of {TARGET}'s seconds until its last accuracy |", "|---|---|"]
    for method, group in grouped(rows, "method").items():
        accuracies = [row["accuracy"] for row in group]
        speed.append(
            f"| {method} | {group[0]['texts_in_step']} "
            f"| {median_and_range([row['texts_per_second'] for row in group])} "
            f"| {median_and_range([row['seconds'] for row in group])} "
            f"| {statistics.mean(accuracies):.3f} "
            f"| {' '.join(f'{value:.3f}' for value in accuracies)} "
            f"| {group[0]['trainable_parameters']:,} |"
        )
        parts = [_part(row, targets[row["seed"]]) for row in group if row["seed"] in targets]
        reached.append(f"| {method} | {' '.join(parts)} |")
    return "\n".join([*speed, "", *reached])


def _part(row: Row, target: Row) -> str:
    for _, seconds, accuracy in row["curve"]:
        if accuracy >= target["accuracy"]:
            return f"{seconds / target['seconds']:.2f}"
    return "never"


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
    splits = read_splits(folder, splits=("train", "test"))
    names = sorted(random.Random(0).sample(_names(splits["train"]), number))
    train, test = (_of_labels(splits[name], names) for name in ("train", "test"))
    return LabelledSet(names, take_shots(train, SHOTS, seed=0), test)


def _made_up(data: Path, number: int) -> LabelledSet:
    banking = read_splits(data / "banking77", splits=("train",))["train"]
    clinc = read_splits(data / "clinc150_oos", splits=("train", "test"))
    pairs = [f"{one} or {other}" for one in _names(clinc["train"]) for other in _names(banking)]
    draw = random.Random(0)
    names = sorted(draw.sample(pairs, number))
    texts = draw.sample([*banking.texts, *clinc["train"].texts], number)
    return LabelledSet(names, Examples(texts, names, "made up"), clinc["test"], is_made_up=True)


def _names(examples: Examples) -> list[str]:
    assert examples.labels is not None
    return sorted(set(examples.labels) - {"oos"})


def _of_labels(examples: Examples, names: Sequence[str]) -> Examples:
    assert examples.labels is not None
    return examples.part([row for row, label in enumerate(examples.labels) if label in names])


def fit_briefly(
    backbone: Backbone, chosen: LabelledSet, method: str, steps: int
) -> LabelClassifier:
    """A classifier of these labels; a step has 16 texts."""
    options = {"training.per_device_train_batch_size": 16}
    classifier = LabelClassifier(backbone, chosen.names, method, steps=steps, options=options)
    return classifier.fit(chosen.train.texts, chosen.train.labels)


def scored_methods(
    backbone: Backbone, chosen: LabelledSet, options: argparse.Namespace
) -> dict[str, Predict]:
    """The ways of scoring, trained and warm; `probe` is one pass and a linear head."""
    labels = {name: [name] for name in chosen.names}
    job = _job(backbone, chosen.train, chosen.train, labels, Budget())
    found: dict[str, Predict] = {"probe": _answers(PEERS["logistic"].fit(job, None), job.names)}
    for name in options.methods or LABELLED:
        found[name] = fit_briefly(backbone, chosen, name, options.steps).predict
    for predict in found.values():
        predict(chosen.test.texts[:8])
    return found


def _answers(fitted: Fitted, names: Sequence[str]) -> Predict:
    return lambda texts: [names[place] for place in fitted.probabilities(texts).argmax(1)]


def run_score(options: argparse.Namespace) -> None:
    """Texts per second of each way of scoring among K labels, then accuracies."""
    backbone = Backbone.load(BACKBONE)
    done = {row["labels"] for row in read_rows(options.output) if row["part"] == "score-end"}
    for number in options.labels or LABEL_NUMBERS:
        if number in done:
            continue
        chosen = labelled_set(options.data, number)
        methods = scored_methods(backbone, chosen, options)
        common = {"labels": number, **circumstances(backbone.name)}
        for repeat in range(options.repeats):
            for name, predict in methods.items():
                row = {"part": "score", "method": name, "repeat": repeat}
                row |= _timed(predict, chosen.test.texts, options.texts, repeat)
                add_row(options.output, row | common)
                print(number, name, f"{row['texts_per_second']:.1f} texts/s", flush=True)
        test = chosen.test.part(_sample(len(chosen.test), options.accuracy_texts, 0))
        for name, predict in () if chosen.is_made_up else methods.items():
            value = float(np.mean(np.array(predict(test.texts)) == np.array(test.labels)))
            row = {"part": "score-accuracy", "method": name, "accuracy": value, "texts": len(test)}
            add_row(options.output, row | common)
            print(number, name, f"accuracy {value:.4f}", flush=True)
        add_row(options.output, {"part": "score-end"} | common)


def _timed(predict: Predict, texts: Sequence[Any], wanted: int, repeat: int) -> Row:
    """Texts per second; where there are fewer texts than wanted they come several times."""
    rows = _sample(len(texts), wanted, repeat)
    chosen = [texts[row] for row in (rows * -(-wanted // len(rows)))[:wanted]]
    start = time.perf_counter()
    predict(chosen)
    seconds = time.perf_counter() - start
    return {
        "texts": wanted,
        "seconds": round(seconds, 3),
        "texts_per_second": round(wanted / seconds, 2),
    }


def _sample(number: int, wanted: int, seed: int) -> list[int]:
    """Places drawn without replacement; all of them where more are wanted than there are."""
    return sorted(random.Random(seed).sample(range(number), min(wanted, number)))


def report_score(rows: Sequence[Row]) -> str:
    """Markdown tables: texts per second by K, and accuracies."""
    timed = grouped([row for row in rows if row["part"] == "score"], "method", "labels")
    measured = grouped([row for row in rows if row["part"] == "score-accuracy"], "method", "labels")
    speeds = {key: [row["texts_per_second"] for row in group] for key, group in timed.items()}
    floor = {number: statistics.median(speeds["probe", number]) for _, number in speeds}
    cells = {
        (method, number): f"{median_and_range(values)}, "
        f"{floor[number] / statistics.median(values):.1f}"
        for (method, number), values in speeds.items()
    }
    right = {
        key: f"{group[0]['accuracy']:.3f} ({group[0]['texts']})" for key, group in measured.items()
    }
    return "\n".join(
        [
            "Texts per second, median (range), and times the probe's time:",
            "",
            *_by_number(cells),
            "",
            "Accuracy on the same texts:",
            "",
            *_by_number(right),
        ]
    )


def _by_number(cells: Mapping[tuple[str, int], str]) -> list[str]:
    """A table with a row for each method and a column for each K."""
    numbers = sorted({number for _, number in cells})
    titles = " | ".join(f"K = {number:,}" for number in numbers)
    lines = [f"| method | {titles} |", "|---" * (len(numbers) + 1) + "|"]
    for method in dict.fromkeys(method for method, _ in cells):
        values = " | ".join(cells.get((method, number), "") for number in numbers)
        lines.append(f"| {method} | {values} |")
    return lines


# memory


def run_memory(options: argparse.Namespace) -> None:
    """Peak memory of training and of scoring, a fresh process for each.

    This process loads no model: a child's figure starts from its parent's.
    """
    keys = ("phase", "method", "labels", "repeat")
    done = {tuple(row[key] for key in keys) for row in read_rows(options.output)}
    for repeat in range(options.repeats):
        for number in options.labels or MEMORY_LABELS:
            for method in ["backbone only", *(options.methods or LABELLED)]:
                phases = ("load",) if method == "backbone only" else ("train", "score")
                if (phases[-1], method, number, repeat) in done:
                    continue
                with tempfile.TemporaryDirectory(prefix="memory-") as folder:
                    for phase in phases:
                        case = {"phase": phase, "method": method, "labels": number}
                        row = case | {
                            "repeat": repeat,
                            "peak_mib": _in_child(options, case, folder),
                        }
                        add_row(options.output, row | circumstances(BACKBONE.name))
                        print(phase, method, number, f"{row['peak_mib']:.0f} MiB", flush=True)


def _in_child(options: argparse.Namespace, case: Row, folder: str) -> float:
    case = case | {"artifact": f"{folder}/artifact", "data": str(options.data)}
    case |= {"steps": options.steps, "texts": options.texts}
    command = [sys.executable, __file__, "memory-case", "--case", json.dumps(case)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(output.splitlines()[-1])


def run_memory_case(options: argparse.Namespace) -> None:
    """One case, in the process that is measured; prints its peak."""
    case = json.loads(options.case)
    backbone = Backbone.load(BACKBONE)
    chosen = labelled_set(Path(case["data"]), case["labels"], most_of_banking=0)
    if case["phase"] == "load":
        backbone.encode(chosen.test.texts[:8])
    elif case["phase"] == "train":
        classifier = fit_briefly(backbone, chosen, case["method"], case["steps"])
        peak = _peak_mib()
        classifier.save_pretrained(case["artifact"])
        print(peak)
        return
    else:
        classifier = LabelClassifier.from_pretrained(case["artifact"], backbone=backbone)
        texts, wanted = chosen.test.texts, case["texts"]
        classifier.predict((list(texts) * -(-wanted // len(texts)))[:wanted])
    print(_peak_mib())


def _peak_mib() -> float:
    """Most memory that this process has held; Linux counts in KiB, macOS in bytes."""
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def report_memory(rows: Sequence[Row]) -> str:
    """A Markdown table: MiB by K."""
    groups = grouped(rows, "phase", "method", "labels")
    return "\n".join(
        _by_number(
            {
                (f"{phase}, {method}", number): median_and_range(
                    [row["peak_mib"] for row in group], 0
                )
                for (phase, method, number), group in groups.items()
            }
        )
    )


# floor

FLOOR_TEXTS, FLOOR_BATCH = 64, 16
FLOOR_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lt-prefix": ("lt-prefix", {"method.start": "label-kv"}),
    "prefix": ("prefix", {}),
    "ls-lora": ("ls-lora", {}),
}


def run_floor(options: argparse.Namespace) -> None:
    """Each method in turn, repeat after repeat."""
    torch.set_num_threads(1)
    backbone = Backbone.load(BackboneOptions(name=options.backbone))
    train = read_splits(options.data / "sst2_sentence", splits=("train",))["train"]
    train = train.part(range(FLOOR_TEXTS))
    for repeat in range(options.repeats):
        speed = _product_speed(backbone.sizes.hidden)
        for name in options.methods or FLOOR_METHODS:
            row = {"part": "floor", "method": name, "repeat": repeat, "product_speed": speed}
            row |= _beside_floor(backbone, train, *FLOOR_METHODS[name], speed)
            add_row(options.output, row | circumstances(backbone.name))
            print(name, row, flush=True)


def report_floor(rows: Sequence[Row]) -> str:
    """A Markdown table: seconds and the share of the floor that is reached."""
    lines = [
        "| method | training step, s | its floor | share | of 4 x parameters x tokens "
        "| scoring 64 texts, s | its floor | share |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, group in grouped(rows, "method").items():
        step, least, whole, score, least_score = (
            statistics.median([row[name] for row in group])
            for name in (
                "step_seconds", "step_floor", "whole_step_floor", "score_seconds", "score_floor"
            )
        )  # fmt: skip
        lines.append(
            f"| {method} | {step:.2f} | {least:.2f} | {least / step:.2f} | {whole / step:.2f} "
            f"| {score:.2f} | {least_score:.2f} | {least_score / score:.2f} |"
        )
    return "\n".join(lines)


def _product_speed(width: int, rows: int = 512, repeats: int = 100) -> float:
    """Floating point operations a second of a product of matrices that are in the cache."""
    left, right = torch.randn(rows, width), torch.randn(width, width)
    left @ right
    start = time.perf_counter()
    for _ in range(repeats):
        left @ right
    return repeats * 2 * rows * width * width / (time.perf_counter() - start)


def _beside_floor(
    backbone: Backbone, train: Examples, method: str, choices: Mapping[str, Any], speed: float
) -> Row:
    """Seconds of a training step and of scoring, and their floors."""
    options = {"method.pooling": "mean", "training.per_device_train_batch_size": FLOOR_BATCH}

    def fit(steps: int) -> tuple[float, LabelClassifier]:
        classifier = LabelClassifier(
            backbone, SENTIMENTS, method, steps=steps, options={**options, **choices}
        )
        start = time.perf_counter()
        classifier.fit(train.texts, train.labels)
        return time.perf_counter() - start, classifier

    # Both see texts more than once, and differ by whole epochs.
    epoch = FLOOR_TEXTS // FLOOR_BATCH
    few, _ = fit(2 * epoch)
    many, classifier = fit(4 * epoch)
    start = time.perf_counter()
    classifier.predict_proba(train.texts)
    scored = time.perf_counter() - start
    tokens = sum(len(one["input_ids"]) for one in classifier.windows(train.texts).tokens)
    of_layers = sum(one.numel() for one in backbone.model.parameters())
    of_layers -= backbone.model.get_input_embeddings().weight.numel()
    resolved, layers = classifier.resolved_config.method, backbone.sizes.layers
    size = Step(1, tokens, 0, len(SENTIMENTS))
    cost = training_step(resolved, layers, size, stored=bool(resolved.first_layer))
    each = 2 * of_layers / layers / speed  # seconds of a layer-token
    return {
        "tokens": tokens / FLOOR_TEXTS,
        "step_seconds": (many - few) / (2 * epoch),
        "step_floor": each * (cost.forward + cost.backward) / epoch,
        "whole_step_floor": each * 2 * tokens * layers / epoch,
        "score_seconds": scored,
        "score_floor": each * tokens * layers,
    }


# large

LAYOUT = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
LARGE_TEXTS = 64
LARGE_LABELS = (2, 6)
ENTAILMENT = {
    "entailment": ["the second sentence follows from the first"],
    "not_entailment": ["the second sentence does not follow from the first"],
    "same": ["both sentences say the same"],
    "opposite": ["the second sentence denies the first"],
    "question": ["the second sentence is a question"],
    "other": ["the sentences have nothing to do with each other"],
}
LARGE_METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lt-prefix": ("lt-prefix", {"method.pooling": "mean"}),
    "lt-prefix-apart": ("lt-prefix", {"method.pooling": "mean", "method.labels": "apart"}),
    "prefix": ("prefix", {"method.pooling": "mean"}),
    "ls-lora": ("ls-lora", {"method.pooling": "mean"}),
    "peft-prefix": ("peft-prefix", {}),
    "peft-lora": ("peft-lora", {}),
}


def run_large(options: argparse.Namespace) -> None:
    """Each method in turn; PEFT's have a model of their own."""
    named = BackboneOptions(name=options.backbone)
    tokenizer = load_tokenizer(named, *load_config(named))
    texts = read_splits(options.data / "rte", splits=("train",))["train"].texts[:LARGE_TEXTS]
    done = {(row["labels"], row["method"]) for row in read_rows(options.output)}
    for number in options.labels or LARGE_LABELS:
        labels = dict(list(ENTAILMENT.items())[:number])
        names = [list(labels)[row % number] for row in range(len(texts))]
        train = Examples(texts, names, "RTE")
        backbone = None
        for method in options.methods or LARGE_METHODS:
            if (number, method) in done:
                continue
            if method in PEERS:
                backbone = None
                outline = Backbone(_large(LlamaModel, 1, tokenizer), tokenizer, name="large")
            else:
                backbone = backbone or Backbone(
                    _large(LlamaModel, options.layers, tokenizer), tokenizer, name="large"
                )
                outline = backbone
            job = _job(outline, train, train.part(range(8)), labels, Budget(), 0, None)
            row = {"part": "large", "labels": number, "method": method, "layers": options.layers}
            row |= _large_speed(job, method, tokenizer, options)
            add_row(options.output, row | circumstances("Llama-2-7B, random weights"))
            print(row, flush=True)


def _large(kind: Any, layers: int, tokenizer: Any, num_labels: int = 2) -> Any:
    config = LlamaConfig(
        **LAYOUT,
        num_hidden_layers=layers,
        num_labels=num_labels,
        pad_token_id=tokenizer.pad_token_id,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
    try:
        with torch.device(device):
            return kind(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def _large_speed(job: Job, method: str, tokenizer: Any, options: argparse.Namespace) -> Row:
    """Of training steps, by the difference of a long and a short training, and of scoring."""
    name, choices = LARGE_METHODS[method]

    def load(_: BackboneOptions, num_labels: int) -> tuple[Any, Any]:
        model = _large(LlamaForSequenceClassification, options.layers, tokenizer, num_labels)
        return model, tokenizer

    def fit(steps: int) -> Fitted:
        _clear()
        own_name = BackboneOptions(name=job.outline.name)
        budget = Budget(steps, PASSES, 1)
        chosen = replace(job, backbone=own_name, budget=budget, options=choices)
        with mock.patch("ltuning.experiments.peers.load_classifier", load):
            return PEERS[name].fit(chosen, None) if name in PEERS else own.fit(name, chosen, None)

    fit(2)  # the first of a process waits for the GPU's kernels
    few = fit(4).seconds
    fitted = fit(20)
    peak = _gpu_gib()
    each: float | None = (fitted.seconds - few) / 16
    if each <= 0:  # the short one was not warm
        each = None
    texts = job.train.texts
    tokens = sum(len(tokenizer(*pair)["input_ids"]) for pair in texts) / len(texts)
    fitted.probabilities(texts)
    _clear()
    start = time.perf_counter()
    fitted.probabilities(list(texts) * 4)
    scored = (time.perf_counter() - start) / 4
    return {
        "tokens_of_text": round(tokens, 1),
        "texts_in_step": fitted.texts_per_step,
        "step_seconds": each and round(each, 4),
        "trained_tokens_per_second": each and round(fitted.texts_per_step * tokens / each),
        "training_peak_gib": peak,
        "scored_tokens_per_second": round(len(texts) * tokens / scored),
        "scoring_peak_gib": _gpu_gib(),
        "trainable_parameters": fitted.num_parameters,
    }


def _clear() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _gpu_gib() -> float | None:
    """Most memory of the GPU since it was cleared."""
    if not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**30, 2)


def report_large(rows: Sequence[Row]) -> str:
    """A Markdown table: tokens per second and peak memory."""
    lines = [
        "| labels | method | texts in a step | tokens/s in training | peak, GiB "
        "| tokens/s in scoring | peak, GiB | trainable |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['labels']} | {row['method']} | {row['texts_in_step']} "
        f"| {row['trained_tokens_per_second'] or 'not known'} | {row['training_peak_gib']} "
        f"| {row['scored_tokens_per_second']:,} | {row['scoring_peak_gib']} "
        f"| {row['trainable_parameters']:,} |"
        for row in rows
    ]
    return "\n".join(lines)


PARTS = {
    "train": run_train,
    "score": run_score,
    "memory": run_memory,
    "memory-case": run_memory_case,
    "floor": run_floor,
    "large": run_large,
}
REPORTS = {
    "train": report_train,
    "score": report_score,
    "memory": report_memory,
    "floor": report_floor,
    "large": report_large,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, help="the folder of all data sets")
    parser.add_argument("--output", type=Path, default=Path("speed.jsonl"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--methods", nargs="+", help="not all of them")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=10, help="train: steps between measurements")
    parser.add_argument("--seeds", type=seeds_of, default=range(3), help="train: first-last")
    parser.add_argument("--repeats", type=int, default=3, help="score and memory")
    parser.add_argument("--labels", type=int, nargs="+", help="score, memory, large: K")
    parser.add_argument("--texts", type=int, default=1000, help="score and memory: texts at a time")
    parser.add_argument("--accuracy-texts", type=int, default=1000, help="score: texts at most")
    parser.add_argument("--backbone", default="builtin:smollm2", help="floor, large")
    parser.add_argument("--layers", type=int, default=32, help="large: fewer, for a first try")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.report or options.data or options.case):
        parser.error("give --data, or --report FILE")
    tables = {"train": TRAINED, "floor": FLOOR_METHODS, "large": LARGE_METHODS}
    known = tables.get(options.part, LABELLED)
    for method in options.methods or ():
        if method not in known:
            parser.error(f"expected --methods of {list(known)}, got {method!r}")
    return options


if __name__ == "__main__":
    main()
