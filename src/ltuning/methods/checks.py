"""Configurations that are wholly checked, short of loading a model: all problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltuning.config import SHARD, TASK_FACTS, Config, check_training, name_as_text
from ltuning.errors import ConfigError, LabelError, Problem
from ltuning.labels import Labels
from ltuning.methods import catalog
from ltuning.methods.weight_methods import WEIGHT_METHODS
from ltuning.suggestions import listed, unknown


def check(config: Config) -> None:
    """Every problem of a configuration that can be seen before a model is loaded.

    Imports transformers where `training` holds something: its TrainingArguments say what it may.

    Raises:
        ConfigError: with all of them.
    """
    found = _label_problems(config) + catalog.problems(config) + _task_problems(config)
    found += sharding_problems(config) + check_training(config.training)
    if isinstance(config.stopping.patience, int) and config.training.get("eval_strategy") == "no":
        message = "training.eval_strategy is 'no': without evaluations nothing stops early"
        found.append(Problem("stopping.patience", message))
    if config.stopping.seconds is not None and config.method.name != catalog.AUTO:
        message = f"expected with method '{catalog.AUTO}' alone, got '{config.method.name}'"
        found.append(Problem("stopping.seconds", f"{message}; leave it out"))
    if found:
        raise ConfigError(found)


def configure(
    mapping: Mapping[str, object],
    settings: Sequence[str] = (),
    problems: Sequence[Problem] = (),
) -> Config:
    """A checked configuration from nested options.

    Options that are wrong in themselves are set aside, so that the others are checked as well.

    Args:
        mapping: nested options.
        settings: `a.b=c`, which win over the mapping.
        problems: what was found wrong before.

    Raises:
        ConfigError: with every problem there is, those found before included.
    """
    found = list(problems)
    config: Config | None
    try:
        config = Config.from_dict(mapping, settings)
    except ConfigError as error:
        found += error.problems
        config = _sound_part(mapping, settings, error.problems)
    if config is not None:
        found += _further_problems(config, {problem.path for problem in found})
    if config is None or found:
        raise ConfigError(found)
    return config


def without(options: Mapping[str, object], path: str) -> Mapping[str, Any]:
    """Nested options less the one at a dotted path; those that lack it stay as they are."""
    section, _, name = path.partition(".")
    inner = options.get(section)
    rest = {key: value for key, value in options.items() if key != section}
    if name and isinstance(inner, Mapping):
        return {**rest, section: without(inner, name)}
    return rest


def _sound_part(
    mapping: Mapping[str, object], settings: Sequence[str], problems: Sequence[Problem]
) -> Config | None:
    """What is left without the options that have a problem."""
    paths = {problem.path for problem in problems}
    for path in paths:
        mapping = without(mapping, path)
    sound = [item for item in settings if "=" in item and item.split("=")[0].strip() not in paths]
    try:
        return Config.from_dict(mapping, sound)
    except ConfigError:
        return None


def _further_problems(config: Config, broken: set[str]) -> list[Problem]:
    try:
        check(config)
    except ConfigError as error:
        # Where the name of the method is wrong, whether other options go with it cannot be said.
        unsure = bool(broken & {"method", "method.name", "method.recipe"})
        return [item for item in error.problems if not (unsure and item.path.startswith("method."))]
    return []


def _label_problems(config: Config) -> list[Problem]:
    if config.labels is None:
        return []
    if TASK_FACTS[config.task].of_words:
        return type_problems(config.labels)
    try:
        reads = catalog.reads_texts(config.method)
        Labels.from_any(config.labels, texts_read=reads)
    except LabelError as error:
        return [Problem("labels", str(error))]
    weights = config.data.class_weight
    return [
        Problem(f"data.class_weight.{name}", unknown("label", name, config.labels))
        for name in (weights if isinstance(weights, dict) else ())
        if name not in config.labels
    ]


def type_problems(types: Mapping[str, Sequence[str]]) -> list[Problem]:
    """What is wrong with types of entities; one is enough, and their texts are not read."""
    if not types:
        return [Problem("labels", "expected one type of entity or more, got none")]
    wrong = [name for name in types if not name.strip() or name == "O" or set(name) & set(" \t\n")]
    message = "expected types of entities, of one word each and not 'O', got {!r}; rename it"
    return [Problem("labels", message.format(name)) for name in wrong]


def with_texts(labels: Mapping[str, Sequence[str]]) -> list[str]:
    """Labels, or types of entities, that have other texts than their names."""
    return [name for name, texts in labels.items() if not {*texts} <= {name, name_as_text(name)}]


def _task_problems(config: Config) -> list[Problem]:
    """Options that the task has not."""
    metric, facts = config.stopping.metric, TASK_FACTS[config.task]
    found = []
    if metric not in facts.metrics:
        choices = f"{listed(facts.metrics[:-1])} or {facts.metrics[-1]!r}"
        message = f"expected {choices} with task '{config.task}', got '{metric}'"
        found.append(Problem("stopping.metric", message))
    if not facts.one_of_each and config.data.shots is not None:
        message = f"task '{config.task}' has no texts of one class to draw from; leave it out"
        found.append(Problem("data.shots", message))
    if not facts.one_of_each and config.data.oos_label is not None:
        message = f"task '{config.task}' says of no text that it belongs nowhere; leave it out"
        found.append(Problem("data.oos_label", message))
    if not facts.one_of_each and config.data.class_weight is not None:
        also = "" if facts.of_words else ", or give sample_weight to fit in Python"
        message = f"task '{config.task}' has no texts of one class to weigh; leave it out{also}"
        found.append(Problem("data.class_weight", message))
    return found + (_tag_problems(config) if facts.of_words else [])


def sharding_problems(config: Config) -> list[Problem]:
    """Options that do not go with a backbone that is divided over processes."""
    found: list[Problem] = []
    if config.backbone.device != SHARD:
        return found
    name = config.method.name
    message = f"expected a method with virtual tokens, or 'probe', with backbone.device '{SHARD}', "
    if name == catalog.AUTO:
        message += f"got '{name}', which may choose one that changes the layers; name one"
        found.append(Problem("method.name", message))
    elif name in WEIGHT_METHODS and WEIGHT_METHODS[name].trains != "nothing":
        message += f"whose layers stay as they are, got '{name}'; leave device out"
        found.append(Problem("method.name", message))
    if config.data.long_texts != "cut":
        message = (
            f"expected 'cut' with backbone.device '{SHARD}', where all processes run as many texts "
            f"at a time, got '{config.data.long_texts}'; leave one of them out"
        )
        found.append(Problem("data.long_texts", message))
    return found


def _tag_problems(config: Config) -> list[Problem]:
    """Options of texts as a whole, where words are read."""
    found = []
    if config.data.text_pair_column is not None:
        message = f"task '{config.task}' has no pairs of texts; leave it out"
        found.append(Problem("data.text_pair_column", message))
    for name in ("empty_texts", "missing_labels"):
        if getattr(config.data, name) == "skip":
            message = f"task '{config.task}' skips no sentences; mend the rows and leave it out"
            found.append(Problem(f"data.{name}", message))
    if config.data.long_texts == "windows":
        message = f"task '{config.task}' reads every text in windows as it is; leave it out"
        found.append(Problem("data.long_texts", message))
    if config.method.name == catalog.AUTO:
        return found
    if not catalog.ROWS[config.method.name].reads_words:
        fitting = [name for name, row in catalog.ROWS.items() if row.reads_words]
        message = (
            f"expected a method that gives every word a score ({listed(fitting)}) with task "
            f"'{config.task}', got '{config.method.name}', which scores a text as a whole"
        )
        found.append(Problem("method.name", message))
    elif config.method.pooling is not None:
        message = (
            f"task '{config.task}' reads every word and pools none, got "
            f"'{config.method.pooling}'; leave it out"
        )
        found.append(Problem("method.pooling", message))
    return found
