"""What the option `labels` takes: names, or names with the texts that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltuning.config.reading import plain_text
from ltuning.config.yaml import not_text, shown
from ltuning.errors import Problem
from ltuning.texts import lone_surrogate


def read_labels(value: object, path: str, problems: list[Problem]) -> Any:
    """Label texts as a mapping of names to lists; None where nothing is given."""
    if value is None:
        return None
    texts, sentences = label_texts(value)
    problems.extend(Problem(path, sentence) for sentence in sentences)
    return texts


def label_texts(value: object) -> tuple[dict[str, list[str]], list[str]]:
    """Label names with their texts, from a list of names or a mapping, and what is wrong in them.

    A name from a list has itself as its text, `_` and `-` turned into spaces. Only the form is
    checked here, so that a configuration needs no label code; `ltuning.labels.Labels` checks
    whether labels can be told apart.
    """
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        pairs = [(name, name_as_text(name)) for name in value]
    else:
        expected = "expected a list of names or a mapping of names to texts"
        return {}, [f"{expected}, got {shown(value)}"]
    texts: dict[str, list[str]] = {}
    problems: list[str] = []
    for name, given in pairs:
        if not isinstance(name, str):
            problems.append(f"expected a text as the name of a label, got {not_text(name)}")
        elif (found := lone_surrogate(name)) is not None:
            problems.append(f"the label {name!a} has {found}: decode it with the right encoding")
        elif name in texts:
            problems.append(f"the label {name!r} stands twice")
        else:
            texts[plain_text(name)] = _texts_of(name, given, problems)
    return texts, problems


def name_as_text(name: object) -> object:
    """What a label stands for that has nothing but its name."""
    if not isinstance(name, str):
        return name
    return name.replace("_", " ").replace("-", " ").strip()


def _texts_of(name: str, given: object, problems: list[str]) -> list[str]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        problems.append(f"the label {name!r} has an empty list of texts: give it one or more")
    for text in several:
        if not isinstance(text, str):
            expected = f"expected a text or a list of texts for the label {name!r}"
            problems.append(f"{expected}, got {not_text(text)}")
        elif (found := lone_surrogate(text)) is not None:
            decode = "decode it with the right encoding"
            problems.append(f"the label {name!r} has {found} in its text: {decode}")
    return [plain_text(text) for text in several if isinstance(text, str)]
