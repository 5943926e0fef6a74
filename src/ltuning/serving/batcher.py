"""One thread for each backbone: requests that wait for it run together, whatever their classifier.

A request with much text is run in pieces, between which the others have their turn. All work with
a backbone is done by its thread, loading a classifier on it too: no tokenizer and no model is ever
used by two.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ltuning.backbones.long_texts import Windows
from ltuning.config import TASK_FACTS
from ltuning.methods.heads import check_finite, over_windows
from ltuning.serving.shared_pass import Asked, score_together
from ltuning.texts import Text, num_characters

T = TypeVar("T")

# How long the first of those that wait waits for others, in seconds.
_GATHERING = 0.003
# Tokens that are run at a time, those of every branch of a text counted: two passes of a CPU, about
# a second of the builtin backbone. More would make those who come meanwhile wait.
_TOKENS = 4096
# As many on a GPU.
_SCALE = 8
# About as many characters are a token.
_CHARACTERS = 4

logger = logging.getLogger("ltuning")


class QueueFull(Exception):
    """More texts wait than may.

    Args:
        seconds: after which there should be room.
    """

    def __init__(self, seconds: int):
        super().__init__(seconds)
        self.seconds = seconds


class TooLate(Exception):
    """Its time was over before there was an answer, or the server ends."""


class Found(NamedTuple):
    """What a classifier says of texts.

    Attributes:
        scores: `[N, K]`; of a tagger the entities of each text.
        truncated: `[N]` whether the end of a text was not read.
    """

    scores: Any
    truncated: list[bool]


@dataclass(eq=False)
class _Request:
    """Texts for a classifier, who waits for the answer, and how much of it is there."""

    classifier: Any
    texts: Sequence[Text]
    deadline: float
    future: Future[Found] = field(default_factory=Future)
    windows: Windows | None = None  # of a tagger, None
    sizes: list[int] = field(default_factory=list)  # tokens of what can run by itself
    begun: int = 0
    parts: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guess = sum(map(_guessed, self.texts))

    def open(self) -> None:
        """Tokenize its texts, the first time that it has its turn; a tagger takes them as text."""
        if TASK_FACTS[self.classifier.config.task].of_words:
            self.sizes = [_guessed(text) for text in self.texts]
            return
        self.windows = self.classifier.windows(self.texts)
        passes = self.classifier.scorer().model.passes
        self.sizes = [len(one["input_ids"]) * passes for one in self.windows.tokens]

    def take(self, room: int, is_first: bool) -> slice:
        """As much of what is left as there is room for; of who is first, something."""
        first = self.begun
        while self.begun < len(self.sizes):
            room -= self.sizes[self.begun]
            if room < 0 and not (is_first and self.begun == first):
                break
            self.begun += 1
        return slice(first, self.begun)

    @property
    def is_begun_whole(self) -> bool:
        return self.begun == len(self.sizes)

    def found(self) -> Found:
        """The answer, once every part is there."""
        if self.windows is None:
            return Found([said for part in self.parts for said in part], [False] * len(self.texts))
        tokens, counts, lengths = self.windows.tokens, self.windows.counts, self.windows.lengths
        scores = np.concatenate(self.parts)
        if len(tokens) > len(counts):
            scores = over_windows(torch.from_numpy(scores), counts).numpy()
        check_finite(scores, "texts")
        first = np.cumsum([0, *counts[:-1]])
        truncated = [
            count == 1 and length > len(tokens[row]["input_ids"])
            for row, count, length in zip(first, counts, lengths, strict=True)
        ]
        return Found(scores, truncated)


def _guessed(text: Text) -> int:
    """About how many tokens it has."""
    return 1 + num_characters(text) // _CHARACTERS


class Batcher:
    """The thread of a backbone.

    Args:
        most_waiting: texts that may wait for it.
        is_cpu: whether the backbone runs on a CPU.
        observe: told the numbers of requests and texts that are run together.
    """

    def __init__(
        self,
        most_waiting: int,
        *,
        is_cpu: bool = True,
        observe: Callable[[int, int], None] = lambda requests, texts: None,
    ):
        self._most_waiting = most_waiting
        self._room = _TOKENS if is_cpu else _TOKENS * _SCALE
        self._observe = observe
        self._requests: deque[_Request] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting = 0  # texts, those that run too
        self._changed = threading.Condition()
        self._is_stopped = False
        # Seconds for a token, by what the last ones took.
        self._pace = 0.0
        self._thread = threading.Thread(target=self._work, name="ltuning-batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Texts that wait for their answer."""
        return self._waiting

    @property
    def is_alive(self) -> bool:
        """Whether there is someone who works."""
        return self._thread.is_alive()

    def ask(self, classifier: Any, texts: Sequence[Text], seconds: float) -> Future[Found]:
        """What a classifier says of texts.

        Args:
            classifier: a front door that is trained.
            texts: one or more.
            seconds: within which it has to be answered; else the future raises `TooLate`. What is
                cancelled, or too late, is not gone on with.

        Raises:
            QueueFull: more texts would wait than may, or it would not be begun in time.
            TooLate: the server ends.
        """
        request = _Request(classifier, texts, time.monotonic() + seconds)
        with self._changed:
            until_begun = self._turns() * self._pace
            if self._waiting + len(texts) > self._most_waiting or until_begun > seconds:
                raise QueueFull(max(1, math.ceil(until_begun)))
            self._check_open()
            self._requests.append(request)
            self._waiting += len(texts)
            self._changed.notify()
        return request.future

    def call(self, function: Callable[[], T], seconds: float | None = None) -> T:
        """What a function gives, called by the thread.

        Args:
            function: it.
            seconds: within which it has to be begun.

        Raises:
            TooLate: it was not, and never will be; or the server ends.
        """
        future: Future[T] = Future()
        with self._changed:
            self._check_open()
            self._calls.append((function, future))
            self._changed.notify()
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.cancel():
                raise TooLate from None
            return future.result()

    def stop(self) -> None:
        """Finish what waits, and end."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        self._thread.join()

    def _turns(self) -> int:
        """About how many tokens are run until each of those who wait has had a turn."""
        return sum(min(self._room, one.guess) for one in self._requests)

    def _check_open(self) -> None:
        if self._is_stopped:
            raise TooLate

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._requests or self._calls or self._is_stopped)
                if not self._requests and not self._calls:
                    return
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                _run(*call)
            else:
                self._run_some(self._gathered())

    def _gathered(self) -> list[tuple[_Request, slice]]:
        """A turn of those who wait, and who came soon after them: what is run of each of them now.

        Whoever is not done with that waits for another turn behind the others.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_stopped or self._turns() >= self._room, _GATHERING
            )
        taken: list[tuple[_Request, slice]] = []
        again: list[_Request] = []
        room = self._room
        while room > 0 and self._requests:
            one = self._requests[0]
            if self._is_over(one):
                self._end(self._requests.popleft())
                continue
            try:
                if not one.sizes:
                    one.open()
            except Exception as error:
                _settle(one.future, error)
                continue
            piece = one.take(room, is_first=not taken)
            if piece.start == piece.stop:
                break
            room -= sum(one.sizes[piece])
            taken.append((one, piece))
            with self._changed:
                self._requests.popleft()
            if not one.is_begun_whole:
                again.append(one)
        with self._changed:
            self._requests.extend(again)
        return taken

    def _is_over(self, one: _Request) -> bool:
        """Whether nobody waits for it any more."""
        if not one.future.done() and one.deadline < time.monotonic():
            _settle(one.future, TooLate())
        return one.future.done()

    def _end(self, one: _Request) -> None:
        with self._changed:
            self._waiting -= len(one.texts)

    def _run_some(self, taken: Sequence[tuple[_Request, slice]]) -> None:
        if not taken:
            return
        began = time.monotonic()
        try:
            self._score(taken)
        except Exception as error:
            for one, _ in taken:
                _settle(one.future, error)
        for one, _ in taken:
            if one.is_begun_whole:
                self._end(one)
        tokens = sum(sum(one.sizes[piece]) for one, piece in taken)
        self._pace = 0.8 * self._pace + 0.2 * (time.monotonic() - began) / tokens
        self._observe(len(taken), sum(piece.stop - piece.start for _, piece in taken))

    def _score(self, taken: Sequence[tuple[_Request, slice]]) -> None:
        of_texts = []
        for one, piece in taken:
            if one.windows is not None:
                of_texts.append((one, Asked(one.classifier.scorer(), one.windows.tokens[piece])))
                continue
            try:
                _had(one, one.classifier.predict(one.texts[piece]))
            except Exception as error:
                _settle(one.future, error)
        for number, scores in score_together([asked for _, asked in of_texts]):
            one, _ = of_texts[number]
            if isinstance(scores, Exception):
                _settle(one.future, scores)
            else:
                _had(one, scores)


def _had(one: _Request, part: Any) -> None:
    """One more part of its answer is there, perhaps the last."""
    one.parts.append(part)
    if one.is_begun_whole:
        try:
            _settle(one.future, one.found())
        except Exception as error:
            _settle(one.future, error)


def _settle(future: Future[Found], found: Found | Exception) -> None:
    """Give it to who waits, if anyone does."""
    try:
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)
    except InvalidStateError:
        pass  # it was cancelled, or has its error


def _run(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
