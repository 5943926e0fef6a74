"""Cells of a grid as tasks of a Ray cluster; results are written to the same files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ltuning.errors import ArtifactError
from ltuning.experiments.grid import Cell
from ltuning.experiments.results import ResultFolder
from ltuning.experiments.runner import Outcome, Started, attempt
from ltuning.ray_cluster import connected


def run(
    cells: Sequence[Cell],
    results: ResultFolder,
    folder: Path | None,
    jobs: int,
    started: Started = lambda cell: None,
) -> Iterator[Outcome]:
    """Run cells, and give what became of each as it ends; see `runner.run` and `connected`.

    A cell whose process or machine dies has failed: the same command runs it again.

    Args:
        cells: in the order in which they start.
        results: where results and failures are written; its folder is there on every machine.
        folder: of the data sets, the same.
        jobs: processes, each with a core, and with a GPU where the cluster has some.
        started: called with each cell as it starts.

    Raises:
        ArtifactError: results cannot be written.
        DataError: the cluster cannot be reached.
    """
    if not cells:
        return
    with connected() as ray:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        kind = ray.remote(num_cpus=1, num_gpus=gpus)(_Cells)
        place = results.folder.absolute(), None if folder is None else folder.absolute()
        waiting, running = [*cells], {}

        def feed(worker: Any) -> None:
            if waiting:
                cell = waiting.pop(0)
                running[worker.run.remote(pickle.dumps(cell))] = worker, cell
                started(cell)

        for _ in range(min(jobs, len(cells))):
            feed(kind.remote(*place))
        while running:
            ready, _ = ray.wait([*running], num_returns=1)
            worker, cell = running.pop(ready[0])
            try:
                outcome = pickle.loads(ray.get(ready[0]))
            except ray.exceptions.RayError as error:
                words = f"its process or its machine ended ({type(error).__name__})"
                results.fail(cell, words)
                outcome, worker = Outcome(cell, None, words), kind.remote(*place)
            if isinstance(outcome, ArtifactError):
                raise outcome
            feed(worker)
            yield outcome


class _Cells:
    """A process that runs one cell after the other, and keeps its backbone meanwhile."""

    def __init__(self, results: Path, folder: Path | None):
        from transformers.utils import logging as transformers_logging

        from ltuning.experiments.cell import Backbones

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._results, self._folder, self._backbones = ResultFolder(results), folder, Backbones()

    def run(self, cell: bytes) -> bytes:
        """What became of a cell, or why no result could be written."""
        found: Outcome | ArtifactError
        try:
            found = attempt(pickle.loads(cell), self._results, self._folder, self._backbones)
        except ArtifactError as error:
            found = ArtifactError(str(error))
        return pickle.dumps(found)
