"""Training on tagged words: windows are the rows, the loss is over the words that are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from ltuning.backbones.prefix import InTraining
from ltuning.backbones.words import Window, WordBatch
from ltuning.config import StoppingOptions
from ltuning.methods.model import Model
from ltuning.metrics import span_report
from ltuning.stages import Advance
from ltuning.tag_scoring import TagScorer, best_tags
from ltuning.training.objectives import check_scores
from ltuning.training.trainer import AdapterTrainer, TrainingResult, early_stopping, run

_NO_WORD = -100


class WindowDataset(Dataset):
    """Windows, and the tag of each word that is read in them.

    Args:
        windows: of the sentences.
        targets: for each sentence, the index of each word's tag.
    """

    def __init__(self, windows: Sequence[Window], targets: Sequence[Sequence[int]]):
        self.windows = windows
        self.tokens = [window.tokens for window in windows]
        self.targets = targets

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        window = self.windows[row]
        tags = self.targets[window.sentence]
        return {"window": window, "targets": [tags[word] for word in window.words]}


class TagTrainingModel(nn.Module):
    """A tagger with what it needs to compute a loss."""

    accepts_loss_kwargs = True  # as `TrainingModel`

    def __init__(self, model: Model[WordBatch]):
        super().__init__()
        self.tuned = model.adapter
        self.model = model

    def of_step(self, batches: Sequence[dict[str, Any]], step: int) -> list[dict[str, Any]]:
        """The micro-batches of a step, each with its words as `share`; nothing is drawn."""
        return [{**batch, "share": int((batch["targets"] != _NO_WORD).sum())} for batch in batches]

    def forward(self, batch: WordBatch, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the words."""
        batch = batch.to(self.model.backbone.device)
        scores = self.model.score(batch, self.model.label_side())
        truth = targets.to(scores.device).flatten()
        return nn.functional.cross_entropy(scores.flatten(0, 1), truth, ignore_index=_NO_WORD)


@dataclass(frozen=True)
class TagValidation:
    """Held-out sentences and the figures that are computed on them.

    Attributes:
        windows: of the sentences.
        targets: for each sentence, the index of each word's tag.
        names: the tags.
    """

    windows: Sequence[Window]
    targets: Sequence[Sequence[int]]
    names: Sequence[str]

    def figures(self, scorer: TagScorer, progress: Advance | None = None) -> dict[str, float]:
        """Loss per word, and precision, recall and F1 of the entities."""
        lengths = [len(tags) for tags in self.targets]
        tables = scorer.of_windows(self.windows, lengths, progress)
        check_scores(tables, "sentences")
        every, truth = np.concatenate(tables), np.concatenate([np.array(t) for t in self.targets])
        chances = np.maximum(every[np.arange(len(truth)), truth], np.finfo(np.float32).tiny)
        report = span_report(
            [[self.names[tag] for tag in tags] for tags in self.targets],
            [[self.names[tag] for tag in best_tags(table)] for table in tables],
        )
        figures = {name: report[name] for name in ("precision", "recall", "f1")}
        return {"loss": float(-np.log(chances).mean()), **figures}


def train_tags(
    model: Model[WordBatch],
    data: WindowDataset,
    validation: TagValidation | None,
    arguments: TrainingArguments,
    stopping: StoppingOptions,
    *,
    max_windows: int,
    layers: InTraining,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingResult:
    """Train a tagger in place.

    Raises:
        TrainingError: a loss that is not finite.
    """
    backbone = model.backbone

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        targets = [torch.tensor(row["targets"]) for row in rows]
        padded = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=_NO_WORD)
        return {
            "batch": WordBatch.of(backbone, [row["window"] for row in rows]),
            "targets": padded,
        }

    trainer = AdapterTrainer(
        model=TagTrainingModel(model),
        args=arguments,
        train_dataset=data,
        eval_dataset=None
        if validation is None
        else WindowDataset(validation.windows, validation.targets),
        data_collator=collate,
        callbacks=[*callbacks, *early_stopping(stopping, validation)],
        scorer=lambda: TagScorer(model, max_windows),
        validation=validation,
    )
    return run(trainer, backbone, layers=layers, resume=resume)
