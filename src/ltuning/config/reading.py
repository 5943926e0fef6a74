"""From a mapping to a dataclass of options: all problems at once, each with its dotted path.

The dataclass says everything: its names are the options, their type hints what an option takes,
their field metadata its `range`, its `choices`, or a function of its own that reads it (`read`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ltuning.config import yaml
from ltuning.config.yaml import YamlError, not_text, shown
from ltuning.errors import Problem
from ltuning.suggestions import listed, suggest, unknown


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes, in words and as a test."""

    words: str
    accepts: Callable[[Any], bool]


FROM_ZERO = Range("of 0 or more", lambda number: number >= 0)
FROM_ONE = Range("of 1 or more", lambda number: number >= 1)
ABOVE_ZERO = Range("above 0", lambda number: number > 0)
SHARE = Range("from 0 to below 1", lambda number: 0 <= number < 1)
FRACTION = Range("between 0 and 1, both excluded", lambda number: 0 < number < 1)
# NumPy, which `transformers.set_seed` seeds too, takes no more than 32 bits.
SEED = Range("from 0 to 4294967295", lambda number: 0 <= number < 2**32)


def number_option(default: object, range: Range) -> Any:
    """A field of options that takes numbers of a range."""
    return field(default=default, metadata={"range": range})


@cache
def hints_of(options: type) -> dict[str, Any]:
    """The type hints of a dataclass, by field name."""
    return get_type_hints(options)


def read_options(
    kind: type, given: Mapping[Any, Any], prefix: str, problems: list[Problem]
) -> dict[str, Any]:
    """Checked values by field name, of the fields that are given; the problems are appended."""
    hints = hints_of(kind)
    values = {}
    for item in dataclasses.fields(kind):
        if item.name in given:
            path = prefix + item.name
            values[item.name] = _read(item, hints[item.name], given[item.name], path, problems)
    for key in given:
        if key not in hints:
            problems.append(Problem(f"{prefix}{key}", unknown("option", key, hints)))
    return values


def _read(
    item: dataclasses.Field[object], hint: object, value: object, path: str, problems: list[Problem]
) -> Any:
    if "read" in item.metadata:
        return item.metadata["read"](value, path, problems)
    if type(None) in get_args(hint):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    if dataclasses.is_dataclass(hint):
        return read_section(hint, value, path, problems)
    choices = get_args(hint) if get_origin(hint) is Literal else item.metadata.get("choices")
    if choices:
        return read_choice(choices, value, path, problems)
    if hint is bool:
        return read_boolean(value, path, problems)
    return read_scalar(hint, item.metadata.get("range"), value, path, problems)


def read_section(kind: Any, value: object, path: str, problems: list[Problem]) -> Any:
    """The dataclass `kind` of a mapping; of nothing, and where there are problems, its defaults."""
    if value is None:
        return kind()
    if isinstance(value, kind):
        value = vars(value)
    if not isinstance(value, Mapping):
        example = f"{path}.{dataclasses.fields(kind)[0].name}"
        message = f"expected a section of options such as {example}, got {shown(value)}"
        problems.append(Problem(path, message))
        return kind()
    return kind(**read_options(kind, value, f"{path}.", problems))


def read_choice(choices: Sequence[str], value: object, path: str, problems: list[Problem]) -> Any:
    """One of the choices; None where it is a problem."""
    if isinstance(value, str) and value in choices:
        return plain_text(value)
    near = suggest(value, choices) if isinstance(value, str) else ""
    came = not_text(value) if isinstance(value, bool) else shown(value)
    problems.append(Problem(path, f"expected one of {listed(choices)}, got {came}{near}"))
    return None


def read_boolean(value: object, path: str, problems: list[Problem]) -> Any:
    """The value, which is a problem where it is no boolean."""
    if not isinstance(value, bool):
        problems.append(Problem(path, f"expected true or false, got {shown(value)}"))
    return value


def plain_text(text: str) -> str:
    """The same characters as a `str` itself: NumPy's texts are of a class that YAML refuses."""
    return str.__str__(text)


# What a hint takes: what a value must be an instance of, in words, and the plain value it becomes.
_SCALARS: dict[Any, tuple[type, str, Callable[[Any], Any]]] = {
    int: (Integral, "an integer", int),
    float: (Real, "a number", float),
    str: (str, "a text that is not empty", plain_text),
}


def read_scalar(
    hint: object, range: Range | None, value: object, path: str, problems: list[Problem]
) -> Any:
    """A plain integer, number or text, as `hint` says; None where it is a problem."""
    instance_of, words, convert = _SCALARS[hint]
    fits = isinstance(value, instance_of) and not isinstance(value, bool) and value != ""
    if isinstance(value, float) and math.isinf(value):
        fits = False  # no option means "without end" by it
    if fits and isinstance(value, Integral) and not -(2**63) <= int(value) < 2**63:
        problems.append(Problem(path, f"expected {words} of 64 bits at most, got {shown(value)}"))
        return None
    if fits and (range is None or range.accepts(value)):
        return convert(value)
    expected = f"{words} {range.words}" if range else words
    came = not_text(value) if hint is str else shown(value)
    problems.append(Problem(path, f"expected {expected}, got {came}"))
    return None


def plain_copy(value: object, path: str, problems: list[Problem]) -> Any:
    """A copy in the plain values that YAML and JSON have; anything else is a problem."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                message = f"expected texts as names of options, got {not_text(key)}"
                problems.append(Problem(path, message))
        return {key: plain_copy(inner, f"{path}.{key}", problems) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_copy(inner, path, problems) for inner in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    came = not_text(value) if isinstance(value, date) else shown(value)
    message = f"expected a text, a number, a boolean, a list or a mapping, got {came}"
    problems.append(Problem(path, message))
    return None


_MOST_KEYS = 20  # of a dotted path; options lie four deep at most


def apply_settings(
    options: Mapping[str, object], settings: Iterable[str], problems: list[Problem]
) -> Mapping[str, Any]:
    """The options with every `a.b=value` put in place; what cannot be is a problem."""
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys) or len(keys) > _MOST_KEYS:
            message = f"expected OPTION=VALUE such as method.rank=64, got {shown(setting)}"
            problems.append(Problem("--set", message))
            continue
        try:
            options = put(options, keys, yaml.parse(text))
        except YamlError as error:
            message = f"cannot read the value {text!r} ({error}): put it in quotes"
            problems.append(Problem(".".join(keys), message))
        except NoSection as error:
            problems.append(Problem(".".join(keys), str(error)))
    return options


class NoSection(Exception):
    """A dotted path that leads through something without options."""


def put(options: Mapping[str, object], keys: Sequence[str], value: object) -> dict[str, Any]:
    """Nested options with one in its place.

    Raises:
        NoSection: on the way to it is something without options.
    """
    key, *rest = keys
    if not rest:
        return {**options, key: value}
    inner = options.get(key)
    if dataclasses.is_dataclass(inner):
        inner = vars(inner)
    if inner is not None and not isinstance(inner, Mapping):
        raise NoSection(f"{key!r} is not a section of options but {shown(inner)}")
    return {**options, key: put(inner or {}, rest, value)}


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Options that differ, each as `path: old -> new`."""
    before, after = _flat(old), _flat(new)
    return [
        f"{path}: {shown(before.get(path))} -> {shown(after.get(path))}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def _flat(options: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
