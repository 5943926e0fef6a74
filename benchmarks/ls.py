"""Label-supervised LoRA beside its baselines: classes of texts, and entities of WNUT-17.

    python benchmarks/ls.py wnut17 --data DATA/wnut17 --seeds 0-2 --output results.jsonl
    python benchmarks/ls.py sst2 --data DATA/sst2_sentence --seeds 0-2 --output results.jsonl
    python benchmarks/ls.py wnut17 --data DATA/wnut17 --seeds 100-100 --split validation --rate 1e-3
    python benchmarks/ls.py --report results.jsonl

`--data` is a folder with train, test and validation, as the library reads it. Runs that the output
file holds already are skipped, so a stopped benchmark goes on where it was.

On WNUT-17 `reference-lora` and `reference-full` are the same training written by hand with PEFT and
transformers alone: a model with a head of its own, first tokens labelled, seqeval in strict mode.
They share steps, batch size, learning rate, schedule, order of the texts and dropout with `ls-lora`
and `full`: LoRA's own dropout where the model is frozen, the model's where all of it is trained;
and a head that starts as `nn.Linear` does. Their figure is that of the best sequence in which every
`I-` continues an entity, as the library predicts; `f1_most_probable` beside it is that of each
word's best tag.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import add_row, circumstances, read_rows, seeds_of
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier, TokenClassifier
from ltuning.backbones.loading import resolve
from ltuning.config import BackboneOptions, MethodOptions
from ltuning.data.sources import read_splits, read_tagged_splits
from ltuning.methods.catalog import training_defaults
from ltuning.metrics import span_report
from ltuning.scoring import best_tags, tag_names
from ltuning.training.datasets import LengthGroupedBatches
from ltuning.training.validation import softmax

CLASSES = ("ls-lora", "full", "probe", "lt-prefix", "prefix")
TAGS = ("ls-lora", "reference-lora", "full", "reference-full", "probe")


@dataclass(frozen=True)
class Task:
    """A data set as it is measured here.

    Attributes:
        measured: the split that figures are computed on.
        figure: the figure that the table is of.
        methods: what is compared.
        steps: optimizer steps of every method.
        batch: texts in a step; of `lt-prefix`, (text, label) pairs.
        labels: label texts, for the method that reads them.
    """

    measured: str
    figure: str
    methods: tuple[str, ...]
    steps: int
    batch: int
    labels: dict[str, str] | None = None


TASKS = {
    "wnut17": Task("test", "f1", TAGS, steps=300, batch=16),
    "sst2": Task(
        "test",
        "accuracy",
        CLASSES,
        steps=150,
        batch=32,
        labels={"negative": "a negative movie review", "positive": "a positive movie review"},
    ),
    "sst5": Task(
        "test",
        "accuracy",
        CLASSES,
        steps=150,
        batch=32,
        labels={
            "very negative": "a very negative movie review",
            "negative": "a negative movie review",
            "neutral": "a neutral movie review",
            "positive": "a positive movie review",
            "very positive": "a very positive movie review",
        },
    ),
    "twitter": Task(
        "validation",
        "accuracy",
        CLASSES,
        steps=150,
        batch=32,
        labels={
            "Bearish": "bad news for the share price",
            "Bullish": "good news for the share price",
            "Neutral": "neither good nor bad news for the share price",
        },
    ),
}


def main() -> None:
    """Run a task, or print the table of a results file."""
    options = _arguments()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if options.report:
        print(report(read_rows(options.report)))
        return
    task = TASKS[options.task]
    if options.split:
        task = replace(task, measured=options.split)
    backbone = Backbone.load(BackboneOptions(name=options.backbone))
    read = read_tagged_splits if task.figure == "f1" else read_splits
    splits: Any = read(str(options.data))
    done = {_key(row) for row in read_rows(options.output)}
    for seed in options.seeds:
        for method in options.methods or task.methods:
            row = {
                "task": options.task,
                "split": task.measured,
                "backbone": options.backbone,
                "method": method,
                "rate": options.rate,
                "seed": seed,
            }
            if _key(row) in done:
                continue
            steps = options.steps or task.steps
            row |= {
                **run(backbone, task, splits, method, seed, steps, options.rate),
                **circumstances(options.backbone),
            }
            add_row(options.output, row)
            print(*_key(row), f"{row['figure']:.3f} in {row['seconds']:.0f} s", flush=True)


def run(
    backbone: Backbone,
    task: Task,
    splits: Any,
    method: str,
    seed: int,
    steps: int,
    rate: float | None = None,
) -> dict[str, Any]:
    """Train and measure one method, at its default rate or another."""
    if method.startswith("reference-"):
        return reference(backbone, task, splits, method.removeprefix("reference-"), seed, steps)
    train, measured = splits["train"], splits[task.measured]
    options: dict[str, Any] = {"training.per_device_train_batch_size": task.batch}
    if rate is not None:
        options["training.learning_rate"] = rate
    made: Any
    if task.figure == "f1":
        made = TokenClassifier(backbone, None, method, seed=seed, steps=steps, options=options)
    else:
        made = LabelClassifier(
            backbone, task.labels, method, seed=seed, steps=steps, options=options
        )
    made.fit(train.inputs, train.labels)
    figures = made.evaluate(measured.inputs, measured.labels)
    return {
        "figure": figures[task.figure],
        "figures": {name: figures[name] for name in figures if isinstance(figures[name], float)},
        "steps": steps,
        "seconds": round(made.result_.seconds, 1),
        "trainable_parameters": made.num_parameters,
    }


def reference(
    backbone: Backbone, task: Task, splits: Any, kind: str, seed: int, steps: int
) -> dict[str, Any]:
    """LoRA or full fine-tuning for tags, by PEFT and transformers alone."""
    train, measured = splits["train"], splits[task.measured]
    names = tag_names(sorted({tag[2:] for tags in train.tags for tag in tags} - {""}))
    tokenizer = AutoTokenizer.from_pretrained(resolve(backbone.name))
    set_seed(seed)
    dropout = {"classifier_dropout": 0.0}
    if kind == "lora":
        dropout |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = AutoModelForTokenClassification.from_pretrained(
        resolve(backbone.name), num_labels=len(names), **dropout
    )
    model.classifier.reset_parameters()
    if kind == "lora":
        from peft import LoraConfig, get_peft_model

        targets = list(backbone.family.lora)
        lora = LoraConfig(
            task_type="TOKEN_CLS", r=12, lora_alpha=32, lora_dropout=0.1, target_modules=targets
        )
        model = get_peft_model(model, lora)
    defaults = training_defaults(MethodOptions("ls-lora" if kind == "lora" else "full"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            **{**defaults, "per_device_train_batch_size": task.batch},
            max_steps=steps,
            seed=seed,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=backbone.device.type == "cpu",
        )
        trainer = _ReferenceTrainer(
            model=model,
            args=arguments,
            train_dataset=_rows(tokenizer, train.texts, train.tags, names),
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - started
        rows = _rows(tokenizer, measured.texts, measured.tags, names)
        logits = trainer.predict(rows).predictions
    figures = {}
    for decoding, decode in (("allowed", best_tags), ("most_probable", _most_probable)):
        predicted = []
        for row, tags, scores in zip(rows, measured.tags, logits, strict=True):
            read = scores[: len(row["labels"])][np.array(row["labels"]) != -100]
            said = [names[tag] for tag in decode(softmax(read))]
            # Words that were cut off are outside of every entity.
            predicted.append(said + ["O"] * (len(tags) - len(said)))
        figures[decoding] = span_report(measured.tags, predicted)["f1"]
    return {
        "figure": figures["allowed"],
        "figures": {f"f1_{decoding}": figure for decoding, figure in figures.items()},
        "steps": steps,
        "seconds": round(seconds, 1),
        "trainable_parameters": sum(
            weight.numel() for weight in model.parameters() if weight.requires_grad
        ),
    }


class _ReferenceTrainer(Trainer):
    """transformers' own, with the order of the texts that ltuning's trainer has."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedBatches:
        lengths = [len(row["input_ids"]) for row in train_dataset or self.train_dataset]
        return LengthGroupedBatches(lengths, self.args.train_batch_size, self.args.seed)


