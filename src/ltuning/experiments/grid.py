"""A grid: which methods are compared on what, with which budget; dataclasses <-> YAML.

Every problem of a grid is reported at once, each with its dotted path, before anything runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from ltuning.config import (
    EVERY_METRIC,
    TASK_FACTS,
    BackboneOptions,
    MethodOptions,
    TaskName,
    yaml,
)
from ltuning.config.label_texts import read_labels
from ltuning.config.reading import (
    ABOVE_ZERO,
    FRACTION,
    FROM_ONE,
    SEED,
    apply_settings,
    number_option,
    read_options,
    read_scalar,
    read_section,
)
from ltuning.config.yaml import YamlError, shown
from ltuning.data.files import stem_of
from ltuning.data.hub import looks_like_hub_id
from ltuning.data.sources import SPLIT_NAMES
from ltuning.errors import ConfigError, LabelError, Problem
from ltuning.experiments.peers import PEERS
from ltuning.labels import Labels
from ltuning.methods import catalog, checks
from ltuning.names import listed, unknown
from ltuning.tasks.table import TASKS
from ltuning.tasks.task import Task

OWN_METHODS = tuple(catalog.ROWS)
LABEL_TEXTS = ("names", "descriptions", "shuffled", "random-tokens", "single-token")

# Where the grid says it, a method may not say it again.
_OWNED = {
    "training.max_steps": "budget.steps",
    "training.num_train_epochs": "budget.steps",
    "training.per_device_train_batch_size": "budget.batch",
    "training.gradient_accumulation_steps": "budget.batch",
    "training.eval_strategy": "budget.evaluations",
    "training.eval_steps": "budget.evaluations",
    "training.learning_rate": "learning_rate",
    "method.name": "method",
    "method.recipe": "recipe",
}
_SECTIONS = ("method", "training")


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


def _read_each(
    read: Callable[[object, str, list[Problem]], object],
    words: str,
    value: object,
    path: str,
    problems: list[Problem],
) -> list[Any]:
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    before = len(problems)
    found = [read(item, path, problems) for item in several]
    if len(problems) == before and len(set(found)) < max(len(found), 1):
        problems.append(Problem(path, f"expected {words}, each once, got {shown(value)}"))
    return found


def _read_seeds(value: object, path: str, problems: list[Problem]) -> list[Any]:
    read = partial(read_scalar, int, SEED)
    return _read_each(read, "seeds such as [0, 1, 2]", value, path, problems)


def _read_own_seeds(value: object, path: str, problems: list[Problem]) -> Any:
    return None if value is None else _read_seeds(value, path, problems)


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


def _read_named(
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


def _read_shots(value: object, path: str, problems: list[Problem]) -> list[Any]:
    def one(item: object, path: str, problems: list[Problem]) -> Any:
        return None if item == "all" else read_scalar(int, FROM_ONE, item, path, problems)

    return _read_each(one, "texts per class such as [4, 16, all]", value, path, problems)


def _read_label_texts(value: object, path: str, problems: list[Problem]) -> list[Any]:
    def one(item: object, path: str, problems: list[Problem]) -> Any:
        if item in LABEL_TEXTS:
            return item
        came = item if isinstance(item, str) else shown(item)
        problems.append(Problem(path, unknown("label text", came, LABEL_TEXTS)))
        return None

    return _read_each(one, "kinds of label texts", value, path, problems)


def _read_beside(value: object, path: str, problems: list[Problem]) -> list[Any]:
    return _read_each(partial(read_scalar, str, None), "names of methods", value, path, problems)


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
        default_factory=dict, metadata={"read": partial(_read_named, BackboneOptions, "name")}
    )
    data: dict[str, DataSet] = field(
        default_factory=dict, metadata={"read": partial(_read_named, DataSet, None)}
    )
    methods: dict[str, MethodEntry] = field(
        default_factory=dict, metadata={"read": partial(_read_named, MethodEntry, "method")}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"read": _read_seeds})
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
        data = values.get("data") or {}
        problems += _data_problems(data)
        problems += _method_problems(values.get("methods") or {}, broken, _tasks_of(data))
        problems += _axis_problems(values, data)
        problems += _unread_problems(values)
        if problems:
            raise ConfigError(problems)
        if values.get("metric") is None and len(_tasks_of(data)) == 1:
            values["metric"] = TASKS[next(iter(_tasks_of(data)))].main
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, which `from_dict` reads back to an equal grid."""
        options = dataclasses.asdict(self)
        options["shots"] = ["all" if shots is None else shots for shots in self.shots]
        for name in ("label_texts", "beside"):
            if not options[name]:
                del options[name]
        for data in options["data"].values():
            _drop_default_task(data)
        return options

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal grid."""
        return yaml.dump(self.to_dict())

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
                if _loads(entry) != loads:
                    continue
                metric = self.metric or TASKS[chosen.task].main
                settings = Settings(
                    self.backbones[backbone], chosen, entry, budget, metric, self.search
                )
                for label_text in self._label_texts(entry, chosen):
                    yield Cell(backbone, data, shots, method, label_text, seed, settings)

    def _label_texts(self, entry: MethodEntry, data: DataSet) -> list[str | None]:
        if not reads_labels(entry):
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
        _drop_default_task(settings["data"])
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


def _drop_default_task(data: dict[str, object]) -> None:
    """As results and grids have it that were written before there were others."""
    if data["task"] == DataSet.task:
        del data["task"]


def reads_labels(entry: MethodEntry) -> bool:
    """Whether the texts of the labels change what a method does."""
    assert entry.method is not None
    if entry.method in PEERS:
        return PEERS[entry.method].reads_labels
    head = entry.options.get("method.head")
    return catalog.uses_labels(MethodOptions(name=entry.method, head=head))  # type: ignore[arg-type]


def unread_texts(grid: Grid) -> list[str]:
    """Data sets with label texts, where no method of the grid reads any, be it for a start."""
    if any(map(_reads_texts, grid.methods.values())):
        return []
    return [name for name, data in grid.data.items() if checks.with_texts(data.labels or {})]


def _reads_texts(entry: MethodEntry) -> bool:
    return reads_labels(entry) or entry.options.get("method.start") == "text"


def _loads(entry: MethodEntry) -> bool:
    return entry.method in PEERS and PEERS[entry.method].loads


def data_path(data: DataSet, folder: Path | None) -> str:
    """Where a data set is: in the data folder, at its own path, or on the hub."""
    assert data.path is not None  # Grid checks it
    # Not the methods of Path: they raise at a home folder of nobody and at a name too long.
    path = Path(os.path.expanduser(data.path))
    if folder is not None and not path.is_absolute():
        path = folder / path
    return str(path) if os.path.exists(path) else data.path


def check_data(grid: Grid, folder: Path | None) -> None:
    """Refuse data sets that are not there or have no split to train or measure on.

    Raises:
        ConfigError: with all of them.
    """
    problems = []
    for name, data in grid.data.items():
        where = Path(data_path(data, folder))
        if os.path.isdir(where):
            try:
                splits = {SPLIT_NAMES.get(stem_of(file) or "") for file in os.listdir(where)}
            except OSError as error:
                message = f"the folder {where} cannot be listed ({error.strerror})"
                problems.append(Problem(f"data.{name}.path", message))
                continue
            for split in ("train", data.measure_on):
                if split not in splits:
                    hint = "" if split == "train" else "; set measure_on: validation or test"
                    message = f"expected a split '{split}' in {where}, got none{hint}"
                    problems.append(Problem(f"data.{name}.path", message))
        elif os.path.exists(where):
            message = f"expected a folder with a file per split, got the file {where}"
            problems.append(Problem(f"data.{name}.path", message))
        elif "/" not in str(data.path) or not looks_like_hub_id(str(data.path)):
            looked = f" in {folder}" if folder is not None else ""
            message = f"expected a folder, got no '{data.path}'{looked}; say with --data where"
            problems.append(Problem(f"data.{name}.path", message))
    if problems:
        raise ConfigError(problems)


def _data_problems(data: Mapping[str, DataSet]) -> list[Problem]:
    problems = []
    for name, chosen in data.items():
        if chosen.path is None:
            problems.append(Problem(f"data.{name}.path", "missing; give a folder or a hub id"))
        if chosen.labels is not None:
            problems += _label_problems(chosen, f"data.{name}.labels")
        if chosen.text_pair_column is not None and _task_of(chosen).of_words:
            message = f"task '{chosen.task}' has no pairs of texts; leave it out"
            problems.append(Problem(f"data.{name}.text_pair_column", message))
    return problems


def _label_problems(data: DataSet, path: str) -> list[Problem]:
    assert data.labels is not None
    if not _task_of(data).reads_labels:
        return [
            *(
                dataclasses.replace(problem, path=path)
                for problem in checks.type_problems(data.labels)
            ),
            *(
                Problem(path, f"no method reads texts of types; give the name {name!r} alone")
                for name in checks.with_texts(data.labels)
            ),
        ]
    try:
        Labels.from_any(data.labels)
    except LabelError as error:
        return [Problem(path, str(error))]
    return []


def _task_of(data: DataSet) -> Task:
    """The task; where it is wrong, which is a problem of its own, the one that there is without."""
    return TASKS.get(data.task, TASKS[DataSet.task])


def _tasks_of(data: Mapping[str, DataSet]) -> dict[str, str]:
    """Each task, and the first data set of it."""
    found: dict[str, str] = {}
    for name, chosen in data.items():
        found.setdefault(_task_of(chosen).name, name)
    return found


def _axis_problems(values: Mapping[str, object], data: Mapping[str, DataSet]) -> list[Problem]:
    """What the grid says for all its data sets, and some of their tasks have not."""
    problems = []
    metric, shots = values.get("metric"), values.get("shots") or [None]
    for task, name in _tasks_of(data).items():
        fitting = TASK_FACTS[task].metrics
        if metric is not None and metric not in fitting:
            message = (
                f"expected {listed(fitting[:-1])} or {fitting[-1]!r} with task '{task}' of the "
                f"data set '{name}', got '{metric}'; leave it out, and each task has its own"
            )
            problems.append(Problem("metric", message))
        if shots != [None] and not TASKS[task].one_of_each:
            message = (
                f"task '{task}' of the data set '{name}' has no texts of one class to draw from; "
                "leave it out, or set max_train of the data set"
            )
            problems.append(Problem("shots", message))
    return problems


def _unread_problems(values: Mapping[str, Any]) -> list[Problem]:
    """What the grid says of methods, and none of its methods is meant by."""
    methods: Mapping[str, MethodEntry] = values.get("methods") or {}
    if not methods:
        return []
    problems = []
    texts = any(values.get("label_texts") or [])
    if texts and not any(map(_may_read_labels, methods.values())):
        message = "no method of the grid reads label texts; leave it out"
        problems.append(Problem("label_texts", message))
    return problems + [
        Problem("beside", unknown("method of the grid", str(name), methods))
        for name in values.get("beside", ())
        if name is not None and name not in methods
    ]


def _may_read_labels(entry: MethodEntry) -> bool:
    """Whether a method reads label texts; where its name is wrong, it may."""
    return entry.method not in (*OWN_METHODS, *PEERS) or reads_labels(entry)


def _method_problems(
    methods: Mapping[str, MethodEntry], broken: set[str], tasks: Mapping[str, str]
) -> list[Problem]:
    problems = []
    for name, entry in methods.items():
        path = f"methods.{name}"
        if entry.method in PEERS:
            problems += _peer_problems(entry, path) + _peer_task_problems(entry, path, tasks)
        elif entry.method in OWN_METHODS:
            problems += _own_problems(entry, path, tasks)
        elif f"{path}.method" not in broken:
            known = [*OWN_METHODS, *PEERS]
            problems.append(Problem(path, unknown("method", str(entry.method), known)))
    return problems


def _peer_problems(entry: MethodEntry, path: str) -> list[Problem]:
    assert entry.method is not None
    peer, problems = PEERS[entry.method], []
    if entry.recipe != "default":
        message = f"expected no recipe of the peer '{entry.method}', got '{entry.recipe}'"
        problems.append(Problem(f"{path}.recipe", f"{message}; leave it out"))
    if entry.learning_rate is not None and peer.rate is None:
        message = f"'{entry.method}' is not trained; leave it out"
        problems.append(Problem(f"{path}.learning_rate", message))
    for name, value in entry.options.items():
        if name not in peer.options:
            message = unknown("option", name, peer.options)
            problems.append(Problem(f"{path}.options.{name}", message))
        else:
            read_scalar(int, FROM_ONE, value, f"{path}.options.{name}", problems)
    return problems


def _peer_task_problems(entry: MethodEntry, path: str, tasks: Mapping[str, str]) -> list[Problem]:
    assert entry.method is not None
    peer = PEERS[entry.method]
    return [
        Problem(
            path,
            f"expected a method for task '{task}' of the data set '{name}', got '{entry.method}', "
            f"which knows {listed(peer.tasks)} only; leave it out, or compare it in another grid",
        )
        for task, name in tasks.items()
        if task not in peer.tasks
    ]


def _own_problems(entry: MethodEntry, path: str, tasks: Mapping[str, str]) -> list[Problem]:
    mapping: dict[str, dict[str, Any]] = {"method": {"name": entry.method, "recipe": entry.recipe}}
    problems = []
    for option, value in entry.options.items():
        section, _, name = option.partition(".")
        if section not in _SECTIONS or not name:
            message = f"expected a path such as method.rank or training.weight_decay, got {option}"
            problems.append(Problem(f"{path}.options.{option}", message))
        elif option in _OWNED:
            message = f"cannot be set here: use {_OWNED[option]} of the grid instead"
            problems.append(Problem(f"{path}.options.{option}", message))
        else:
            mapping.setdefault(section, {})[name] = value
    found: dict[Problem, None] = {}  # what several tasks have to say, once
    for task in tasks or (DataSet.task,):
        try:
            checks.configure({"task": task, **mapping})
        except ConfigError as error:
            found |= dict.fromkeys(error.problems)
    for problem in found:
        # The grid names the method itself.
        where = "" if problem.path == "method.name" else f".options.{problem.path}"
        problems.append(Problem(f"{path}{where}", problem.message))
    return problems
