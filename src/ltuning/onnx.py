"""Classifiers that `ltuning export` wrote, without torch: onnxruntime, tokenizers and NumPy.

The folder has three files::

    model.onnx       token ids in, scores out: backbone, virtual tokens and head
    tokenizer.json   of the tokenizers library
    labels.json      the labels, and what happens before and after the graph
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ltuning.artifacts import folders
from ltuning.backbones.batch_sizes import alike, by_length, pieces
from ltuning.backbones.long_texts import (
    Tokens,
    Windows,
    read_of_long,
    texts_done,
    warn_of_cut,
)
from ltuning.backbones.word_places import (
    Offsets,
    Window,
    check_every_word_is_read,
    sentence_windows,
    shared_tokens,
)
from ltuning.calibration import (
    Answers,
    Threshold,
    kept,
    probabilities_of,
    sigmoid,
)
from ltuning.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    MissingExtraError,
    Problem,
    ScoresError,
)
from ltuning.estimators.answers import (
    Entity,
    check_abstain,
    entities_of,
    label_array,
    labels_reached,
    labels_said,
    sentences_to_read,
    sets_said,
    warn_of_others,
)
from ltuning.estimators.inputs import sentences_of, texts_of
from ltuning.estimators.scope import Scope
from ltuning.sentences import Sentence, spans_of, tags_of
from ltuning.suggestions import unknown
from ltuning.tag_decoding import best_tags, tag_names
from ltuning.texts import Text, num_characters
from ltuning.values import OF_NAME, Label

logger = logging.getLogger("ltuning")

if TYPE_CHECKING:
    from ltuning.config import Config

_OWN_SHA = "own_sha256"
GRAPH, TOKENIZER, LABELS = "model.onnx", "tokenizer.json", folders.EXPORTED
FORMAT = 1
_OTHERS = frozenset({GRAPH, TOKENIZER})

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Description:
    """What `labels.json` says: the labels, and what happens before and after the graph.

    Attributes:
        task: `classes`, `multilabel` or `tags`.
        labels: `[K]` names of labels or of types of entities.
        label_type: what the labels are in the data: text, integer, number or boolean.
        inputs: of the graph, each `[B, T]` integers: token ids, 1 at real tokens, segment ids.
        padding_id: the token that fills a row.
        empty_id: the token that stands for a text without any.
        max_length: most tokens of a text or window, special ones included.
        truncation_side: where a text is cut.
        long_texts: `cut` or `windows`.
        batch_size: most texts at a time.
        branches: rows that the graph makes of a text: of label texts that are read apart.
        pairs: whether it was trained on pairs of texts; None where on both.
        temperature: what scores are divided by before the softmax.
        oos_label: what texts get that belong to no label.
        oos_threshold: the highest score below which they do.
        thresholds: `[K]` from which probability on each label applies; None where a text has one.
        scheme: of tags; None where texts have labels.
        text_column: of the training data, if it was named.
        text_pair_column: of the training data, if it was named.
        answers: on held-out texts.
        sha256: of the other two files.
        ltuning_version: what exported it.
    """

    task: str
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    padding_id: int
    empty_id: int
    max_length: int
    batch_size: int
    sha256: Mapping[str, str]
    ltuning_version: str
    label_type: Any = "text"
    truncation_side: str = "right"
    long_texts: Any = "cut"
    branches: int = 1
    pairs: bool | None = None
    temperature: float = 1.0
    oos_label: str | None = None
    oos_threshold: float | None = None
    thresholds: tuple[float, ...] | None = None
    scheme: Any = None
    text_column: str | None = None
    text_pair_column: str | None = None
    answers: Mapping[str, Any] | None = None

    @property
    def held_out(self) -> Answers | None:
        """`answers`, as what they are."""
        return None if self.answers is None else Answers.from_plain(self.answers)

    def to_json(self) -> str:
        """The file."""
        named = {item.name: getattr(self, item.name) for item in fields(self)}
        return folders.signed_json({"format": FORMAT, **named}, _OWN_SHA)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What a folder's file says.

        Raises:
            ArtifactError: there is none, or it does not hold what `to_json` wrote.
        """
        path = folder / LABELS
        if not os.path.exists(path) and os.path.exists(folder / folders.CONFIG):
            raise ArtifactError(
                f"expected a folder that `ltuning export` wrote, got a trained classifier in "
                f"{folder}; write one with ltuning export {folder} --output DIR"
            )
        try:
            given = json.loads(folders.read_file(path, folders.LONGEST_JSON))
            problem = _problem(given)
        except (ValueError, RecursionError) as error:
            problem = f"expected JSON, got {error}"
        if problem is not None:
            raise ArtifactError(
                f"{path} does not hold what `ltuning export` writes: {problem}; export the "
                "classifier again"
            )
        known = {item.name for item in fields(cls)}
        made = {name: _tuple(value) for name, value in given.items() if name in known}
        return cls(**made)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: object) -> bool:
    return type(value) is int and 1 <= value < 2**31


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and bool(np.isfinite(value))  # type: ignore[call-overload]


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is str for one in value)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


_EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "format": (f"{FORMAT}", lambda value: value == FORMAT),
    "task": ("a task", lambda value: isinstance(value, str)),
    "labels": ("names of labels", _are_texts),
    "label_type": (f"one of {', '.join(OF_NAME)}", lambda value: value in [*OF_NAME]),
    "inputs": ("names of inputs", _are_texts),
    "padding_id": ("a token", lambda value: type(value) is int),
    "empty_id": ("a token", lambda value: type(value) is int),
    "max_length": ("an integer of 1 or more", _is_count),
    "batch_size": ("an integer of 1 or more", _is_count),
    "branches": ("an integer of 1 or more", _is_count),
    "truncation_side": ("left or right", lambda value: value in ("left", "right")),
    "long_texts": ("cut or windows", lambda value: value in ("cut", "windows")),
    "pairs": ("true, false or null", lambda value: value in (True, False, None)),
    "temperature": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "oos_label": ("a text or null", _is_text_or_none),
    "oos_threshold": ("a number or null", lambda value: value is None or _is_number(value)),
    "scheme": ("IOB2, BIOES or null", lambda value: value in ("IOB2", "BIOES", None)),
    "text_column": ("a text or null", _is_text_or_none),
    "text_pair_column": ("a text or null", _is_text_or_none),
    "answers": ("answers or null", lambda value: value is None or bool(Answers.from_plain(value))),
    "sha256": ("checksums", lambda value: isinstance(value, dict) and {*value} >= _OTHERS),
    "ltuning_version": ("a version", lambda value: isinstance(value, str)),
}  # fmt: skip


