"""The progress bar of a training run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from transformers import TrainerCallback

from ltuning.cli.terminal import Terminal

_FORMS = {"loss": "loss {:.2f}", "eval_accuracy": "accuracy {:.2f}"}


class TrainingBar(TrainerCallback):
    """Steps, texts per second, loss and time left of a run; a spinner until it begins.

    Args:
        terminal: where it is shown.
        backbone: name of what is loaded first.
        num_texts: texts of one epoch.
        begin: called when everything is checked and loaded, before the first step.

    Attributes:
        step: the last step that is done; None before training begins.
    """

    def __init__(
        self,
        terminal: Terminal,
        backbone: str,
        num_texts: int,
        begin: Callable[[], None] | None = None,
    ):
        self._terminal = terminal
        self._backbone = backbone
        self._num_texts = num_texts
        self._begin = begin
        self.step: int | None = None
        self._shown = ExitStack()
        self._figures: dict[str, str] = {}

    def __enter__(self) -> TrainingBar:
        self._shown.enter_context(self._terminal.loading(self._backbone))
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The spinner goes, the bar comes."""
        self._shown.close()
        if self._begin is not None:
            self._begin()
        self.step = state.global_step
        self._progress = self._terminal.bar("steps")
        self._shown.enter_context(self._progress)
        self._started, self._first_epoch = time.monotonic(), state.epoch or 0.0
        self._task = self._progress.add_task(
            "training", total=state.max_steps, completed=state.global_step, rate=""
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """One optimizer step is done."""
        self.step = state.global_step
        texts = (state.epoch - self._first_epoch) * self._num_texts
        self._figures["rate"] = f"{texts / (time.monotonic() - self._started):,.0f} texts/s"
        self._show(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Most runs validate at the end of an epoch."""
        self._show(state, control)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """There is a new loss, or a new accuracy on validation."""
        for name, form in _FORMS.items():
            if name in (logs or {}):
                self._figures[name] = form.format((logs or {})[name])

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validation is over."""
        self._show(state)

    def _show(self, state: Any, control: Any = None) -> None:
        validates = control is not None and control.should_evaluate
        self._progress.update(
            self._task,
            description="validating" if validates else "training",
            completed=state.global_step,
            rate=", ".join(self._figures.values()),
        )
