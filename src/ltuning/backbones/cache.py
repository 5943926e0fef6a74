"""Where this user's files are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path | None:
    """The folder `ltuning` of the user's cache, there or not; None where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ltuning"
    except RuntimeError:
        return None
