"""Pieces on this machine: one after the other, or in processes of which each may die."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ltuning.engines.job import Asked, Done, Job, Worker
from ltuning.errors import DataError, LTuningError
from ltuning.locks import end_with_parent

# Pieces that wait for each process, beside the one that it is at.
_AHEAD = 1
# So many pieces in turn that each kill the process that they are alone in.
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
        DataError: whatever is begun is killed.
    """
    if workers == 1:
        worker = Worker(job)
        with _said_once():
            yield from map(worker.answer, pieces)
    else:
        yield from in_processes(job, pieces, workers)


def in_processes(job: Job, pieces: Sequence[Asked], workers: int) -> Iterator[Done]:
    """As `run`, in processes of their own.

    Where one dies, all are begun anew, and what they were at runs alone first: a piece that then
    kills its process again is at fault, and that is its answer.
    """
    left, deaths = [*pieces], 0
    while left:
        running: dict[Future[Done], Asked] = {}
        try:
            for asked, answer in _by_pool(job, [*left], workers, running):
                left.remove(asked)
                yield answer
            return
        except BrokenProcessPool:
            suspects = [*running.values()]
        for asked in suspects:
            left.remove(asked)
            answer = _alone(job, asked)
            deaths = 0 if answer.error is None else deaths + 1
            if deaths == _DEATHS:
                raise DataError(
                    f"{deaths} pieces in turn killed the process that they were alone in, the last "
                    f"one {asked.piece.origin}; memory may be short. What is done is kept: the "
                    "same command goes on with it"
                )
            yield answer


def _alone(job: Job, asked: Asked) -> Done:
    """What becomes of a piece in a process of its own."""
    try:
        for _, answer in _by_pool(job, [asked], 1, {}):
            return answer
    except BrokenProcessPool:
        pass
    message = f"{asked.piece.origin}: it killed the process that it was alone in; is memory short?"
    return Done(asked.file, asked.part(job), 0, message)


def _by_pool(
    job: Job, pieces: Sequence[Asked], workers: int, running: dict[Future[Done], Asked]
) -> Iterator[tuple[Asked, Done]]:
    """As `run`, until a process dies; `running` then has the pieces of which nothing is known."""
    context = multiprocessing.get_context("spawn")  # torch cannot be forked
    waiting = iter(pieces)
    pool = ProcessPoolExecutor(workers, context, _begin)
    try:
        while True:
            while len(running) < (1 + _AHEAD) * workers and (asked := next(waiting, None)):
                running[pool.submit(_answer, job, _threads(workers), asked)] = asked
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                answer = future.result()
                yield running.pop(future), answer
    except BaseException:
        # Parts are whole or not there: nothing is lost by not waiting.
        for process in [*(getattr(pool, "_processes", None) or {}).values()]:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _threads(workers: int) -> int | None:
    """The share of the cores that a process has; None where the environment says it."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // workers)


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # What is cut is told of every piece otherwise, by every process.
    logging.getLogger("ltuning").setLevel(logging.ERROR)


def _answer(job: Job, threads: int | None, asked: Asked) -> Done:
    global _worker
    if _worker is None:
        try:
            _worker = Worker(job, threads)
        except LTuningError as error:
            # The words alone: not every error can be sent from one process to another.
            raise DataError(str(error)) from None
    return _worker.answer(asked)


@contextmanager
def _said_once() -> Iterator[None]:
    """What is warned of is told of one piece, and not of every other again."""
    logger, seen = logging.getLogger("ltuning"), set()

    def is_new(record: logging.LogRecord) -> bool:
        is_known = record.msg in seen
        seen.add(record.msg)
        return not is_known

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
