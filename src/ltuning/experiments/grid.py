"""A grid: which methods are compared on what, with which budget; dataclasses <-> YAML.

Every problem of a grid is reported at once, each with its dotted path, before anything runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ltuning.config import EVERY_METRIC, BackboneOptions, yaml
from ltuning.config.reading import FROM_ONE, apply_settings, read_options, read_scalar
from ltuning.config.yaml import YamlError, shown
from ltuning.errors import ConfigError, Problem
from ltuning.experiments.entries import (
    Budget,
    DataSet,
    MethodEntry,
    Search,
    read_each,
    read_named,
    read_seeds,
)
from ltuning.experiments.grid_checks import problems_of, tasks_of
from ltuning.methods.checks import with_texts
from ltuning.suggestions import unknown
from ltuning.tasks.table import TASKS
from ltuning.tasks.task import Task

# Options that results of before do not have, and what they were measured with.
_LATER = {
    "task": DataSet.task,
    "gguf_file": BackboneOptions.gguf_file,
    # So with encoders. Older results of a decoder count too, and had none: begin their folder anew.
    "start_token": BackboneOptions.start_token,
}
LABEL_TEXTS = ("names", "descriptions", "shuffled", "random-tokens", "single-token")


def _read_shots(value: object, path: str, problems: list[Problem]) -> list[Any]:
    def one(item: object, path: str, problems: list[Problem]) -> Any:
        return None if item == "all" else read_scalar(int, FROM_ONE, item, path, problems)

    return read_each(one, "texts per class such as [4, 16, all]", value, path, problems)


def _read_label_texts(value: object, path: str, problems: list[Problem]) -> list[Any]:
    def one(item: object, path: str, problems: list[Problem]) -> Any:
        if item in LABEL_TEXTS:
            return item
        came = item if isinstance(item, str) else shown(item)
        problems.append(Problem(path, unknown("label text", came, LABEL_TEXTS)))
        return None

    return read_each(one, "kinds of label texts", value, path, problems)


def _read_beside(value: object, path: str, problems: list[Problem]) -> list[Any]:
    return read_each(partial(read_scalar, str, None), "names of methods", value, path, problems)


@dataclass(frozen=True)
class Grid:
    """Everything that a comparison measures.

    Attributes:
        name: what reports call it.
        backbones: by the names that reports show; a list of names is accepted.
        data: data sets by name.
        methods: by the names that reports show; a list of ids is accepted.
        seeds: of every draw: texts held out and taken, weights, order.
        shots: training texts per class, and as many to choose by; `all` is every text.
        label_texts: what stands for a label, of methods that read it; empty is what the data set
            gives, or the names where it gives none. See `labelling`.
        beside: methods that every label method is set beside in the report, as it is beside its
            plain twin; of tags, where there is none, every method.
        metric: what chooses weights and rates on the validation texts; None is what reports show
            of each data set's task.
        budget: of every cell.
        search: None is every method's own rate.
    """

    name: str = "comparison"
    backbones: dict[str, BackboneOptions] = field(
        default_factory=dict, metadata={"read": partial(read_named, BackboneOptions, "name")}
    )
    data: dict[str, DataSet] = field(
        default_factory=dict, metadata={"read": partial(read_named, DataSet, None)}
    )
    methods: dict[str, MethodEntry] = field(
        default_factory=dict, metadata={"read": partial(read_named, MethodEntry, "method")}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"read": read_seeds})
    shots: list[int | None] = field(default_factory=lambda: [None], metadata={"read": _read_shots})
    label_texts: list[str] = field(
        default_factory=list, metadata={"read": lambda *given: _read_label_texts(*given)}
    )
    beside: list[str] = field(default_factory=list, metadata={"read": _read_beside})
    metric: str | None = field(default=None, metadata={"choices": EVERY_METRIC})
    budget: Budget = field(default_factory=Budget)
    search: Search | None = None

    @classmethod
    def from_yaml(cls, path: Path, settings: tuple[str, ...] = ()) -> Grid:
        """The grid of a YAML file, changed by settings such as `budget.steps=20`.

        Raises:
            ConfigError: with every problem of the file and of the settings.
        """
        try:
            loaded = yaml.read(path)
        except YamlError as error:
            raise ConfigError([Problem(str(path), str(error))]) from error
        return cls.from_dict(loaded, settings, origin=str(path))

    @classmethod
    def from_dict(
        cls, mapping: object, settings: tuple[str, ...] = (), origin: str = "grid"
    ) -> Grid:
        """The grid of a nested mapping.

        Raises:
            ConfigError: with every problem there is.
        """
        if not isinstance(mapping, Mapping):
            message = f"expected a mapping with backbones, data and methods, got {shown(mapping)}"
            raise ConfigError([Problem(origin, message)])
        problems: list[Problem] = []
        values = read_options(cls, apply_settings(mapping, settings, problems), "", problems)
        for name in ("backbones", "data", "methods"):
            if name not in values:
                problems.append(Problem(name, "missing; name one or more"))
        broken = {problem.path for problem in problems}
        problems += problems_of(values, broken)
        if problems:
            raise ConfigError(problems)
        tasks = tasks_of(values["data"])
        if values.get("metric") is None and len(tasks) == 1:
            values["metric"] = TASKS[next(iter(tasks))].main
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, which `from_dict` reads back to an equal grid."""
        options = dataclasses.asdict(self)
        options["shots"] = ["all" if shots is None else shots for shots in self.shots]
        for name in ("label_texts", "beside"):
            if not options[name]:
                del options[name]
        for chosen in (*options["backbones"].values(), *options["data"].values()):
            _drop_later(chosen)
        return options

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal grid."""
        return yaml.dump(self.to_dict())

    @property
    def unread_texts(self) -> list[str]:
        """Data sets with label texts, where no method of the grid reads any."""
        if any(entry.reads_texts for entry in self.methods.values()):
            return []
        return [name for name, data in self.data.items() if with_texts(data.labels or {})]

    def cells(self) -> Iterator[Cell]:
        """Every cell; those together that share a loaded backbone, and then those of a seed."""
        own = {name: chosen.seeds or self.seeds for name, chosen in self.data.items()}
        seeds = dict.fromkeys(seed for found in own.values() for seed in found)
        for backbone, loads, seed, (data, chosen), shots in product(
            self.backbones, (False, True), seeds, self.data.items(), self.shots
        ):
            if seed not in own[data]:
                continue
            budget = dataclasses.replace(
                self.budget,
                steps=chosen.steps or self.budget.steps,
                batch=chosen.batch or self.budget.batch,
            )
            for method, entry in self.methods.items():
                if entry.loads != loads:
                    continue
                metric = self.metric or TASKS[chosen.task].main
                settings = Settings(
                    self.backbones[backbone], chosen, entry, budget, metric, self.search
                )
                for label_text in self._label_texts(entry, chosen):
                    yield Cell(backbone, data, shots, method, label_text, seed, settings)

    def _label_texts(self, entry: MethodEntry, data: DataSet) -> list[str | None]:
        if not entry.reads_labels:
            return [None]
        kinds = self.label_texts or ["descriptions"]
        if data.labels is None:  # then the names describe
            kinds = ["names" if kind == "descriptions" else kind for kind in kinds]
        return list(dict.fromkeys(kinds))


@dataclass(frozen=True)
class Settings:
    """What a cell is told beside its place in the grid."""

    backbone: BackboneOptions
    data: DataSet
    entry: MethodEntry
    budget: Budget
    metric: str
    search: Search | None

    @property
    def method(self) -> str:
        """The method's id."""
        assert self.entry.method is not None  # Grid reads it
        return self.entry.method

    @property
    def task(self) -> Task:
        """What is predicted."""
        return TASKS[self.data.task]


