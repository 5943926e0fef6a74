"""What verbs that use a trained classifier need of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ltuning.cli.terminal import Terminal, silence_libraries
from ltuning.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from ltuning.artifacts.opened import Opened
    from ltuning.config import Config
    from ltuning.data.sources import Columns
    from ltuning.estimators.label_classifier import LabelClassifier


@dataclass(frozen=True)
class Asked:
    """Who answers: the classifier of a folder or, with --zero-shot, a backbone by label texts.

    Args:
        folder: of the trained classifier; None with --zero-shot.
        labels: with --zero-shot, name -> texts.
        backbone: where the backbone is.
        trust_remote_code: whether code that comes with it may run.
        takes_exported: whether the folder may be an exported one.
    """

    folder: Path | None
    labels: dict[str, list[str]] | None
    backbone: str | None
    trust_remote_code: bool
    takes_exported: bool = False

    def classifier(self, terminal: Terminal) -> tuple[Config, Callable[[], Any]]:
        """Its configuration, and what loads it.

        Raises:
            ArtifactError: the folder does not hold a whole, unchanged classifier.
            ConfigError: labels that cannot be told apart.
        """
        if self.folder is not None and (exported := self._exported(self.folder, terminal)):
            return exported
        if self.folder is None:
            from ltuning.estimators.label_classifier import LabelClassifier

            options = {"backbone.trust_remote_code": True} if self.trust_remote_code else {}
            untrained = LabelClassifier(self.backbone, self.labels, options=options)
            return untrained.config, partial(_with_backbone, untrained, terminal)
        trained = opened(self.folder)
        place = (self.backbone, self.trust_remote_code, terminal)
        return trained.config, partial(load, trained, *place)

    def _exported(
        self, folder: Path, terminal: Terminal
    ) -> tuple[Config, Callable[[], Any]] | None:
        """As `classifier`, of what `ltuning export` wrote; None where the folder is another."""
        from ltuning import onnx

        if not self.takes_exported or not onnx.is_exported(folder):
            return None
        given = {"--backbone": self.backbone, "--trust-remote-code": self.trust_remote_code}
        if named := [option for option, value in given.items() if value]:
            raise DataError(
                f"expected no {named[0]} with an exported classifier, which has its backbone in "
                f"it, got one in {folder}; leave it out"
            )
        return onnx.config_of(onnx.Description.read(folder)), partial(
            _load_exported, folder, terminal
        )


def asked(
    folder: Path | None,
    zero_shot: bool,
    labels: tuple[Path | None, Sequence[str]],
    backbone: str | None,
    trust_remote_code: bool,
    takes_exported: bool = False,
) -> Asked:
    """Who answers, by the command line.

    Args:
        folder: of a trained classifier.
        zero_shot: whether nothing is trained.
        labels: a file of labels, and `NAME=TEXT` of each.
        backbone: where the backbone is.
        trust_remote_code: whether code that comes with it may run.
        takes_exported: whether the folder may be an exported one.

    Raises:
        ConfigError: labels without --zero-shot; with it a folder, or labels that are missing or
            wrong.
        BadParameter: no folder, without --zero-shot.
    """
    from ltuning.cli.configuration import read_labels

    problems: list[Problem] = []
    if zero_shot and folder is not None:
        message = f"expected no trained classifier beside it, got {folder}; leave one of them out"
        problems.append(Problem("--zero-shot", message))
    read = read_labels(*labels, problems)
    if zero_shot and read is None and not problems:
        problems.append(Problem("--label", "missing; give NAME=TEXT for each label"))
    if not zero_shot and (read is not None or problems):
        message = "expected with --zero-shot alone, as a trained classifier has its own labels; "
        problems = [Problem("--label", f"{message}leave it out")]
    if problems:
        raise ConfigError(problems)
    if folder is None and not zero_shot:
        message = "missing; give the folder of a trained classifier, or say --zero-shot"
        raise typer.BadParameter(message, param_hint="DIR")
    return Asked(folder, read, backbone, trust_remote_code, takes_exported)


def _load_exported(folder: Path, terminal: Terminal) -> Any:
    from ltuning import onnx

    with terminal.waiting(f"loading {folder}"):
        return onnx.load(folder)


def _with_backbone(classifier: LabelClassifier, terminal: Terminal) -> LabelClassifier:
    silence_libraries()
    with terminal.loading(classifier.config.backbone.name):
        assert classifier.backbone is not None  # loads it
    return classifier


def opened(folder: Path) -> Opened:
    """The classifier of a folder or of the hub, read once for all that a verb asks of it.

    Raises:
        ArtifactError: the folder does not hold a whole, unchanged classifier, or the hub none that
            may be read.
    """
    from ltuning.artifacts import hub, opened

    if hub.is_hub_id(folder):
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    return opened.read(folder)


def columns_of(
    config: Config, text: str | None, text_pair: str | None, label: str | None = None
) -> Columns:
    """The columns named on the command line, and else those that the training named.

    Raises:
        DataError: a column of the second text, of a tagger.
    """
    from ltuning.data.sources import Columns
    from ltuning.tasks.table import TASKS

    if text_pair is not None and TASKS[config.task].of_words:
        raise DataError(
            f"expected no --text-pair-column, as task '{config.task}' has no pairs of "
            f"texts, got {text_pair!r}; leave it out"
        )

    trained = config.data
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
