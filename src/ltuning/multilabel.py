"""The front door where several labels apply to a text, or none: each is asked yes or no."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from ltuning.classifier import FittedLabels, TextClassifier, checked_texts
from ltuning.errors import DataError
from ltuning.labels import Labels
from ltuning.metrics import binary_log_loss, multilabel_report
from ltuning.registry import unknown
from ltuning.scoring import Progress
from ltuning.texts import Text
from ltuning.training.multilabel import MultilabelValidation, sigmoid, start_at_base_rate
from ltuning.training.objectives import multi_hot
from ltuning.training.trainer import TokenDataset, TrainingResult

logger = logging.getLogger("ltuning")

LabelLists = Sequence[Sequence[str]]


class MultilabelClassifier(TextClassifier):
    """A classifier on a frozen language model that gives a text every label that applies.

    A label's score is the log-odds that it applies, whatever the others' are. It applies from its
    threshold on, which is fitted on validation texts: the one with the best F1 of that label there.
    Without validation texts, and for a label that none of them has, it is .5.

    Args:
        backbone: `builtin:minilm` (the default), a hub id, a local folder, or a loaded `Backbone`
            that several classifiers share.
        labels: label names, a mapping of names to label texts (or lists of them), a YAML file, or
            None to take the names from the training labels.
        method: `prefix`, `prompt`, `lt-prefix`, `lt-prompt`, `ls-lora`, `ls-unmask`, `probe` or
            `full`.
        recipe: `default`, or `paper` for the published choices where they go with this task: it is
            trained with the objective `multilabel` in both.
        seed: of every draw, 0 if not given; the same seed gives the same classifier on a CPU.
        epochs: passes over the training texts.
        steps: optimizer steps, instead of epochs.
        options: further options by dotted path, such as `{"method.rank": 32,
            "training.learning_rate": 1e-3}`.
        config: a whole configuration instead of the arguments above; beside it only a backbone is
            taken, the one that it names.

    Raises:
        ConfigError: every problem of the options at once, before anything is loaded.
        LabelError: labels that cannot be used.
    """

    task = "multilabel"
    validation_class = MultilabelValidation

    @property
    def thresholds_(self) -> np.ndarray:
        """`[K]` the probability from which on each label applies, in the order of `classes_`."""
        return np.array(self._trained().thresholds)

    def fit(
        self,
        texts: Sequence[Text],
        label_lists: LabelLists,
        validation: tuple[Sequence[Text], LabelLists] | None = None,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Any] = (),
    ) -> Self:
        """Train the adapter; the backbone stays as it is.

        Args:
            texts: training texts, or (text, text) pairs.
            label_lists: the names of the labels that apply to each; an empty list where none does.
            validation: texts and label lists that choose the best weights, stop early, and to which
                the thresholds are fitted.
            checkpoints: folder for checkpoints; None = a temporary one.
            resume: go on from the newest checkpoint there.
            callbacks: transformers' TrainerCallbacks.

        Raises:
            DataError: texts and label lists that do not fit each other, empty texts, no label
                anywhere, a label twice in a list, one that is not among the labels given, or in
                validation one that training does not know.
            LabelError: labels that cannot be used.
            BackboneError: a label text that is too long.
            TrainingError: a loss that is not finite.
        """
        empty = self.config.data.empty_texts
        given = None if self.config.labels is None else Labels.from_any(self.config.labels)
        read = _label_lists(label_lists, "training", given)
        texts, lists = checked_texts(texts, read, empty)
        known = _label_set(lists, given)
        held_out = None
        if validation is not None:
            read = _label_lists(validation[1], "validation", known)
            held_out = checked_texts(validation[0], read, empty)
        self._fit(known, (texts, lists), held_out, checkpoints, resume, callbacks)
        return self

    def predict(self, texts: Sequence[Text], progress: Progress | None = None) -> list[list[str]]:
        """The names of the labels that apply to each text, in the order of `classes_`; or none."""
        return self.applying(self.predict_proba(texts, progress))

    def applying(self, probabilities: np.ndarray) -> list[list[str]]:
        """The names of the labels whose probability, of `[N, K]`, reaches its threshold."""
        names = self.labels_.names
        reached = probabilities >= self.thresholds_
        return [[names[label] for label in row.nonzero()[0]] for row in reached]

    def predict_proba(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """`[N, K]` the probability that each label applies: the sigmoid of its score."""
        return sigmoid(self.scores(texts, progress))

    def evaluate(
        self, texts: Sequence[Text], label_lists: LabelLists, progress: Progress | None = None
    ) -> dict[str, Any]:
        """Figures on labelled texts: F1, precision and recall, exact match, and per label.

        Raises:
            DataError: texts and label lists of different number, a label twice in a list, one that
                the classifier does not know.
        """
        read = _label_lists(label_lists, "test", self.labels_)
        texts, lists = checked_texts(texts, read, "keep")
        targets = [self._target(self.labels_, labels) for labels in lists]
        truth = multi_hot(targets, len(self.labels_)).numpy()
        probabilities = self.predict_proba(texts, progress)
        report = multilabel_report(truth, probabilities >= self.thresholds_, self.labels_.names)
        for row, threshold in zip(report["per_class"], self._trained().thresholds, strict=True):
            row["threshold"] = threshold
        report["log_loss"] = binary_log_loss(probabilities, truth)
        return report

    def add_labels(self, labels: Any) -> Self:
        """Add labels from their texts alone; nothing is trained.

        Their threshold is the median of the others', for want of texts to fit it to: .5 where
        those were not fitted either.

        Args:
            labels: `{"name": "label text"}`, or names.

        Raises:
            LabelError: a plain method, whose head is tied to its labels, or a label that exists.
            BackboneError: a label text that is too long.
        """
        super().add_labels(labels)
        fitted = self._trained()
        number = len(fitted.labels) - len(fitted.thresholds)
        added = (float(np.median(fitted.thresholds)),) * number
        self._fitted = replace(fitted, thresholds=fitted.thresholds + added)
        return self

    def _own_config(self, fitted: FittedLabels) -> dict[str, Any]:
        return {**super()._own_config(fitted), "thresholds": list(fitted.thresholds)}

    def _restore(self, folder: Path, tensors: dict[str, Any], saved: dict[str, Any]) -> None:
        super()._restore(folder, tensors, saved)
        self._fitted = replace(self._trained(), thresholds=tuple(saved["thresholds"]))

    def _target(self, labels: Labels, given: Any) -> list[int]:
        return [labels.index(name) for name in given]

    def _prepared(self, fitted: FittedLabels, data: TokenDataset, batch_size: int) -> None:
        scorer = self._new_scorer(fitted)
        start_at_base_rate(scorer, data.tokens, data.targets, self.config.seed)

    def _finished(
        self,
        fitted: FittedLabels,
        data: TokenDataset,
        validation: MultilabelValidation | None,
        plain: Any,
        result: TrainingResult,
    ) -> tuple[TrainingResult, dict[str, Any]]:
        """Thresholds for the weights that were kept."""
        names = fitted.labels.names
        fitted.thresholds = (0.5,) * len(names)
        if validation is None:
            return result, {}
        thresholds, figures = validation.fit(self._new_scorer(fitted))
        fitted.thresholds = tuple(thresholds.tolist())
        occurring = {label for labels in validation.targets for label in labels}
        if without := [name for place, name in enumerate(names) if place not in occurring]:
            logger.warning(
                "no validation text has the label %s: the threshold stays .5",
                ", ".join(map(repr, without)),
            )
        by_name = dict(zip(names, fitted.thresholds, strict=True))
        return replace(result, best={**result.best, **figures}), {"thresholds": by_name}


def _label_lists(given: LabelLists, what: str, known: Labels | None) -> list[list[str]]:
    """Lists of names as they are, every one looked at."""
    if isinstance(given, str):
        raise DataError("expected a list of label names for each text, got one text")
    lists = []
    for row, labels in enumerate(given, start=1):
        where = f"{what}, row {row}"
        if not isinstance(labels, list | tuple | np.ndarray):
            raise DataError(
                f"{where}: expected a list of label names, got {labels!r:.80}; write "
                "['name'], and [] where no label applies"
            )
        names = [str(name) for name in labels]
        for name in names:
            if names.count(name) > 1:
                raise DataError(
                    f"{where}: expected every label once, got {name!r} {names.count(name)} times; "
                    "keep one of them"
                )
            if known is not None and name not in known:
                raise DataError(f"{where}: {unknown('label', name, known.names)}")
        lists.append(names)
    return lists


def _label_set(lists: LabelLists, given: Labels | None) -> Labels:
    used = {name for names in lists for name in names}
    if not used:
        raise DataError(
            "expected labels in the training texts, got an empty list for every one; label some"
        )
    if given is None:
        return Labels.from_any(sorted(used))
    if without := [name for name in given.names if name not in used]:
        logger.warning("no training text has the label %s", ", ".join(map(repr, without)))
    return given
