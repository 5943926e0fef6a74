"""The processes that train one classifier together, as torchrun starts them, and which this one is.

All of them run the same program on the same texts. The main one, of rank 0, alone writes and
speaks; what it decides by a clock or by a folder it tells the others. torch is imported where they
talk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from ltuning.errors import LTuningError, TrainingError

T = TypeVar("T")

# What torchrun and `accelerate launch` tell a process. A cluster may set the first two for programs
# that know nothing of it.
_RANK, _NUMBER, _ON_MACHINE = "RANK", "WORLD_SIZE", "LOCAL_RANK"

# How long one waits for another, which may read many texts or load a large model meanwhile.
_WAIT = timedelta(minutes=30)


def number() -> int:
    """How many there are; 1 where this one is alone."""
    are_told = all(name in os.environ for name in (_RANK, _NUMBER, _ON_MACHINE))
    return int(os.environ[_NUMBER]) if are_told else 1


def rank() -> int:
    """Which of them this one is, counted from 0."""
    return int(os.environ[_RANK]) if number() > 1 else 0


def is_main() -> bool:
    """Whether this one writes and speaks."""
    return rank() == 0


def device_index(devices: int) -> int:
    """The device of this process among so many that the machine has."""
    return int(os.environ[_ON_MACHINE]) % devices if number() > 1 else 0


def part(size: int) -> range:
    """Those of so many things that this process sees to; the parts differ by one at most."""
    return range(size * rank() // number(), size * (rank() + 1) // number())


@contextmanager
def together() -> Iterator[None]:
    """All of them are at work while the block runs.

    Raises:
        TrainingError: one of them is gone.
    """
    if number() == 1:
        yield
        return
    with _talking():
        yield


def of_main(value: T) -> T:
    """What the main process has in this place, in every process.

    Raises:
        TrainingError: one of them is gone.
    """
    if number() == 1:
        return value
    from torch import distributed

    found: list[Any] = [value]
    with _talking():
        distributed.broadcast_object_list(found, src=0)
    return found[0]


def gathered(value: T) -> list[T]:
    """What each process has in this place, by their ranks.

    Raises:
        TrainingError: one of them is gone.
    """
    from torch import distributed

    found: list[Any] = [None] * number()
    with _talking():
        distributed.all_gather_object(found, value)
    return found


def leave() -> None:
    """Say that nothing more comes of this process, where it has talked to others."""
    if number() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()


@contextmanager
def _talking() -> Iterator[None]:
    from torch import distributed

    try:
        _join()
        yield
    except RuntimeError as error:
        is_of_talk = isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
        if isinstance(error, LTuningError) or not is_of_talk:
            raise
        raise TrainingError(
            f"expected {number()} processes that train together, got one that ended or no longer "
            "answers: its own words, or those of what started it, say why. Start all again, with "
            "--resume (of fit: resume=True) where there are checkpoints"
        ) from error


def _join() -> None:
    """Wait until all are there."""
    import torch
    from torch import distributed

    if distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(device_index(torch.cuda.device_count()))
        backend = "cpu:gloo,cuda:nccl" if distributed.is_nccl_available() else "gloo"
    distributed.init_process_group(backend, timeout=_WAIT)


if not is_main():  # What the library warns of is said once.
    logging.getLogger("ltuning").setLevel(logging.ERROR)
