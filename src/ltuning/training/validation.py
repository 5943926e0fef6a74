"""What is computed on held-out texts while a model is trained, by task; where scores start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ltuning.backbones.frozen_model import Tokens
from ltuning.backbones.words import Window
from ltuning.calibration import sigmoid, softmax
from ltuning.metrics import (
    best_thresholds,
    binary_log_loss,
    classification_report,
    log_loss,
    multilabel_report,
    span_report,
)
from ltuning.scoring import Scorer, TagScorer
from ltuning.stages import Advance
from ltuning.tag_decoding import best_tags
from ltuning.training.objectives import check_scores, multi_hot


@dataclass(frozen=True)
class Validation:
    """Held-out texts and the figures that are computed on them.

    Attributes:
        tokens: of N texts, or of their windows.
        targets: for each text the index of its label.
        names: [K] every label.
        counts: how many windows each text has; None where `tokens` are of texts.
    """

    scorer_class: ClassVar = Scorer

    tokens: Sequence[Tokens]
    targets: Sequence[int]
    names: Sequence[str]
    counts: Sequence[int] | None = None

    def figures(self, scorer: Scorer, progress: Advance | None = None) -> dict[str, float]:
        """Loss over all labels, accuracy, macro-F1 and Matthews correlation."""
        scores = self.scores(scorer, progress)
        truth = [self.names[target] for target in self.targets]
        predicted = [self.names[index] for index in scores.argmax(1)]
        report = classification_report(truth, predicted, self.names)
        figures = {name: report[name] for name in ("accuracy", "macro_f1", "mcc")}
        return {"loss": log_loss(softmax(scores), self.targets), **figures}

    def scores(self, scorer: Scorer, progress: Advance | None = None) -> np.ndarray:
        """`[N, K]` of every text.

        Raises:
            TrainingError: a score that is not finite.
        """
        scores = scorer.score_tokens(self.tokens, progress, self.counts)
        check_scores([scores], "texts")
        return scores


@dataclass(frozen=True)
class MultilabelValidation:
    """Held-out texts, and what is computed on them.

    Attributes:
        tokens: of N texts, or of their windows.
        targets: for each text, the indices of the labels that apply.
        names: [K] every label.
        counts: how many windows each text has; None where `tokens` are of texts.
    """

    scorer_class: ClassVar = Scorer

    tokens: Sequence[Tokens]
    targets: Sequence[Sequence[int]]
    names: Sequence[str]
    counts: Sequence[int] | None = None

    def figures(self, scorer: Scorer, progress: Advance | None = None) -> dict[str, float]:
        """Loss per label of a text, and F1 and exact match at the thresholds that fit best here."""
        return self.fit(scorer, progress)[1]

    def fit(
        self, scorer: Scorer, progress: Advance | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The threshold of each label, `[K]`, and `figures`.

        Raises:
            TrainingError: a score that is not finite.
        """
        scores = scorer.score_tokens(self.tokens, progress, self.counts)
        check_scores([scores], "texts")
        truth = multi_hot(self.targets, len(self.names)).numpy()
        probabilities = sigmoid(scores)
        thresholds = best_thresholds(probabilities, truth)
        report = multilabel_report(truth, probabilities >= thresholds, self.names)
        figures = {name: report[name] for name in ("micro_f1", "macro_f1", "exact_match")}
        return thresholds, {"loss": binary_log_loss(probabilities, truth), **figures}


@dataclass(frozen=True)
class TagValidation:
    """Held-out sentences and the figures that are computed on them.

    Attributes:
        windows: of the sentences.
        targets: for each sentence, the index of each word's tag.
        names: the tags.
    """

    scorer_class: ClassVar = TagScorer

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


def start_at_base_rate(
    scorer: Scorer,
    tokens: Sequence[Tokens],
    targets: Sequence[Sequence[int]],
    seed: int,
) -> None:
    """Shift the scores of an untrained model to the log-odds with which labels apply.

    Most labels do not apply to most texts. A score that starts elsewhere, as where a text and a
    label have much in common whatever they are, would spend its steps on getting there.

    Args:
        scorer: of the model, whose scores say on a few texts where it starts; as many texts as
            make one of its batches.
        tokens: of the training texts, or of their windows.
        targets: for each text, the indices of the labels that apply.
        seed: of the draw of texts.
    """
    model = scorer.model
    counts = np.bincount(np.concatenate(targets).astype(int), minlength=model.num_labels)
    several = max(1, scorer.max_branches // len(model.owners))
    drawn = np.random.default_rng(seed).permutation(len(tokens))[:several]
    scores = scorer.score_tokens([tokens[row] for row in drawn]).astype(np.float64)
    size, is_shared = len(targets), model.labels is not None
    if is_shared:  # by all labels
        counts, size, scores = counts.sum(keepdims=True), counts.size * size, scores.reshape(-1, 1)
    # Half an example of each kind: a label that always or never applies has no log-odds.
    wanted = np.log(counts + 0.5) - np.log(size - counts + 0.5)
    by = torch.from_numpy(wanted - scores.mean(0)).to(model.backbone.device, torch.float32)
    model.adapter.shift(by.squeeze() if is_shared else by)
