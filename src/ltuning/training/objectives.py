"""What a training step compares: which branches a batch gets, and the loss over their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ltuning.methods.adapter import Branches

Objective = Literal["classes", "pairs", "contrast"]


@dataclass(frozen=True)
class LabelRows:
    """Which label texts belong to which label; a label with several gets one drawn per branch.

    Attributes:
        first: `[K]` the first label text of each label.
        count: `[K]` how many it has.
    """

    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, owners: Sequence[int]) -> LabelRows:
        """From the label index of each label text, in order."""
        count = torch.bincount(torch.tensor(owners))
        return cls(count.cumsum(0) - count, count)

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """A label text of each label, uniformly: same shape as `labels`."""
        if bool((self.count == 1).all()):
            return self.first[labels]
        spread = torch.rand(labels.shape, generator=generator)
        return self.first[labels] + (spread * self.count[labels]).long()


@dataclass(frozen=True)
class Draw:
    """The branches of a step and what is true of them.

    Attributes:
        branches: texts and label texts.
        truth: `[B]` whether the pair is true (`pairs`), or `[B]` the place of the true label among
            the candidates (`contrast`).
    """

    branches: Branches
    truth: Tensor


def draw_pairs(targets: Tensor, rows: LabelRows, generator: torch.Generator) -> Draw:
    """The paper's A.3: half of the batch with its true label, half with one wrong label.

    An odd batch gives the text that is left over to either half by a fair draw.

    Args:
        targets: `[B]` true label of each text.
        rows: label texts.
        generator: source of the draws.
    """
    size, num_labels = len(targets), len(rows.first)
    positives = size // 2
    if size % 2:
        positives += int(torch.randint(2, (), generator=generator))
    truth = torch.zeros(size, dtype=torch.bool)
    truth[torch.randperm(size, generator=generator)[:positives]] = True
    shift = torch.randint(1, num_labels, (size,), generator=generator)
    labels = torch.where(truth, targets, (targets + shift) % num_labels)
    return Draw(Branches(torch.arange(size), rows.draw(labels, generator)), truth.float())


def draw_contrast(
    targets: Tensor, rows: LabelRows, negatives: int, generator: torch.Generator
) -> Draw:
    """Every text with its true label (at place 0) and n wrong ones, drawn without replacement.

    Args:
        targets: `[B]` true label of each text.
        rows: label texts.
        negatives: n; 0 = all K - 1.
        generator: source of the draws.
    """
    size, num_labels = len(targets), len(rows.first)
    wanted = negatives if 0 < negatives < num_labels - 1 else num_labels - 1
    order = torch.rand(size, num_labels - 1, generator=generator).argsort(1)[:, :wanted]
    return draw_hard(targets, (targets[:, None] + 1 + order) % num_labels, rows, generator)


def draw_hard(targets: Tensor, wrong: Tensor, rows: LabelRows, generator: torch.Generator) -> Draw:
    """Every text with its true label (at place 0) and the wrong ones that are given.

    Args:
        targets: `[B]` true label of each text.
        wrong: `[B, n]` wrong labels of each.
        rows: label texts.
        generator: source of the draws.
    """
    labels = torch.cat([targets[:, None], wrong], dim=1)
    texts = torch.arange(len(targets))[:, None].expand_as(labels)
    branches = Branches(texts.flatten(), rows.draw(labels, generator).flatten())
    return Draw(branches, torch.zeros(len(targets), dtype=torch.long))


def pairs_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy (the paper's equation 4); scores `[B]` are log-odds."""
    return functional.binary_cross_entropy_with_logits(scores, truth)


def choice_loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Softmax cross-entropy of `[B, C]` scores against the true place `[B]`."""
    return functional.cross_entropy(scores, truth)
