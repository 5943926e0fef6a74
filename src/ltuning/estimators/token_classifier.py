"""The front door to tagging: a language model that finds entities in texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from ltuning.artifacts.opened import Opened
from ltuning.backbones.words import windows_of
from ltuning.data.tables import Places
from ltuning.data.tagged import TaggedExamples
from ltuning.errors import DataError
from ltuning.estimators.answers import Entity as Entity
from ltuning.estimators.answers import entities_of, sentences_to_read
from ltuning.estimators.front import Front, check_device, check_inputs, steps_shown, training
from ltuning.estimators.inputs import pair_of, sentences_of, tag_lists_of
from ltuning.estimators.rows import warn_of_rows
from ltuning.estimators.run_record import run_figures
from ltuning.methods import catalog
from ltuning.methods.checks import with_texts
from ltuning.methods.tuned import TagModel, Tuned
from ltuning.metrics import Report, span_report
from ltuning.scoring import Progress, TagScorer
from ltuning.sentences import Scheme, Sentence, Span, scheme_of, spans_of, tags_of
from ltuning.stages import counting
from ltuning.suggestions import listed, unknown
from ltuning.tag_decoding import best_tags, tag_names
from ltuning.training.datasets import WindowDataset
from ltuning.training.objectives import TagsObjective
from ltuning.training.validation import TagValidation

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ltuning.training.result import TrainingResult

logger = logging.getLogger("ltuning")


@dataclass
class _Fitted:
    """A trained tagger and what it was trained for."""

    types: tuple[str, ...]
    scheme: Scheme
    model: TagModel
    max_length: int
    num_texts: int = 0
    scorer: TagScorer | None = None


class TokenClassifier(Front[_Fitted]):
    """A tagger on a frozen language model: it finds entities, by a tag for every word.

    A word is read at its first token. Sentences of any length are read: long ones in windows of
    the backbone's length that overlap.
    """

    task = "tags"
    default_method = "ls-lora"

    @property
    def types_(self) -> tuple[str, ...]:
        """The types of the trained tagger."""
        return self._trained().types

    def fit(
        self,
        token_lists: object,
        tag_lists: object,
        validation: tuple[object, object] | None = None,
        *,
        checkpoints: Path | None = None,
        resume: bool = False,
        callbacks: Sequence[TrainerCallback] = (),
        progress: bool | None = None,
    ) -> Self:
        """Train on sentences, each a list of words (or a `Sentence`), with a tag for each word.

        Afterwards `figures` has what training took and validation came to, `result_` its course.

        Args:
            token_lists: training sentences: a list, a tuple, an array, a column (of NumPy, pandas,
                datasets, Arrow), a generator, or a frame of one column.
            tag_lists: their tags, of IOB2 or BIOES.
            validation: sentences and tags that choose the best weights and stop early.
            checkpoints: folder for checkpoints; None = a temporary one.
            resume: go on from the newest checkpoint there.
            callbacks: transformers' TrainerCallbacks.
            progress: show stages, length and steps on stderr; None = where that is a terminal or
                a notebook.

        Raises:
            DataError: words and tags that do not fit each other, tags of neither scheme, a type
                that is not among the labels given, or in validation one that training has not.
            BackboneError: a tokenizer that does not say where its tokens are.
            TrainingError: a loss that is not finite.
        """
        sentences, spans, scheme = _checked(token_lists, tag_lists, "training")
        types = self._types(spans)
        splits, held_out = {"train": _indexed(sentences, spans, "training")}, None
        if validation is not None:
            held_out = _checked(*pair_of(validation), "validation")[:2]
            _check_types(held_out[1], types, "validation")
            splits["validation"] = _indexed(*held_out, "validation")
        warn_of_rows(splits, one_of_each=False)
        self._check_training(validation is not None)
        check_device(self.backbone)
        callbacks = self._callbacks(callbacks, checkpoints)
        with training(checkpoints) as folder, steps_shown(progress) as bars:
            callbacks = [*callbacks, *bars]
            check_inputs(self.backbone, types, sentences, spans, held_out)
            fitted = self._build(types, scheme, len(sentences))
            result = self._train(fitted, (sentences, spans), held_out, folder, resume, callbacks)
        # Only now: a run that fails leaves the tagger as it was.
        self._fitted, self.result_ = fitted, result
        self.figures = run_figures(result, fitted)
        return self

    def predict(self, texts: object, progress: Progress | None = None) -> list[list[Entity]]:
        """The entities of each text, in its order.

        Args:
            texts: texts, whose words are found by `Sentence.of_text`, or sentences.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is neither; lists of words go to `predict_tags`.
        """
        fitted = self._trained()
        sentences = sentences_to_read(texts)
        tables = self._scorer_of(fitted).probabilities(sentences, progress)
        return [
            entities_of(sentence, table, tag_names(fitted.types))
            for sentence, table in zip(sentences, tables, strict=True)
        ]

    def predict_tags(
        self, token_lists: object, progress: Progress | None = None
    ) -> list[list[str]]:
        """A tag for each word of each sentence, of the scheme that the training tags had.

        Args:
            token_lists: sentences, each a list of words or a `Sentence`; one without words has no
                tags.
            progress: called with the number of sentences just done.

        Raises:
            DataError: what is no list of sentences.
        """
        fitted = self._trained()
        sentences = sentences_of(token_lists, "the texts")
        return [
            tags_of(spans_of(tags, "IOB2"), len(tags), fitted.scheme)
            for tags in self._predicted(fitted, sentences, progress)
        ]

    def evaluate(
        self,
        token_lists: object,
        tag_lists: object,
        progress: Progress | None = None,
    ) -> Report:
        """Precision, recall and F1 of entities, overall and per type; seqeval, strict.

        An entity counts where its words and its type are all right.

        Args:
            token_lists: sentences, as `fit` takes them.
            tag_lists: their true tags.
            progress: called with the number of sentences just done.

        Returns:
            `precision`, `recall` and `f1` over all entities, `num_examples` (sentences),
            `num_entities`, and `per_class`: the same figures and the `support` of each type.

        Raises:
            DataError: as `fit`, and a type that the tagger does not know.
        """
        fitted = self._trained()
        sentences, spans, _ = _checked(token_lists, tag_lists, "test")
        _check_types(spans, fitted.types, "test")
        return span_report(_tags(sentences, spans), self._predicted(fitted, sentences, progress))

    def scorer(self) -> TagScorer:
        """The scorer behind `predict`."""
        return self._scorer_of(self._trained())

    def _scorer_of(self, fitted: _Fitted) -> TagScorer:
        if (scorer := fitted.scorer) is None:
            fitted.model.adapter.eval()
            scorer = fitted.scorer = TagScorer(fitted.model, self.config.backbone.max_branches)
        return scorer

    def _predicted(
        self, fitted: _Fitted, sentences: Sequence[Sentence], progress: Progress | None
    ) -> list[list[str]]:
        names = tag_names(fitted.types)
        tables = self._scorer_of(fitted).probabilities(sentences, progress)
        return [[names[tag] for tag in best_tags(table)] for table in tables]

    def _types(self, spans: Sequence[Sequence[Span]]) -> tuple[str, ...]:
        found = sorted({span.type for sentence in spans for span in sentence})
        if self.config.labels is None:
            if not found:
                raise DataError(
                    "expected entities in the training tags, got O everywhere; tag some words"
                )
            return tuple(found)
        if unread := with_texts(self.config.labels):
            logger.warning(
                "no method reads texts of types of entities: those of %s have no effect; give the "
                "names alone",
                listed(unread),
            )
        types = tuple(self.config.labels)
        _check_types(spans, types, "training")
        return types

    def _build(self, types: tuple[str, ...], scheme: Scheme, num_texts: int) -> _Fitted:
        backbone = self.backbone
        method = catalog.resolve(self.config.method, backbone.family, backbone.sizes.layers)
        num_tags = len(tag_names(types))
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            tuned = Tuned.new(backbone, replace(method, pooling=None), num_tags)
        model = TagModel(backbone, tuned, None, range(num_tags))
        return _Fitted(types, scheme, model, backbone.max_length, num_texts)

    def _train(
        self,
        fitted: _Fitted,
        data: tuple[list[Sentence], list[list[Span]]],
        held_out: tuple[list[Sentence], list[list[Span]]] | None,
        folder: Path,
        resume: bool,
        callbacks: Sequence[TrainerCallback],
    ) -> TrainingResult:
        from ltuning.training.trainer import train

        names = tag_names(fitted.types)
        sentences, spans = data
        with counting("finding the words", len(sentences)) as advance:
            windows = windows_of(self.backbone, sentences)
            advance(len(sentences))
        validation = None
        if held_out is not None:
            validation = TagValidation(
                windows_of(self.backbone, held_out[0]), _targets(*held_out, names), names
            )
        has_validation = validation is not None
        run = self._run(fitted, len(windows), has_validation, folder, resume, callbacks)
        data_set = WindowDataset(windows, _targets(sentences, spans, names))
        return train(fitted.model, TagsObjective(), data_set, validation, run)

    def _restore(self, opened: Opened) -> None:
        types, saved = tuple(opened.fields["labels"]), opened.fields
        num_tags = len(tag_names(types))
        tuned = Tuned.load(
            self.backbone, opened.method, num_tags, opened.tensors, opened.parts, opened.folder
        )
        model = TagModel(self.backbone, tuned, None, range(num_tags))
        self._fitted = _Fitted(types, saved["scheme"], model, saved["max_length"])

    def _read_labels(self, labels: Any, texts_read: bool) -> Any:
        # The configuration says what is wrong with what is neither.
        return labels if isinstance(labels, Mapping | str) else list(labels)

    def _outputs(self, fitted: _Fitted) -> Sequence[str]:
        return tag_names(fitted.types)

    def _own_config(self, fitted: _Fitted) -> dict[str, object]:
        labels = {type_: [type_] for type_ in fitted.types}
        return {"labels": labels, "scheme": fitted.scheme}


def _checked(
    token_lists: object, tag_lists: object, what: str
) -> tuple[list[Sentence], list[list[Span]], Scheme]:
    """Sentences, their entities, and the scheme of their tags."""
    sentences, tag_lists = sentences_of(token_lists, what), tag_lists_of(tag_lists, what)
    if len(sentences) != len(tag_lists):
        raise DataError(
            f"expected tags for each {what} sentence, got {len(sentences)} sentences and "
            f"{len(tag_lists)} lists of tags"
        )
    if not sentences:
        raise DataError(f"expected at least one {what} sentence, got none")
    scheme = scheme_of(tag_lists)
    spans = []
    for row, (sentence, tags) in enumerate(zip(sentences, tag_lists, strict=True), start=1):
        where = f"{what}, row {row}"
        if not sentence.words:
            raise DataError(
                f"{where}: expected a sentence of one word or more, got none; remove it"
            )
        if len(tags) != len(sentence.words):
            raise DataError(
                f"{where}: expected a tag for each word, got {len(sentence.words)} words and "
                f"{len(tags)} tags; give every word one tag, O outside of entities"
            )
        spans.append(spans_of(tags, scheme, where))
    return sentences, spans, scheme


def _tags(sentences: Sequence[Sentence], spans: Sequence[Sequence[Span]]) -> list[list[str]]:
    return [
        tags_of(found, len(sentence.words))
        for sentence, found in zip(sentences, spans, strict=True)
    ]


def _indexed(sentences: list[Sentence], spans: Sequence[Sequence[Span]], of: str) -> TaggedExamples:
    tags = _tags(sentences, spans)
    places = Places("index", range(len(sentences)))
    return TaggedExamples(sentences, tags, f"{of} sentences", places)


def _check_types(spans: Sequence[Sequence[Span]], types: Sequence[str], what: str) -> None:
    for row, found in enumerate(spans, start=1):
        for span in found:
            if span.type not in types:
                raise DataError(f"{what}, row {row}: {unknown('type', span.type, types)}")


def _targets(
    sentences: Sequence[Sentence], spans: Sequence[Sequence[Span]], names: Sequence[str]
) -> list[list[int]]:
    place = {name: index for index, name in enumerate(names)}
    return [[place[tag] for tag in tags] for tags in _tags(sentences, spans)]
