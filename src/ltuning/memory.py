"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def return_memory() -> None:
    """Give what the C library keeps of freed memory back to the system, where it does that (glibc).

    It keeps pieces between those in use. A process that goes on for hours, with texts of every
    length, otherwise holds ever more, and one after a large task as much as that took.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
