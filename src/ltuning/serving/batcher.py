"""One thread for each backbone: requests that wait for it run together, whatever their classifier.

A request with much text is run in pieces, between which the others have their turn. All work with
a backbone is done by its thread, loading a classifier on it too: no tokenizer and no model is ever
used by two.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ltuning.backbones.frozen_model import Tokens
from ltuning.backbones.long_texts import Windows
from ltuning.config import TASK_FACTS
from ltuning.methods.heads import check_finite, over_windows
from ltuning.scoring import Scorer
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
# About as many characters are a token; of a tagger's text, which is not tokenized before its turn,
# one may be.
_CHARACTERS = 4
# So many are tokenized in the time that a token takes.
_TOKENIZED = 200
# A token that looks at so many columns of a prefix takes twice as long as one without a prefix.
_COLUMNS = 512
# Of a turn, what has to be full for its seconds to tell those of a full one: what a pass costs by
# itself would tell too many.
_FULL = 0.25


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


class _Request:
    """Texts for a classifier, who waits for the answer, and how much of it is there.

    Args:
        classifier: a front door that is trained.
        texts: one or more.
        deadline: by the monotonic clock.
    """

    def __init__(self, classifier: Any, texts: Sequence[Text], deadline: float):
        self.classifier = classifier
        self.texts = texts
        self.deadline = deadline
        self.future: Future[Found] = Future()
        self.of_words = TASK_FACTS[classifier.config.task].of_words
        self._most = math.inf
        if not self.of_words and classifier.config.data.long_texts == "cut":
            self._most = classifier.backbone.max_length
        self._factor = 1.0 if self.of_words else _factor(classifier.scorer())
        self.guess = sum(map(self._guessed, texts))
        # Of what can run by itself, a window or a tagger's text: its cost, in tokens.
        self._sizes: list[float] = []
        self._windows = Windows([], [], [])
        self._opened = 0  # texts that are tokenized
        self._begun = 0  # windows, or a tagger's texts
        self._parts: list[Any] = []

    def _guessed(self, text: Text) -> float:
        """About what it costs, in tokens."""
        size = num_characters(text)
        if self.of_words:
            return 1 + size
        return 1 + self._factor * min(size / _CHARACTERS, self._most) + size / _TOKENIZED

    @property
    def is_begun_whole(self) -> bool:
        """Whether nothing of it waits."""
        return self._opened == len(self.texts) and self._begun == len(self._sizes)

    @property
    def cost(self) -> float:
        """About what is left of it, in tokens."""
        if not self._begun:
            return self.guess
        rest = sum(map(self._guessed, self.texts[self._opened :]))
        return rest + sum(self._sizes[self._begun :])

    def take(self, room: float, is_first: bool) -> tuple[slice, float]:
        """As much of what is left as there is room for, and its cost; of who is first, something.

        Raises:
            DataError: texts that the classifier cannot read.
        """
        first, cost = self._begun, 0.0
        while not self.is_begun_whole:
            if self._begun == len(self._sizes):
                if cost >= room and self._begun > first:
                    break
                self._open(room - cost)
            size = self._sizes[self._begun]
            if cost + size > room and not (is_first and self._begun == first):
                break
            cost, self._begun = cost + size, self._begun + 1
        return slice(first, self._begun), cost

    def _open(self, room: float) -> None:
        """Tokenize as many of its texts as there may be room for, one at least."""
        first = self._opened
        while self._opened < len(self.texts) and (room > 0 or self._opened == first):
            room -= self._guessed(self.texts[self._opened])
            self._opened += 1
        texts = self.texts[first : self._opened]
        if self.of_words:
            self._sizes += map(self._guessed, texts)
            return
        found = self.classifier.windows(texts)
        self._windows.tokens.extend(found.tokens)
        self._windows.counts.extend(found.counts)
        self._windows.lengths.extend(found.lengths)
        costs = [len(one["input_ids"]) * self._factor for one in found.tokens]
        costs[0] += sum(map(num_characters, texts)) / _TOKENIZED
        self._sizes += costs

    def tokens(self, piece: slice) -> list[Tokens]:
        """Of texts that are no tagger's, those of a piece."""
        return self._windows.tokens[piece]

    def had(self, part: Any) -> None:
        """One more part of the answer is there, perhaps the last: then it is given."""
        self._parts.append(part)
        if self.is_begun_whole:
            try:
                self.settle(self._found())
            except Exception as error:
                self.settle(error)

    def settle(self, found: Found | BaseException) -> None:
        """Give it to who waits, if anyone does."""
        try:
            if isinstance(found, BaseException):
                self.future.set_exception(found)
            else:
                self.future.set_result(found)
        except InvalidStateError:
            pass  # it was cancelled, or has its error

    def _found(self) -> Found:
        if self.of_words:
            return Found([said for part in self._parts for said in part], [False] * len(self.texts))
        tokens, counts, lengths = self._windows.tokens, self._windows.counts, self._windows.lengths
        scores = np.concatenate(self._parts)
        if len(tokens) > len(counts):
            scores = over_windows(torch.from_numpy(scores), counts).numpy()
        check_finite(scores, "texts")
        first = np.cumsum([0, *counts[:-1]])
        truncated = [
            count == 1 and length > len(tokens[row]["input_ids"])
            for row, count, length in zip(first, counts, lengths, strict=True)
        ]
        return Found(scores, truncated)


