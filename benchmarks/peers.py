"""Other methods beside which ltuning is measured, each by its own library.

Every peer is trained by `PEERS[name](backbone, texts, labels, budget=..., rate=..., seed=...)` on a
model of its own, fresh from the backbone's files and without ltuning's layers around it:

============ ======================================================================================
probe        frozen mean states, scikit-learn's logistic regression with C = 10
peft-prefix  PEFT's prefix tuning, 10 virtual tokens
peft-lora    PEFT's LoRA on queries and values
full         fine-tuning of every weight
setfit       SetFit: contrastive fine-tuning of every weight, then logistic regression
published    the published L-Tuning recipe at its published cost: the label of every example is
             encoded anew in every step, and texts are padded to 128 tokens
============ ======================================================================================

The trained ones but SetFit, which has its own, run in transformers' Trainer with what ltuning's
trainer has: linear schedule, a tenth of warm-up, no weight decay, gradients clipped at 1, batches
grouped by length with its sampler. Rates come from equal grids (`GRID`), see `--search` of the
scripts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from ltuning import Backbone
from ltuning.backbones.frozen import LabelStates, TextBatch
from ltuning.backbones.loading import resolve
from ltuning.config import BackboneOptions, MethodOptions
from ltuning.experiments.fitting import Clock
from ltuning.labels import Labels
from ltuning.methods import catalog
from ltuning.methods.adapter import Adapter
from ltuning.methods.model import Branches
from ltuning.training.datasets import LengthGroupedBatches
from ltuning.training.objectives import LabelRows, draw_pairs, pairs_loss

# Three rates for every trained peer, about a factor of three apart, as ltuning's methods had; for
# SetFit around its default.
GRID = {
    "peft-prefix": (3e-3, 1e-2, 3e-2),
    "peft-lora": (3e-4, 1e-3, 3e-3),
    "full": (2e-5, 6e-5, 2e-4),
    "setfit": (7e-6, 2e-5, 6e-5),
    "published": (7e-4, 2e-3, 6e-3),
}

# The best of each grid on development data, by setting; what is missing has the middle one.
RATES: dict[str, dict[str, float]] = {
    "sst2": {"peft-prefix": 1e-1, "peft-lora": 3e-3, "full": 2e-4},
    "intents": {"peft-lora": 1e-2},
}

VIRTUAL_TOKENS = 10
PUBLISHED_LENGTH = 128
# Texts, or branches, at a time outside training; more would be padded to the length of the longest.
_AT_A_TIME = 64

Texts = Sequence[str]


@dataclass(frozen=True)
class Budget:
    """How long a peer is trained.

    Attributes:
        steps: optimizer steps.
        batch: texts in a step.
        eval_steps: steps between measurements on the validation texts; None = none.
        rank: of LoRA; alpha is twice that.
        setfit_iterations: SetFit's `num_iterations`, pairs of each kind per text; None = its
            default, every pair. Not used with `setfit_steps`.
        setfit_steps: SetFit's `max_steps`, of 16 pairs; None = one pass over the pairs.
    """

    steps: int
    batch: int
    eval_steps: int | None = None
    rank: int = 8
    setfit_iterations: int | None = None
    setfit_steps: int | None = None


@dataclass(frozen=True)
class Peer:
    """A trained peer.

    Attributes:
        predict: texts -> the name of each one's label.
        num_parameters: trainable ones, the head included.
        clock: what the training took.
    """

    predict: Callable[[Texts], list[str]]
    num_parameters: int
    clock: Clock


def rate_of(name: str, setting: str) -> float:
    """The learning rate of a peer in a setting; 0 for the probe, which has none."""
    if name not in GRID:
        return 0.0
    return RATES[setting].get(name, GRID[name][1])


def fit_probe(
    backbone: str,
    texts: Texts,
    labels: Sequence[str],
    *,
    budget: Budget,
    rate: float,
    seed: int,
    validation: tuple[Texts, Sequence[str]] | None = None,
) -> Peer:
    """Logistic regression on the frozen mean states; budget, rate, validation are not used."""
    encoder = Encoder.load(backbone)
    clock = Clock()
    clock.start()
    head = LogisticRegression(C=10, max_iter=1000, random_state=seed)
    head.fit(encoder.mean_states(texts).numpy(), list(labels))
    clock.stop()
    return Peer(
        lambda texts: [str(name) for name in head.predict(encoder.mean_states(texts).numpy())],
        head.coef_.size + head.intercept_.size,
        clock,
    )


def fit_peft_prefix(backbone: str, texts: Texts, labels: Sequence[str], **rest: Any) -> Peer:
    """PEFT's prefix tuning with its defaults for sequence classification."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    config = PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=VIRTUAL_TOKENS)
    return _fit_classifier(
        backbone, texts, labels, lambda model: get_peft_model(model, config), **rest
    )


