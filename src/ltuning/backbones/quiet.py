"""transformers' reports of loading, held back while we load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import transformers
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its report of unused weights: a head that is left out is what is meant here.

    Nor with its bar over the weights; the hub's bars of downloads stay.
    """
    before, has_bars = (
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
    )
    has_downloads = not are_progress_bars_disabled()
    transformers.logging.set_verbosity_error()
    # It switches off the hub's as well, and on again.
    transformers.logging.disable_progress_bar()
    if has_downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if has_bars:
            transformers.logging.enable_progress_bar()
            if not has_downloads:
                disable_progress_bars()
