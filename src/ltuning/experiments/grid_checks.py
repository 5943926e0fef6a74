"""What is wrong with a grid, as far as it can be seen before anything is read or loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ltuning.config import TASK_FACTS
from ltuning.config.reading import FROM_ONE, read_scalar
from ltuning.errors import ConfigError, LabelError, Problem
from ltuning.experiments.entries import DataSet, MethodEntry
from ltuning.experiments.peers import PEERS
from ltuning.labels import Labels
from ltuning.methods import catalog
from ltuning.methods.checks import configure, type_problems, with_texts
from ltuning.suggestions import listed, unknown
from ltuning.tasks.table import TASKS
from ltuning.tasks.task import Task

_OWN_METHODS = tuple(catalog.ROWS)

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
# What a method may say of the data: how it is trained on them, not which they are.
_OF_DATA = ("data.class_weight",)


def problems_of(values: Mapping[str, Any], broken: set[str]) -> list[Problem]:
    """What does not go together in the options of a grid.

    Args:
        values: as they were read, of the fields that are given.
        broken: the paths of those that were found wrong in themselves.
    """
    data: Mapping[str, DataSet] = values.get("data") or {}
    return [
        *_data_problems(data),
        *_method_problems(values.get("methods") or {}, broken, tasks_of(data)),
        *_axis_problems(values, data),
        *_unread_problems(values),
    ]


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
            *(dataclasses.replace(problem, path=path) for problem in type_problems(data.labels)),
            *(
                Problem(path, f"no method reads texts of types; give the name {name!r} alone")
                for name in with_texts(data.labels)
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


def tasks_of(data: Mapping[str, DataSet]) -> dict[str, str]:
    """Each task, and the first data set of it."""
    found: dict[str, str] = {}
    for name, chosen in data.items():
        found.setdefault(_task_of(chosen).name, name)
    return found


def _axis_problems(values: Mapping[str, object], data: Mapping[str, DataSet]) -> list[Problem]:
    """What the grid says for all its data sets, and some of their tasks have not."""
    problems = []
    metric, shots = values.get("metric"), values.get("shots") or [None]
    for task, name in tasks_of(data).items():
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
    return entry.method not in (*_OWN_METHODS, *PEERS) or entry.reads_labels


def _method_problems(
    methods: Mapping[str, MethodEntry], broken: set[str], tasks: Mapping[str, str]
) -> list[Problem]:
    problems = []
    for name, entry in methods.items():
        path = f"methods.{name}"
        if entry.method in PEERS:
            problems += _peer_problems(entry, path) + _peer_task_problems(entry, path, tasks)
        elif entry.method in _OWN_METHODS:
            problems += _own_problems(entry, path, tasks)
        elif entry.method == catalog.AUTO:
            message = (
                f"'{catalog.AUTO}' takes one of the methods, for its own length of training; name "
                "those to be compared"
            )
            problems.append(Problem(path, message))
        elif f"{path}.method" not in broken:
            known = [*_OWN_METHODS, *PEERS]
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
        if (section not in _SECTIONS or not name) and option not in _OF_DATA:
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
            configure({"task": task, **mapping})
        except ConfigError as error:
            found |= dict.fromkeys(error.problems)
    for problem in found:
        # The grid names the method itself.
        where = "" if problem.path == "method.name" else f".options.{problem.path}"
        problems.append(Problem(f"{path}{where}", problem.message))
    return problems
