"""The stages of long work, told to whoever shows them, or to nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

# Called with the number of texts just done.
Advance = Callable[[int], None]


class Display(Protocol):
    """Who shows the stages."""

    def loading(self, name: str) -> AbstractContextManager[None]:
        """A backbone loads while the block runs."""

    def counting(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """So many texts are gone through while the block runs."""

    def note(self, text: str) -> None:
        """Something to be known."""


_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def shown_on(display: Display) -> Iterator[None]:
    """Tell the stages of this thread to a display while the block runs."""
    before = _display.set(display)
    try:
        yield
    finally:
        _display.reset(before)


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Say that a backbone loads while the block runs."""
    display = _display.get()
    if display is None:
        yield
        return
    with display.loading(name):
        yield


@contextmanager
def counting(what: str, total: int) -> Iterator[Advance]:
    """Say how far a pass over texts is while the block runs; gives what advances it."""
    display = _display.get()
    if display is None:
        yield lambda _: None
        return
    with display.counting(what, total) as advance:
        yield advance


def note(text: str) -> None:
    """Say something of the work."""
    if (display := _display.get()) is not None:
        display.note(text)
