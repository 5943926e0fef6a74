"""What a grid is made of, as a user may write it: a budget, a search, data sets, methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from ltuning.config import MethodOptions, TaskName
from ltuning.config.label_texts import read_labels
from ltuning.config.reading import (
    ABOVE_ZERO,
    FRACTION,
    FROM_ONE,
    SEED,
    number_option,
    read_scalar,
    read_section,
)
from ltuning.config.yaml import shown
from ltuning.errors import Problem
from ltuning.experiments.peers import PEERS
from ltuning.methods import catalog


@dataclass(frozen=True)
class Budget:
    """What every method may spend.

    Attributes:
        steps: optimizer steps.
        batch: texts in a step that each run through the backbone once; a method that runs a text
            once per label takes that many fewer texts, so that the passes are equal.
        evaluations: measurements on the validation texts, evenly over the steps, fewer where the
            steps do not divide by them; the best one's weights are kept.
    """

    steps: int = number_option(300, FROM_ONE)
    batch: int = number_option(32, FROM_ONE)
    evaluations: int = number_option(10, FROM_ONE)


@dataclass(frozen=True)
class Search:
    """A search for the learning rate on the validation texts, in every cell.

    Attributes:
        trials: trainings of each method; the first one has the method's own rate.
        span: rates are drawn from the method's own rate divided by this, to multiplied by this.
    """

    trials: int = number_option(8, FROM_ONE)
    span: float = number_option(10.0, ABOVE_ZERO)


def read_each(
    read: Callable[[object, str, list[Problem]], object],
    words: str,
    value: object,
    path: str,
    problems: list[Problem],
) -> list[Any]:
    """A list in which nothing stands twice, or one value, each read by `read`."""
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    before = len(problems)
    found = [read(item, path, problems) for item in several]
    if len(problems) == before and len(set(found)) < max(len(found), 1):
        problems.append(Problem(path, f"expected {words}, each once, got {shown(value)}"))
    return found


def read_seeds(value: object, path: str, problems: list[Problem]) -> list[Any]:
    """Seeds, or one."""
    read = partial(read_scalar, int, SEED)
    return read_each(read, "seeds such as [0, 1, 2]", value, path, problems)


def _read_own_seeds(value: object, path: str, problems: list[Problem]) -> Any:
    return None if value is None else read_seeds(value, path, problems)


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        path: a folder with a file per split, absolute or in the data folder, or a hub data set id.
        task: what is predicted.
        labels: name -> texts; None takes the names that the training texts have. Of tags, types
            of entities.
        text_column: column of the text; None is found by its usual names, as the next two.
        text_pair_column: column of the second text of a pair.
        label_column: column of the label.
        measure_on: the split that figures are of. Where it is `validation`, and where there is no
            validation split, the texts that choose are held out from the training split.
        validation_fraction: the part of the training split that is held out then.
        steps: instead of the budget's.
        batch: instead of the budget's.
        seeds: instead of the grid's.
        max_train: training texts, drawn at random; None is all. The next two likewise.
        max_validation: texts that choose.
        max_test: texts that are measured on, the same for every cell.
    """

    path: str | None = None
    task: TaskName = "classes"
    labels: dict[str, list[str]] | None = field(default=None, metadata={"read": read_labels})
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    measure_on: Literal["test", "validation"] = "test"
    validation_fraction: float = number_option(0.1, FRACTION)
    steps: int | None = number_option(None, FROM_ONE)
    batch: int | None = number_option(None, FROM_ONE)
    seeds: list[int] | None = field(default=None, metadata={"read": _read_own_seeds})
    max_train: int | None = number_option(None, FROM_ONE)
    max_validation: int | None = number_option(None, FROM_ONE)
    max_test: int | None = number_option(None, FROM_ONE)


def _read_method_options(value: object, path: str, problems: list[Problem]) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        message = f"expected options by their paths such as method.rank: 32, got {shown(value)}"
        problems.append(Problem(path, message))
        return {}
    return dict(value)


@dataclass(frozen=True)
class MethodEntry:
    """One method as it is compared.

    Attributes:
        method: its id; None is the entry's own name.
        recipe: of ltuning's methods.
        learning_rate: None is the method's own (of `logistic`: its C).
        options: of ltuning's methods by dotted path (`method.rank: 32`), of peers by name
            (`num_tokens: 20`).
    """

    method: str | None = None
    recipe: Literal["default", "paper"] = "default"
    learning_rate: float | None = number_option(None, ABOVE_ZERO)
    options: dict[str, Any] = field(default_factory=dict, metadata={"read": _read_method_options})

    @property
    def reads_labels(self) -> bool:
        """Whether the texts of the labels change what the method does."""
        assert self.method is not None  # Grid reads it
        if self.method in PEERS:
            return PEERS[self.method].reads_labels
        head = self.options.get("method.head")
        return catalog.uses_labels(MethodOptions(name=self.method, head=head))  # type: ignore[arg-type]

    @property
    def reads_texts(self) -> bool:
        """Whether it reads them at all, be it for a start."""
        return self.reads_labels or self.options.get("method.start") == "text"

    @property
    def loads(self) -> bool:
        """Whether it loads a model of its own."""
        return self.method in PEERS and PEERS[self.method].loads


def read_named(
    kind: Any, key: str | None, value: object, path: str, problems: list[Problem]
) -> dict[str, Any]:
    """Entries by name; where `key` is given, a list of names is taken too."""
    if isinstance(value, (list, tuple)) and key is not None:
        names = [name for name in value if isinstance(name, str) and name]
        if len(set(names)) != len(value):
            message = f"expected names, each once, got {shown(value)}"
            problems.append(Problem(path, message))
            return {}
        value = {name: {} for name in names}
    if not isinstance(value, Mapping) or not value:
        also = "a list of names or " if key is not None else ""
        problems.append(Problem(path, f"expected {also}a mapping of names, got {shown(value)}"))
        return {}
    entries = {}
    for name, given in value.items():
        if not isinstance(name, str):
            problems.append(Problem(path, f"expected texts as names, got {shown(name)}"))
            continue
        entry = read_section(kind, given, f"{path}.{name}", problems)
        is_unnamed = key is not None and getattr(entry, key) == getattr(kind(), key)
        if key is not None and is_unnamed and not (isinstance(given, Mapping) and key in given):
            entry = dataclasses.replace(entry, **{key: name})
        entries[name] = entry
    return entries
