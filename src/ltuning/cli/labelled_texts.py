"""The labelled texts that a verb asks for beside a trained classifier."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ltuning.errors import DataError
from ltuning.suggestions import unknown

if TYPE_CHECKING:
    from ltuning.config import Config
    from ltuning.tasks.task import Labelled


@dataclass(frozen=True)
class LabelledTexts:
    """Where they are, and how they are written.

    Args:
        source: a file, a folder with splits, or a hub id.
        split: of a folder or a hub data set; None = the one that the verb takes by itself.
        columns: of texts, of second texts and of labels, where they are named.
        encoding: of files; None = as each says.
        delimiter: likewise.
        empty_texts: `refuse`, which None is, or `skip`.
        missing_labels: likewise.
    """

    source: str
    split: str | None
    columns: tuple[str | None, str | None, str | None]
    encoding: str | None
    delimiter: str | None
    empty_texts: str | None
    missing_labels: str | None

    def checks(self) -> list[Callable[[], object]]:
        """What refuses them before anything is loaded."""
        from ltuning.data.sources import check_source

        rows = {"--empty-texts": self.empty_texts, "--missing-labels": self.missing_labels}
        skipping = [partial(_check_skipping, option, value) for option, value in rows.items()]
        return [*skipping, self._check_split, partial(check_source, self.source)]

    def is_file(self) -> bool:
        """Whether they are in one file, which has no splits."""
        return os.path.isfile(os.path.expanduser(self.source))

    def read(self, config: Config, split: str) -> Labelled:
        """Them, as a classifier's task has them.

        Args:
            config: of the classifier.
            split: taken where none is named.

        Raises:
            DataError: texts or labels that cannot be used.
        """
        from ltuning.cli import saved
        from ltuning.data.sources import Dialect
        from ltuning.tasks.table import TASKS

        how: dict[str, Any] = {
            "empty_texts": self.empty_texts or "refuse",
            "missing_labels": self.missing_labels or "refuse",
            "dialect": Dialect(self.encoding, self.delimiter),
        }
        columns = saved.columns_of(config, *self.columns)
        return TASKS[config.task].read_split(self.source, self.split or split, columns, **how)

    def _check_split(self) -> None:
        if self.split is not None and self.is_file():
            raise DataError(
                f"expected a folder or a hub data set for --split {self.split}, got the file "
                f"{self.source}, which is read whole; leave it out"
            )


def _check_skipping(option: str, value: str | None) -> None:
    if value not in (None, "refuse", "skip"):
        raise DataError(unknown(f"value of {option}", value, ("refuse", "skip")))