def _problem(given: Any) -> str | None:
    """The first thing that is wrong with what a file says."""
    if not isinstance(given, dict):
        return f"expected names and values, got {given!r:.80}"
    for name, (expected, fits) in _EXPECTED.items():
        if not fits(given.get(name)):
            return f"expected {expected} for {name}, got {given.get(name)!r:.80}"
    number, thresholds = len(given["labels"]), given.get("thresholds")
    is_list = isinstance(thresholds, list) and [*map(_is_number, thresholds)] == [True] * number
    if thresholds is not None and not is_list:
        return f"expected {number} numbers for thresholds, got {thresholds!r:.80}"
    if given.get(_OWN_SHA) != folders.json_sha(given, _OWN_SHA):
        return f"it was changed since (its content does not match {_OWN_SHA})"
    return None


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that `ltuning export` wrote."""
    return (folder / LABELS).is_file() and not (folder / folders.CONFIG).exists()


def config_of(description: Description) -> Config:
    """What is asked of the configuration of a trained classifier, of an exported one.

    Raises:
        ArtifactError: a task that there is not.
    """
    from ltuning.config import TASK_FACTS, Config, DataOptions

    if description.task not in TASK_FACTS:
        raise ArtifactError(unknown("task of an exported classifier", description.task, TASK_FACTS))
    data = DataOptions(
        text_column=description.text_column,
        text_pair_column=description.text_pair_column,
        oos_label=description.oos_label,
    )
    return Config(task=description.task, data=data)  # type: ignore[arg-type]


def load(folder: str | Path, *, threads: int | None = None) -> OnnxClassifier | OnnxTokenClassifier:
    """The classifier of a folder, of texts or of words.

    Args:
        folder: what `ltuning export` wrote.
        threads: that it runs on; None = one for each core.

    Raises:
        ArtifactError: a file that is missing, was changed, or cannot be read.
        MissingExtraError: onnxruntime or tokenizers is not installed.
        ConfigError: a number of threads below 1.
    """
    is_tagger = Description.read(Path(os.path.expanduser(folder))).scheme is not None
    door = OnnxTokenClassifier if is_tagger else OnnxClassifier
    return door(folder, threads=threads)


@dataclass(frozen=True)
class _Cpu:
    type: str = "cpu"


class _Exported:
    """What is common to classifiers of texts and of words.

    Attributes:
        description: what `labels.json` says.
    """

    def __init__(self, folder: str | Path, *, threads: int | None = None):
        """Read the folder; takes well under a second for a small model.

        Args:
            folder: what `ltuning export` wrote.
            threads: that it runs on; None = one for each core.

        Raises:
            ArtifactError: a file that is missing, was changed, or cannot be read; a classifier
                of words for one of texts, or the other way round.
            MissingExtraError: onnxruntime or tokenizers is not installed.
            ConfigError: a number of threads below 1.
        """
        if threads is not None and threads < 1:
            raise ConfigError([Problem("threads", f"expected 1 or more, got {threads}")])
        self._folder = Path(os.path.expanduser(folder))
        self.description = Description.read(self._folder)
        self._check_kind()
        self._tokenizer = self._opened(TOKENIZER, _tokenizer)
        self._session = self._opened(GRAPH, partial(_session, threads=threads))
        self._check_graph()

    def __repr__(self) -> str:
        """What it is, and where it was read."""
        labels = len(self.description.labels)
        return f"<{type(self).__name__} of {labels} labels from {self._folder}>"

    def _check_kind(self) -> None:
        """Refuse a folder of the other class."""
        own, other = "OnnxClassifier", "OnnxTokenClassifier"
        is_tagger = self.description.scheme is not None
        if is_tagger != isinstance(self, OnnxTokenClassifier):
            own, other = (own, other) if is_tagger else (other, own)
            what = "words" if is_tagger else "texts"
            raise ArtifactError(
                f"expected a folder for {own}, got a classifier of {what} in {self._folder}; load "
                f"it with {other}"
            )

    def _opened(self, name: str, open_: Callable[[bytes], Any]) -> Any:
        path = self._folder / name
        content = folders.read_file(path)
        if hashlib.sha256(content).hexdigest() != self.description.sha256[name]:
            raise ArtifactError(
                f"{path} was changed or damaged since it was exported (its content does not match "
                f"sha256 in {LABELS}): restore the file or export the classifier again"
            )
        try:
            return open_(content)
        except ImportError as error:
            raise MissingExtraError("an exported classifier", "onnx") from error
        # Neither library has a class for what it raises.
        except Exception as error:
            # It is what was exported, to the byte.
            raise ArtifactError(
                f"cannot read {path}: {error}; the file is whole: take a newer onnxruntime and "
                "tokenizers, or see whether there is room for it in memory"
            ) from error

    def _check_graph(self) -> None:
        given = tuple(one.name for one in self._session.get_inputs())
        width = self._session.get_outputs()[0].shape[-1]
        if {*given} != {*self.description.inputs} or width != self._outputs:
            raise ArtifactError(
                f"expected a graph of {', '.join(self.description.inputs)} that gives "
                f"{self._outputs} scores in {self._folder / GRAPH}, got one of {', '.join(given)} "
                f"that gives {width}; export the classifier again"
            )

    @property
    def _outputs(self) -> int:
        """Scores of a text or a word."""
        return len(self.description.labels)

    def _run(self, batch: Sequence[Tokens]) -> np.ndarray:
        """What the graph gives for tokenized texts, padded on the right."""
        length = max(len(tokens["input_ids"]) for tokens in batch)
        mask = np.zeros((len(batch), length), dtype=np.int64)
        ids = np.full_like(mask, self.description.padding_id)
        types = np.zeros_like(mask)
        for row, tokens in enumerate(batch):
            size = len(tokens["input_ids"])
            mask[row, :size] = 1
            ids[row, :size] = tokens["input_ids"]
            types[row, :size] = tokens["token_type_ids"]
        arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        named = {name: arrays[name] for name in self.description.inputs}
        scores: np.ndarray = self._session.run(None, named)[0]
        if not np.isfinite(scores[mask == 1] if scores.ndim == 3 else scores).all():
            raise ScoresError(
                f"expected finite scores, got NaN or infinity from {self._folder / GRAPH}; export "
                "the classifier again"
            )
        return scores

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        most = self.description.batch_size
        return by_length(lengths, most, _Cpu(), self.description.branches)


def _tokenizer(content: bytes) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content.decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _session(content: bytes, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _tokens(encoding: Any) -> Tokens:
    return {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}


class OnnxClassifier(_Exported):
    """A classifier of texts in an ONNX file: one label for each, or every label that applies.

    It answers as the classifier that was exported, but for the rounding of float32.
    """

    @property
    def classes_(self) -> np.ndarray:
        """`[K]` labels as they are in the data, in the order of `predict_proba`'s columns."""
        return label_array(self._labels)

    @cached_property
    def _labels(self) -> list[Label]:
        of_name = OF_NAME[self.description.label_type]
        return [of_name(name) for name in self.description.labels]

    @property
    def temperature_(self) -> float:
        """What scores are divided by before they are probabilities."""
        return self.description.temperature

    @property
    def thresholds_(self) -> np.ndarray:
        """`[K]` the probability from which on each label applies, where several may."""
        if self.description.thresholds is None:
            raise AttributeError("it gives each text one label, and has no thresholds")
        return np.array(self.description.thresholds)

    @property
    def answers_(self) -> Answers:
        """What it said of held-out texts before it was exported.

        Raises:
            DataError: there are none.
        """
        otherwise = "train with validation texts, or calibrate it, and export it again"
        return kept(self.description.held_out, otherwise)

    def predict(
        self, texts: object, progress: Progress | None = None, *, abstain: float | None = None
    ) -> Any:
        """The most probable label of each text, `[N]`; where several may apply lists of those.

        Args:
            texts: texts, or (text, text) pairs: a list, a tuple, an array, a column or a generator.
            progress: called with the number of texts just done.
            abstain: from which probability on a label is said; other texts have None.

        Raises:
            DataError: what is no column of texts, or no probability; `abstain` where several
                labels may apply.
        """
        check_abstain(abstain)
        scores, thresholds = self.scores(texts, progress), self.description.thresholds
        if thresholds is not None:
            if abstain is not None:
                raise DataError("expected no abstain where several labels may apply; leave it out")
            return labels_reached(self._labels, self._probabilities(scores) >= thresholds)
        chances, outside = self._probabilities(scores), self.is_outside(scores)
        return labels_said(self.classes_, chances, abstain, outside, self._scope.for_none)

    def predict_proba(self, texts: object, progress: Progress | None = None) -> np.ndarray:
        """Probabilities `[N, K]` of the labels, in the order of `classes_`.

        Args:
            texts: as `predict` takes them.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is no column of texts.
        """
        return self._probabilities(self.scores(texts, progress))

    def predict_sets(
        self, texts: object, coverage: float = 0.9, progress: Progress | None = None
    ) -> list[list[Label]]:
        """The labels of each text that may be true; see `LabelClassifier.predict_sets`.

        Args:
            texts: as `predict` takes them.
            coverage: above 0 and below 1.
            progress: called with the number of texts just done.

        Raises:
            DataError: no held-out answers, or too few for this coverage.
        """
        least = self.answers_.least_probability(coverage)
        scores = self.scores(texts, progress)
        chances, outside = self._probabilities(scores), self.is_outside(scores)
        return sets_said(self._labels, chances, least, outside, self._scope.for_none)

    def threshold_for(self, precision: float) -> Threshold:
        """The probability from which on so many answers are right, for `predict(abstain=...)`.

        Args:
            precision: the share of right answers among those that are given, such as .95.

        Raises:
            DataError: no held-out answers, or no threshold reaches the precision.
        """
        return self.answers_.threshold_for(precision)

    def scores(self, texts: object, progress: Progress | None = None) -> np.ndarray:
        """Scores `[N, K]` before they are probabilities.

        Args:
            texts: as `predict` takes them.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is no column of texts.
        """
        given = texts_of(texts)
        warn_of_others(given, self.description.pairs)
        scores = np.empty((len(given), self._outputs), dtype=np.float32)
        lengths: list[int] = []
        for rows in pieces([num_characters(text) for text in given]):
            windows = self._windows([given[row] for row in rows])
            scores[rows.start : rows.stop] = self._of_windows(windows, progress)
            lengths += windows.lengths
        if self.description.long_texts == "cut":
            warn_of_cut(given, lengths, self.description.max_length)
        return scores

    @property
    def _scope(self) -> Scope:
        known = self.description
        return Scope(known.labels, known.label_type, known.oos_label, known.oos_threshold)

    def is_outside(self, scores: np.ndarray) -> np.ndarray:
        """`[N]` bool: the texts that belong to no label, by the `scores` of theirs."""
        return self._scope.is_outside(scores)

    def _probabilities(self, scores: np.ndarray) -> np.ndarray:
        if self.description.thresholds is not None:
            return sigmoid(scores)
        return probabilities_of(scores, self.description.temperature)

    def _windows(self, texts: Sequence[Text]) -> Windows:
        """Texts as the graph reads them."""
        found: list[list[Tokens]] = [[] for _ in texts]
        lengths = [0] * len(texts)
        for rows in alike(texts):
            some = [texts[row] for row in rows]
            encodings = self._tokenizer.encode_batch(some)
            for row, text, encoding in zip(rows, some, encodings, strict=True):
                found[row], lengths[row] = self._read(text, encoding), len(encoding.ids)
        tokens = [window for windows in found for window in windows]
        return Windows(tokens, [len(windows) for windows in found], lengths)

    def _read(self, text: Text, encoding: Any) -> list[Tokens]:
        """What is read of a text: its windows, all of it, or a part."""
        description, tokens = self.description, _tokens(encoding)
        if not encoding.ids:
            return [{"input_ids": [description.empty_id], "token_type_ids": [0]}]
        if len(encoding.ids) <= description.max_length:
            return [tokens]
        from_left = description.truncation_side == "left"
        how = (description.max_length, description.long_texts, from_left)
        return read_of_long(text, tokens, encoding.sequence_ids, *how)

    def _of_windows(self, windows: Windows, progress: Progress | None) -> np.ndarray:
        """`[N, K]` of texts, each in one window or several."""
        counts, tokens = windows.counts, windows.tokens
        scores = np.empty((len(tokens), self._outputs), dtype=np.float32)
        owners, left = np.arange(len(counts)).repeat(counts), np.array(counts)
        for rows in self._batches([len(one["input_ids"]) for one in tokens]):
            scores[rows] = self._run([tokens[row] for row in rows])
            if progress is not None:
                progress(texts_done(left, owners, rows))
        if len(scores) == len(counts):
            return scores
        # As `methods.heads.over_windows`: the log of the mean of the exponentials.
        sums = np.logaddexp.reduceat(scores, np.cumsum([0, *counts[:-1]]), axis=0)
        return sums - np.log(counts)[:, None]


