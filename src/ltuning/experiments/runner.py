"""Running the cells of a grid, in this process or in several; a cell that fails stops no other."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ltuning.errors import ArtifactError, LTuningError
from ltuning.experiments.grid import Cell
from ltuning.experiments.results import ResultFolder
from ltuning.locks import end_with_parent

_SECONDS_TO_LEAVE = 30


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: it.
        figures: on the test texts; None where it failed.
        error: why it failed; None where it did not.
    """

    cell: Cell
    figures: dict[str, Any] | None
    error: str | None = None


Started = Callable[[Cell], None]


def run(
    cells: Sequence[Cell],
    results: ResultFolder,
    folder: Path | None,
    jobs: int = 1,
    started: Started = lambda cell: None,
) -> Iterator[Outcome]:
    """Run cells, and give what became of each as it ends.

    Args:
        cells: in the order in which they start.
        results: where results and failures are written.
        folder: of the data sets.
        jobs: processes. With one, cells run in this process; with more, a cell that ends its
            process (no memory left, for one) fails like any other.
        started: called with each cell as it starts.

    Raises:
        ArtifactError: results cannot be written.
    """
    if jobs > 1 and cells:
        yield from _in_processes(cells, results, folder, min(jobs, len(cells)), started)
        return
    from ltuning.experiments.cell import Backbones

    backbones = Backbones()
    for cell in cells:
        started(cell)
        yield attempt(cell, results, folder, backbones)


def attempt(cell: Cell, results: ResultFolder, folder: Path | None, backbones: Any) -> Outcome:
    """Run a cell; what goes wrong is its outcome.

    Args:
        cell: it.
        results: where its result, or its failure, is written.
        folder: of the data sets.
        backbones: those that are loaded.

    Raises:
        ArtifactError: results cannot be written.
    """
    from ltuning.experiments.cell import run_cell

    try:
        record = run_cell(cell, results, folder, backbones)
    except ArtifactError:  # the folder of the results, where no other cell could be written either
        raise
    except Exception as error:  # whatever a library raises is this cell's failure
        name = "" if isinstance(error, LTuningError) else f"{type(error).__name__}: "
        words = f"{name}{error}"
        results.fail(cell, words, traceback.format_exc())
        return Outcome(cell, None, words)
    return Outcome(cell, {**record["test"], "seconds": record["seconds"]})


class _Worker:
    """A process that runs one cell after the other."""

    def __init__(self, results: ResultFolder, folder: Path | None, threads: int):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(
            target=_work, args=(other, results.folder, folder, threads), daemon=True
        )
        # Libraries read it as they are loaded, before anything could be told to them.
        with _environment("OMP_NUM_THREADS", str(threads)):
            self.process.start()
        other.close()
        self.cell: Cell | None = None

    def give(self, cell: Cell) -> None:
        """Let it run a cell."""
        self.cell = cell
        with suppress(BrokenPipeError):  # that it ended is seen where outcomes are waited for
            self.connection.send(cell)

    def take(self) -> Outcome:
        """What became of its cell; of an ended process, that it ended.

        Raises:
            EOFError: the process ended.
            ArtifactError: results cannot be written.
        """
        outcome: Outcome | ArtifactError = self.connection.recv()
        self.cell = None
        if isinstance(outcome, ArtifactError):
            raise outcome
        return outcome

    def end(self) -> None:
        """End the process; one at work at once, an idle one by itself, which tidies up."""
        self.connection.close()
        if self.cell is None:
            self.process.join(_SECONDS_TO_LEAVE)
        self.process.terminate()
        self.process.join()


class _environment:
    def __init__(self, name: str, value: str):
        self.name, self.value = name, value

    def __enter__(self) -> None:
        self.before = os.environ.get(self.name)
        os.environ[self.name] = self.value

    def __exit__(self, *_: object) -> None:
        if self.before is None:
            del os.environ[self.name]
        else:
            os.environ[self.name] = self.before


def _in_processes(
    cells: Sequence[Cell],
    results: ResultFolder,
    folder: Path | None,
    jobs: int,
    started: Started,
) -> Iterator[Outcome]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting = list(cells)
    workers: list[_Worker] = []

    def feed(worker: _Worker) -> None:
        if waiting:
            worker.give(waiting.pop(0))
            assert worker.cell is not None
            started(worker.cell)
        else:
            worker.end()
            workers.remove(worker)

    try:
        for _ in range(jobs):
            workers.append(_Worker(results, folder, threads))
            feed(workers[-1])
        while workers:
            ready: Any = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    outcome = worker.take()
                except (EOFError, OSError):
                    outcome = _ended(worker, results)
                    workers.remove(worker)
                    if waiting:
                        worker = _Worker(results, folder, threads)
                        workers.append(worker)
                        feed(worker)
                else:
                    feed(worker)
                yield outcome
    finally:
        for worker in workers:
            worker.end()


def _ended(worker: _Worker, results: ResultFolder) -> Outcome:
    worker.process.join()
    cell, code = worker.cell, worker.process.exitcode
    assert cell is not None
    words = f"its process ended with exit code {code}; where it is -9, memory may have run out"
    results.fail(cell, words)
    return Outcome(cell, None, words)


def _work(
    connection: Connection[Any, Any], results: Path, folder: Path | None, threads: int
) -> None:
    """Run the cells that come through a connection, until it closes."""
    end_with_parent()
    import torch
    from transformers.utils import logging as transformers_logging

    from ltuning.experiments.cell import Backbones

    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    backbones = Backbones()
    while True:
        try:
            cell = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        outcome: Outcome | ArtifactError
        try:
            outcome = attempt(cell, ResultFolder(results), folder, backbones)
        except ArtifactError as error:
            outcome = error
        except KeyboardInterrupt:
            return
        connection.send(outcome)