def _most_probable(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.argmax(-1)


def _rows(
    tokenizer: Any, texts: list[list[str]], tags: list[list[str]], names: list[str]
) -> list[dict[str, list[int]]]:
    rows = []
    for words, tagged in zip(texts, tags, strict=True):
        encoded = tokenizer(words, is_split_into_words=True, truncation=True)
        labels, before = [], None
        for word in encoded.word_ids():
            is_first = word is not None and word != before
            labels.append(names.index(tagged[word]) if is_first else -100)
            before = word
        rows.append({**encoded, "labels": labels})
    return rows


def report(rows: list[dict]) -> str:
    """A Markdown table: mean and standard deviation over seeds."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[_key(row)[:-1]].append(row)
    lines = [
        "| task | backbone | method | rate | figure, mean ± sd | each seed | trainable "
        "| training s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (task, split, backbone, method, rate), group in groups.items():
        figures = [row["figure"] for row in sorted(group, key=lambda row: row["seed"])]
        spread = statistics.stdev(figures) if len(group) > 1 else 0.0
        seconds = statistics.median(row["seconds"] for row in group)
        lines.append(
            f"| {task} {split}, {TASKS[task].figure} | {backbone} | {method} | {rate or 'default'} "
            f"| {statistics.mean(figures):.3f} ± {spread:.3f} "
            f"| {' '.join(f'{value:.3f}' for value in figures)} "
            f"| {group[0]['trainable_parameters']:,} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="builtin:minilm")
    parser.add_argument("--methods", nargs="+", help="of the task's table; all by default")
    parser.add_argument("--seeds", type=seeds_of, default=range(3), help="first-last")
    parser.add_argument("--steps", type=int, help="another number of optimizer steps")
    parser.add_argument("--rate", type=float, help="another learning rate; not of the references")
    parser.add_argument("--split", help="another one to measure on, such as validation")
    parser.add_argument("--output", type=Path, default=Path("results.jsonl"))
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if not options.report and not (options.task and options.data):
        parser.error("give a task and --data, or --report FILE")
    return options


def _key(row: dict) -> tuple:
    return tuple(row[name] for name in ("task", "split", "backbone", "method", "rate", "seed"))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    main()
