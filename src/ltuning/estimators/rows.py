"""What `fit` says of labelled texts before it trains on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from ltuning import processes
from ltuning.checks.examples import worth_saying
from ltuning.data.tables import Places
from ltuning.texts import Text, is_empty

logger = logging.getLogger("ltuning.rows")


@contextmanager
def unsaid() -> Iterator[None]:
    """`warn_of_rows` says nothing: whoever trains has said it, with files and lines."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@dataclass(frozen=True)
class LabelledRows:
    """Texts with their labels, and where they stood in what was given.

    Attributes:
        texts: the texts.
        names: the labels of each.
        places: their indices.
    """

    texts: list[Text]
    names: list[list[str]]
    places: Places

    @classmethod
    def of(cls, texts: Sequence[Text], names: Sequence[list[str]]) -> Self:
        """The texts that have words in them."""
        rows = [row for row, text in enumerate(texts) if not is_empty(text)]
        places = Places("index", rows)
        return cls([texts[row] for row in rows], [names[row] for row in rows], places)

    def __len__(self) -> int:
        return len(self.texts)


def warn_of_rows(splits: Mapping[str, LabelledRows], *, one_of_each: bool) -> None:
    """Say what can be seen of texts without a model: rare labels, repeated texts, overlaps.

    Args:
        splits: `training`, and `validation` where there is one.
        one_of_each: whether a text has one label.
    """
    if logger.disabled or not processes.is_main():
        return
    found = {"train" if name == "training" else name: rows for name, rows in splits.items()}
    for finding in worth_saying(found, one_of_each=one_of_each):
        of = "training" if finding.split == "train" else finding.split
        logger.warning("%s texts: %s", of, finding.sentence)
