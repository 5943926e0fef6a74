"""The demo data set: customer messages in eight classes, and a ninth that training never sees.

README.md beside this file is the data card.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import yaml

__all__ = ["Demo", "load"]


@dataclass(frozen=True)
class Demo:
    """The demo's rows, each a pair (text, label name), and its label texts by label name.

    `new` holds texts of the one label in `new_label`, which no other field knows.
    """

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]
    new: list[tuple[str, str]]
    labels: dict[str, str]
    new_label: dict[str, str]


def load() -> Demo:
    """Read the demo from the installed package."""
    return Demo(
        train=_read_rows("train.jsonl"),
        test=_read_rows("test.jsonl"),
        new=_read_rows("new_label.jsonl"),
        labels=_read_labels("labels.yaml"),
        new_label=_read_labels("new_label.yaml"),
    )


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")


def _read_rows(name: str) -> list[tuple[str, str]]:
    # Not splitlines(): it would also cut at characters that JSON allows inside a string.
    rows = [json.loads(line) for line in _read(name).split("\n") if line]
    return [(row["text"], row["label"]) for row in rows]


def _read_labels(name: str) -> dict[str, str]:
    labels: dict[str, str] = yaml.safe_load(_read(name))
    return labels
