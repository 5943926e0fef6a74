"""The front door where several labels apply to a text, or none: each is asked yes or no."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ltuning.artifacts.opened import Opened
from ltuning.backbones.frozen_model import TextBatch
from ltuning.calibration import sigmoid
from ltuning.data.label_sets import MultilabelExamples
from ltuning.errors import DataError
from ltuning.estimators.answers import labels_reached
from ltuning.estimators.front import steps_shown
from ltuning.estimators.inputs import label_lists_of, pair_of, texts_of, weights_of
from ltuning.estimators.label_classifier import FittedLabels, TextClassifier, checked_texts
from ltuning.estimators.rows import indexed, warn_of_rows
from ltuning.estimators.text_weights import scaled, weighted_share
from ltuning.labels import Label, Labels
from ltuning.methods.model import Model
from ltuning.metrics import Report, binary_log_loss, multilabel_report
from ltuning.scoring import Progress
from ltuning.stages import counting
from ltuning.training.datasets import TokenDataset
from ltuning.training.objectives import multi_hot
from ltuning.training.validation import MultilabelValidation, start_at_base_rate

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ltuning.training.result import TrainingResult

logger = logging.getLogger("ltuning")


class MultilabelClassifier(TextClassifier):
    """A classifier on a frozen language model that gives a text every label that applies.

    A label's score is the log-odds that it applies, whatever the others' are. It applies from its
    threshold on, which is fitted on validation texts: the one with the best F1 of that label there.
    Without validation texts, and for a label that none of them has, it is .5. With either recipe it
    is trained with the objective `multilabel`.
    """

    task = "multilabel"
    validation_class = MultilabelValidation

    @property
    def thresholds_(self) -> np.ndarray:
        """`[K]` the probability from which on each label applies, in the order of `classes_`."""
        return np.array(self._trained().thresholds)

    def fit(
        self,
        texts: object,
        label_lists: object,
        validation: tuple[object, object] | None = None,
        *,
        sample_weight: object = None,
        checkpoints: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
        progress: bool | None = None,
    ) -> Self:
        """Train the adapter; the backbone stays as it is.

        Afterwards `figures` has what training took and validation came to, `result_` its course.

        Args:
            texts: training texts, or (text, text) pairs; see `LabelClassifier.fit`.
            label_lists: the labels that apply to each; an empty list where none does. All of them
                are texts, integers, numbers or booleans, and predictions give back the same.
            validation: texts and label lists that choose the best weights, stop early, and to which
                the thresholds are fitted.
            sample_weight: what each training text counts in the loss, 0 or more, scaled to the mean
                one; see `LabelClassifier.fit`. Validation is not weighted.
            checkpoints: folder for checkpoints; None = a temporary one.
            resume: go on from the newest checkpoint there.
            callbacks: transformers' TrainerCallbacks.
            progress: show stages, length and steps on stderr; None = where that is a terminal or
                a notebook.

        Raises:
            DataError: texts and label lists that do not fit each other, or are none; empty texts,
                no label anywhere, missing labels, a table of 0 and 1, a label twice in a list, one
                that is not among the labels given, or in validation one that training does not
                know; weights of another number, negative, not finite, or all 0.
            LabelError: labels that cannot be used.
            BackboneError: a label text that is too long.
            TrainingError: a loss that is not finite.
        """
        empty = self.config.data.empty_texts
        read, type_ = label_lists_of(label_lists, "training", self._given_labels())
        weighted = list(zip(read, weights_of(sample_weight, len(read)), strict=True))
        whole = texts_of(texts)
        texts, weighted = checked_texts(whole, weighted, empty)
        splits = {"train": indexed(whole, read, MultilabelExamples, "training")}
        lists = [names for names, _ in weighted]
        weights = scaled([weight for _, weight in weighted])
        known = self._label_set(_used(lists), type_)
        if without := [name for name in known.names if name not in _used(lists)]:
            logger.warning("no training text has the label %s", ", ".join(map(repr, without)))
        held_out = None
        if validation is not None:
            some, given = pair_of(validation)
            some, (read, _) = texts_of(some), label_lists_of(given, "validation", known)
            held_out = checked_texts(some, read, empty)
            splits["validation"] = indexed(some, read, MultilabelExamples, "validation")
        warn_of_rows(splits, one_of_each=False)
        with steps_shown(progress) as bars:
            every = [*callbacks, *bars]
            self._fit(known, (texts, lists), weights, held_out, checkpoints, resume, every)
        return self

    def predict(self, texts: object, progress: Progress | None = None) -> list[list[Label]]:
        """The labels that apply to each text, in the order of `classes_`, or none.

        They are of the type that the data had.

        Args:
            texts: as `fit` takes them.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is no column of texts.
        """
        fitted = self._trained()
        scores = self._scores(fitted, texts, progress)
        reached = self._probabilities(fitted, scores) >= fitted.thresholds
        return labels_reached(fitted.labels.values, reached)

    def applying(self, probabilities: np.ndarray) -> list[list[str]]:
        """The names of the labels whose probability, of `[N, K]`, reaches its threshold."""
        fitted = self._trained()
        return labels_reached(fitted.labels.names, probabilities >= fitted.thresholds)

    def predict_proba(self, texts: object, progress: Progress | None = None) -> np.ndarray:
        """`[N, K]` the probability that each label applies: the sigmoid of its score.

        Args:
            texts: as `fit` takes them.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is no column of texts.
        """
        return super().predict_proba(texts, progress)

    @staticmethod
    def _probabilities(fitted: FittedLabels, scores: np.ndarray) -> np.ndarray:
        return sigmoid(scores)

    def evaluate(
        self, texts: object, label_lists: object, progress: Progress | None = None
    ) -> Report:
        """Figures on labelled texts: F1, precision and recall, exact match, and per label.

        Args:
            texts: as `fit` takes them; empty ones are read too.
            label_lists: the true labels of each.
            progress: called with the number of texts just done.

        Returns:
            `micro_f1`, `micro_precision` and `micro_recall` over all pairs of text and label;
            `macro_f1`, `macro_precision` and `macro_recall`, means over labels; `exact_match`, the
            share of texts whose labels are all right; `log_loss` in nats, `num_examples`, and
            `per_class` (`precision`, `recall`, `f1`, `support` and `threshold` of each label).
            Labels go by their names, which are texts.

        Raises:
            DataError: texts and label lists of different number, or that are none; missing labels,
                a table of 0 and 1, a label twice in a list, one that the classifier does not know.
        """
        fitted = self._trained()
        known = fitted.labels
        texts, lists = checked_texts(texts, label_lists_of(label_lists, "test", known)[0], "keep")
        targets = [self._target(known, labels) for labels in lists]
        truth = multi_hot(targets, len(known)).numpy()
        probabilities = self._probabilities(fitted, self._scores(fitted, texts, progress))
        report = multilabel_report(truth, probabilities >= fitted.thresholds, known.names)
        for row, threshold in zip(report["per_class"], fitted.thresholds, strict=True):
            row["threshold"] = threshold
        report["log_loss"] = binary_log_loss(probabilities, truth)
        return report

    def score(self, texts: object, label_lists: object, sample_weight: object = None) -> float:
        """The share of texts whose labels are all right, as scikit-learn has it of such tasks.

        Args:
            texts: as `fit` takes them; empty ones are read too.
            label_lists: the true labels of each.
            sample_weight: what each counts; None = all the same.

        Raises:
            DataError: as `evaluate`; weights of another number, negative, not finite or all 0.
        """
        fitted = self._trained()
        read = label_lists_of(label_lists, "test", fitted.labels)[0]
        weighted = list(zip(read, weights_of(sample_weight, len(read)), strict=True))
        texts, weighted = checked_texts(texts, weighted, "keep")
        applying = self.applying(self.predict_proba(texts))
        right = [{*found} == {*names} for found, (names, _) in zip(applying, weighted, strict=True)]
        return weighted_share(right, [weight for _, weight in weighted])

    def add_labels(self, labels: object) -> Self:
        """Add labels from their texts alone; nothing is trained.

        Their threshold is the median of the others', for want of texts to fit it to: .5 where
        those were not fitted either.

        Args:
            labels: `{"name": "label text"}`, or names.

        Raises:
            LabelError: a plain method, whose head is tied to its labels, or a label that exists.
            BackboneError: a label text that is too long.
        """
        return super().add_labels(labels)

    def _extended(
        self, fitted: FittedLabels, labels: Labels, model: Model[TextBatch], max_length: int
    ) -> FittedLabels:
        number = len(labels) - len(fitted.thresholds)
        added = (float(np.median(fitted.thresholds)),) * number
        extended = super()._extended(fitted, labels, model, max_length)
        return replace(extended, thresholds=fitted.thresholds + added)

    def _own_config(self, fitted: FittedLabels) -> dict[str, object]:
        return {**super()._own_config(fitted), "thresholds": list(fitted.thresholds)}

    def _restore(self, opened: Opened) -> None:
        super()._restore(opened)
        thresholds = tuple(map(float, opened.fields["thresholds"]))
        self._fitted = replace(self._trained(), thresholds=thresholds)

    def _target(self, labels: Labels, given: Any) -> list[int]:
        return [labels.index(name) for name in given]

    def _prepare(self, fitted: FittedLabels, data: TokenDataset) -> None:
        scorer = self._new_scorer(fitted)
        start_at_base_rate(scorer, data.tokens, data.targets, self.config.seed)

    def _finished(
        self,
        fitted: FittedLabels,
        validation: MultilabelValidation | None,
        result: TrainingResult,
    ) -> tuple[TrainingResult, dict[str, object]]:
        """Thresholds for the weights that were kept."""
        names = fitted.labels.names
        fitted.thresholds = (0.5,) * len(names)
        if validation is None:
            return result, {}
        with counting("fitting the thresholds", len(validation.targets)) as advance:
            thresholds, figures = validation.fit(self._new_scorer(fitted), advance)
        fitted.thresholds = tuple(thresholds.tolist())
        occurring = {label for labels in validation.targets for label in labels}
        if without := [name for place, name in enumerate(names) if place not in occurring]:
            logger.warning(
                "no validation text has the label %s: the threshold stays .5",
                ", ".join(map(repr, without)),
            )
        by_name = dict(zip(names, fitted.thresholds, strict=True))
        return replace(result, best={**result.best, **figures}), {"thresholds": by_name}


def _used(lists: Sequence[Sequence[str]]) -> set[str]:
    used = {name for names in lists for name in names}
    if not used:
        raise DataError(
            "expected labels in the training texts, got an empty list for every one; label some"
        )
    return used
