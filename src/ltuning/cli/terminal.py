"""What a verb shows: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from ltuning import processes
from ltuning.texts import visible

if TYPE_CHECKING:
    from rich.progress import Progress

# Tables in a pipe or a file are not cut to a screen.
_PIPED_WIDTH = 200
_NAME = "ltuning"
# Seconds by which an error of the main process comes before that of another. Where they fail alike,
# whatever started them ends the others meanwhile, and it is said once.
_MAIN_FIRST = 2.0


class _Console(Console):
    """Shows texts as they are: without marks or smileys read out of them, without control codes."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(visible(text), style)


@cache
def messages() -> Console:
    """The console on stderr."""
    return _Console(stderr=True)


@cache
def results() -> Console:
    """The console on stdout."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    return _Console(width=width)


def _print(console: Console, text: Text) -> None:
    # A screen's lines break between words; those of a pipe or a file do not break at all.
    console.print(text, soft_wrap=not console.is_terminal)


def show_error(error: Exception | str) -> None:
    """An error in red, on stderr."""
    name = "error: "
    if not processes.is_main():
        time.sleep(_MAIN_FIRST)
        name = f"error in process {processes.rank()}: "
    _print(messages(), Text.assemble((name, "bold red"), (str(error), "red")))


def show_facts(facts: Mapping[str, str]) -> None:
    """Facts with their names in front, on stdout."""
    width = max(map(len, facts))
    for name, fact in facts.items():
        _print(results(), Text.assemble((f"{name:<{width}}  ", "bold"), fact))


def show_next(commands: Sequence[str]) -> None:
    """Commands to type next, on lines that can be copied, on stdout."""
    called = shlex.quote(sys.argv[0])
    # As it was called where the shell would not find it: `.venv/bin/ltuning` after `make demo`.
    is_lost = Path(sys.argv[0]).name == _NAME and shutil.which(_NAME) is None
    results().print("\nwhat to type next", style="bold")
    for command in commands:
        if is_lost:
            command = re.sub(rf"(^|\| ){_NAME} ", lambda found: f"{found[1]}{called} ", command)
        results().print(Text(f"  {command}", style="cyan"), soft_wrap=True)


class _Warnings(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        message = (record.getMessage(), "yellow")
        _print(messages(), Text.assemble(("warning: ", "bold yellow"), message))


def show_warnings() -> None:
    """Show what `logging.getLogger("ltuning")` warns of; calling it again changes nothing."""
    logger = logging.getLogger("ltuning")
    if not any(isinstance(handler, _Warnings) for handler in logger.handlers):
        logger.addHandler(_Warnings(logging.WARNING))


def silence_libraries() -> None:
    """Turn off the bars and notes of transformers; what matters of them a verb says itself."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


class Terminal:
    """What a verb shows while it works.

    Args:
        quiet: show neither progress nor notes; errors, warnings and results are shown all the same.
    """

    def __init__(self, quiet: bool):
        self.quiet = quiet

    @property
    def has_bars(self) -> bool:
        """Whether bars and spinners are shown: they are for a screen, not for a log file."""
        return not self.quiet and messages().is_terminal

    def note(self, text: str) -> None:
        """A line on stderr."""
        if not self.quiet:
            _print(messages(), Text(text))

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner while something of unknown length goes on."""
        if not self.has_bars:
            yield
            return
        with messages().status(Text(what)):
            yield

    @contextmanager
    def loading(self, backbone: str) -> Iterator[None]:
        """What is shown while a backbone loads: a spinner, or the hub's own download bars."""
        from huggingface_hub.utils.tqdm import enable_progress_bars

        if self.quiet or backbone.startswith("builtin:") or os.path.isdir(backbone):
            with self.waiting(f"loading {backbone}"):
                yield
            return
        self.note(f"loading {backbone} from the hub or its cache")
        enable_progress_bars()
        yield

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar over texts, with texts per second and the time left; gives what advances it."""
        progress = self.bar("texts")
        with progress:
            task = progress.add_task(what, total=total, rate="")
            started, done = time.monotonic(), 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                rate = f"{done / (time.monotonic() - started):,.0f} texts/s"
                progress.update(task, completed=done, rate=rate)

            yield advance

    def bar(self, unit: str, over: float = 30.0) -> Progress:
        """A bar that fills the width: what, how much of it, the task's field `rate`, time left.

        Args:
            unit: what is counted.
            over: seconds over which the speed is taken that tells the time left.
        """
        return _bar(unit, over, disable=not self.has_bars)


def _bar(unit: str, over: float, disable: bool) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        TextColumn("left"),
        console=messages(),
        speed_estimate_period=over,
        expand=True,
        transient=True,
        disable=disable,
    )