@dataclass(frozen=True)
class Cell:
    """One training and its measurement."""

    backbone: str
    data: str
    shots: int | None
    method: str
    label_text: str | None
    seed: int
    settings: Settings

    @property
    def key(self) -> dict[str, Any]:
        """Its place in the grid."""
        names = ("backbone", "data", "shots", "method", "label_text", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def config(self) -> dict[str, Any]:
        """All that determines what it measures, as plain values."""
        settings = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        del settings["data"]["seeds"]  # of other cells
        _drop_later(settings["backbone"])
        _drop_later(settings["data"])
        return {**self.key, **settings}

    @property
    def stem(self) -> str:
        """Name of its files: readable, and different for different cells."""
        words = [self.backbone, self.data, "all" if self.shots is None else f"{self.shots}"]
        words += [self.method, *([self.label_text] if self.label_text else []), f"{self.seed}"]
        sha = hashlib.sha256(json.dumps(self.key).encode()).hexdigest()[:8]
        return "--".join([*(re.sub(r"[^\w.-]+", "_", word)[:40] for word in words), sha])

    def __str__(self) -> str:
        words = [self.method, *([f"({self.label_text})"] if self.label_text else [])]
        shots = [] if self.shots is None else [f"with {self.shots} per class"]
        return " ".join([*words, "on", self.data, *shots, f"seed {self.seed}, {self.backbone}"])


def _drop_later(options: dict[str, object]) -> None:
    """As results and grids have it that were written before there were such options."""
    for name, default in _LATER.items():
        if name in options and options[name] == default:
            del options[name]
