"""What `ltuning train` shows of a training run."""

from __future__ import annotations

from collections.abc import Callable

from transformers import TrainerControl, TrainerState, TrainingArguments

from ltuning.cli.terminal import Terminal
from ltuning.training.bar import Bars, Lines, Steps, TrainingDisplay


class TrainingBar(Steps):
    """Shows the stages and the steps of a run: a bar on a screen, some lines in a log.

    Args:
        terminal: where they are shown.
        begin: called when everything is checked and loaded, before the first step.
    """

    def __init__(self, terminal: Terminal, begin: Callable[[], None] | None = None):
        super().__init__(_display(terminal))
        self._begin = begin

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: object
    ) -> None:
        """Everything is checked and loaded."""
        if self._begin is not None:
            self._begin()
        super().on_train_begin(args, state, control, **rest)


def _display(terminal: Terminal) -> TrainingDisplay | None:
    if terminal.quiet:
        return None
    if terminal.has_bars:
        return Bars(terminal.bar, terminal.note, terminal.loading)
    return Lines(terminal.note, terminal.loading)
