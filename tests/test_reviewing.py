"""Which texts are worth labelling: the unsure ones, and of these ones that are unlike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltuning.reviewing import CANDIDATES, worth_labelling


def test_of_like_texts_one_is_chosen() -> None:
    """Four heaps of ten; the unsurest texts are all of the first one."""
    states = np.repeat(np.eye(4), 10, axis=0)
    margins = np.linspace(0.1, 0.2, 40)
    chosen = worth_labelling(margins, lambda rows: states[rows], 4)
    assert sorted(row // 10 for row in chosen) == [0, 1, 2, 3]
    assert chosen == sorted(chosen)  # the unsurest first
    assert chosen == worth_labelling(margins, lambda rows: states[rows], 4)


def test_only_the_unsurest_are_looked_at() -> None:
    margins = np.random.default_rng(0).permutation(100) / 100
    asked: list[int] = []

    def states_of(rows: Sequence[int]) -> np.ndarray:
        asked.extend(rows)
        return np.random.default_rng(1).normal(size=(len(rows), 3))

    chosen = worth_labelling(margins, states_of, 2)
    assert len(asked) == 2 * CANDIDATES and margins[asked].max() < 2 * CANDIDATES / 100
    assert len({*chosen}) == 2 and {*chosen} <= {*asked}


def test_few_texts_equal_texts_and_sure_ones() -> None:
    def none(rows: Sequence[int]) -> np.ndarray:
        raise AssertionError("states of texts that are all taken")

    assert worth_labelling(np.array([0.5, 0.1]), none, 2) == [1, 0]
    assert worth_labelling(np.array([]), none, 2) == []
    same = np.ones((20, 3))
    assert len({*worth_labelling(np.ones(20), lambda rows: same[rows], 5)}) == 5