class OnnxTokenClassifier(_Exported):
    """A tagger in an ONNX file: it finds entities, by a tag for every word."""

    def __init__(self, folder: str | Path, *, threads: int | None = None):
        super().__init__(folder, threads=threads)
        # Words are encoded alone, too, without special tokens and whole.
        self._whole = self._opened(TOKENIZER, _tokenizer)
        room = self.description.max_length - self._tokenizer.num_special_tokens_to_add(False)
        self._tokenizer.enable_truncation(
            self.description.max_length,
            stride=shared_tokens(room),
            direction=self.description.truncation_side,
        )

    @property
    def types_(self) -> tuple[str, ...]:
        """The types of entities."""
        return self.description.labels

    @property
    def _outputs(self) -> int:
        return len(self._names)

    @cached_property
    def _names(self) -> list[str]:
        return tag_names(self.description.labels)

    def predict(self, texts: object, progress: Progress | None = None) -> list[list[Entity]]:
        """The entities of each text, in its order.

        Args:
            texts: texts, whose words are found by `Sentence.of_text`, or sentences.
            progress: called with the number of texts just done.

        Raises:
            DataError: what is neither; lists of words go to `predict_tags`.
        """
        sentences = sentences_to_read(texts)
        tables = self.probabilities(sentences, progress)
        pairs = zip(sentences, tables, strict=True)
        return [entities_of(sentence, table, self._names) for sentence, table in pairs]

    def predict_tags(
        self, token_lists: object, progress: Progress | None = None
    ) -> list[list[str]]:
        """A tag for each word of each sentence, of the scheme that the training tags had.

        Args:
            token_lists: sentences, each a list of words or a `Sentence`.
            progress: called with the number of sentences just done.

        Raises:
            DataError: what is no list of sentences.
        """
        tables = self.probabilities(sentences_of(token_lists, "the texts"), progress)
        tags = [[self._names[tag] for tag in best_tags(table)] for table in tables]
        scheme = self.description.scheme
        return [tags_of(spans_of(some, "IOB2"), len(some), scheme) for some in tags]

    def probabilities(
        self, sentences: Sequence[Sentence], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """`[W, 1 + 2K]` for each sentence; a word without a token is outside."""
        found = [np.zeros((len(one.words), self._outputs), np.float32) for one in sentences]
        for table in found:
            table[:, 0] = 1.0
        numbers = [number for number, sentence in enumerate(sentences) if sentence.words]
        if progress is not None:
            progress(len(sentences) - len(numbers))
        for piece in pieces([len(sentences[number].text) for number in numbers]):
            some = [numbers[place] for place in piece]
            self._fill(found, self._windows(sentences, some))
            if progress is not None:
                progress(len(some))
        return found

    def _windows(self, sentences: Sequence[Sentence], numbers: Sequence[int]) -> list[Window]:
        """As `backbones.words.windows_of`, of sentences with words."""
        windows = []
        encodings = self._tokenizer.encode_batch([sentences[number].text for number in numbers])
        for number, encoding in zip(numbers, encodings, strict=True):
            parts = [(_tokens(one), one.offsets) for one in (encoding, *encoding.overflowing)]
            places = [offsets for _, offsets in parts]
            check_every_word_is_read(
                str(self._folder), self._offsets_alone, sentences[number], places
            )
            windows += sentence_windows(number, sentences[number], parts)
        return windows

    def _offsets_alone(self, words: list[str]) -> list[Offsets]:
        encodings = self._whole.encode_batch(words, add_special_tokens=False)
        return [encoding.offsets for encoding in encodings]

    def _fill(self, found: list[np.ndarray], windows: Sequence[Window]) -> None:
        """Put the probabilities of the words that are read in windows into their tables."""
        for rows in self._batches([len(one.tokens["input_ids"]) for one in windows]):
            scores = self._run([windows[row].tokens for row in rows])
            for row, table in zip(rows, scores, strict=True):
                window = windows[row]
                found[window.sentence][window.words] = probabilities_of(table[window.places], 1.0)
