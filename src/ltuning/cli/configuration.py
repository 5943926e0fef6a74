"""From a configuration file, options and `--set` to one checked Config."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ltuning.config import Config, absolute_path, apply_settings, yaml
from ltuning.config.reading import NoSection, put
from ltuning.config.yaml import YamlError, shown
from ltuning.errors import LabelError, LTuningError, Problem
from ltuning.labels import read_yaml
from ltuning.methods import checks

# Giving one of them takes back the other, wherever that stands.
_LENGTHS = {
    "training.num_train_epochs": "training.max_steps",
    "training.max_steps": "training.num_train_epochs",
}


def configure(
    base: Mapping[str, object],
    given: Mapping[str, object],
    settings: Sequence[str],
    problems: Sequence[Problem],
    *,
    needs_data: bool = False,
) -> Config:
    """A configuration that is wholly checked, short of loading a model.

    Args:
        base: nested options, of a file.
        given: options of the command line by dotted path, which win over the base; None is
            not given.
        settings: `a.b=c`, which win over both.
        problems: what was found wrong before.
        needs_data: whether `data.path` must be there.

    Raises:
        ConfigError: with every problem there is, those found before included.
    """
    mapping = _merged(base, given)
    found = list(problems)
    if needs_data and not _has_data(mapping, settings):
        found.append(Problem("data.path", "missing; say with --data where the texts are"))
    config = checks.configure(mapping, settings, found)
    return _with_absolute_paths(config)


def _has_data(mapping: Mapping[str, object], settings: Sequence[str]) -> bool:
    data = apply_settings(mapping, settings, []).get("data")  # its problems are said by the check
    return isinstance(data, Mapping) and data.get("path") is not None


def unread(settings: Iterable[str], read: Collection[str], words: str) -> list[Problem]:
    """Settings of sections that a verb does not read.

    Args:
        settings: `a.b=c`.
        read: the sections that it does.
        words: what is said of each of the others.
    """
    named = {setting.partition("=")[0].partition(".")[0].strip() for setting in settings}
    names = (item.name for item in fields(Config))
    return [Problem(name, words) for name in names if name in named and name not in read]


def refusals(checks: Iterable[Callable[[], object]]) -> list[LTuningError]:
    """What the checks raise, so that all of it is said at once."""
    found = []
    for check in checks:
        try:
            check()
        except LTuningError as error:
            found.append(error)
    return found


def raise_all(errors: Sequence[LTuningError]) -> None:
    """Raises one error as it is, and several as one that lists them; nothing where none is."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise LTuningError("\n  ".join([f"{len(errors)} problems:", *map(str, errors)]))


def read_options(path: Path | None, problems: list[Problem]) -> Mapping[str, Any]:
    """The nested options of a YAML file, unchecked; a file that cannot be read is a problem."""
    if path is None:
        return {}
    try:
        loaded = yaml.read(path)
    except YamlError as error:
        problems.append(Problem(str(path), str(error)))
        return {}
    if not isinstance(loaded, Mapping):
        message = f"expected a mapping of options, got {shown(loaded)}"
        problems.append(Problem(str(path), message))
        return {}
    return loaded


def read_splits(config: Config, *names: str) -> Mapping[str, Any]:
    """The examples of the splits of these names that there are, as the task has them.

    Raises:
        DataError: a source that is not there or cannot be used.
    """
    from ltuning.data.sources import Columns, Dialect
    from ltuning.tasks.table import TASKS

    data = config.data
    assert data.path is not None  # configure needs it
    return TASKS[config.task].read_splits(
        data.path,
        Columns(data.text_column, data.text_pair_column, data.label_column),
        splits=names,
        empty_texts=data.empty_texts,
        missing_labels=data.missing_labels,
        dialect=Dialect(data.encoding, data.delimiter),
    )


def read_labels(
    file: Path | None, pairs: Sequence[str], problems: list[Problem]
) -> dict[str, list[str]] | None:
    """Label texts by name from `--labels FILE` or from `--label name=text`; None for neither."""
    if file is not None and pairs:
        message = "expected one of --labels and --label, got both; put all labels into the file"
        problems.append(Problem("--labels", message))
        return None
    if file is not None:
        try:
            return read_yaml(file)
        except LabelError as error:
            problems.append(Problem("--labels", str(error)))
            return None
    labels: dict[str, list[str]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            message = f"expected NAME=TEXT such as \"pos=a good review\", got '{pair}'"
            problems.append(Problem("--label", message))
        labels.setdefault(name.strip(), []).append(text.strip())
    return labels or None


def _merged(base: Mapping[str, object], given: Mapping[str, object]) -> Mapping[str, Any]:
    merged = base
    for path, value in given.items():
        if value is not None:
            with suppress(NoSection):  # Config says what is wrong with the section
                rest = checks.without(merged, _LENGTHS.get(path, ""))
                merged = put(rest, path.split("."), value)
    return merged


def _with_absolute_paths(config: Config) -> Config:
    """So that the configuration means the same from another folder."""
    backbone = replace(config.backbone, name=absolute_path(config.backbone.name))
    path = config.data.path
    data = replace(config.data, path=None if path is None else absolute_path(path))
    return replace(config, backbone=backbone, data=data)
