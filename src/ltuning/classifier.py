"""The front door: a frozen language model that classifies texts by what the labels mean."""

from __future__ import annotations

import logging
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch

from ltuning.backbones.backbone import LabelStates
from ltuning.config import Config, MethodOptions
from ltuning.errors import (
    BackboneError,
    DataError,
    LabelError,
)
from ltuning.front import Front, check_device
from ltuning.labels import Labels
from ltuning.methods import catalog
from ltuning.methods.adapter import Adapter
from ltuning.methods.starts import free_start
from ltuning.methods.tuned import Tuned
from ltuning.methods.weights import WEIGHT_METHODS
from ltuning.metrics import classification_report, expected_calibration_error, log_loss
from ltuning.scoring import Progress, Scorer
from ltuning.texts import Text, is_empty
from ltuning.training.isolation import alone
from ltuning.training.multilabel import MultilabelValidation
from ltuning.training.plain import LEAST_SAMPLE, SAMPLE, HeldOutScores, choose_shortlist, prepare
from ltuning.training.trainer import (
    TokenDataset,
    TrainingResult,
    Validation,
    softmax,
    train,
)

logger = logging.getLogger("ltuning")

# Texts, and what is said of each.
Rows = tuple[Sequence[Text], Sequence[Any]]

L = TypeVar("L")

# What a text keeps for itself when a prompt shares its positions.
_LEAST_TEXT = 16


@dataclass
class FittedLabels:
    """A trained adapter and what it was trained for."""

    labels: Labels
    adapter: Adapter | Tuned
    states: LabelStates | None
    max_length: int
    num_texts: int = 0
    # Of a multi-label classifier: from which probability on each label applies.
    thresholds: tuple[float, ...] = ()


