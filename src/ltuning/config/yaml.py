"""Plain values <-> YAML, with errors for the person who wrote the file.

Three things differ from PyYAML's safe loader: a key that stands twice in a mapping is an error,
``1e-3`` is a number, as YAML 1.2 has it (PyYAML follows 1.1, where it is a text), and what would
not fit a machine is refused: aliases of aliases that grow without end, numbers beyond 64 bits.
"""

from __future__ import annotations

import math
import re
from datetime import date
from pathlib import Path
from typing import Any

import yaml

_FLOAT_TAG = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_LINE_BREAKS = frozenset("\x85\u2028\u2029")
_MOST_SHOWN = 80  # characters of a value in a message
# Ten lines of ten aliases each would stand for ten thousand million values.
_MOST_ALIASED = 100_000
# Files of options and labels are small; what is larger is data, or a device without an end.
_MOST_BYTES = 16 * 2**20


class YamlError(ValueError):
    """A YAML text that cannot be read; the message has the line, and the caller adds the file."""


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                message = f"the key {key.value!r} stands twice"
                raise yaml.composer.ComposerError(None, None, message, key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _refuse_growth(node)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # Not `int` first: Python refuses to read long decimals, and not to read long hexadecimals.
        number = super().construct_yaml_int(node) if len(node.value) <= _MOST_SHOWN else None
        if number is None or not -(2**63) <= number < 2**63:
            raise _too_large(node)
        return number

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        number = super().construct_yaml_float(node)
        if math.isinf(number) and "inf" not in node.value.lower():
            raise _too_large(node)
        return number

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        # JSON escapes an emoji as two halves, which PyYAML leaves apart.
        halves = super().construct_yaml_str(node).encode("utf-16-le", "surrogatepass")
        try:
            return halves.decode("utf-16-le")
        except UnicodeDecodeError:
            message = f"expected characters, got half of one in {shown(node.value)}; write it out"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor(_FLOAT_TAG, _Loader.construct_yaml_float)


def _too_large(node: yaml.ScalarNode) -> yaml.constructor.ConstructorError:
    message = (
        f"expected a number of 64 bits at most, got {shown(node.value)}; put a text of digits in "
        "quotes"
    )
    return yaml.constructor.ConstructorError(None, None, message, node.start_mark)


def _refuse_growth(root: yaml.Node) -> None:
    """Refuse what contains itself, and more than so many values out of aliases."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        found = sizes.get(id(node))
        if found == 0:
            message = "contains itself, by an alias within what it stands for"
            raise yaml.composer.ComposerError(None, None, message, node.start_mark)
        if found is None:
            sizes[id(node)] = 0  # until it is known
            found = sizes[id(node)] = 1 + sum(map(size, _inner(node)))
        return found

    if size(root) - len(sizes) > _MOST_ALIASED:
        message = (
            f"expected aliases that stand for {_MOST_ALIASED:,} values at most, got "
            f"{size(root) - len(sizes):,}; write the values out"
        )
        raise yaml.composer.ComposerError(None, None, message, root.start_mark)


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Outside double quotes PyYAML writes these Unicode line breaks as they are, and folds them.
    style = '"' if _LINE_BREAKS & set(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
# The dumper has it too, so that the text '1e-3' is written in quotes and stays a text.
_Loader.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver(_FLOAT_TAG, _EXPONENT, list("-+.0123456789"))


def read(path: str | Path) -> Any:
    """The value that a UTF-8 YAML file holds.

    Raises:
        YamlError: the file is missing, unreadable or larger than 16 MiB, is not UTF-8, or is not
            one YAML document.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise YamlError(f"expected {_MOST_BYTES // 2**20} MiB at most, got more")
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        raise YamlError("no such file") from None
    except OSError as error:
        raise YamlError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start + 1}: save the file as UTF-8"
        raise YamlError(message) from error
    return parse(text)


def parse(text: str) -> Any:
    """The value that a YAML text holds.

    Raises:
        YamlError: the text is not one YAML document, a mapping has a key twice, a value contains
            itself, or aliases or numbers are too large.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise YamlError(_marked_message(error)) from error
    except RecursionError:
        raise YamlError("nested too deeply") from None
    # PyYAML lets the errors of its own conversions out, as for the date 2024-13-45.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        raise YamlError(f"not readable as YAML: {' '.join(str(error).split())}") from error


def dump(value: object) -> str:
    """YAML text of plain values, keys in their order; ``parse(dump(value)) == value``."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def shown(value: object) -> str:
    """A value as a message shows it: its repr, cut where it is long."""
    if value is None:
        return "nothing"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of 4,300 digits or more; a nest
        return f"a value of type {type(value).__name__} that is too long to show"
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


def not_text(value: object) -> str:
    """What came where a text was expected, and how to write it so that YAML reads a text."""
    if isinstance(value, bool):
        reason = "YAML reads yes, no, on, off, true and false as booleans"
        return f"{value} ({reason}: put it in quotes)"
    if isinstance(value, (int, float)):
        return f"the number {value} (put it in quotes)"
    if isinstance(value, date):
        return f"the date {value} (put it in quotes)"
    return shown(value)


def _marked_message(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = f"line {mark.line + 1}: " if mark else ""
    return line + ", ".join(part for part in (error.context, error.problem) if part)
