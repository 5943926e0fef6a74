"""A Ray cluster, for those who hand it their work."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ltuning.errors import DataError, MissingExtraError


def require_ray(what: str) -> None:
    """Raises MissingExtraError where Ray is not installed, which `what` needs."""
    if find_spec("ray") is None:
        raise MissingExtraError(what, "ray")


@contextmanager
def connected() -> Iterator[Any]:
    """The module `ray`, connected: to the cluster of `RAY_ADDRESS`, or one of this machine's own.

    One that is connected already is used and left as it is.

    Raises:
        DataError: the cluster cannot be reached.
    """
    import ray

    # What it logs on its own is of no concern to who waits for results.
    logging.getLogger("ray").setLevel(logging.ERROR)
    is_ours = not ray.is_initialized()
    if is_ours:
        # By itself it would join whatever cluster was begun last on this machine.
        address = None if "RAY_ADDRESS" in os.environ else "local"
        try:
            ray.init(address, log_to_driver=False, include_dashboard=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise DataError(
                f"the cluster that RAY_ADDRESS names cannot be reached ({error}); mend the "
                "address, or leave it out to run on this machine"
            ) from error
    try:
        yield ray
    finally:
        if is_ours:
            ray.shutdown()
