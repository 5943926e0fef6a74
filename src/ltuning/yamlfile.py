"""Plain values <-> YAML, with errors for the person who wrote the file.

Two things differ from PyYAML's safe loader: a key that stands twice in a mapping is an error,
and ``1e-3`` is a number, as YAML 1.2 has it (PyYAML follows 1.1, where it is a text).
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Any

import yaml

_FLOAT_TAG = "tag:yaml.org,2002:float"
_EXPONENT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_LINE_BREAKS = frozenset("\x85\u2028\u2029")
_MOST_SHOWN = 80  # characters of a value in a message


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


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
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
        YamlError: the file is missing or unreadable, is not UTF-8, or is not one YAML document.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
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
        YamlError: the text is not one YAML document, or a mapping has a key twice.
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


def dump(value: Any) -> str:
    """YAML text of plain values, keys in their order; ``parse(dump(value)) == value``."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )


def shown(value: object) -> str:
    """A value as a message shows it: its repr, cut where it is long."""
    if value is None:
        return "nothing"
    text = repr(value)
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
