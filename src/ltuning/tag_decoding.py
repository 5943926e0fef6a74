"""The tags that are scored, and the best sequence of them that is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltuning.sentences import OUTSIDE


def tag_names(types: Sequence[str]) -> list[str]:
    """`[1 + 2K]` the tags that are scored, of IOB2: `O`, then `B-x` and `I-x` of each type."""
    return [OUTSIDE, *(f"{letter}-{type_}" for type_ in types for letter in "BI")]


def best_tags(probabilities: np.ndarray) -> np.ndarray:
    """`[W, 1 + 2K]` -> `[W]`: the most probable sequence in which `I-x` follows `B-x` or `I-x`.

    Viterbi's algorithm; a word's tag depends on no other word's but by what may follow what.
    """
    size = probabilities.shape[1]
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    inner = np.arange(2, size, 2)
    allowed = np.ones((size, size), dtype=bool)
    allowed[:, inner] = False
    allowed[inner, inner] = allowed[inner - 1, inner] = True
    penalty = np.where(allowed, 0.0, -np.inf)
    best = logs[:1].copy() if len(logs) else np.zeros((1, size))
    best[0, inner] = -np.inf
    total, back = best[0], []
    for row in logs[1:]:
        through = total[:, None] + penalty
        back.append(through.argmax(0))
        total = through.max(0) + row
    path = [int(total.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return np.array(path[::-1][: len(logs)], dtype=int)
