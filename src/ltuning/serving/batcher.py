"""One thread for each backbone: requests that wait for it run together, whatever their classifier.

All work with a backbone is done by its thread, loading a classifier on it too: no tokenizer and no
model is ever used by two.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
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
# What is taken at a time: a few passes of a CPU. More would make those who come meanwhile wait.
_TEXTS, _CHARACTERS = 128, 16_384
# On a GPU.
_SCALE = 8

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
    """Its time was over before it was begun, or the server ends."""


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
    """Texts for a classifier, and who waits for the answer."""

    classifier: Any
    texts: Sequence[Text]
    deadline: float
    future: Future[Found] = field(default_factory=Future)
    windows: Windows | None = None

    @property
    def characters(self) -> int:
        return sum(map(num_characters, self.texts))

    def answer(self, scores: np.ndarray) -> None:
        assert self.windows is not None
        tokens, counts, lengths = self.windows.tokens, self.windows.counts, self.windows.lengths
        if len(tokens) > len(counts):
            scores = over_windows(torch.from_numpy(scores), counts).numpy()
        check_finite(scores, "texts")
        first = np.cumsum([0, *counts[:-1]])
        truncated = [
            count == 1 and length > len(tokens[row]["input_ids"])
            for row, count, length in zip(first, counts, lengths, strict=True)
        ]
        self.future.set_result(Found(scores, truncated))


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
        self._scale = 1 if is_cpu else _SCALE
        self._observe = observe
        self._requests: deque[_Request] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting = 0  # texts
        self._changed = threading.Condition()
        self._is_stopped = False
        # Seconds for a text, by what the last ones took.
        self._pace = 0.0
        self._thread = threading.Thread(target=self._work, name="ltuning-batcher", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Texts that wait."""
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
            seconds: within which the work has to begin; else the future raises `TooLate`.

        Raises:
            QueueFull: more texts would wait than may, or it would not be begun in time.
        """
        request = _Request(classifier, texts, time.monotonic() + seconds)
        with self._changed:
            until_begun = self._waiting * self._pace
            if self._waiting + len(texts) > self._most_waiting or until_begun > seconds:
                raise QueueFull(max(1, math.ceil(until_begun)))
            self._check_open()
            self._requests.append(request)
            self._waiting += len(texts)
            self._changed.notify()
        return request.future

    def call(self, function: Callable[[], T]) -> T:
        """What a function gives, called by the thread."""
        future: Future[T] = Future()
        with self._changed:
            self._check_open()
            self._calls.append((function, future))
            self._changed.notify()
        return future.result()

    def stop(self) -> None:
        """Finish what waits, and end."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        self._thread.join()

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

    def _gathered(self) -> list[_Request]:
        """The first of those who wait, and who came soon after them."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting >= _TEXTS * self._scale or self._is_stopped, _GATHERING
            )
            taken: list[_Request] = []
            texts = characters = 0
            while self._requests:
                one = self._requests[0]
                texts, characters = texts + len(one.texts), characters + one.characters
                is_much = max(texts / _TEXTS, characters / _CHARACTERS) > self._scale
                if taken and is_much:
                    break
                taken.append(self._requests.popleft())
                self._waiting -= len(one.texts)
        return taken

    def _run_some(self, taken: Sequence[_Request]) -> None:
        began = time.monotonic()
        live = [one for one in taken if one.future.set_running_or_notify_cancel()]
        for one in [one for one in live if one.deadline < began]:
            live.remove(one)
            one.future.set_exception(TooLate())
        if not live:
            return
        try:
            self._score(live)
        except Exception as error:
            for one in live:
                if not one.future.done():
                    one.future.set_exception(error)
        texts = sum(len(one.texts) for one in live)
        self._pace = 0.8 * self._pace + 0.2 * (time.monotonic() - began) / texts
        self._observe(len(live), texts)

    def _score(self, live: Sequence[_Request]) -> None:
        requests = []
        for one in live:
            if TASK_FACTS[one.classifier.config.task].of_words:
                _run(partial(_tagged, one), one.future)
                continue
            try:
                one.windows = one.classifier.windows(one.texts)
            except Exception as error:
                one.future.set_exception(error)
            else:
                requests.append(one)
        asked = [Asked(one.classifier.scorer(), _tokens(one)) for one in requests]
        for number, scores in score_together(asked):
            one = requests[number]
            if isinstance(scores, Exception):
                one.future.set_exception(scores)
                continue
            try:
                one.answer(scores)
            except Exception as error:
                one.future.set_exception(error)


def _tokens(request: _Request) -> list[dict[str, list[int]]]:
    assert request.windows is not None
    return request.windows.tokens


def _tagged(request: _Request) -> Found:
    return Found(request.classifier.predict(request.texts), [False] * len(request.texts))


def _run(function: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
