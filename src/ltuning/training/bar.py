"""What a training shows while it goes on: bars on a screen, lines in a log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ltuning import processes
from ltuning.metrics import WORDS
from ltuning.stages import Advance, Display, shown_on

# Passes over fewer texts than this are over in a moment; a log does not tell of them.
_LINE_FROM = 1000
# Lines of a log about the steps.
_LINES = 10

# Called with the steps that are done, and with what is said of them.
Update = Callable[[int, str], None]


class TrainingDisplay(Display, Protocol):
    """Who shows the stages and the steps."""

    def steps(self, done: int, total: int) -> AbstractContextManager[Update]:
        """A training goes on while the block runs."""


class Bars:
    """Stages as bars on a screen, one at a time; one within another is told in its place.

    Args:
        bar: a bar of a unit, whose tasks have a field `rate`.
        note: shows a line.
        loading: shows that a backbone loads.
    """

    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        bar: Callable[[str], Progress],
        note: Callable[[str], None],
        loading: Callable[[str], AbstractContextManager[None]],
    ):
        self._bar = bar
        self.note = note
        self.loading = loading
        self._outer: tuple[Progress, TaskID, str] | None = None

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Advance]:
        """A bar of texts."""
        done, began = 0, self.clock()
        with nullcontext() if self._outer else self._shown(what, 0, total, "texts") as update:

            def advance(count: int) -> None:
                nonlocal done
                done += count
                if update is None:
                    self._describe(f"{what} {done:,}/{total:,} texts")
                else:
                    update(done, _rate(done, self.clock() - began))

            advance(0)
            yield advance
            if update is None:
                self._describe(None)

    @contextmanager
    def steps(self, done: int, total: int) -> Iterator[Update]:
        """A bar of steps."""
        with self._shown("training", done, total, "steps") as update:
            yield update

    @contextmanager
    def _shown(self, what: str, done: int, total: int, unit: str) -> Iterator[Update]:
        with self._bar(unit) as progress:
            task = progress.add_task(what, total=total, completed=done, rate="")
            self._outer = progress, task, what
            try:
                yield lambda done, said: progress.update(task, completed=done, rate=said)
            finally:
                self._outer = None

    def _describe(self, inner: str | None) -> None:
        assert self._outer is not None
        progress, task, what = self._outer
        progress.update(task, description=inner or what)


class Lines:
    """Stages as a few lines of a log.

    Args:
        note: writes a line.
        loading: says that a backbone loads.
    """

    def __init__(
        self,
        note: Callable[[str], None],
        loading: Callable[[str], AbstractContextManager[None]] | None = None,
    ):
        self.note = note
        self.loading = loading or (lambda _: nullcontext())
        self._trains = False

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Advance]:
        """A line for many texts, unless a training tells of itself."""
        if total >= _LINE_FROM and not self._trains:
            self.note(f"{what}: {total:,} texts")
        yield lambda _: None

    @contextmanager
    def steps(self, done: int, total: int) -> Iterator[Update]:
        """A line for every tenth of the steps."""
        said = done * _LINES // total

        def update(done: int, figures: str) -> None:
            nonlocal said
            if done * _LINES // total > said:
                said = done * _LINES // total
                self.note(f"step {done:,} of {total:,}: {figures}")

        self._trains = True
        try:
            yield update
        finally:
            self._trains = False


class Steps(TrainerCallback):
    """Shows the stages of a run in its block, and its steps with texts per second and figures.

    Args:
        display: where; None = nowhere.

    Attributes:
        step: the last step that is done; None before training begins.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, display: TrainingDisplay | None):
        self._display = display
        self.step: int | None = None
        self._open, self._training = ExitStack(), ExitStack()
        self._update: Update | None = None
        self._figures: dict[str, str] = {}
        self._texts, self._seconds = 0, 0.0

    def __enter__(self) -> Steps:
        if self._display is not None:
            self._open.enter_context(shown_on(self._display))
        return self

    def __exit__(self, *_: object) -> None:
        self._training.close()
        self._open.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The run begins, or goes on."""
        self.step = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The first step comes after what is done once for all of them, which is a stage itself."""
        if self._display is not None and self._update is None:
            shown = self._display.steps(state.global_step, state.max_steps)
            self._update = self._training.enter_context(shown)
        self._began = self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """One optimizer step is done."""
        self.step = state.global_step
        self._seconds += self.clock() - self._began
        self._texts += args.train_batch_size * args.gradient_accumulation_steps
        self._figures["rate"] = _rate(self._texts, self._seconds)
        # Where an evaluation comes next, the line of a log waits for its figures.
        if not control.should_evaluate:
            self._show(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """There is a new loss, or a new figure of the task on validation."""
        found = logs or {}
        if "loss" in found:
            self._figures["loss"] = f"loss {found['loss']:.2f}"
        if name := next((name for name in WORDS if f"eval_{name}" in found), None):
            self._figures["validation"] = f"{WORDS[name]} {found[f'eval_{name}']:.2f}"

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Validation is over."""
        self._show(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """What comes after the last step are stages of their own."""
        self._training.close()

    def _show(self, state: TrainerState) -> None:
        if self._update is not None:
            self._update(state.global_step, ", ".join(self._figures.values()))


@contextmanager
def steps_shown(progress: bool | None) -> Iterator[Sequence[TrainerCallback]]:
    """Callbacks that show a training on stderr, whose stages are shown while the block runs.

    Args:
        progress: whether it is shown; None = where stderr is a terminal or a notebook.
    """
    console = Console(stderr=True)
    has_bars = console.is_terminal or console.is_jupyter
    is_shown = has_bars if progress is None else progress
    if not is_shown or not processes.is_main():
        yield ()
        return

    def note(text: str) -> None:
        console.print(Text(text), soft_wrap=not has_bars)

    display = Bars(partial(_bar, console), note, partial(_loading, console))
    with Steps(display if has_bars else Lines(note)) as steps:
        yield (steps,)


def _bar(console: Console, unit: str) -> Progress:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=console)


@contextmanager
def _loading(console: Console, name: str) -> Iterator[None]:
    # The hub has bars of its own.
    is_here = name.startswith("builtin:") or os.path.isdir(name)
    with console.status(Text(f"loading {name}")) if is_here else nullcontext():
        yield


def _rate(done: int, seconds: float) -> str:
    return f"{done / seconds:,.0f} texts/s" if done and seconds else ""
