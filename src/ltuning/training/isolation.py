"""What trainings of one process share, and how each has it for itself."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# accelerate has one state in a process, and random numbers have one source; threads may share a
# backbone. A callback of a training may train as well.
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other thread trains; leave random numbers and torch's settings as they were."""
    with _ONE_AT_A_TIME, _as_found(), sound_attention():
        yield


@contextmanager
def sound_attention() -> Iterator[None]:
    """Attention without cuDNN's kernels, of which a gradient may be NaN; torch has others.

    That happens on an H100 or H200 in half precision, by torch 2.11 to 2.13 at least, where a
    masked batch is 64 tokens long, or 192, 320, ..., and a query has large negative scores:
    https://github.com/pytorch/pytorch/issues/196678
    """
    was = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


@contextmanager
def _as_found() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    has_cuda = torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if has_cuda else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            torch.use_deterministic_algorithms(is_deterministic)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    if not has_cuda:
        # Their sources were not there yet, and start from the seed that torch was given.
        torch.cuda.manual_seed_all(torch.initial_seed())
