"""Labels: their names, and the texts that stand for them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ltuning.config import label_texts, name_as_text, yaml
from ltuning.config.yaml import YamlError
from ltuning.errors import LabelError
from ltuning.suggestions import listed, unknown
from ltuning.values import OF_NAME, is_of_type, joined_names, label_name, plain_value
from ltuning.values import Label as Label
from ltuning.values import LabelType as LabelType
from ltuning.values import label_type as label_type

# What may stand between labels that came as one.
_SEPARATORS = "|;,"
# A word: two letters, or one sign of a script whose signs are words or syllables.
_WORD = re.compile(r"[^\W\d_]{2}|[\u3040-\uffff]")
_NUMBERED = re.compile(r"(label|class|category|topic|cluster)\W*\d+", re.IGNORECASE)

_ONE = {"text": "a text", "integer": "an integer", "number": "a number", "boolean": "a boolean"}


@dataclass(frozen=True)
class Labels:
    """Two or more labels, in order, each with one or more texts. `from_any` makes them.

    Attributes:
        names: `[K]` what the data calls the labels, as text.
        texts: `[K]` for each label, the words that stand for it.
        type: what the labels are in the data, and what prediction gives.

    Raises:
        LabelError: with everything that is wrong with the labels.
    """

    names: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    type: LabelType = "text"

    def __post_init__(self) -> None:
        _refuse(_form_problems(self.names, self.texts))
        problems = _name_problems(self.names) + _type_problems(self.names, self.type)
        _refuse(problems + _text_problems(self.names, self.texts))

    @classmethod
    def from_any(
        cls,
        value: Labels | Sequence[Label] | Mapping[Any, str | Sequence[str]] | str | Path,
        *,
        texts_read: bool = True,
    ) -> Labels:
        """Labels from a list of names, a mapping of names to texts, or a YAML file of either.

        A name without a text has itself as its text, `_` and `-` turned into spaces:
        `card_arrival` stands for "card arrival". Names may also be all integers, all numbers or
        all booleans, but not in a file.

        Args:
            value: names, names with their texts, the path of a file, or Labels, which stay.
            texts_read: whether a method reads the texts. If not, names that leave no text or the
                same one, such as `+` and `-`, have themselves as their texts.

        Raises:
            LabelError: with everything that is wrong with the labels or the file.
        """
        if isinstance(value, Labels):
            return value
        if isinstance(value, (str, Path)):
            path, value = value, read_yaml(value)
            try:
                return _from_texts(value if texts_read else _told_apart(value))
            except LabelError as error:
                raise LabelError(f"labels file {path}: {error}") from error
        value, type_ = _as_text(value)
        texts = _texts(value)
        return _from_texts(texts if texts_read else _told_apart(texts), type_)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Labels:
        """Labels from a YAML file: a list of names, or a mapping of names to a text or texts.

        Raises:
            LabelError: with everything that is wrong with the labels or the file.
        """
        return cls.from_any(Path(path))

    @classmethod
    def of_data(cls, names: Iterable[str], type: LabelType, *, texts_read: bool = True) -> Labels:
        """Labels of the names that data has, in the order of their values, and of its type.

        Raises:
            LabelError: with everything that is wrong with the labels.
        """
        ordered = sorted(set(names), key=OF_NAME[type])
        return cls.from_any(ordered, texts_read=texts_read).of_type(type)

    def can_be(self, type: LabelType) -> bool:
        """Whether every name is one of a label of this type."""
        return all(is_of_type(name, type) for name in self.names)

    def of_type(self, type: LabelType) -> Labels:
        """The same labels as data of another type has them.

        Raises:
            LabelError: a name that is none of this type.
        """
        return self if type == self.type else replace(self, type=type)

    @property
    def values(self) -> tuple[Label, ...]:
        """`[K]` the labels as they are in the data."""
        return tuple(OF_NAME[self.type](name) for name in self.names)

    def to_dict(self) -> dict[str, list[str]]:
        """Name -> texts; `from_any` makes equal labels of it, but for their type."""
        return {name: list(texts) for name, texts in zip(self.names, self.texts, strict=True)}

    def add(self, more: Mapping[Any, str | Sequence[str]] | Sequence[Label]) -> Labels:
        """These labels followed by more of them.

        Raises:
            LabelError: a name or a text is there already, or is wrong in itself.
        """
        added = _texts(_as_text(more)[0])
        _refuse([f"there is a label {name!r} already" for name in added if name in self])
        return _from_texts(self.to_dict() | added, self.type)

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


def _from_texts(texts: Mapping[str, Sequence[str]], type: LabelType = "text") -> Labels:
    return Labels(tuple(texts), tuple(tuple(several) for several in texts.values()), type)


def wordless(labels: Labels) -> list[str]:
    """Names of labels whose texts say nothing of what they mean: numbers, letters, `class 3`."""
    return [
        name
        for name, texts in zip(labels.names, labels.texts, strict=True)
        if not any(_WORD.search(text) and not _NUMBERED.fullmatch(text) for text in texts)
    ]


def wordless_hint(names: Sequence[str], method: str) -> str:
    """What to say of labels without words, to a method that reads them."""
    text, label = ("text", "label") if len(names) == 1 else ("texts", "labels")
    return (
        f"the {text} of the {label} {listed(names)} say{'s' if len(names) == 1 else ''} nothing, "
        f"and method '{method}' reads what labels mean: give each a text with --label NAME=TEXT "
        "(in Python labels={name: text}), or take method 'prefix', which reads none"
    )


def joined_hints(names: Iterable[str]) -> list[tuple[list[str], str]]:
    """Names that are other names with `|`, `;` or `,` between them, and what to say of them."""
    known = list(names)
    found = [(sign, joined_names(known, sign)) for sign in _SEPARATORS]
    return [(joined, _joined_hint(sign, joined)) for sign, joined in found if joined]


def _joined_hint(sign: str, names: Sequence[str]) -> str:
    one = len(names) == 1
    return (
        f"the label{'' if one else 's'} {listed(names)} look{'s' if one else ''} like several with "
        f"{sign!r} between them, which are labels too: if so, list them for a MultilabelClassifier "
        "(--task multilabel, with | between labels in csv files), else rename "
        f"{'it' if one else 'them'}"
    )


def read_yaml(path: str | Path) -> dict[str, list[str]]:
    """Name -> texts of a YAML file, whose form alone is checked.

    Raises:
        LabelError: with what is wrong with the form or the file.
    """
    try:
        return _texts(yaml.read(path))
    except (YamlError, LabelError) as error:
        raise LabelError(f"labels file {path}: {error}") from error


def _as_text(value: object) -> tuple[Any, LabelType]:
    """Names that are all integers, numbers or booleans as text, and what they were."""
    if not isinstance(value, Mapping | list | tuple):
        return value, "text"
    given = [plain_value(name) for name in value]
    types = {label_type(name) for name in given}
    if len(types) != 1 or (type_ := types.pop()) in ("text", None):
        return value, "text"
    names = [label_name(name) for name in given]
    if isinstance(value, Mapping):
        return dict(zip(names, value.values(), strict=True)), type_
    return names, type_


def _told_apart(texts: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """With the name as its text where what was made of it is empty or another's too."""
    counts = Counter(" ".join(text.split()) for several in texts.values() for text in several)
    apart = {}
    for name, several in texts.items():
        made = str(name_as_text(name))
        is_own = list(several) == [made] and (not made or counts[" ".join(made.split())] > 1)
        apart[name] = [name] if is_own else several
    return apart


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


def _type_problems(names: Sequence[str], type: LabelType) -> list[str]:
    return [
        f"expected labels that are each {_ONE[type]}, got {name!r}: rename it"
        for name in names
        if not is_of_type(name, type)
    ]


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
