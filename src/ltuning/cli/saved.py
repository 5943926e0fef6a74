"""What verbs that use a trained classifier need of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ltuning.cli.terminal import Terminal, silence_libraries

if TYPE_CHECKING:
    from ltuning.data.sources import Columns
    from ltuning.front import Front

    D = TypeVar("D", bound=Front[Any])


def columns_of(
    folder: Path, text: str | None, text_pair: str | None, label: str | None = None
) -> Columns:
    """The columns named on the command line, and else those that the training named.

    Raises:
        ArtifactError: the folder does not hold a whole, unchanged classifier.
    """
    from ltuning.artifacts import store
    from ltuning.data.sources import Columns

    trained = store.load(folder)[1]["config"]["data"]
    if text is not None:
        # Who names the text's column says all about the texts.
        return Columns(text, text_pair, label or trained["label_column"])
    return Columns(
        trained["text_column"],
        text_pair or trained["text_pair_column"],
        label or trained["label_column"],
    )


def task_of(folder: Path) -> str:
    """What the folder's classifier gives: `classes`, `multilabel` or `tags`.

    Raises:
        ArtifactError: the folder does not hold a whole, unchanged classifier.
    """
    from ltuning.artifacts import store

    return str(store.load(folder)[1].get("task", "classes"))


def load(
    door: type[D], folder: Path, backbone: str | None, trust_remote_code: bool, terminal: Terminal
) -> D:
    """The trained classifier of a folder, by its front door, on the backbone where it is now."""
    silence_libraries()
    with terminal.waiting(f"loading {folder}"):
        return door.from_pretrained(folder, backbone=backbone, trust_remote_code=trust_remote_code)
