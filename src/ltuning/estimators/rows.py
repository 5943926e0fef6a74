"""What is said of labelled texts before a training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ltuning import processes
from ltuning.checks.examples import FEW, check_examples, label_counts
from ltuning.data.examples import Examples
from ltuning.data.label_sets import MultilabelExamples
from ltuning.data.tables import Places
from ltuning.texts import Text, is_empty

E = TypeVar("E", Examples, MultilabelExamples)

logger = logging.getLogger("ltuning.rows")


@contextmanager
def unsaid() -> Iterator[None]:
    """`warn_of_rows` says nothing: whoever trains has said it, with files and lines."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def indexed(texts: Sequence[Text], labels: Sequence[Any], make: Callable[..., E], of: str) -> E:
    """Texts that have words in them, with their labels and indices.

    Args:
        texts: as given.
        labels: of each.
        make: of which kind they are.
        of: `training` or `validation`.
    """
    places = Places("index", range(len(texts)))
    rows = [row for row, text in enumerate(texts) if not is_empty(text)]
    return make([*texts], [*labels], f"{of} texts", places).part(rows)


def warn_of_rows(splits: Mapping[str, Any], *, one_of_each: bool) -> None:
    """Say what `ltuning check` finds without a model, but for labels that all have few texts.

    Args:
        splits: examples, those to train on as `train`.
        one_of_each: whether a text has one label.
    """
    if logger.disabled or not processes.is_main():
        return
    by_choice = max(label_counts(splits["train"]).values(), default=0) < FEW
    for finding in check_examples(splits, one_of_each=one_of_each):
        if finding.kind != "few texts" or not by_choice:
            logger.warning("%s: %s", splits[finding.split].origin, finding.sentence)