def fit_peft_lora(
    backbone: str, texts: Texts, labels: Sequence[str], *, budget: Budget, **rest: Any
) -> Peer:
    """PEFT's LoRA on queries and values, alpha twice the rank, dropout 0.1."""
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=budget.rank,
        lora_alpha=2 * budget.rank,
        lora_dropout=0.1,
        target_modules=["query", "value"],
    )
    return _fit_classifier(
        backbone, texts, labels, lambda model: get_peft_model(model, config), budget=budget, **rest
    )


def fit_full(backbone: str, texts: Texts, labels: Sequence[str], **rest: Any) -> Peer:
    """Fine-tuning of every weight."""
    return _fit_classifier(backbone, texts, labels, lambda model: model, **rest)


def fit_setfit(
    backbone: str,
    texts: Texts,
    labels: Sequence[str],
    *,
    budget: Budget,
    rate: float,
    seed: int,
    validation: tuple[Texts, Sequence[str]] | None = None,
) -> Peer:
    """SetFit with its defaults: one pass over the pairs, 16 in a batch, its logistic head.

    `budget.steps` and `budget.batch` are not used, nor is validation.
    """
    try:
        import setfit
    except ImportError as error:
        raise SystemExit(
            "expected the package setfit for the peer 'setfit', got none; pip install setfit"
        ) from error
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    setfit.logging.set_verbosity_error()
    names = sorted(set(labels))
    model = setfit.SetFitModel.from_pretrained(resolve(backbone), labels=names)
    rows = {"text": list(texts), "label": [names.index(label) for label in labels]}
    clock = Clock()
    clock.start()
    with tempfile.TemporaryDirectory(prefix="setfit-") as folder:
        arguments = setfit.TrainingArguments(
            output_dir=folder,
            batch_size=16,
            num_epochs=1,
            max_steps=budget.setfit_steps or -1,
            # With both, SetFit would draw few pairs and repeat them.
            num_iterations=None if budget.setfit_steps else budget.setfit_iterations,
            body_learning_rate=rate,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
            seed=seed,
        )
        trainer = setfit.Trainer(model, arguments, train_dataset=Dataset.from_dict(rows))
        trainer.st_trainer.remove_callback(PrinterCallback)
        trainer.train()
    clock.stop()
    body = sum(weight.numel() for weight in model.model_body.parameters())
    head = model.model_head
    return Peer(
        lambda texts: [str(name) for name in model.predict(list(texts), batch_size=_AT_A_TIME)],
        body + head.coef_.size + head.intercept_.size,
        clock,
    )


def fit_published(
    backbone: str,
    texts: Texts,
    labels: Sequence[str],
    *,
    budget: Budget,
    rate: float,
    seed: int,
    validation: tuple[Texts, Sequence[str]] | None = None,
    label_texts: dict[str, str] | None = None,
) -> Peer:
    """The published recipe of LT-Prefix at its published cost.

    The adapter is ltuning's of the recipe `paper`; a step encodes the label of each of its pairs
    and pads their texts to 128 tokens. Predicting is not slowed down.
    """
    model = _Published(Backbone.load(BackboneOptions(name=backbone)), labels, label_texts, seed)
    clock = Clock()
    clock.start()
    tokens = model.backbone.tokenize(list(texts), PUBLISHED_LENGTH)
    rows = [
        {"input_ids": row["input_ids"], "target": model.labels.index(label)}
        for row, label in zip(tokens, labels, strict=True)
    ]
    _train(model, rows, model.collate, model.predict, budget, rate, seed, validation, clock)
    return Peer(model.predict, _trainable(model), clock)


PEERS: dict[str, Callable[..., Peer]] = {
    "probe": fit_probe,
    "peft-prefix": fit_peft_prefix,
    "peft-lora": fit_peft_lora,
    "full": fit_full,
    "setfit": fit_setfit,
    "published": fit_published,
}


