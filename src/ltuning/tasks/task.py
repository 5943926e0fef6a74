"""What verbs and comparisons have to know of a task, whatever it predicts.

Letters: N examples, K names (classes, labels, or types of entities), W words of a sentence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from ltuning.config import TASK_FACTS
from ltuning.data.sources import Columns
from ltuning.metrics import WORDS, Report

if TYPE_CHECKING:
    from ltuning.estimators.front import Front


class Labelled(Protocol):
    """Examples of any task: texts or sentences, and what is true of each."""

    @property
    def origin(self) -> str:
        """Where they came from, for messages."""

    @property
    def inputs(self) -> list[Any]:
        """What a classifier is given."""

    @property
    def texts(self) -> list[Any]:
        """The texts, or the words of the sentences."""

    @property
    def labels(self) -> list[Any] | None:
        """What is true of each."""

    def __len__(self) -> int: ...

    def part(self, rows: Sequence[int]) -> Self:
        """Some of the examples."""


Door = TypeVar("Door", bound="Front[Any]")
Given = TypeVar("Given", bound=Labelled)
Scored = TypeVar("Scored")


class Task(ABC, Generic[Door, Given, Scored]):
    """A task: its front door, its examples, and what a trained front door says of them.

    Attributes:
        name: as options call it.
        output_columns: the columns that `ltuning predict` adds to a row of text.
        lines: the format in which it answers lines of text.
        held_out: of what it holds out, in words.
        figures: those of validation and of comparisons; the first one is what reports show of the
            task, and chooses where nothing else is said.
        each: what its names are names of.
        answers: what is right or wrong as a whole, in words.
        legend: what reports say of its figures.
    """

    name: ClassVar[str]
    output_columns: ClassVar[tuple[str, ...]]
    lines: ClassVar[str] = "tsv"
    held_out: ClassVar[str] = ", from each label its share"
    figures: ClassVar[tuple[str, ...]]
    each: ClassVar[str]
    answers: ClassVar[str]
    legend: ClassVar[str]

    @property
    def one_of_each(self) -> bool:
        """Whether a text has one label: there are texts of a label to draw, a most frequent one."""
        return TASK_FACTS[self.name].one_of_each

    @property
    def of_words(self) -> bool:
        """Whether words are answered, and not a text or a pair of texts as a whole."""
        return TASK_FACTS[self.name].of_words

    @property
    def reads_labels(self) -> bool:
        """Whether labels have texts that a method may read."""
        return not self.of_words

    @property
    def main(self) -> str:
        """The first of its figures."""
        return self.figures[0]

    @property
    def words(self) -> str:
        """The first of its figures in words."""
        return WORDS[self.main]

    @abstractmethod
    def door(self) -> type[Door]:
        """The front door."""

    @abstractmethod
    def read_splits(self, source: str | Path, columns: Columns, **how: Any) -> Mapping[str, Given]:
        """Labelled examples by split.

        Args:
            source: a file, a folder, or a data set of the hub.
            columns: which columns hold texts and labels.
            **how: see `ltuning.data.sources.read_splits`.

        Raises:
            DataError: a source that cannot be used, or options that the task has not.
        """

    @abstractmethod
    def read_split(self, source: str | Path, split: str, columns: Columns, **how: Any) -> Given:
        """As `read_splits`, of one split."""

    @abstractmethod
    def hold_out(self, examples: Given, fraction: float, seed: int) -> tuple[Given, Given]:
        """Training and validation examples; equal seeds, equal parts.

        Raises:
            DataError: too few examples.
        """

    def check(self, training: Given) -> None:
        """Refuse training examples that look like those of another task.

        Raises:
            DataError: they do.
        """
        return

    def check_given(self, names: Collection[str], training: Given) -> None:
        """Warn of names that were given and that the training examples lack.

        Where the front door says it itself, it is not said here.
        """
        return

    @abstractmethod
    def names(self, examples: Labelled) -> list[str]:
        """All names that occur, sorted."""

    @abstractmethod
    def truth(self, examples: Labelled, names: Sequence[str]) -> np.ndarray:
        """What is true of each example, as numbers; see `decide`."""

    @abstractmethod
    def scored(self, door: Door, inputs: Sequence[Any]) -> Scored:
        """What a trained front door says of each example, before anything is decided."""

    def thresholds(self, door: Door) -> np.ndarray | None:
        """`[K]` where a trained front door has them."""
        return None

    @abstractmethod
    def decide(self, scored: Scored, thresholds: np.ndarray | None) -> np.ndarray:
        """`[N, ...]` integers: what is predicted of each example, to be compared with `truth`."""

    def margins(self, scored: Scored, thresholds: np.ndarray | None) -> np.ndarray:
        """`[N]` by how much what is decided of each text is more probable than what is not.

        Not of words.
        """
        raise NotImplementedError

    def packed(self, scored: Scored) -> np.ndarray:
        """What `scored` gives, as one array."""
        return np.asarray(scored)

    @abstractmethod
    def measure(
        self, scored: Scored, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]
    ) -> Report:
        """`figures`, `loss`, `per_class` and more, as plain numbers."""

    def points(self, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """`[N]` what an example adds to the figure that reports show, where that is their mean."""
        return right(predicted, truth)

    def counts(
        self, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]
    ) -> np.ndarray | None:
        """`[N, 3]` what is right, what is predicted and what is true, of each example.

        None where the figure that reports show is the mean of `points`.
        """
        return None

    @abstractmethod
    def surest_mistakes(
        self, scored: Scored, predicted: np.ndarray, truth: np.ndarray
    ) -> dict[int, float]:
        """Of each example that is wrong the probability of the surest wrong decision."""

    def output_row(
        self, decided: np.ndarray, scored: np.ndarray, names: Sequence[str]
    ) -> list[object]:
        """What is said of a text, a value for each of `output_columns`.

        Not of words, where it depends on what they came in.
        """
        raise NotImplementedError

    @abstractmethod
    def said(
        self, door: Any, inputs: Sequence[Any], progress: Callable[[int], None]
    ) -> list[object]:
        """What a trained or exported front door predicts of each example, to compare with `true`.

        Args:
            door: the front door.
            inputs: of the examples.
            progress: called with the number of examples just done.
        """

    @abstractmethod
    def true(self, examples: Labelled) -> list[object]:
        """What is true of each example, whether a front door knows it or not."""

    @abstractmethod
    def shown(self, decided: np.ndarray, example: Any, names: Sequence[str]) -> str:
        """What is predicted or true of an input, in words."""


def right(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`[N]` bool: which examples are right as a whole."""
    return (predicted == truth).reshape(len(truth), -1).all(1)
