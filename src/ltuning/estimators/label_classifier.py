"""The front door: a frozen language model that classifies texts by what the labels mean."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np
import torch

from ltuning import processes
from ltuning.artifacts.opened import ANSWERS, Opened
from ltuning.backbones.frozen_model import LabelStates, TextBatch, Tokens
from ltuning.backbones.long_texts import Windows, warn_of_cut
from ltuning.calibration import (
    LEAST_TEXTS,
    Answers,
    Threshold,
    calibration_figures,
    fit_scope,
    fit_temperature,
    kept,
    probabilities_of,
    probability_figures,
)
from ltuning.config import TASK_FACTS, Config, MethodOptions
from ltuning.data.examples import Examples
from ltuning.data.splits import held_rows
from ltuning.errors import (
    BackboneError,
    DataError,
    LabelError,
)
from ltuning.estimators.answers import (
    check_abstain,
    label_array,
    labels_said,
    sets_said,
    warn_of_others,
)
from ltuning.estimators.choosing import chosen
from ltuning.estimators.front import Front, check_device, check_inputs, steps_shown, training
from ltuning.estimators.inputs import labels_of, pair_of, rows_of, texts_of, weights_of
from ltuning.estimators.rows import indexed, warn_of_rows
from ltuning.estimators.run_record import run_figures
from ltuning.estimators.scope import Scope, check_scope, highest_in_scope, of_labels
from ltuning.estimators.text_weights import scaled, weighted_share, with_class_weight
from ltuning.labels import Label, Labels, LabelType, joined_hints, wordless, wordless_hint
from ltuning.methods import catalog
from ltuning.methods.checks import with_texts
from ltuning.methods.choice import Choice
from ltuning.methods.model import Model
from ltuning.methods.model_classes import MODELS
from ltuning.methods.zero_shot import zero_shot
from ltuning.metrics import Report, classification_report, out_of_scope_report, risk_coverage
from ltuning.scoring import Progress, Scorer
from ltuning.stages import counting
from ltuning.texts import Text, is_empty
from ltuning.training.centers import center
from ltuning.training.datasets import TokenDataset
from ltuning.training.objectives import objective_of
from ltuning.training.validation import MultilabelValidation, Validation

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ltuning.training.result import TrainingResult

logger = logging.getLogger("ltuning")

# Texts, and what is said of each.
Rows = tuple[Sequence[Text], Sequence[Any]]

L = TypeVar("L")

# What a text keeps for itself when a prompt shares its positions.
_LEAST_TEXT = 16


@dataclass
class FittedLabels:
    """A trained model and what it was trained for."""

    labels: Labels
    model: Model[TextBatch]
    max_length: int
    num_texts: int = 0
    # Of a multi-label classifier: from which probability on each label applies.
    thresholds: tuple[float, ...] = ()
    # Of one of single labels: what its scores are divided by, and what it said of held-out texts;
    # None where there were none, or labels have been added since.
    temperature: float = 1.0
    answers: Answers | None = None
    # Below which highest score a text belongs to no label; None where each belongs to one.
    oos_threshold: float | None = None
    # Whether it was trained on pairs of texts; None where on both, and in older artifacts.
    pairs: bool | None = None
    # Made when it is first needed, and kept with what it scores: one is never without the other.
    scorer: Scorer | None = None


class TextClassifier(Front[FittedLabels]):
    """What the front doors to labels of texts share."""

    default_method = "lt-prefix"
    # What scikit-learn before 1.6 asks for instead of tags.
    _estimator_type = "classifier"

    validation_class: ClassVar[type[Validation] | type[MultilabelValidation]]
    # Of the labels that were given to the front door; None where the data says it.
    _label_type: LabelType | None = None
    # Why its method is that one, where `auto` chose it.
    _choice: Choice | None = None

    @property
    def labels_(self) -> Labels:
        """The labels of the trained classifier."""
        return self._trained().labels

    def __sklearn_tags__(self) -> Any:
        """scikit-learn's tags: a classifier that takes texts."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        several = TASK_FACTS[self.task].several
        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True, one_d_labels=not several),
            transformer_tags=None,
            regressor_tags=None,
            classifier_tags=ClassifierTags(multi_label=several),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
        )

    @property
    def classes_(self) -> np.ndarray:
        """`[K]` labels as they are in the data, in the order of `predict_proba`'s columns."""
        return label_array(self.labels_.values)

    def scores(self, texts: object, progress: Progress | None = None) -> np.ndarray:
        """Scores `[N, K]` before they are probabilities, by texts and by `classes_`.

        Args:
            texts: as `fit` takes them.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is no column of texts.
        """
        return self._scores(self._answering(), texts, progress)

    def _answering(self) -> FittedLabels:
        """What answers for texts: the trained classifier."""
        return self._trained()

    def _scores(self, fitted: FittedLabels, texts: object, progress: Progress | None) -> np.ndarray:
        given = texts_of(texts)
        if not given:
            return np.empty((0, len(fitted.labels)), dtype=np.float32)
        warn_of_others(given, fitted.pairs)
        how = self.config.data.long_texts
        return self._scorer_of(fitted).score(given, progress, fitted.max_length, how)

    def windows(self, texts: object) -> Windows:
        """Texts as it reads them: tokenized, the long ones cut or in windows.

        Args:
            texts: as `fit` takes them.

        Raises:
            DataError: what is no column of texts; a pair too long for windows.
        """
        fitted, how = self._answering(), self.config.data.long_texts
        return self.backbone.windows(texts_of(texts), fitted.max_length, long_texts=how)

    def predict_proba(self, texts: object, progress: Progress | None = None) -> np.ndarray:
        """Probabilities `[N, K]` of the labels."""
        fitted = self._answering()
        return self._probabilities(fitted, self._scores(fitted, texts, progress))

    @staticmethod
    @abstractmethod
    def _probabilities(fitted: FittedLabels, scores: np.ndarray) -> np.ndarray:
        """Probabilities `[N, K]` of scores."""

    def add_labels(self, labels: Any) -> Self:
        """Add classes from their texts alone; nothing is trained.

        A prediction that another thread has begun is of the classes of before, whole. A temperature
        stays as it is; what was said of held-out texts was said among the labels of before, and is
        gone until `calibrate`.

        Args:
            labels: `{"name": "label text"}`, or names.

        Raises:
            LabelError: a plain method, whose head is tied to its classes, or a label that exists.
            BackboneError: a label text that is too long.
        """
        fitted = self._trained()
        if not fitted.model.takes_new_labels:
            name = self.config.method.name
            match = " or with method.head=match" if "match" in catalog.ROWS[name].heads else ""
            raise LabelError(
                f"expected method 'lt-prefix' or 'lt-prompt' for labels after training, got "
                f"'{name}', whose head has one output for each class it was trained on; train "
                f"again with the new label, or with a label method{match}"
            )
        extended = fitted.labels.add(labels)
        method = fitted.model.method
        known = fitted.model.labels
        assert known is not None  # of a model that takes more
        # What is known is read as it was, however long the newcomers are.
        states = self._encode(extended, fitted.model.length, method, room=known.room)
        model = replace(fitted.model, labels=states, owners=extended.owners)
        room = self._room(method, _label_length(method, states))
        max_length = min(fitted.max_length, room)
        # One swap: another thread sees the labels of before or of now, each with their scorer.
        self._fitted = self._extended(fitted, extended, model, max_length)
        # What was measured was measured among the labels of before.
        self.figures = {name: self.figures[name] for name in self.figures if name == "training"}
        return self

    def with_labels(self, labels: Any) -> Self:
        """A classifier with more classes, as `add_labels` makes of this one, which stays as it is.

        Args:
            labels: `{"name": "label text"}`, or names.

        Raises:
            LabelError: as `add_labels`.
            BackboneError: a label text that is too long.
        """
        # Not `copy.copy`, which asks a classifier how it is pickled.
        made = object.__new__(type(self))
        vars(made).update(vars(self))
        return made.add_labels(labels)

    def scorer(self) -> Scorer:
        """The scorer behind `predict`, with its virtual tokens made once."""
        return self._scorer_of(self._trained())

    def _scorer_of(self, fitted: FittedLabels) -> Scorer:
        if (scorer := fitted.scorer) is None:
            scorer = fitted.scorer = self._new_scorer(fitted)
        return scorer

    def _extended(
        self, fitted: FittedLabels, labels: Labels, model: Model[TextBatch], max_length: int
    ) -> FittedLabels:
        """With more labels than it was trained for."""
        known = replace(fitted, labels=labels, model=model, max_length=max_length)
        # What it said of held-out texts it said among the labels of before.
        return replace(known, scorer=None, answers=None)

    def _new_scorer(self, fitted: FittedLabels) -> Scorer:
        fitted.model.adapter.eval()
        return Scorer(fitted.model, self.config.backbone.max_branches)

    def _restore(self, opened: Opened) -> None:
        saved, method = opened.fields, opened.method
        labels = Labels.from_any(saved["labels"]).of_type(saved.get("label_type") or "text")
        self._label_type = labels.type
        model: Model[TextBatch] = MODELS[method.name].load(
            self.backbone,
            method,
            opened,
            length=opened.fields["length"],
            num_labels=len(labels),
        )
        model.adapter.to(self.backbone.device)
        if model.takes_new_labels:
            # None of what was saved before it was kept: as the longest label needs.
            room = saved.get("label_room")
            states = self._encode(labels, model.length, method, room=room)
            model = replace(model, labels=states, owners=labels.owners)
        texts = saved["figures"].get("training", {}).get("texts")
        num_texts = texts if type(texts) is int else 0
        self._fitted = FittedLabels(
            labels, model, saved["max_length"], num_texts, pairs=saved.get("pairs")
        )

    def _read_labels(self, labels: Any, texts_read: bool) -> dict[str, list[str]]:
        if isinstance(labels, np.ndarray):
            labels = rows_of(labels, "a list of names", "[name]")
        known = Labels.from_any(labels, texts_read=texts_read)
        self._label_type = known.type
        return known.to_dict()

    def _given_labels(self) -> Labels | None:
        """The labels of the configuration."""
        if self.config.labels is None:
            return None
        reads = catalog.reads_texts(self.config.method)
        return Labels.from_any(self.config.labels, texts_read=reads)

    def _label_set(self, names: Iterable[str], type_: LabelType) -> Labels:
        """The labels to train, of these names in the data and of that type there.

        Labels that were given to the front door keep the type that they had there; those of a
        configuration, which has names only, have the data's where each of them can.
        """
        known = self._given_labels()
        if known is None:
            reads = catalog.reads_texts(self.config.method)
            return Labels.of_data(names, type_, texts_read=reads)
        if self._label_type is not None:
            return known.of_type(self._label_type)
        return known.of_type(type_) if known.can_be(type_) else known

    def _outputs(self, fitted: FittedLabels) -> Sequence[str]:
        return fitted.labels.names

    def _own_config(self, fitted: FittedLabels) -> dict[str, object]:
        labels, states = fitted.labels, fitted.model.labels
        return {
            "labels": labels.to_dict(),
            "label_room": None if states is None else states.room,
            "label_type": labels.type,
            "num_labels": len(labels),
            "pairs": fitted.pairs,
        }

    def _build(self, labels: Labels, num_texts: int) -> FittedLabels:
        backbone = self.backbone
        depth = backbone.sizes.layers
        given = catalog.options_of(self.config)
        tokens = backbone.tokenize_labels(labels.flat_texts) if catalog.uses_labels(given) else None
        num_label_tokens = sum(len(row["input_ids"]) for row in tokens or ())
        method = catalog.resolve(given, backbone.family, depth, num_texts, num_label_tokens)
        states = None
        if tokens is not None:
            states = self._encode(labels, method.num_tokens, method, tokens)
        is_prefix = catalog.site_of(method) == "key-values"
        if is_prefix and backbone.problems.prefix is not None:
            raise BackboneError(backbone.problems.prefix)
        length = method.num_tokens or 0
        if states is not None:
            length = max(length, _label_length(method, states))
        max_length = self._room(method, length)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            model = MODELS[method.name].new(
                backbone, method, labels, states, length=length, seed=self.config.seed
            )
        return FittedLabels(labels, model, max_length, num_texts)

    def _encode(
        self,
        labels: Labels,
        max_tokens: int | None,
        method: MethodOptions,
        tokens: list[Tokens] | None = None,
        room: int | None = None,
    ) -> LabelStates:
        # Maps work token by token, so that a later label may be longer, except for the pooled one
        # and where the text's positions start after the label's room.
        is_tied = method.transform == "pooled" or method.num_tokens is not None
        is_mean = method.label_tokens == "mean"
        is_tied = is_tied or (self._prefix_spends_positions(method) and not is_mean)
        limit = max_tokens if is_tied else None
        starts_there = method.start == "label-kv"
        texts = labels.flat_texts
        with counting("reading the label texts", len(texts)) as advance:
            states = self.backbone.encode_labels(
                texts, limit, room=room, key_values=starts_there, tokens=tokens
            )
            advance(len(texts))
        return states

    def _room(self, method: MethodOptions, length: int) -> int:
        backbone = self.backbone
        budget = backbone.position_budget
        is_prompt = catalog.site_of(method) == "embeddings"
        if budget is None or not (is_prompt or self._prefix_spends_positions(method)):
            return backbone.max_length
        room = min(backbone.max_length, budget - length)
        if room < _LEAST_TEXT:
            raise BackboneError(
                f"expected room for at least {_LEAST_TEXT} tokens of text beside the virtual "
                f"tokens, got {room} ({budget} positions less {length}); use fewer virtual tokens, "
                "shorter label texts, or method.label_tokens=mean where labels are read together"
            )
        return room

    def _prefix_spends_positions(self, method: MethodOptions) -> bool:
        is_prefix = catalog.site_of(method) == "key-values"
        return is_prefix and self.backbone.family.prefix_spends_positions

    def _fit(
        self,
        labels: Labels,
        data: Rows,
        weights: Sequence[float] | None,
        held_out: Rows | None,
        checkpoints: Path | None,
        resume: bool,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self._check_training(held_out is not None)
        _warn_of_unread_texts(self.config)
        _warn_of_labels(labels, self.config.method)
        check_device(self.backbone)
        callbacks = self._callbacks(callbacks, checkpoints)
        with training(checkpoints) as folder:
            check_inputs(self.backbone, labels.names, data, held_out)
            fitted = self._build(labels, len(data[0]))
            result, figures = self._train(
                fitted, data, weights, held_out, folder, resume, callbacks
            )
        kinds = {isinstance(text, tuple) for text in data[0]}
        fitted.pairs = kinds.pop() if len(kinds) == 1 else None
        # Only now: a run that fails leaves the classifier as it was.
        self._fitted, self.result_ = fitted, result
        self.figures = run_figures(result, fitted, weights) | figures
        if self._choice is not None:
            self.figures["choice"] = self._choice.to_dict()

    def _train(
        self,
        fitted: FittedLabels,
        rows: Rows,
        weights: Sequence[float] | None,
        held_out: Rows | None,
        folder: Path,
        resume: bool,
        callbacks: Sequence[TrainerCallback],
    ) -> tuple[TrainingResult, dict[str, object]]:
        from ltuning.training.trainer import train

        data, lengths = self._tokenized(fitted, rows, weights)
        validation, texts = None, [*rows[0]]
        if held_out is not None:
            some, of_some = self._tokenized(fitted, held_out)
            names = fitted.labels.names
            validation = self.validation_class(some.tokens, some.targets, names, some.counts)
            texts, lengths = [*texts, *held_out[0]], lengths + of_some
        if data.counts is None:
            warn_of_cut(texts, lengths, fitted.max_length)
        has_validation = validation is not None
        run = self._run(fitted, len(data), has_validation, folder, resume, callbacks)
        fitted.model.adapter.to(self.backbone.device)
        center(fitted.model, data.tokens, batch_size=run.at_once, seed=self.config.seed)
        self._prepare(fitted, data)
        result = train(fitted.model, objective_of(fitted.model), data, validation, run)
        return self._finished(fitted, validation, result)

    def _tokenized(
        self, fitted: FittedLabels, rows: Rows, weights: Sequence[float] | None = None
    ) -> tuple[TokenDataset, list[int]]:
        """The texts as training takes them, and how many tokens each has, read or not."""
        texts, labels = rows
        how = self.config.data.long_texts
        with counting("tokenizing", len(texts)) as advance:
            windows = self.backbone.windows(list(texts), fitted.max_length, advance, how)
        targets = [self._target(fitted.labels, given) for given in labels]
        counts = None if how == "cut" else windows.counts
        return TokenDataset(windows.tokens, targets, weights, counts), windows.lengths

    @abstractmethod
    def _target(self, labels: Labels, given: object) -> Any:
        """What training is told of the labels of a text."""

    def _prepare(self, fitted: FittedLabels, data: TokenDataset) -> None:
        """What the adapter needs before its first step."""

    def _finished(
        self, fitted: FittedLabels, validation: Any, result: TrainingResult
    ) -> tuple[TrainingResult, dict[str, object]]:
        """What comes after the last step; its figures."""
        return result, {}


class LabelClassifier(TextClassifier):
    """A text classifier on a frozen language model: every text gets one of the labels.

    Where `labels` are given it answers before `fit`, too, and warns that this is a guess: the label
    whose text is nearest to a text in the frozen backbone, whatever the method. Probabilities are a
    softmax of the cosines at temperature .07. It takes a backbone whose mean states are made to be
    compared, as those of `builtin:minilm` are; a decoder guesses far worse, or by chance.
    """

    task = "classes"
    validation_class = Validation
    # The configuration with method `auto`, and what the last training made of it.
    _chosen_for: tuple[Config, Config] | None = None
    # What answers before `fit`, made when it is first needed.
    _guess: FittedLabels | None = None

    @property
    def labels_(self) -> Labels:
        """The labels of the trained classifier; before `fit` those that were given."""
        if not self.__sklearn_is_fitted__() and self.config.labels is not None:
            return self._label_set((), "text")
        return super().labels_

    def __getstate__(self) -> dict[str, Any]:
        """Without the guess, which is made of the backbone alone."""
        return {**super().__getstate__(), "_guess": None}

    def _answering(self) -> FittedLabels:
        """The trained classifier; before `fit`, where labels were given, the nearest label text."""
        if self.__sklearn_is_fitted__() or self.config.labels is None:
            return self._trained()
        labels, guess = self.labels_, self._guess
        if guess is None or guess.labels != labels or guess.model.backbone is not self.backbone:
            with counting("reading the label texts", len(labels.flat_texts)) as advance:
                model = zero_shot(self.backbone, labels)
                advance(len(labels.flat_texts))
            guess = self._guess = FittedLabels(labels, model, self.backbone.max_length)
            logger.warning(
                "nothing is trained: every answer is a guess, the label whose text is nearest in "
                "the frozen model; train on labelled texts for better ones"
            )
        return guess

    @contextmanager
    def _choosing(self, labels: Labels, texts: Sequence[Text], num_held_out: int) -> Iterator[None]:
        """Put a method in the place of `auto` for a training; a later one chooses again."""
        names = ("config", "_choice", "_chosen_for")
        before = {name: getattr(self, name) for name in names}
        if self._chosen_for is not None and self.config is self._chosen_for[1]:
            self.config = self._chosen_for[0]
        self._choice, asked = None, self.config
        try:
            if asked.method.name == catalog.AUTO:
                found = chosen(asked, self.backbone, texts, len(labels), num_held_out)
                # By a clock, perhaps: of several processes the main one's.
                self.config, self._choice = processes.of_main(found)
            self._chosen_for = asked, self.config
            yield
        except BaseException:
            # What was trained before is still there, and of the configuration of then.
            vars(self).update(before)
            raise

    @property
    def temperature_(self) -> float:
        """What scores are divided by before they are probabilities; 1 where it was not fitted."""
        return self._answering().temperature

    @property
    def answers_(self) -> Answers:
        """What it said of held-out texts: the validation texts, or those of `calibrate`.

        Raises:
            DataError: there are none.
        """
        return _kept(self._answering())

    def fit(
        self,
        texts: object,
        labels: object,
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
        On 50 validation texts or more a temperature is fitted, which makes probabilities neither
        too sure nor too unsure, unless `options={"calibrate": False}`. These texts have chosen the
        weights too, so figures on them flatter; `calibrate` fits it on others.

        In a program that torchrun starts as several processes each calls this with all texts. They
        share every batch, and all come to the classifier that one process comes to; the main one
        alone writes checkpoints.

        Args:
            texts: training texts, or (text, text) pairs: a list, a tuple, an array, a column (of
                NumPy, pandas, datasets, Arrow), a generator, or a frame or array of one column,
                or of two for pairs.
            labels: the label of each text, in any of these: all texts, all integers, all numbers
                or all booleans. Predictions give back what is given here; where `labels` were
                given before, their names are matched ("3" is 3) and their type is kept.
            validation: texts and labels that choose the best weights and stop early. They are not
                weighted, neither by `sample_weight` nor by `class_weight`, as in scikit-learn:
                where weights are to make up for rare labels, choose by `stopping.metric`
                `macro_f1`. With an `oos_label` and without validation a tenth of the texts of each
                label is held out of training for it.
            sample_weight: what each training text counts in the loss, 0 or more, in any of these;
                times the `class_weight` of its label, and scaled to the mean one. A text of weight
                2 counts as if it stood there twice.
            checkpoints: folder for checkpoints; None = a temporary one.
            resume: go on from the newest checkpoint there.
            callbacks: transformers' TrainerCallbacks.
            progress: show stages, length and steps on stderr; None = where that is a terminal or
                a notebook.

        Raises:
            DataError: texts and labels that do not fit each other, or are none; empty texts,
                missing labels, labels of several types; a validation label that training does not
                know; weights of another number, negative, not finite, or all 0.
            LabelError: a training label that is not among the labels given, or the class weight of
                a label that there is not.
            BackboneError: a label text that is too long.
            TrainingError: a loss that is not finite.
        """
        empty = self.config.data.empty_texts
        names, type_ = labels_of(labels, "training")
        weighted = list(zip(names, weights_of(sample_weight, len(names)), strict=True))
        whole = texts_of(texts)
        texts, weighted = checked_texts(whole, weighted, empty)
        labels = [label for label, _ in weighted]
        known = self._label_set(labels, type_)
        for label in dict.fromkeys(labels):
            known.index(label)
        own, data = [weight for _, weight in weighted], self.config.data
        splits = {"train": indexed(whole, names, Examples, "training")}
        held_out: Rows | None = None
        what = "validation texts"
        if validation is not None:
            some, given = pair_of(validation)
            some, given = texts_of(some), labels_of(given, "validation")[0]
            held_out = of_labels(*checked_texts(some, given, empty), known.names, data.oos_label)
            splits["validation"] = indexed(some, given, Examples, "validation")
            _check_validation(held_out[1], labels, known, self.config)
        elif data.oos_label is not None and data.validation_fraction:
            held = held_rows(labels, data.validation_fraction, self.config.seed)
            held_out = _part(texts, held), _part(labels, held)
            rest = {*range(len(texts))} - held
            texts, labels, own = _part(texts, rest), _part(labels, rest), _part(own, rest)
            what = f"texts held out, {data.validation_fraction:g} of those to train on,"
        if data.oos_label is not None:
            check_scope(held_out[1] if held_out else [], data.oos_label, what)
        weights = scaled(with_class_weight(own, data.class_weight, labels, known))
        warn_of_rows(splits, one_of_each=True)
        num_held_out = len(held_out[0]) if held_out else 0
        with steps_shown(progress) as bars, self._choosing(known, texts, num_held_out):
            every = [*callbacks, *bars]
            self._fit(known, (texts, labels), weights, held_out, checkpoints, resume, every)
        return self

    def predict(
        self,
        texts: object,
        progress: Progress | None = None,
        *,
        abstain: float | None = None,
    ) -> np.ndarray:
        """The most probable label of each text, `[N]`, of the type that the data had.

        Args:
            texts: as `fit` takes them.
            progress: called with the number of texts just done.
            abstain: from which probability on a label is said, such as that of
                `threshold_for(precision)`; other texts have None.

        Returns:
            An array of objects with `abstain` or an `oos_label`, which texts have that look like
            those of no label, however probable one is beside the others.

        Raises:
            DataError: what is no column of texts, or no probability.
        """
        check_abstain(abstain)
        fitted = self._answering()
        return self._labels_said(fitted, self._scores(fitted, texts, progress), abstain)

    def predict_of(self, scores: np.ndarray, abstain: float | None = None) -> np.ndarray:
        """What `predict` says of texts by the `scores` of theirs, `[N, K]`."""
        return self._labels_said(self._answering(), scores, abstain)

    def _labels_said(
        self, fitted: FittedLabels, scores: np.ndarray, abstain: float | None
    ) -> np.ndarray:
        scope, probabilities = self._scope(fitted), self._probabilities(fitted, scores)
        classes, outside = label_array(fitted.labels.values), scope.is_outside(scores)
        return labels_said(classes, probabilities, abstain, outside, scope.for_none)

    def is_outside(self, scores: np.ndarray) -> np.ndarray:
        """`[N]` bool: the texts that belong to no label, by the `scores` of theirs.

        They are none without an `oos_label`.
        """
        return self._scope(self._answering()).is_outside(scores)

    def _scope(self, fitted: FittedLabels) -> Scope:
        labels = fitted.labels
        return Scope(labels.names, labels.type, self.config.data.oos_label, fitted.oos_threshold)

    def threshold_for(self, precision: float) -> Threshold:
        """The probability from which on so many answers are right, for `predict(abstain=...)`.

        It is the one that leaves the most of the held-out answers: those of the validation texts
        (5,000 at most), or of the texts of `calibrate`. One more answer, a wrong one, is counted
        with those that it leaves.

        Args:
            precision: the share of right answers among those that are given, such as .95.

        Returns:
            `threshold`, and `coverage`, the share of the held-out texts that reach it.

        Raises:
            DataError: no held-out answers, or no threshold reaches the precision.
        """
        return self.answers_.threshold_for(precision)

    def predict_sets(
        self, texts: object, coverage: float = 0.9, progress: Progress | None = None
    ) -> list[list[Label]]:
        """The labels of each text that may be true, the most probable one first.

        The true label is among them for the share `coverage` of texts that are like the held-out
        ones (on average over draws of both; split conformal prediction, see
        `calibration.Answers.least_probability`). Held out are the validation texts, which have also
        chosen the weights and the temperature, or the texts of `calibrate`, which only chose the
        latter. A set has no label where none is probable enough. Texts that look like those of no
        label have the `oos_label` before what else may be true.

        Args:
            texts: as `fit` takes them.
            coverage: above 0 and below 1.
            progress: called with the number of texts just done.

        Raises:
            DataError: no held-out answers, or too few for this coverage (9 or more for .9, 19 for
                .95); what is no column of texts.
        """
        fitted = self._answering()
        least = _kept(fitted).least_probability(coverage)
        scores = self._scores(fitted, texts, progress)
        scope, probabilities = self._scope(fitted), self._probabilities(fitted, scores)
        outside = scope.is_outside(scores)
        return sets_said(fitted.labels.values, probabilities, least, outside, scope.for_none)

    def calibrate(self, texts: object, labels: object, progress: Progress | None = None) -> Self:
        """Fit the temperature anew, on texts that were not trained on; predictions stay the same.

        With an `oos_label` the score below which texts get it is fitted anew, too, and what is
        predicted of texts near it may change. What is said of these texts takes the place of what
        was said of the validation texts, for `threshold_for` and `predict_sets`.
        `figures["calibration"]` has log loss, Brier score and calibration error on them, before (at
        temperature 1) and after.

        Args:
            texts: 50 or more, as `fit` takes them.
            labels: the true label of each.
            progress: called with the number of texts just done.

        Raises:
            DataError: fewer than 50 texts, or with an `oos_label` fewer than 19 of other labels;
                texts and labels of different number; missing labels.
            LabelError: a label that the classifier does not know.
        """
        fitted = self._trained()
        names = labels_of(labels, "calibration")[0]
        texts, names = checked_texts(texts, names, self.config.data.empty_texts)
        texts, names = of_labels(texts, names, fitted.labels.names, self.config.data.oos_label)
        if len(texts) < LEAST_TEXTS:
            raise DataError(
                f"expected {LEAST_TEXTS} or more texts to fit a temperature to, got {len(texts)}; "
                "give more, or leave the classifier as it is"
            )
        if (oos_label := self.config.data.oos_label) is not None:
            check_scope(names, oos_label, "texts", "leave the classifier as it is")
        truth = [fitted.labels.index(name) for name in names]
        scores = self._scores(fitted, texts, progress)
        temperature = fit_temperature(scores, truth)
        found = self._calibrated(fitted.labels, scores, truth, temperature)
        self._fitted = replace(fitted, **found)
        figures = calibration_figures(scores, truth, temperature)
        self.figures = {**self.figures, "calibration": figures}
        return self

    def _calibrated(
        self, labels: Labels, scores: np.ndarray, truth: Sequence[int], temperature: float
    ) -> dict[str, Any]:
        """What a classifier holds that is fitted to held-out texts."""
        said, seed, names = probabilities_of(scores, temperature), self.config.seed, labels.names
        oos_label = self.config.data.oos_label
        if oos_label is None:
            return {"temperature": temperature, "answers": Answers.of(said, truth, seed)}
        within = np.array([names[label] != oos_label for label in truth])
        threshold = fit_scope(highest_in_scope(scores[within], names, oos_label))
        outside = Scope(names, labels.type, oos_label, threshold).is_outside(scores)
        none = names.index(oos_label) if oos_label in names else None
        answers = Answers.of(said, truth, seed, outside, none)
        return {"temperature": temperature, "answers": answers, "oos_threshold": threshold}

    def predict_proba(self, texts: object, progress: Progress | None = None) -> np.ndarray:
        """Probabilities `[N, K]`: softmax over the labels' scores, divided by `temperature_`.

        Args:
            texts: as `fit` takes them.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is no column of texts.
        """
        return super().predict_proba(texts, progress)

    @staticmethod
    def _probabilities(fitted: FittedLabels, scores: np.ndarray) -> np.ndarray:
        return probabilities_of(scores, fitted.temperature)

    def evaluate(
        self,
        texts: object,
        labels: object,
        progress: Progress | None = None,
        *,
        oos_label: str | None = None,
    ) -> Report:
        """Figures on labelled texts: accuracy, macro-F1, Matthews, per class, calibration.

        Args:
            texts: as `fit` takes them; empty ones are read too.
            labels: the true label of each.
            progress: called with the number of texts just done.
            oos_label: what stands for none of the labels there; None = what the classifier was
                trained with. One that was trained as any other label may be named, too.

        Returns:
            `accuracy`, `macro_f1`, `mcc` (Matthews' correlation), `log_loss` in nats,
            `brier_score`, `expected_calibration_error`, `aurc` (the area under the curve of risk
            and coverage), `num_examples`, `per_class` (`precision`, `recall`, `f1` and `support` of
            each label), `confusion` (`counts`, whose rows are the truth, and the `labels` of its
            rows and columns) and `risk_coverage` (at each `threshold` the `coverage`, which is the
            share of texts that reach it, and the `risk`, the share of these that are wrong). Where
            there is one, the `temperature`, and as `uncalibrated` what probabilities came to
            without it. With an `oos_label`, which then is a class, too, and where some texts have
            it, `out_of_scope` (`in_domain_accuracy`, `precision`, `recall`, `f1`, `auroc` and
            `support`); where no training text had it, figures of probabilities are of the others.
            Labels go by their names, which are texts.

        Raises:
            DataError: texts and labels of different number, or that are none; missing labels; no
                text of a label; another `oos_label` than the classifier was trained with, or one
                that neither it nor the texts know.
            LabelError: a label that the classifier does not know.
        """
        own = self.config.data.oos_label
        if own is not None and oos_label not in (None, own):
            raise DataError(
                f"expected oos_label {own!r}, as the classifier was trained with it, got "
                f"{oos_label!r}; leave it out"
            )
        oos_label = own if oos_label is None else oos_label
        fitted = self._answering()
        texts, labels = checked_texts(texts, labels_of(labels, "test")[0], "keep")
        names = fitted.labels.names
        if oos_label not in (own, *names, *labels):
            raise DataError(
                f"expected oos_label to be a label of the classifier or of the texts, got "
                f"{oos_label!r}; check its name, or leave it out"
            )
        rows = [row for row, one in enumerate(labels) if one != oos_label or one in names]
        truth = [fitted.labels.index(labels[row]) for row in rows]
        scores = self._scores(fitted, texts, progress)
        report = self._report(fitted, scores, labels, oos_label)
        known = scores[rows]
        report.update(probability_figures(known, truth, fitted.temperature))
        curve = risk_coverage(self._probabilities(fitted, known), truth)
        report["risk_coverage"], report["aurc"] = curve
        if fitted.temperature != 1:
            report["temperature"] = fitted.temperature
            report["uncalibrated"] = probability_figures(known, truth, 1.0)
        return report

    def _report(
        self,
        fitted: FittedLabels,
        scores: np.ndarray,
        labels: Sequence[str],
        oos_label: str | None,
    ) -> Report:
        """Figures of what is predicted, that of no label included."""
        said, names = self._said(fitted, scores), list(fitted.labels.names)
        if oos_label is None:
            return classification_report(labels, said, names)
        report = classification_report(labels, said, list(dict.fromkeys([*names, oos_label])))
        belongs = np.array(labels) != oos_label
        if not belongs.all():
            right = np.array(said) == np.array(labels)
            outside = np.array(said) == oos_label
            farness = -highest_in_scope(scores, names, oos_label)
            report["out_of_scope"] = out_of_scope_report(~belongs, outside, right, farness)
        return report

    def _said(self, fitted: FittedLabels, scores: np.ndarray) -> list[str]:
        """The name that is predicted of each text."""
        names, oos_label = fitted.labels.names, self.config.data.oos_label
        said = [names[best] for best in scores.argmax(axis=1)]
        for row in np.flatnonzero(self._scope(fitted).is_outside(scores)):
            said[row] = str(oos_label)
        return said

    def score(self, texts: object, labels: object, sample_weight: object = None) -> float:
        """The share of right answers, as scikit-learn's classifiers have it.

        A label that the classifier does not know is a wrong answer; `evaluate` refuses it.

        Args:
            texts: as `fit` takes them; empty ones are read too.
            labels: the true label of each.
            sample_weight: what each counts; None = all the same.

        Raises:
            DataError: texts, labels and weights of different number, or that are none; missing
                labels, weights that are negative, not finite or all 0.
        """
        fitted = self._answering()
        names = labels_of(labels, "test")[0]
        weighted = list(zip(names, weights_of(sample_weight, len(names)), strict=True))
        texts, weighted = checked_texts(texts, weighted, "keep")
        said = self._said(fitted, self._scores(fitted, texts, None))
        right = [name == true for name, (true, _) in zip(said, weighted, strict=True)]
        return weighted_share(right, [weight for _, weight in weighted])

    def _target(self, labels: Labels, given: Any) -> int:
        return labels.index(given)

    def _finished(
        self, fitted: FittedLabels, validation: Validation | None, result: TrainingResult
    ) -> tuple[TrainingResult, dict[str, object]]:
        """The temperature of the weights that were kept, and what they say of held-out texts."""
        if validation is None:
            return result, {}
        truth = validation.targets
        with counting("calibrating", len(truth)) as advance:
            scores = validation.scores(self._new_scorer(fitted), advance)
        is_fitted = self.config.calibrate and len(truth) >= LEAST_TEXTS
        temperature = fit_temperature(scores, truth) if is_fitted else 1.0
        for name, value in self._calibrated(fitted.labels, scores, truth, temperature).items():
            setattr(fitted, name, value)
        if not is_fitted:
            return result, {}
        return result, {"calibration": calibration_figures(scores, truth, temperature)}

    def _own_config(self, fitted: FittedLabels) -> dict[str, object]:
        own = {"temperature": fitted.temperature, "oos_threshold": fitted.oos_threshold}
        return {**super()._own_config(fitted), **own}

    def _own_files(self, fitted: FittedLabels) -> dict[str, bytes]:
        return {} if fitted.answers is None else {ANSWERS: fitted.answers.to_json()}

    def _restore(self, opened: Opened) -> None:
        super()._restore(opened)
        temperature = opened.fields.get("temperature")
        self._fitted = replace(
            self._trained(),
            temperature=1.0 if temperature is None else float(temperature),
            answers=opened.answers,
            oos_threshold=opened.fields.get("oos_threshold"),
        )


def _kept(fitted: FittedLabels) -> Answers:
    return kept(
        fitted.answers,
        "train with validation texts, or calibrate it on texts of your own; labels that are added "
        "take the answers away",
    )


def _label_length(method: MethodOptions, states: LabelStates) -> int:
    """Virtual tokens of the longest label."""
    return 1 if method.label_tokens == "mean" else states.hidden.shape[1]


def _warn_of_unread_texts(config: Config) -> None:
    """Say where label texts were given that the method does not read."""
    if catalog.reads_texts(config.method) or not with_texts(config.labels or {}):
        return
    name = config.method.name
    logger.warning(
        "method '%s' reads no label texts: those given have no effect, and are kept with the "
        "classifier%s",
        name,
        "; with method.head=match it reads them" if "match" in catalog.ROWS[name].heads else "",
    )


def _warn_of_labels(labels: Labels, method: MethodOptions) -> None:
    """Say where label texts that are read say nothing, or a label looks like several."""
    if catalog.reads_texts(method) and (names := wordless(labels)):
        logger.warning("%s", wordless_hint(names, method.name))
    for _, hint in joined_hints(labels.names):
        logger.warning("%s", hint)


def checked_texts(texts: object, labels: Sequence[L], empty: str) -> tuple[list[Text], list[L]]:
    """Texts with what is said of each, as lists, less the empty ones if these are to be skipped.

    Args:
        texts: as given.
        labels: of each text.
        empty: `refuse`, `skip` or `keep` texts without words.

    Raises:
        DataError: what is no text, numbers that differ, no texts, empty ones.
    """
    given = texts_of(texts)
    if len(given) != len(labels):
        raise DataError(
            f"expected one label for each text, got {len(given)} texts and {len(labels)}"
        )
    if not given:
        raise DataError("expected at least one text, got none")
    pairs = list(zip(given, labels, strict=True))
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


def _part(values: Sequence[L], rows: set[int]) -> list[L]:
    return [value for row, value in enumerate(values) if row in rows]


def _check_validation(
    held_out: Sequence[str], trained: Sequence[str], labels: Labels, config: Config
) -> None:
    known = set(labels.names)
    # A label method can score a label that it has no training text for, if it was told of it.
    if config.labels is None or not catalog.uses_labels(config.method):
        known &= set(trained)
    unknown = sorted(set(held_out) - known)
    if unknown:
        raise DataError(
            "expected validation labels that training has, got "
            f"{', '.join(map(repr, unknown[:5]))} in validation only; "
            "add training texts for them or remove these rows"
        )
