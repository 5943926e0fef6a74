"""What verbs that use a trained classifier need of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ltuning.cli.terminal import Terminal, silence_libraries

if TYPE_CHECKING:
    from ltuning.data.sources import Columns
    from ltuning.front import Front
    from ltuning.opening import Opened

    D = TypeVar("D", bound=Front[Any])


def opened(folder: Path) -> Opened:
    """The classifier of a folder, read once for all that a verb asks of it.

    Raises:
        ArtifactError: the folder does not hold a whole, unchanged classifier.
    """
    from ltuning import opening

    return opening.read(folder)


def columns_of(
    classifier: Opened, text: str | None, text_pair: str | None, label: str | None = None
) -> Columns:
    """The columns named on the command line, and else those that the training named."""
    from ltuning.data.sources import Columns

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
    door: type[D],
    classifier: Opened,
    backbone: str | None,
    trust_remote_code: bool,
    terminal: Terminal,
) -> D:
    """The trained classifier by its front door, on the backbone where it is now."""
    silence_libraries()
    with terminal.waiting(f"loading {classifier.folder}"):
        return door.from_pretrained(
            classifier, backbone=backbone, trust_remote_code=trust_remote_code
        )
