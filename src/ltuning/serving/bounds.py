"""How much a server takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """What a request, and those that wait, may be at most.

    Attributes:
        waiting: texts that wait for one backbone.
        texts: of a request.
        characters: of a text, or of both of a pair.
        body: bytes of a request.
        seconds: for a request to come whole, and again for it to be answered.
    """

    waiting: int = 1024
    texts: int = 256
    characters: int = 100_000
    body: int = 2**21
    seconds: float = 30.0