@dataclass(frozen=True)
class Encoder:
    """A model and its tokenizer as transformers loads them."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, backbone: str, kind: Any = AutoModel, **extra: Any) -> Encoder:
        """From a backbone's name, on the GPU where there is one."""
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        source = resolve(backbone)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = kind.from_pretrained(source, **extra).to(device).eval()
        return cls(model, AutoTokenizer.from_pretrained(source))

    def tokenize(self, texts: Texts) -> list[list[int]]:
        """Token ids of each text; what does not fit beside virtual tokens is cut off."""
        room = self.model.config.max_position_embeddings - VIRTUAL_TOKENS
        room = min(room, self.tokenizer.model_max_length)
        return self.tokenizer(list(texts), truncation=True, max_length=room)["input_ids"]

    def pad(self, ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """A batch as long as its longest text."""
        return dict(self.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt"))

    def batches(self, texts: Texts) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Batches of texts of like lengths, with the places of their texts, on the device."""
        ids = self.tokenize(texts)
        for rows in by_length([len(row) for row in ids]):
            batch = self.pad([ids[row] for row in rows])
            yield rows, {name: value.to(self.model.device) for name, value in batch.items()}

    def mean_states(self, texts: Texts) -> Tensor:
        """`[N, H]` mean of the last states over each text's tokens."""
        states = torch.empty(len(texts), self.model.config.hidden_size)
        with torch.inference_mode():
            for rows, batch in self.batches(texts):
                hidden = self.model(**batch).last_hidden_state
                weights = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                states[rows] = ((hidden * weights).sum(1) / weights.sum(1)).float().cpu()
        return states


def by_length(lengths: Sequence[int], size: int = _AT_A_TIME) -> Iterator[list[int]]:
    """Places of texts, sorted by length, `size` at a time."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _fit_classifier(
    backbone: str,
    texts: Texts,
    labels: Sequence[str],
    wrap: Callable[[Any], Any],
    *,
    budget: Budget,
    rate: float,
    seed: int,
    validation: tuple[Texts, Sequence[str]] | None = None,
) -> Peer:
    """Train `AutoModelForSequenceClassification`, wrapped or as it is."""
    set_seed(seed)
    names = sorted(set(labels))
    kind = AutoModelForSequenceClassification
    plain = Encoder.load(backbone, kind, num_labels=len(names))
    model = wrap(plain.model)
    encoder = Encoder(model, plain.tokenizer)
    clock = Clock()
    clock.start()
    rows = [
        {"input_ids": ids, "labels": names.index(label)}
        for ids, label in zip(encoder.tokenize(texts), labels, strict=True)
    ]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = encoder.pad([row["input_ids"] for row in rows])
        return batch | {"labels": torch.tensor([row["labels"] for row in rows])}

    def predict(texts: Texts) -> list[str]:
        found = torch.empty(len(texts), dtype=torch.long)
        model.eval()
        with torch.inference_mode():
            for places, batch in encoder.batches(texts):
                found[places] = model(**batch).logits.argmax(1).cpu()
        return [names[place] for place in found.tolist()]

    _train(model, rows, collate, predict, budget, rate, seed, validation, clock)
    return Peer(predict, _trainable(model), clock)


class _Published(nn.Module):
    """The published LT-Prefix: a step encodes the label text of each of its pairs."""

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        label_texts: dict[str, str] | None,
        seed: int,
    ):
        super().__init__()
        torch.manual_seed(seed)
        self.labels = Labels.from_any(label_texts or sorted(set(names)))
        options = MethodOptions(name="lt-prefix", recipe="paper")
        method = catalog.resolve(options, backbone.family, backbone.sizes.layers)
        self._all = backbone.encode_labels(self.labels.flat_texts, key_values=False)
        length = self._all.ids.shape[1]
        self.adapter = Adapter(
            backbone.sizes, method, length=length, num_labels=len(self.labels)
        ).to(backbone.device)
        self._rows = LabelRows.of(self.labels.owners)
        self._generator = torch.Generator().manual_seed(seed)
        # Held in a tuple so that no weight of the backbone becomes a weight of this module.
        self._frozen = (backbone,)

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._frozen[0]

    def forward(self, ids: Tensor, mask: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The loss of a batch of pairs."""
        device = self.backbone.device
        draw = draw_pairs(targets.cpu(), self._rows, self._generator)
        rows = draw.branches.rows.to(device)
        labels = self.backbone.encode_ids(
            self._all.ids[rows], self._all.mask[rows], key_values=False
        )
        pairs = torch.arange(len(ids), device=device)
        batch = TextBatch(ids.to(device), mask.to(device))
        scores = self._score(batch, labels, Branches(pairs, pairs))
        return {"loss": pairs_loss(scores, draw.truth.to(device))}

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of 128 tokens a text."""
        batch = self.backbone.batch([{"input_ids": row["input_ids"]} for row in rows])
        more = (0, PUBLISHED_LENGTH - batch.ids.shape[1])
        return {
            "ids": nn.functional.pad(batch.ids, more, value=self.backbone.tokenizer.pad_token_id),
            "mask": nn.functional.pad(batch.mask, more, value=False),
            "targets": torch.tensor([row["target"] for row in rows]),
        }

    def predict(self, texts: Texts) -> list[str]:
        """The label with the highest score, the labels encoded once."""
        tokens = self.backbone.tokenize(list(texts), PUBLISHED_LENGTH)
        device, number = self.backbone.device, len(self.labels)
        found = torch.empty(len(texts), dtype=torch.long)
        lengths = [len(row["input_ids"]) for row in tokens]
        with torch.inference_mode():
            for places in by_length(lengths, max(1, _AT_A_TIME // number)):
                batch = self.backbone.batch([tokens[place] for place in places]).to(device)
                rows = torch.arange(number, device=device).repeat(len(places))
                pairs = torch.arange(len(places), device=device).repeat_interleave(number)
                scores = self._score(batch, self._all, Branches(pairs, rows))
                found[places] = scores.view(-1, number).argmax(1).cpu()
        return [self.labels.names[place] for place in found.tolist()]

    def _score(self, batch: TextBatch, labels: LabelStates, branches: Branches) -> Tensor:
        tokens = self.adapter.virtual_tokens(labels, self.backbone.embed)
        return self.adapter.score(self.backbone, batch, tokens, labels, branches)


class _PeerTrainer(Trainer):
    """Trainer with ltuning's sampler, and the accuracy of a prediction as its evaluation."""

    def __init__(self, *, lengths: Sequence[int], accuracy: Callable[[], float], **rest: Any):
        super().__init__(**rest)
        self._lengths = lengths
        self._accuracy = accuracy

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Accuracy on the validation texts."""
        figures = {f"{metric_key_prefix}_accuracy": self._accuracy()}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, figures
        )
        return figures

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedBatches:
        return LengthGroupedBatches(self._lengths, self.args.train_batch_size, self.args.seed)


def _train(
    model: nn.Module,
    rows: list[dict[str, Any]],
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    predict: Callable[[Texts], list[str]],
    budget: Budget,
    rate: float,
    seed: int,
    validation: tuple[Texts, Sequence[str]] | None,
    clock: Clock,
) -> None:
    """Train a model that returns its loss; the clock runs already and stands still at the end."""
    measures = budget.eval_steps is not None and validation is not None
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=budget.steps,
            per_device_train_batch_size=budget.batch,
            learning_rate=rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            weight_decay=0.0,
            max_grad_norm=1.0,
            eval_strategy="steps" if measures else "no",
            eval_steps=budget.eval_steps,
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
        )
        trainer = _PeerTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            eval_dataset=rows if measures else None,
            data_collator=collate,
            callbacks=[clock],
            lengths=[len(row["input_ids"]) for row in rows],
            accuracy=lambda: accuracy(validation[1], predict(validation[0])) if validation else 0.0,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    clock.stop()


def accuracy(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Part of the predicted labels that are right."""
    return sum(map(str.__eq__, truth, map(str, predicted))) / len(truth)


def _trainable(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a results file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def circumstances(backbone: str) -> dict[str, Any]:
    """Where and with what a row was measured."""
    return {
        "backbone": backbone,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in ("ltuning", "torch", "transformers", "peft", "scikit-learn", "setfit"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def seeds_of(text: str) -> range:
    """`0-2` -> 0, 1, 2; `4` -> 4. An argparse type."""
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST, got {text!r}") from None


def search_report(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of a search: the accuracy of each rate, the mean over seeds and sets."""
    cells: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        cells.setdefault((row["method"], row["rate"]), []).append(row["accuracy"])
    lines = ["| method | rate | mean | each |", "|---|---|---|---|"]
    for (method, rate), values in sorted(cells.items()):
        mean = sum(values) / len(values)
        others = [sum(v) / len(v) for (name, _), v in cells.items() if name == method]
        shown = f"**{rate:g}**" if mean == max(others) else f"{rate:g}"
        each = " ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {method} | {shown} | {mean:.3f} | {each} |")
    return "\n".join(lines)
