"""What a training step compares: which branches a batch gets, and the loss over their scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Never, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ltuning.errors import TrainingError
from ltuning.methods.model import Branches, Model

# What is true of a text, as training is told it.
Target = TypeVar("Target")

# In place of a tag, where a window has no more words.
_NO_WORD = -100


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
    """What a step compares, and what is true of it.

    Attributes:
        branches: texts and label texts; None where one pass reads all labels: nothing is drawn.
        truth: of branches `[B]` whether the pair is true (objective `pairs`), `[B]` the place of
            the true label among the candidates (`contrast`), or `[R]` whether each is true
            (`multilabel`, drawn); of texts `[B]` the true label (`classes`) or `[B, K]` which
            labels apply (`multilabel`); `[B, W]` the tag of each word (of taggers).
        shift: `[R]` what the draw adds to each branch's log-odds (`multilabel`, drawn).
        weights: of each row of `truth` what its loss counts; None where all count the same.
    """

    branches: Branches | None
    truth: Tensor
    shift: Tensor | None = None
    weights: Tensor | None = None

    def weighted(self, weights: Tensor) -> Draw:
        """The same with the weight `[B]` of each text."""
        texts = self._texts_of_rows
        return replace(self, weights=weights if texts is None else weights[texts])

    @property
    def _texts_of_rows(self) -> Tensor | None:
        """The text of each row of `truth` where these are branches; None where they are texts."""
        if self.branches is None or len(self.truth) != len(self.branches.texts):
            return None
        return self.branches.texts

    def part(self, start: int, stop: int) -> Draw:
        """What is drawn of the texts from `start` to before `stop`, which are counted from 0."""
        rows: slice | Tensor = slice(start, stop)
        branches = shift = None
        if self.branches is not None:
            texts = self.branches.texts
            chosen = (start <= texts) & (texts < stop)
            branches = Branches(texts[chosen] - start, self.branches.rows[chosen])
            shift = None if self.shift is None else self.shift[chosen]
            rows = rows if self._texts_of_rows is None else chosen
        weights = None if self.weights is None else self.weights[rows]
        return Draw(branches, self.truth[rows], shift, weights)


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
    wrong = (targets[:, None] + 1 + order) % num_labels
    labels = torch.cat([targets[:, None], wrong], dim=1)
    texts = torch.arange(size)[:, None].expand_as(labels)
    branches = Branches(texts.flatten(), rows.draw(labels, generator).flatten())
    return Draw(branches, torch.zeros(size, dtype=torch.long))


def draw_multilabel(
    truth: Tensor, rows: LabelRows, negatives: int, generator: torch.Generator
) -> Draw:
    """Every text with its true labels, however many, and n wrong ones without replacement.

    A true label is always seen, a wrong one, of a text with W of them, with probability n / W. So
    whatever the other labels are, of which w are wrong, the odds of a label among the branches are
    (w + 1) / n times those among all labels: had it been wrong, W were w + 1. The log of this is
    added to the scores in training and left out at prediction, so that they are log-odds among all
    labels (King and Zeng 2001, "Logistic Regression in Rare Events Data", section 4.1). It is 0
    where all wrong labels are seen.

    Args:
        truth: `[B, K]` bool, which labels apply.
        rows: label texts.
        negatives: n; 0 = all of them, as where K <= 1 + n.
        generator: source of the draws.
    """
    num_labels = truth.shape[1]
    wanted = negatives if 0 < negatives < num_labels - 1 else num_labels
    order = torch.rand(truth.shape, generator=generator).masked_fill(truth, 2.0).argsort(1)
    is_drawn = torch.zeros_like(truth).scatter_(1, order[:, :wanted], True)
    texts, labels = (truth | is_drawn).nonzero(as_tuple=True)
    is_true = truth[texts, labels]
    wrong_at_most = num_labels - truth.sum(1)[texts] + is_true.long()
    shift = (wrong_at_most.clamp(min=wanted) / wanted).log()
    return Draw(Branches(texts, rows.draw(labels, generator)), is_true.float(), shift)


class Objective(ABC, Generic[Target]):
    """What a step draws for its texts, and the loss over their scores."""

    @abstractmethod
    def draw(self, targets: Sequence[Target], generator: torch.Generator) -> Draw:
        """What is compared in a step.

        Args:
            targets: of each text: the index of its label, or the indices of those that apply, or
                of a window the index of each word's tag.
            generator: source of the draws.
        """

    @abstractmethod
    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Mean loss of the scores of a batch, as `Model.score` gives them.

        Each row of the draw counts by its weight, and the mean is over the number of rows, whatever
        their weights: with weights whose mean is one over all texts, a text of weight 2 so counts
        as if it came twice.
        """

    def share(self, draw: Draw) -> int:
        """How many the mean is over: what the loss of a part of a step weighs."""
        return draw.truth.numel()


@dataclass(frozen=True)
class ClassesObjective(Objective[int]):
    """Each text has one label, among all: nothing is drawn."""

    def draw(self, targets: Sequence[int], generator: torch.Generator) -> Draw:
        """The labels."""
        return Draw(None, torch.tensor(targets))

    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Softmax cross-entropy of `[B, K]` scores."""
        return choice_loss(scores, draw.truth.to(scores.device), draw.weights)


@dataclass(frozen=True)
class PairsObjective(Objective[int]):
    """Each text with one label, its own or a wrong one; see `draw_pairs`."""

    rows: LabelRows

    def draw(self, targets: Sequence[int], generator: torch.Generator) -> Draw:
        """Pairs."""
        return draw_pairs(torch.tensor(targets), self.rows, generator)

    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Binary cross-entropy of `[B]` scores."""
        return pairs_loss(scores, draw.truth.to(scores.device), draw.weights)


