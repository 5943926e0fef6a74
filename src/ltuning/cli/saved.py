"""What verbs that use a trained classifier need of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltuning.cli.terminal import Terminal, silence_libraries
from ltuning.errors import DataError

if TYPE_CHECKING:
    from ltuning.artifacts.opened import Opened
    from ltuning.data.sources import Columns


def opened(folder: Path) -> Opened:
    """The classifier of a folder, read once for all that a verb asks of it.

    Raises:
        ArtifactError: the folder does not hold a whole, unchanged classifier.
    """
    from ltuning.artifacts import opened

    return opened.read(folder)


def columns_of(
    classifier: Opened, text: str | None, text_pair: str | None, label: str | None = None
) -> Columns:
    """The columns named on the command line, and else those that the training named.

    Raises:
        DataError: a column of the second text, of a tagger.
    """
    from ltuning.data.sources import Columns
    from ltuning.tasks.table import TASKS

    if text_pair is not None and TASKS[classifier.config.task].of_words:
        raise DataError(
            f"expected no --text-pair-column, as task '{classifier.config.task}' has no pairs of "
            f"texts, got {text_pair!r}; leave it out"
        )

    trained = classifier.config.data
    if text is not None:
        # Who names the text's column says all about the texts.
        return Columns(text, text_pair, label or trained.label_column)
    return Columns(
        trained.text_column,
        text_pair or trained.text_pair_column,
        label or trained.label_column,
    )


def load(
    classifier: Opened, backbone: str | None, trust_remote_code: bool, terminal: Terminal
) -> Any:
    """The trained classifier by the front door of its task, on the backbone where it is now."""
    with terminal.waiting(f"loading {classifier.folder}"):
        from ltuning.tasks.table import TASKS

        door = TASKS[classifier.config.task].door()
        silence_libraries()
        return door.from_pretrained(
            classifier, backbone=backbone, trust_remote_code=trust_remote_code
        )