def _factor(scorer: Scorer) -> float:
    """By how much a token costs more than one that runs once, without a prefix."""
    model = scorer.model
    prefix = scorer.prefix if model.shares_passes else None
    return model.passes * (1 + (prefix.length if prefix else 0) / _COLUMNS)


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
        # Seconds of a full turn, by what the last ones took; none is known at first.
        self._full_turn = 0.0
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
            until_begun = self._turns() / self._room * self._full_turn
            # Those for whom nobody waits any more leave when it would be their turn.
            gone = sum(len(one.texts) for one in self._requests if one.future.done())
            waiting = self._waiting - gone + len(texts)
            if waiting > self._most_waiting or until_begun > seconds:
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

    def _turns(self) -> float:
        """About how many tokens are run until each of those who wait has had a turn."""
        live = (one for one in self._requests if not one.future.done())
        return sum(min(self._room, one.cost) for one in live)

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
            # Calls that come without end leave a turn to requests.
            if call is not None:
                _run(*call)
            if self._requests:
                self._turn()

    def _turn(self) -> None:
        """Run some of those who wait, and who come soon after them."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_stopped or self._turns() >= self._room, _GATHERING
            )
        began = time.monotonic()
        taken, cost = self._gathered()
        if not taken:
            return
        try:
            self._score(taken)
        except BaseException as error:  # this thread goes on whatever is raised
            for one, _ in taken:
                one.settle(error)
        for one, _ in taken:
            if one.is_begun_whole:
                self._leave(one)
        full = (time.monotonic() - began) * self._room / cost
        if cost < _FULL * self._room:
            self._full_turn = min(self._full_turn, full)  # it takes no longer than that
        else:
            self._full_turn = full if not self._full_turn else 0.8 * self._full_turn + 0.2 * full
        self._observe(len(taken), sum(piece.stop - piece.start for _, piece in taken))

    def _gathered(self) -> tuple[list[tuple[_Request, slice]], float]:
        """What is run of each of those who wait, and its cost.

        Whoever is not done with that waits for another turn behind the others.
        """
        taken: list[tuple[_Request, slice]] = []
        again: list[_Request] = []
        cost = 0.0
        while cost < self._room and self._requests:
            one = self._requests[0]
            if self._is_over(one):
                self._next()
                self._leave(one)
                continue
            try:
                piece, own = one.take(self._room - cost, is_first=not taken)
            except BaseException as error:
                one.settle(error)
                continue
            if piece.start == piece.stop:
                break
            self._next()
            cost += own
            taken.append((one, piece))
            if not one.is_begun_whole:
                again.append(one)
        with self._changed:
            self._requests.extend(again)
        return taken, cost

    def _is_over(self, one: _Request) -> bool:
        """Whether nobody waits for it any more."""
        if not one.future.done() and one.deadline < time.monotonic():
            one.settle(TooLate())
        return one.future.done()

    def _next(self) -> None:
        with self._changed:
            self._requests.popleft()

    def _leave(self, one: _Request) -> None:
        with self._changed:
            self._waiting -= len(one.texts)

    def _score(self, taken: Sequence[tuple[_Request, slice]]) -> None:
        of_texts = []
        for one, piece in taken:
            if not one.of_words:
                of_texts.append((one, Asked(one.classifier.scorer(), one.tokens(piece))))
                continue
            try:
                one.had(one.classifier.predict(one.texts[piece]))
            except Exception as error:
                one.settle(error)
        for number, scores in score_together([asked for _, asked in of_texts]):
            one, _ = of_texts[number]
            if isinstance(scores, Exception):
                one.settle(scores)
            else:
                one.had(scores)


def _run(function: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
