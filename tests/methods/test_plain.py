from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltuning.methods.plain import PlainScorer, combine


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_at_first_it_is_the_cosine_of_centred_states() -> None:
    plain = PlainScorer(8)
    states, labels = random(5, 8), random(3, 8, seed=1)
    plain.text_center.copy_(states.mean(0))
    plain.label_center.copy_(labels.mean(0))
    expected = torch.nn.functional.cosine_similarity(
        (states - states.mean(0))[:, None], (labels - labels.mean(0))[None], dim=-1
    )
    torch.testing.assert_close(plain(states, labels), 20 * expected)


def test_a_label_s_score_is_the_same_among_other_labels() -> None:
    plain = PlainScorer(8)
    states, labels = random(5, 8), random(6, 8, seed=1)
    torch.testing.assert_close(plain(states, labels)[:, :4], plain(states, labels[:4]))


SCORES = torch.tensor([[5.0, 4.0, 1.0, 0.0], [0.0, 0.0, 0.0, 9.0]])


def test_a_shortlist_by_margin() -> None:
    plain = PlainScorer(8)
    assert plain.shortlist(SCORES).all()  # not fitted: every label
    plain.margin.fill_(1.5)
    assert plain.shortlist(SCORES).tolist() == [
        [True, True, False, False],
        [False, False, False, True],
    ]


def test_a_label_at_the_margin_is_in_the_shortlist() -> None:
    plain = PlainScorer(8)
    scores = 20 * random(2000, 7)
    for row in range(0, 2000, 100):
        plain.margin.copy_(scores[row].max() - scores[row, 3])
        assert plain.shortlist(scores[row : row + 1])[0, 3]


@pytest.mark.parametrize(("most", "size"), [(1, 1), (3, 3), (4, 4), (9, 4)])
def test_a_shortlist_by_number(most: int, size: int) -> None:
    inside = PlainScorer(8).shortlist(SCORES, most)
    assert inside.sum(1).tolist() == [size, size]
    assert inside[0, 0] and inside[1, 3]


ROWS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


@given(plain=ROWS, branches=ROWS, most=st.integers(1, 5))
def test_no_label_outside_overtakes_one_inside(
    plain: list[float], branches: list[float], most: int
) -> None:
    own, branch = torch.tensor([plain]), torch.tensor([branches])
    inside = PlainScorer(8).shortlist(own, most)
    scores = combine(own, branch, inside)
    torch.testing.assert_close(scores[inside], (own + branch)[inside])
    if not inside.all():
        assert scores[~inside].max() <= scores[inside].min() + 1e-4
    # Outside, all are moved by as much: their order stays as it was.
    moved = (scores - own)[~inside]
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), atol=1e-4, rtol=1e-4)


def test_a_branch_outside_is_never_read() -> None:
    inside = torch.tensor([[True, True, False]])
    plain = torch.tensor([[3.0, 2.0, 1.0]])
    left = combine(plain, torch.tensor([[1.0, 4.0, math.nan]]), inside)
    assert left.tolist() == [[4.0, 6.0, 2.0]]


def test_a_shortlist_of_one_needs_no_branch() -> None:
    plain = torch.tensor([[3.0, 2.0, 1.0]])
    inside = torch.tensor([[True, False, False]])
    with_branch = combine(plain, torch.tensor([[7.0, 0.0, 0.0]]), inside)
    torch.testing.assert_close(with_branch.softmax(1), plain.softmax(1))
