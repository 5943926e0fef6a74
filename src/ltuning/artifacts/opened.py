"""A saved classifier, opened once: read whole, and held against what `save_pretrained` writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ltuning.artifacts import hub, store
from ltuning.artifacts.folders import CONFIG
from ltuning.backbones.families import FAMILIES
from ltuning.calibration import TEMPERATURES, Answers
from ltuning.config import (
    TASK_FACTS,
    Config,
    DataOptions,
    MethodOptions,
    StoppingOptions,
    read_section,
)
from ltuning.config.yaml import shown
from ltuning.errors import ArtifactError, ConfigError, LTuningError, Problem
from ltuning.labels import LabelType
from ltuning.methods import catalog
from ltuning.methods.checks import check
from ltuning.sentences import Scheme

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone

_Fits = Callable[[Any], bool]

# The part with what a classifier said of held-out texts.
ANSWERS = "calibration/answers.json"
_BACKBONE = ("name", "fingerprint", "family")
# What older versions did not write, and what is built without it is what they built.
_LATER = frozenset({"negatives", "objective"})


@dataclass(frozen=True)
class Opened:
    """What a folder of a classifier says, every part of it of its type and fitting the others.

    Attributes:
        folder: of the artifact.
        tensors: the trained parameters, on the CPU.
        parts: content of further files by their path in the folder; of JSON the value, of
            safetensors the tensors by name.
        config: what it was trained with.
        method: the options of its method, none left open.
        fields: what the front door wrote beside these.
        answers: what it said of held-out texts; None where none are kept.
    """

    folder: Path
    tensors: dict[str, Any]
    parts: dict[str, Any]
    config: Config
    method: MethodOptions
    fields: Mapping[str, Any]
    answers: Answers | None = None

    def check_fits(self, backbone: Backbone) -> None:
        """Refuse options that this backbone has no place for.

        Raises:
            ArtifactError: says which.
        """
        found = []
        try:
            depth = backbone.sizes.layers
            filled = catalog.resolve(self.method, backbone.family, depth)
        except LTuningError as error:
            raise ArtifactError(_sentence(self.folder, [str(error)])) from error
        for item in fields(MethodOptions):
            is_open = getattr(self.method, item.name) is None
            is_of_texts = item.name == "pooling" and TASK_FACTS[self.config.task].of_words
            if is_open and not is_of_texts and item.name not in _LATER:
                value = getattr(filled, item.name)
                if value is not None:
                    found.append(f"method.{item.name}: expected a value such as {value}, got none")
        budget, length = backbone.position_budget, self.fields["max_length"]
        if budget is not None and length > budget:
            found.append(
                f"max_length: expected at most {budget}, the backbone's positions, got {length}"
            )
        if found:
            raise ArtifactError(_sentence(self.folder, found))


def read(
    folder: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> Opened:
    """Read a saved classifier; see `store.read`.

    Args:
        folder: its folder, or its id on the hub; see `hub.located`, and for the next two.
        revision: of a classifier on the hub.
        token: for the hub.

    Raises:
        ArtifactError: a missing or changed file, or one that does not hold what it should: all of
            what is wrong with the configuration at once; nothing on the hub that may be read.
        ConfigError: two revisions.
    """
    return checked(store.read(hub.located(folder, revision=revision, token=token)))


def checked(artifact: store.Artifact) -> Opened:
    """What was read of a saved classifier, every part looked at; see `read`.

    Raises:
        ArtifactError: one that does not hold what it should.
    """
    problems: list[Problem] = []
    saved = _of_today(artifact.config, problems)
    config = _config(saved, problems)
    given = saved.get("method")
    known = given if _is_method(given) else None
    method: MethodOptions = read_section(MethodOptions, known, "method", problems)
    if catalog.AUTO in (method.name, config.method.name):
        problems.append(Problem("method.name", f"expected a method, got '{catalog.AUTO}'"))
    if not problems:
        problems += _combined(replace(config, method=method))
    for name, (expected, fits) in _expected(saved, config.task).items():
        if not fits(saved.get(name)):
            message = f"expected {expected}, got {shown(saved.get(name))}"
            problems.append(Problem(name, message))
    answers = _answers(artifact.parts, problems)
    if problems:
        raise ArtifactError(_sentence(artifact.folder, [str(problem) for problem in problems]))
    return Opened(artifact.folder, artifact.tensors, artifact.parts, config, method, saved, answers)


def _answers(parts: Mapping[str, object], problems: list[Problem]) -> Answers | None:
    if ANSWERS not in parts:
        return None
    try:
        return Answers.from_plain(parts[ANSWERS])
    except ValueError as error:
        problems.append(Problem(ANSWERS, f"{error}, got {shown(parts[ANSWERS])}"))
        return None


def untrained(config: Config) -> Config:
    """The same without how it was trained, which is on record and was taken then."""
    return replace(config, data=DataOptions(), stopping=StoppingOptions(), training={})


def _of_today(saved: Mapping[str, object], problems: list[Problem]) -> Mapping[str, Any]:
    """What older versions wrote, in the words of this one.

    They had a reading of labels and no shortlist, and put nothing before the texts of a decoder.
    """
    method = saved.get("method")
    if not isinstance(method, Mapping):
        return saved
    if method.get("shortlist") not in (None, "off"):
        message = (
            f"got {shown(method['shortlist'])}; this version of ltuning has no shortlists: train "
            "again, with the same labels and texts"
        )
        problems.append(Problem("method.shortlist", message))
    is_older = catalog.is_label_method(str(method.get("name"))) and method.get("labels") is None
    made = {**saved, "method": _in_words_of_today(method, is_older)}
    config = saved.get("config")
    if isinstance(config, Mapping) and isinstance(config.get("method"), Mapping):
        config = {**config, "method": _in_words_of_today(config["method"], is_older)}
        made["config"] = _with_start_token(config, saved.get("backbone"))
    return made


def _with_start_token(config: dict[str, Any], backbone: object) -> dict[str, Any]:
    options = config.get("backbone")
    if not isinstance(options, Mapping) or "start_token" in options:
        return config
    name = backbone.get("family") if isinstance(backbone, Mapping) else None
    family = FAMILIES.get(name) if isinstance(name, str) else None
    # An encoder has none in either case: one that is shared stays one.
    start = "none" if family is None or family.causal else "auto"
    return {**config, "backbone": {**options, "start_token": start}}


def _in_words_of_today(method: Mapping[str, object], is_older: bool) -> dict[str, Any]:
    made = {name: value for name, value in method.items() if name != "shortlist"}
    return made | ({"labels": "apart"} if is_older else {})


def _sentence(folder: Path, problems: list[str]) -> str:
    lines = "\n  ".join(" ".join(problem.split()) for problem in problems)
    return (
        f"{folder / CONFIG} does not hold what a saved classifier's does:\n  {lines}\n"
        "restore the file or train again"
    )


def _config(saved: Mapping[str, object], problems: list[Problem]) -> Config:
    given = saved.get("config")
    if not isinstance(given, Mapping):
        message = f"expected the options it was trained with, got {shown(given)}"
        problems.append(Problem("config", message))
        return Config()
    try:
        return Config.from_dict(given)
    except ConfigError as error:
        problems += [Problem(f"config.{one.path}", one.message) for one in error.problems]
        return Config()


def _combined(config: Config) -> list[Problem]:
    """What does not go together, in what the classifier is built from."""
    try:
        check(untrained(config))
    except ConfigError as error:
        return list(error.problems)
    return []


def _expected(saved: Mapping[str, object], task: str) -> dict[str, tuple[str, _Fits]]:
    """For each part of the configuration that loading reads, what it must be, in words and code."""
    labels = saved.get("labels")
    count = len(labels) if isinstance(labels, dict) else 0
    expected: dict[str, tuple[str, _Fits]] = {
        "task": (f"'{task}', as in config", lambda value: value in (None, task)),
        "backbone": ("a name, a fingerprint and a family", _is_backbone),
        "method": ("options of a method, with its name", _is_method),
        "labels": ("texts by the names of labels", _are_labels),
        "length": ("an integer of 0 or more", lambda value: _is_count(value, 0)),
        "max_length": ("an integer of 1 or more", lambda value: _is_count(value, 1)),
        "figures": ("sections of figures", _are_figures),
    }
    if TASK_FACTS[task].of_words:
        schemes = get_args(Scheme)
        expected["scheme"] = (" or ".join(schemes), lambda value: value in schemes)
    else:
        types = (None, *get_args(LabelType))
        expected["label_type"] = ("a type of labels", lambda value: value in types)
        expected["label_room"] = (
            "an integer of 1 or more, or nothing",
            lambda value: value is None or _is_count(value, 1),
        )
        expected["pairs"] = (
            "true, false or nothing",
            lambda value: value is None or isinstance(value, bool),
        )
        expected["num_labels"] = (
            f"{count}, the number of labels",
            lambda value: _is_count(value, 1) and value == count,
        )
    if TASK_FACTS[task].one_of_each:
        least, most = TEMPERATURES
        # Artifacts of before have none.
        expected["temperature"] = (
            f"a number from {least:g} to {most:g}",
            lambda value: value is None or (_is_number(value) and least <= value <= most),
        )
        expected["oos_threshold"] = (
            "a number or nothing",
            lambda value: value is None or _is_number(value),
        )
    if TASK_FACTS[task].several:
        expected["thresholds"] = (
            f"{count} numbers, one for each label",
            lambda value: (
                isinstance(value, list) and list(map(_is_number, value)) == [True] * count
            ),
        )
    return expected


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and least <= value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_backbone(value: object) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("start_token"), str | None):
        return False
    return all(isinstance(value.get(key), str) for key in _BACKBONE)


def _is_method(value: object) -> bool:
    return isinstance(value, dict) and "name" in value


def _are_labels(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(
        isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        for texts in value.values()
    )


def _are_figures(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())