class TextClassifier(Front[FittedLabels]):
    """What the front doors to labels of texts share; see `LabelClassifier` for its arguments."""

    default_method = "lt-prefix"

    validation_class: ClassVar[type[Validation] | type[MultilabelValidation]]
    _scorer: Scorer | None = None

    @property
    def labels_(self) -> Labels:
        """The labels of the trained classifier."""
        return self._trained().labels

    @property
    def classes_(self) -> np.ndarray:
        """`[K]` label names, in the order of the columns of `predict_proba`."""
        return np.array(self.labels_.names)

    def scores(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """Scores `[N, K]` before they are probabilities, by texts and by `classes_`."""
        fitted = self._trained()
        if isinstance(texts, str):
            raise DataError("expected a list of texts, got one text; write [text]")
        if not len(texts):
            return np.empty((0, len(fitted.labels)), dtype=np.float32)
        given = [_text(text) for text in texts]
        return self.scorer().score(given, progress, fitted.max_length)

    @abstractmethod
    def predict_proba(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """Probabilities `[N, K]` of the labels."""

    def add_labels(self, labels: Any) -> Self:
        """Add classes from their texts alone; nothing is trained.

        Args:
            labels: `{"name": "label text"}`, or names.

        Raises:
            LabelError: a plain method, whose head is tied to its classes, or a label that exists.
            BackboneError: a label text that is too long.
        """
        fitted = self._trained()
        if isinstance(fitted.adapter, Tuned) or not fitted.adapter.uses_labels:
            raise LabelError(
                f"expected method 'lt-prefix' or 'lt-prompt' for labels after training, got "
                f"'{self.config.method.name}', whose head has one output for each class it was "
                "trained on; train again with the new label, or with a label method"
            )
        extended = fitted.labels.add(labels)
        states = self._encode(extended, fitted.adapter.length, fitted.adapter.method)
        room = self._room(fitted.adapter.method, states.hidden.shape[1])
        max_length = min(fitted.max_length, room)
        self._fitted = replace(fitted, labels=extended, states=states, max_length=max_length)
        self._scorer = None
        # What was measured was measured among the labels of before.
        self.figures = {name: self.figures[name] for name in self.figures if name == "training"}
        return self

    def scorer(self) -> Scorer:
        """The scorer behind `predict`, with its virtual tokens made once."""
        if self._scorer is None:
            self._scorer = self._new_scorer(self._trained())
        return self._scorer

    def _new_scorer(self, fitted: FittedLabels) -> Scorer:
        fitted.adapter.eval()
        return Scorer(
            self.backbone,
            fitted.adapter,
            fitted.states,
            self._owners(fitted),
            self.config.backbone.max_branches,
        )

    def _restore(self, folder: Path, tensors: dict[str, Any], saved: dict[str, Any]) -> None:
        labels = Labels.from_any(saved["labels"])
        method = MethodOptions(**saved["method"])
        adapter: Adapter | Tuned
        if method.name in WEIGHT_METHODS:
            adapter = Tuned.load(self.backbone, method, saved["num_labels"], tensors, folder)
        else:
            adapter = Adapter(
                self.backbone.sizes, method, length=saved["length"], num_labels=saved["num_labels"]
            )
            adapter.load_state_dict(tensors)
        adapter.to(self.backbone.device)
        states = self._encode(labels, adapter.length, method) if adapter.uses_labels else None
        self._fitted = FittedLabels(labels, adapter, states, saved["max_length"])

    def _read_labels(self, labels: Any) -> dict[str, list[str]]:
        return Labels.from_any(labels).to_dict()

    def _own_config(self, fitted: FittedLabels) -> dict[str, Any]:
        return {"labels": fitted.labels.to_dict(), "num_labels": len(fitted.labels)}

    def _build(self, labels: Labels, num_texts: int) -> FittedLabels:
        backbone = self.backbone
        depth = backbone.sizes.layers
        given = catalog.options_of(self.config)
        method = catalog.resolve(given, backbone.family, depth, num_texts, len(labels))
        if method.name in WEIGHT_METHODS:
            with torch.random.fork_rng():
                torch.manual_seed(self.config.seed)
                tuned = Tuned.new(backbone, method, len(labels))
            return FittedLabels(labels, tuned, None, backbone.max_length, num_texts)
        is_prefix = catalog.METHODS[method.name].site == "key-values"
        if is_prefix and backbone.prefix_problem is not None:
            raise BackboneError(backbone.prefix_problem)
        uses_labels = catalog.METHODS[method.name].source == "labels"
        states = self._encode(labels, method.num_tokens, method) if uses_labels else None
        length = method.num_tokens or 0
        if states is not None:
            length = max(length, states.hidden.shape[1])
        max_length = self._room(method, length)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            start = None
            if states is None:
                generator = torch.Generator().manual_seed(self.config.seed)
                start = free_start(backbone, method, length, labels.flat_texts, generator)
            adapter = Adapter(
                backbone.sizes, method, length=length, num_labels=len(labels), start=start
            )
        return FittedLabels(labels, adapter, states, max_length, num_texts)

    def _encode(self, labels: Labels, max_tokens: int | None, method: MethodOptions) -> LabelStates:
        # Maps work token by token, so that a later label may be longer, except for the pooled one
        # and where the text's positions start after the label's room.
        is_tied = method.transform == "pooled" or method.num_tokens is not None
        is_tied = is_tied or self._prefix_spends_positions(method)
        limit = max_tokens if is_tied else None
        starts_there = method.start == "label-kv"
        return self.backbone.encode_labels(labels.flat_texts, limit, key_values=starts_there)

    def _room(self, method: MethodOptions, length: int) -> int:
        backbone = self.backbone
        budget = backbone.position_budget
        is_prompt = catalog.METHODS[method.name].site == "embeddings"
        if budget is None or not (is_prompt or self._prefix_spends_positions(method)):
            return backbone.max_length
        room = min(backbone.max_length, budget - length)
        if room < _LEAST_TEXT:
            raise BackboneError(
                f"expected room for at least {_LEAST_TEXT} tokens of text beside the virtual "
                f"tokens, got {room} ({budget} positions less {length}); use fewer virtual tokens "
                "or shorter label texts"
            )
        return room

    def _prefix_spends_positions(self, method: MethodOptions) -> bool:
        is_prefix = catalog.METHODS[method.name].site == "key-values"
        return is_prefix and self.backbone.family.prefix_spends_positions

    def _owners(self, fitted: FittedLabels) -> Sequence[int]:
        return fitted.labels.owners if fitted.states is not None else range(len(fitted.labels))

    def _fit(
        self,
        labels: Labels,
        data: Rows,
        held_out: Rows | None,
        checkpoints: Path | None,
        resume: bool,
        callbacks: Sequence[Any],
    ) -> None:
        check_device(self.backbone)
        callbacks = self._callbacks(callbacks, checkpoints)
        with alone(), tempfile.TemporaryDirectory(prefix="ltuning-") as temporary:
            fitted = self._build(labels, len(data[0]))
            folder = checkpoints or Path(temporary)
            result, figures = self._train(fitted, data, held_out, folder, resume, callbacks)
        # Only now: a run that fails leaves the classifier as it was.
        self._fitted, self._scorer, self.result_ = fitted, None, result
        self.figures = self._run_figures(result, fitted) | figures

    def _train(
        self,
        fitted: FittedLabels,
        rows: Rows,
        held_out: Rows | None,
        folder: Path,
        resume: bool,
        callbacks: Sequence[Any],
    ) -> tuple[TrainingResult, dict[str, Any]]:
        data = self._tokenized(fitted, rows)
        validation = None
        if held_out is not None:
            tokenized = self._tokenized(fitted, held_out)
            names = fitted.labels.names
            validation = self.validation_class(tokenized.tokens, tokenized.targets, names)
        arguments, layers = self._arguments(fitted, folder, len(data), validation is not None)
        fitted.adapter.to(self.backbone.device)
        plain = self._prepared(fitted, data, arguments.train_batch_size)
        result = train(
            self.backbone,
            fitted.adapter,
            fitted.states,
            self._owners(fitted),
            data,
            validation,
            arguments,
            self.config.stopping,
            max_branches=self.config.backbone.max_branches,
            cache_size=self.config.backbone.cache_size,
            plain=plain,
            layers=layers,
            resume=resume,
            callbacks=callbacks,
        )
        return self._finished(fitted, data, validation, plain, result)

    def _tokenized(self, fitted: FittedLabels, rows: Rows) -> TokenDataset:
        texts, labels = rows
        tokens = self.backbone.tokenize(list(texts), fitted.max_length)
        return TokenDataset(tokens, [self._target(fitted.labels, given) for given in labels])

    @abstractmethod
    def _target(self, labels: Labels, given: Any) -> Any:
        """What training is told of the labels of a text."""

    @abstractmethod
    def _prepared(
        self, fitted: FittedLabels, data: TokenDataset, batch_size: int
    ) -> HeldOutScores | None:
        """What the adapter needs before its first step."""

    @abstractmethod
    def _finished(
        self,
        fitted: FittedLabels,
        data: TokenDataset,
        validation: Any,
        plain: HeldOutScores | None,
        result: TrainingResult,
    ) -> tuple[TrainingResult, dict[str, Any]]:
        """What comes after the last step; its figures."""


class LabelClassifier(TextClassifier):
    """A text classifier on a frozen language model.

    Args:
        backbone: `builtin:minilm` (the default), a hub id, a local folder, or a loaded `Backbone`
            that several classifiers share.
        labels: label names, a mapping of names to label texts (or lists of them), a YAML file, or
            None to take the names from the training labels.
        method: `prefix`, `prompt`, `lt-prefix`, `lt-prompt`, `ls-lora`, `ls-unmask`, `probe` or
            `full`.
        recipe: `default`, or `paper` for the published choices.
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

    task = "classes"
    validation_class = Validation

    def fit(
        self,
        texts: Sequence[Text],
        labels: Sequence[str],
        validation: tuple[Sequence[Text], Sequence[str]] | None = None,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[Any] = (),
    ) -> Self:
        """Train the adapter; the backbone stays as it is.

        Args:
            texts: training texts, or (text, text) pairs.
            labels: the name of each text's label.
            validation: texts and labels that choose the best weights and stop early.
            checkpoints: folder for checkpoints; None = a temporary one.
            resume: go on from the newest checkpoint there.
            callbacks: transformers' TrainerCallbacks.

        Raises:
            DataError: texts and labels that do not fit each other, empty texts, a validation label
                that training does not know.
            LabelError: a training label that is not among the labels given.
            BackboneError: a label text that is too long.
            TrainingError: a loss that is not finite.
        """
        empty = self.config.data.empty_texts
        texts, labels = checked_texts(texts, [str(label) for label in labels], empty)
        known = self._label_set(labels)
        held_out = None
        if validation is not None:
            held_out = checked_texts(validation[0], [str(label) for label in validation[1]], empty)
            _check_validation(held_out[1], labels, known, self.config)
        self._fit(known, (texts, labels), held_out, checkpoints, resume, callbacks)
        return self

    def predict(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """The name of the most probable label of each text, `[N]`."""
        return self.classes_[self.scores(texts, progress).argmax(axis=1)]

    def predict_proba(self, texts: Sequence[Text], progress: Progress | None = None) -> np.ndarray:
        """Probabilities `[N, K]`: softmax over the labels' scores."""
        return softmax(self.scores(texts, progress).astype(np.float64))

    def evaluate(
        self, texts: Sequence[Text], labels: Sequence[str], progress: Progress | None = None
    ) -> dict[str, Any]:
        """Figures on labelled texts: accuracy, macro-F1, Matthews, per class, calibration.

        Raises:
            DataError: texts and labels of different number.
            LabelError: a label that the classifier does not know.
        """
        texts, labels = checked_texts(texts, [str(label) for label in labels], "keep")
        truth = [self.labels_.index(label) for label in labels]
        probabilities = self.predict_proba(texts, progress)
        predicted = [str(self.classes_[index]) for index in probabilities.argmax(axis=1)]
        report = classification_report(labels, predicted, self.labels_.names)
        report["log_loss"] = log_loss(probabilities, truth)
        report["expected_calibration_error"] = expected_calibration_error(probabilities, truth)
        return report

    def _label_set(self, labels: Sequence[str]) -> Labels:
        if self.config.labels is None:
            return Labels.from_any(sorted(set(labels)))
        known = Labels.from_any(self.config.labels)
        for label in dict.fromkeys(labels):
            known.index(label)
        return known

    def _target(self, labels: Labels, given: Any) -> int:
        return labels.index(given)

    def _prepared(
        self, fitted: FittedLabels, data: TokenDataset, batch_size: int
    ) -> HeldOutScores | None:
        return prepare(
            self.backbone,
            fitted.adapter,
            fitted.states,
            self._owners(fitted),
            data.tokens,
            data.targets,
            batch_size=batch_size,
            seed=self.config.seed,
        )

    def _finished(
        self,
        fitted: FittedLabels,
        data: TokenDataset,
        validation: Any,
        plain: HeldOutScores | None,
        result: TrainingResult,
    ) -> tuple[TrainingResult, dict[str, Any]]:
        figures = self._shortlist_figures(fitted, data, validation, plain)
        if figures and validation is not None and result.best:
            # With the shortlist that it has from now on.
            now = validation.figures(self._new_scorer(fitted))
            result = replace(result, best={**result.best, **now})
        return result, figures

    def _shortlist_figures(
        self,
        fitted: FittedLabels,
        data: TokenDataset,
        validation: Validation | None,
        plain: HeldOutScores | None,
    ) -> dict[str, Any]:
        """What the shortlist holds on validation, or on training texts by held-out plain scores."""
        if plain is None:
            return {}
        texts: TokenDataset | Validation
        if validation is not None and len(validation.tokens) >= LEAST_SAMPLE:
            texts, given = validation, None
            generator = torch.Generator().manual_seed(self.config.seed)
            rows = torch.randperm(len(texts.tokens), generator=generator)[:SAMPLE].tolist()
            measured_on = "validation texts"
        else:
            texts, given = data, plain.sample_scores
            rows = plain.sample.tolist()
            measured_on = "training texts that the pass's own score had not seen"
        held = choose_shortlist(
            self._new_scorer(fitted),
            [texts.tokens[row] for row in rows],
            [texts.targets[row] for row in rows],
            given,
        )
        return {"shortlist": {**held, "texts": len(rows), "measured_on": measured_on}}


def checked_texts(
    texts: Sequence[Text], labels: Sequence[L], empty: str
) -> tuple[list[Text], list[L]]:
    """Texts with what is said of each, as lists, less the empty ones if these are to be skipped.

    Args:
        texts: as given.
        labels: of each text.
        empty: `refuse`, `skip` or `keep` texts without words.

    Raises:
        DataError: what is no text, numbers that differ, no texts, empty ones.
    """
    if isinstance(texts, str):
        raise DataError("expected a list of texts, got one text; write [text]")
    if len(texts) != len(labels):
        raise DataError(
            f"expected one label for each text, got {len(texts)} texts and {len(labels)}"
        )
    if not len(texts):
        raise DataError("expected at least one text, got none")
    pairs = [(_text(text), label) for text, label in zip(texts, labels, strict=True)]
    if empty == "keep":
        return [text for text, _ in pairs], [label for _, label in pairs]
    kept = [(text, label) for text, label in pairs if not is_empty(text)]
    dropped = len(pairs) - len(kept)
    if dropped and empty == "refuse":
        first = next(row for row, (text, _) in enumerate(pairs) if is_empty(text))
        raise DataError(
            f"expected texts with words in them, got {dropped} empty ones, the first at index "
            f"{first}; remove them or set data.empty_texts=skip"
        )
    if dropped:
        logger.warning("left out %d of %d texts: they are empty", dropped, len(pairs))
    if not kept:
        raise DataError("expected at least one text with words in it, got none")
    return [text for text, _ in kept], [label for _, label in kept]


def _text(text: Any) -> Text:
    if isinstance(text, str):
        return text
    if isinstance(text, (tuple, list)) and len(text) == 2 and all(isinstance(t, str) for t in text):
        return (text[0], text[1])
    raise DataError(f"expected a text or a pair of texts, got {type(text).__name__}: {text!r:.80}")


def _check_validation(
    held_out: Sequence[str], trained: Sequence[str], labels: Labels, config: Config
) -> None:
    known = set(labels.names)
    # A label method can score a label that it has no training text for, if it was told of it.
    if config.labels is None or not catalog.uses_labels(config.method.name):
        known &= set(trained)
    unknown = sorted(set(held_out) - known)
    if unknown:
        raise DataError(
            "expected validation labels that training has, got "
            f"{', '.join(map(repr, unknown[:5]))} in validation only; "
            "add training texts for them or remove these rows"
        )