@dataclass(frozen=True)
class ContrastObjective(Objective[int]):
    """Each text with its own label and some wrong ones; see `draw_contrast`."""

    rows: LabelRows
    negatives: int

    def draw(self, targets: Sequence[int], generator: torch.Generator) -> Draw:
        """Candidates."""
        return draw_contrast(torch.tensor(targets), self.rows, self.negatives, generator)

    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Softmax cross-entropy of each text's candidates."""
        candidates = scores.view(len(draw.truth), -1)
        return choice_loss(candidates, draw.truth.to(scores.device), draw.weights)


@dataclass(frozen=True)
class MultilabelObjective(Objective[Sequence[int]]):
    """Each label applies to a text or not, whatever the others do: nothing is drawn."""

    num_labels: int

    def draw(self, targets: Sequence[Sequence[int]], generator: torch.Generator) -> Draw:
        """Which labels apply."""
        return Draw(None, multi_hot(targets, self.num_labels).float())

    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Binary cross-entropy of `[B, K]` scores."""
        weights = None if draw.weights is None else draw.weights[:, None]
        return pairs_loss(scores, draw.truth.to(scores.device), weights)


@dataclass(frozen=True)
class DrawnMultilabelObjective(Objective[Sequence[int]]):
    """Each text with the labels that apply and some that do not; see `draw_multilabel`."""

    rows: LabelRows
    negatives: int

    def draw(self, targets: Sequence[Sequence[int]], generator: torch.Generator) -> Draw:
        """Labels of each text, and their shift."""
        truth = multi_hot(targets, len(self.rows.first))
        return draw_multilabel(truth, self.rows, self.negatives, generator)

    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Binary cross-entropy of `[R]` scores, shifted to what the draw made of their odds."""
        assert draw.shift is not None
        shifted = scores + draw.shift.to(scores.device)
        return pairs_loss(shifted, draw.truth.to(scores.device), draw.weights)


@dataclass(frozen=True)
class TagsObjective(Objective[Sequence[int]]):
    """Each word that is read has one tag, among all: nothing is drawn."""

    def draw(self, targets: Sequence[Sequence[int]], generator: torch.Generator) -> Draw:
        """The tags."""
        rows = [torch.tensor(tags) for tags in targets]
        return Draw(None, pad_sequence(rows, batch_first=True, padding_value=_NO_WORD))

    def loss(self, scores: Tensor, draw: Draw) -> Tensor:
        """Softmax cross-entropy of `[B, W, K]` scores, over the words."""
        # A part of a step may have fewer words in its windows than others of it.
        truth = draw.truth[:, : scores.shape[1]].to(scores.device).flatten()
        return functional.cross_entropy(scores.flatten(0, 1), truth, ignore_index=_NO_WORD)

    def share(self, draw: Draw) -> int:
        """How many words there are."""
        return int((draw.truth != _NO_WORD).sum())


def objective_of(model: Model[Never]) -> Objective:
    """What a classifier of texts is trained to do, by its method."""
    method, rows = model.method, LabelRows.of(model.owners)
    if method.objective == "multilabel":
        drawn = DrawnMultilabelObjective(rows, method.negatives or 0)
        return MultilabelObjective(model.num_labels) if model.one_pass else drawn
    if model.one_pass:
        return ClassesObjective()
    return (
        PairsObjective(rows)
        if method.objective == "pairs"
        else ContrastObjective(rows, method.negatives or 0)
    )


def multi_hot(targets: Sequence[Sequence[int]], num_labels: int) -> Tensor:
    """`[B, K]` bool: which labels apply, from the indices of those of each text."""
    truth = torch.zeros(len(targets), num_labels, dtype=torch.bool)
    for row, labels in zip(truth, targets, strict=True):
        row[list(labels)] = True
    return truth


def pairs_loss(scores: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy (the paper's equation 4); scores are log-odds.

    Args:
        scores: of any shape.
        truth: 1 where it is true, of the same shape.
        weights: what each counts, of a shape that broadcasts; None = all the same.
    """
    weights = None if weights is None else weights.to(scores.device)
    return functional.binary_cross_entropy_with_logits(scores, truth, weights)


def choice_loss(scores: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean softmax cross-entropy of `[B, C]` scores against the true place `[B]`.

    Args:
        scores: of C choices.
        truth: the place of the true one.
        weights: `[B]` what each counts; None = all the same.
    """
    if weights is None:
        return functional.cross_entropy(scores, truth)
    # Not the weights that `cross_entropy` takes: they are of choices, and it divides by their sum.
    return (functional.cross_entropy(scores, truth, reduction="none") * weights.to(scores)).mean()


def check_scores(tables: Sequence[np.ndarray], what: str) -> None:
    """Refuse scores of what is validated on, such as `texts`, that are no numbers.

    Raises:
        TrainingError: by weights that grew too large.
    """
    if not all(np.isfinite(table).all() for table in tables):
        raise TrainingError(
            f"expected finite scores on the validation {what}, got NaN or infinity; lower "
            "training.learning_rate"
        )
