"""Pieces on this machine: one after the other, or in processes of which each may die."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for

from ltuning.engines.job import Asked, Done, Job, Worker
from ltuning.errors import DataError, LTuningError

# Pieces that wait for each process, beside the one that it is at.
_AHEAD = 1
# So often in turn without any piece between may processes die.
_DEATHS = 3

_worker: Worker | None = None


def run(job: Job, pieces: Sequence[Asked], workers: int) -> Iterator[Done]:
    """What becomes of each piece, in the order in which they are done.

    Args:
        job: what is asked of them.
        pieces: in the order in which they are begun.
        workers: processes; 1 is this one.

    Raises:
        LTuningError: the classifier cannot be loaded.
        DataError: processes die without having done anything.
    """
    if workers == 1:
        yield from map(Worker(job).answer, pieces)
    else:
        yield from in_processes(job, pieces, workers)


def in_processes(job: Job, pieces: Sequence[Asked], workers: int) -> Iterator[Done]:
    """As `run`, in processes of their own; those of a pool of which one dies are begun anew."""
    left, deaths = [*pieces], 0
    while left:
        done = 0
        try:
            for asked, answer in _by_pool(job, left, workers):
                left.remove(asked)
                done += 1
                yield answer
        except BrokenProcessPool as error:
            deaths = 1 if done else deaths + 1
            if deaths == _DEATHS:
                raise DataError(
                    f"{deaths} times in turn a process was killed before it had done anything, "
                    "which is what happens where memory is short; take fewer --workers. What is "
                    "done is kept: the same command goes on with it"
                ) from error


def _by_pool(job: Job, pieces: Sequence[Asked], workers: int) -> Iterator[tuple[Asked, Done]]:
    """As `run`, until a process dies; of what was just at work then nothing is known."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")  # torch cannot be forked
    waiting = iter(pieces)
    running: dict[Future[Done], Asked] = {}
    pool = ProcessPoolExecutor(workers, context, _begin, (job,))
    try:
        while True:
            while len(running) < (1 + _AHEAD) * workers and (asked := next(waiting, None)):
                running[pool.submit(_answer, job, threads, asked)] = asked
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                answer = future.result()
                yield running.pop(future), answer
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(job: Job) -> None:
    """A process without a parent, which was killed, would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent.sentinel], daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _answer(job: Job, threads: int, asked: Asked) -> Done:
    global _worker
    if _worker is None:
        try:
            _worker = Worker(job, threads)
        except LTuningError as error:
            # The words alone: not every error can be sent from one process to another.
            raise DataError(str(error)) from None
    return _worker.answer(asked)
