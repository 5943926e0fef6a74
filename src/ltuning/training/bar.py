"""The bar that a training shows to who calls it from Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback


@contextmanager
def steps_shown(progress: bool | None) -> Iterator[Sequence[TrainerCallback]]:
    """Callbacks that show the steps of a training on stderr while the block runs.

    Args:
        progress: whether they are shown; None = where stderr is a terminal or a notebook.
    """
    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter if progress is None else progress):
        yield ()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps{task.fields[loss]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as bars:
        yield (_Steps(bars),)


class _Steps(TrainerCallback):
    def __init__(self, bars: Progress):
        self._bars = bars

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._task = self._bars.add_task(
            "training", total=state.max_steps, completed=state.global_step, loss=""
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bars.update(self._task, completed=state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if "loss" in (logs or {}):
            self._bars.update(self._task, loss=f", loss {(logs or {})['loss']:.2f}")
