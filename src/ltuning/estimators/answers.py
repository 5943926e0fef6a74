"""What front doors make of scores and probabilities, whatever computed these; imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ltuning.calibration import prediction_set
from ltuning.errors import DataError
from ltuning.estimators.inputs import check_whole, rows_of
from ltuning.sentences import Sentence, spans_of
from ltuning.tag_decoding import best_tags
from ltuning.texts import Text
from ltuning.values import Label

logger = logging.getLogger("ltuning")

T = TypeVar("T")


@dataclass(frozen=True)
class Entity:
    """A part of a text that has a type.

    Attributes:
        start: its first character, counted from 0.
        end: the character after its last.
        text: the characters between.
        type: of which kind it is.
        probability: that all its words have the tags they got: the product over its words.
    """

    start: int
    end: int
    text: str
    type: str
    probability: float


def label_array(labels: Sequence[Label]) -> np.ndarray:
    """`[K]` labels as they are in the data; integers too large for NumPy stay Python's."""
    values = np.array(labels)
    # NumPy makes floats of integers on both sides of 2**63.
    bent = type(labels[0]) is int and values.dtype.kind == "f"
    return np.array(labels, dtype=object) if bent else values


def check_abstain(abstain: float | None) -> None:
    """Refuse what is no probability.

    Raises:
        DataError: such a one.
    """
    if abstain is not None and not 0 <= abstain <= 1:
        raise DataError(f"expected a probability from 0 to 1 for abstain, got {abstain!r}")


def labels_said(
    classes: np.ndarray,
    probabilities: np.ndarray,
    abstain: float | None,
    outside: np.ndarray,
    for_none: Label | None,
) -> np.ndarray:
    """`[N]` the most probable label of each text.

    Args:
        classes: `[K]` labels.
        probabilities: `[N, K]`.
        abstain: from which probability on a label is said; other texts have None.
        outside: `[N]` the texts that belong to no label.
        for_none: what these get; None where there are none.
    """
    predicted: np.ndarray = classes[probabilities.argmax(axis=1)]
    if abstain is None and for_none is None:
        return predicted
    said = predicted.astype(object)
    if abstain is not None:
        said[probabilities.max(axis=1) < abstain] = None
    if for_none is not None:
        said[outside] = for_none
    return said


def sets_said(
    labels: Sequence[T],
    probabilities: np.ndarray,
    least: float,
    outside: np.ndarray,
    for_none: T | None,
) -> list[list[T]]:
    """The labels of each text that may be true, the most probable one first.

    Args:
        labels: K labels.
        probabilities: `[N, K]`.
        least: from which probability on a label is in a set.
        outside: `[N]` the texts that belong to no label.
        for_none: what these get: it stands first in their sets, which keep what else may be true.
    """
    sets = [[labels[one] for one in prediction_set(row, least)] for row in probabilities]
    if for_none is not None:
        for row in outside.nonzero()[0]:
            sets[row] = [for_none, *(label for label in sets[row] if label != for_none)]
    return sets


def labels_reached(labels: Sequence[T], reached: np.ndarray) -> list[list[T]]:
    """The labels of each text for which `[N, K]` is true."""
    return [[labels[label] for label in row.nonzero()[0]] for row in reached]


def warn_of_others(texts: Sequence[Text], pairs: bool | None) -> None:
    """Say where single texts come to a classifier of pairs, or pairs to one of single texts."""
    others = sum(isinstance(text, tuple) != pairs for text in texts)
    if pairs is None or not others:
        return
    kinds = ("pairs of texts", "single texts")
    trained, came = kinds if pairs else kinds[::-1]
    logger.warning(
        "the classifier was trained on %s, and %d of the %d given are %s: its answers for them "
        "mean little",
        trained,
        others,
        len(texts),
        came,
    )


def sentences_to_read(texts: object) -> list[Sentence]:
    """Texts, whose words are found, or sentences.

    Raises:
        DataError: what is neither.
    """
    given = rows_of(texts, "a list of texts", "[text]")
    for index, text in enumerate(given):
        if not isinstance(text, str | Sentence):
            raise DataError(
                f"expected a list of texts, got {text!r:.80} in it; give texts, or lists of "
                "words to predict_tags"
            )
        check_whole(text if isinstance(text, str) else text.text, f"index {index}")
    return [Sentence.of_text(text) if isinstance(text, str) else text for text in given]


def entities_of(sentence: Sentence, table: np.ndarray, names: Sequence[str]) -> list[Entity]:
    """The entities of a sentence.

    Args:
        sentence: W words.
        table: `[W, 1 + 2K]` probabilities of tags.
        names: `[1 + 2K]` of the tags.
    """
    best = best_tags(table)
    chances = table[np.arange(len(best)), best].astype(np.float64)
    entities = []
    for span in spans_of([names[tag] for tag in best], "IOB2"):
        start, end = sentence.words[span.start][0], sentence.words[span.end - 1][1]
        probability = float(chances[span.start : span.end].prod())
        entities.append(Entity(start, end, sentence.text[start:end], span.type, probability))
    return entities
