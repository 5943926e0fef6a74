"""Pieces on a cluster, by Ray Data."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from ltuning.engines.job import Asked, Done, Job, Worker
from ltuning.errors import DataError, LTuningError
from ltuning.ray_cluster import connected

_PIECE = "piece"
# So often a piece is begun whose process dies, and seconds until a worker has its core.
_TRIES = 4
_PATIENCE = 300


def run(job: Job, pieces: Sequence[Asked], workers: int) -> Iterator[Done]:
    """What becomes of each piece, in the order in which they are done.

    Ray begins a piece anew whose process or machine dies, a few times. See `connected`.

    Args:
        job: what is asked of them; its folders are there on every machine.
        pieces: in the order in which they are begun.
        workers: processes, on one core each.

    Raises:
        DataError: the cluster cannot be reached, or has no room for a worker, or a worker cannot
            begin.
    """
    with connected() as ray:
        yield from _answers(ray, job, pieces, workers)


def _answers(ray: Any, job: Job, pieces: Sequence[Asked], workers: int) -> Iterator[Done]:
    import ray.data as ray_data

    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = _PATIENCE
    rows = [{_PIECE: pickle.dumps(asked)} for asked in pieces]
    # A block for each piece: what is done is told at once, and a death costs one piece.
    data = ray_data.from_items(rows, override_num_blocks=len(rows))
    done = data.map_batches(
        _Actor,
        fn_constructor_args=(job,),
        batch_size=1,
        num_cpus=1,
        max_restarts=_TRIES,
        max_task_retries=_TRIES,
        compute=ray_data.ActorPoolStrategy(size=min(workers, len(rows))),
    )
    try:
        for row in done.iter_rows():
            yield pickle.loads(row[_PIECE])
    except (ray.exceptions.RayError, RuntimeError) as error:
        raise DataError(
            f"the cluster gave up ({_last_line(error)}); what is done is kept: the same command "
            "goes on with it"
        ) from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Actor:
    """A worker as Ray Data has it: batches of columns in, batches of columns out."""

    def __init__(self, job: Job):
        try:
            self._worker = Worker(job, threads=1)
        except LTuningError as error:
            # The words alone: not every error can be sent from one process to another.
            raise RuntimeError(str(error)) from None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Answer pieces."""
        found = [self._worker.answer(pickle.loads(piece)) for piece in batch[_PIECE]]
        return {_PIECE: [pickle.dumps(done) for done in found]}
