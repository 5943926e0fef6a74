"""What can be seen of labelled texts without a model: rare labels, repeated texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ltuning.checks.finding import Finding, quoted
from ltuning.data.tables import Places
from ltuning.texts import counted

# Labels with fewer texts are learnt, and measured, by chance.
FEW = 8
_NAMED = 3


class Labelled(Protocol):
    """Examples of any task, with where they stand."""

    @property
    def texts(self) -> list[Any]:
        """The texts, or the words of the sentences."""

    @property
    def names(self) -> list[list[str]]:
        """The labels of each."""

    @property
    def places(self) -> Places | None:
        """Where each stands in its source."""

    def __len__(self) -> int: ...


def label_counts(examples: Labelled) -> dict[str, int]:
    """The number of texts of each label, the most frequent first."""
    counts = Counter(name for names in examples.names for name in names)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def places_of(examples: Labelled) -> Places:
    """Where the texts stand; their numbers, where that is not known."""
    return examples.places or Places("row", range(1, len(examples) + 1))


def check_examples(splits: Mapping[str, Labelled], *, one_of_each: bool) -> list[Finding]:
    """Labels with few training texts, texts under several labels, and texts that are there twice.

    Args:
        splits: the examples, those to train on as `train`.
        one_of_each: whether a text has one label.
    """
    found = few_texts(splits["train"]) if "train" in splits else []
    for split, examples in splits.items():
        if one_of_each:
            found += several_labels(examples, split)
        found += repeated(examples, split, one_of_each=one_of_each)
    if "train" in splits:
        for split, examples in splits.items():
            found += in_both(splits["train"], examples, split) if split != "train" else []
    return found


def few_texts(training: Labelled) -> list[Finding]:
    """Labels with fewer than `FEW` training texts."""
    rare = {name: count for name, count in label_counts(training).items() if count < FEW}
    if not rare:
        return []
    few = [f"{name!r} ({count})" for name, count in sorted(rare.items(), key=lambda pair: pair[1])]
    more = f" and {len(few) - _NAMED} more" if len(few) > _NAMED else ""
    sentence = (
        f"{counted(len(rare), 'label')} with fewer than {FEW} texts: {', '.join(few[:_NAMED])}"
        f"{more}; label more texts of {_them(rare)}, or join {_them(rare)} with others"
    )
    found = [{"label": name, "texts": count} for name, count in rare.items()]
    return [Finding("few texts", "train", len(rare), sentence, found)]


def several_labels(examples: Labelled, split: str) -> list[Finding]:
    """Texts that stand under several labels."""
    places, labels = places_of(examples), examples.names
    found, words = [], ""
    for text, rows in _repeated(examples).items():
        of_label: dict[str, list[int]] = {}
        for row in rows:
            of_label.setdefault(labels[row][0], []).append(row)
        if len(of_label) > 1:
            shown = (f"{name!r} ({places.named(some)})" for name, some in of_label.items())
            words = words or f"{quoted(examples.texts[rows[0]])} is {' and '.join(shown)}"
            where = {name: _numbers(places, some) for name, some in of_label.items()}
            found.append({"text": text, f"{places.unit}s": where})
    if not found:
        return []
    more = ", ..." if len(found) > 1 else ""
    sentence = (
        f"{counted(len(found), 'text')} under several labels: {words}{more}; keep one label of "
        "each text"
    )
    return [Finding("several labels", split, len(found), sentence, found)]


def repeated(examples: Labelled, split: str, *, one_of_each: bool) -> list[Finding]:
    """Texts that come more than once; where a text has one label, under the same one."""
    places, labels = places_of(examples), examples.names
    found, first, surplus = [], "", 0
    for text, rows in _repeated(examples).items():
        if one_of_each and len({labels[row][0] for row in rows}) > 1:
            continue
        times = f"{quoted(examples.texts[rows[0]])} {len(rows)} times ({places.named(rows)})"
        first, surplus = first or times, surplus + len(rows) - 1
        found.append({"text": text, f"{places.unit}s": _numbers(places, rows)})
    if not found:
        return []
    more = ", ..." if len(found) > 1 else ""
    sentence = (
        f"{counted(len(found), 'text')} more than once, {counted(surplus, 'row')} too many: "
        f"{first}{more}; keep one of each"
    )
    return [Finding("repeated", split, len(found), sentence, found)]


def in_both(training: Labelled, examples: Labelled, split: str) -> list[Finding]:
    """Texts of another split that are training texts too."""
    ours, theirs = places_of(training), places_of(examples)
    trained = {_key(text): row for row, text in reversed([*enumerate(training.texts)])}
    rows = [row for row, text in enumerate(examples.texts) if _key(text) in trained]
    if not rows:
        return []
    of_train = [trained[_key(examples.texts[row])] for row in rows]
    more = ", ..." if len(rows) > 1 else ""
    sentence = (
        f"{len(rows):,} of {counted(len(examples), 'text')} are training texts too: "
        f"{quoted(examples.texts[rows[0]])} ({theirs.named(rows[:1])}, of train "
        f"{ours.named(of_train[:1])}){more}; figures of {split} are too good with them, take them "
        "out of train"
    )
    found = [
        {
            "text": _key(examples.texts[row]),
            theirs.unit: theirs.numbers[row],
            f"train {ours.unit}": ours.numbers[other],
        }
        for row, other in zip(rows, of_train, strict=True)
    ]
    return [Finding("in both", split, len(rows), sentence, found)]


def _repeated(examples: Labelled) -> dict[str, list[int]]:
    """The rows of each text that comes more than once; white space does not count."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(examples.texts):
        rows.setdefault(_key(text), []).append(row)
    return {text: several for text, several in rows.items() if len(several) > 1}


def _key(text: Any) -> str:
    parts = (text,) if isinstance(text, str) else text
    between = "\n" if isinstance(text, tuple) else " "
    return between.join(" ".join(part.split()) for part in parts)


def _numbers(places: Places, rows: Sequence[int]) -> list[int]:
    return [places.numbers[row] for row in rows]


def _them(several: Mapping[str, object]) -> str:
    return "it" if len(several) == 1 else "them"
