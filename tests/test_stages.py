from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from ltuning import stages


class Told:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def loading(self, name: str) -> Iterator[None]:
        self.said.append(("loading", name))
        yield

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[stages.Advance]:
        counts: list[int] = []
        self.said.append((what, total, counts))
        yield counts.append


def work() -> None:
    with stages.loading("a model"):
        pass
    with stages.counting("reading", 5) as advance:
        advance(2)
        advance(3)
    stages.note("done")


def test_stages_are_told_to_the_display_of_their_thread_and_else_to_nobody() -> None:
    outer, inner = Told(), Told()
    work()
    with stages.shown_on(outer):
        with stages.shown_on(inner):
            work()
        other = Thread(target=work)
        other.start()
        other.join()
        stages.note("after")
    work()
    assert inner.said == [("loading", "a model"), ("reading", 5, [2, 3]), "done"]
    assert outer.said == ["after"]
