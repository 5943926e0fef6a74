"""Labels: their names, and the texts that stand for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ltuning import yamlfile
from ltuning.config import label_texts
from ltuning.errors import LabelError
from ltuning.registry import unknown
from ltuning.yamlfile import YamlError


@dataclass(frozen=True)
class Labels:
    """Two or more labels, in order, each with one or more texts. `from_any` makes them.

    Attributes:
        names: [K] what the data calls the labels, and what prediction gives.
        texts: [K] for each label, the words that stand for it.

    Raises:
        LabelError: with everything that is wrong with the labels.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        _refuse(_form_problems(self.names, self.texts))
        _refuse(_name_problems(self.names) + _text_problems(self.names, self.texts))

    @classmethod
    def from_any(
        cls, value: Labels | Sequence[str] | Mapping[str, str | Sequence[str]] | str | Path
    ) -> Labels:
        """Labels from a list of names, a mapping of names to texts, or a YAML file of either.

        A name without a text has itself as its text, `_` and `-` turned into spaces:
        `card_arrival` stands for "card arrival".

        Raises:
            LabelError: with everything that is wrong with the labels or the file.
        """
        if isinstance(value, Labels):
            return value
        if isinstance(value, (str, Path)):
            return cls.from_yaml(value)
        return _from_texts(_texts(value))

    @classmethod
    def from_yaml(cls, path: str | Path) -> Labels:
        """Labels from a YAML file: a list of names, or a mapping of names to a text or texts.

        Raises:
            LabelError: with everything that is wrong with the labels or the file.
        """
        try:
            return _from_texts(_texts(yamlfile.read(path)))
        except (YamlError, LabelError) as error:
            raise LabelError(f"labels file {path}: {error}") from error

    def to_dict(self) -> dict[str, list[str]]:
        """Name -> texts; `from_any` makes equal labels of it."""
        return {name: list(texts) for name, texts in zip(self.names, self.texts, strict=True)}

    def add(self, more: Mapping[str, str | Sequence[str]] | Sequence[str]) -> Labels:
        """These labels followed by more of them.

        Raises:
            LabelError: a name or a text is there already, or is wrong in itself.
        """
        added = _texts(more)
        _refuse([f"there is a label {name!r} already" for name in added if name in self])
        return _from_texts(self.to_dict() | added)

    def index(self, name: str) -> int:
        """The place of a label, counted from 0.

        Raises:
            LabelError: there is no label of this name.
        """
        if name not in self:
            raise LabelError(unknown("label", name, self.names))
        return self._places[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flat_texts(self) -> tuple[str, ...]:
        """The texts of all labels, one label after the other."""
        return tuple(text for texts in self.texts for text in texts)

    @property
    def owners(self) -> tuple[int, ...]:
        """For each of `flat_texts`, the index of its label."""
        return tuple(place for place, texts in enumerate(self.texts) for _ in texts)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}


def _texts(value: object) -> dict[str, list[str]]:
    texts, problems = label_texts(value)
    _refuse(problems)
    return texts


def _from_texts(texts: Mapping[str, Sequence[str]]) -> Labels:
    return Labels(tuple(texts), tuple(tuple(several) for several in texts.values()))


def _refuse(problems: Sequence[str]) -> None:
    if len(problems) > 1:
        raise LabelError("\n  ".join([f"{len(problems)} problems with the labels:", *problems]))
    if problems:
        raise LabelError(problems[0])


def _form_problems(names: object, texts: object) -> list[str]:
    rows = (names, *texts) if isinstance(texts, tuple) else ()
    if rows and all(_is_texts(row) for row in rows) and len(rows) == len(rows[0]) + 1:
        return []
    return ["expected a tuple of names and, for each, a tuple of texts: use Labels.from_any"]


def _is_texts(row: object) -> bool:
    return isinstance(row, tuple) and all(isinstance(text, str) for text in row)


def _name_problems(names: Sequence[str]) -> list[str]:
    problems = []
    if len(names) < 2:
        problems.append(f"expected two labels or more, got {len(names)}: {list(names)}")
    if any(not name.strip() for name in names):
        problems.append("expected a name for every label, got an empty one")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return problems + [f"the label {name!r} stands twice" for name in repeated]


def _text_problems(names: Sequence[str], texts: Sequence[Sequence[str]]) -> list[str]:
    problems = []
    owners: dict[str, list[str]] = {}
    for name, several in zip(names, texts, strict=True):
        if not several or not all(text.strip() for text in several):
            problems.append(f"the label {name!r} has an empty text: write what it means")
        for text in several:
            owners.setdefault(" ".join(text.split()), []).append(name)
    return problems + [_same_text(text, of) for text, of in owners.items() if text and len(of) > 1]


def _same_text(text: str, owners: Sequence[str]) -> str:
    names = list(dict.fromkeys(owners))
    if len(names) == 1:
        return f"the label {names[0]!r} has the text {text!r} twice"
    last = names.pop()
    others = ", ".join(repr(name) for name in names)
    return f"the labels {others} and {last!r} have the same text {text!r}: give each its own"
