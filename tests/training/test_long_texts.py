"""Texts in windows, as they are trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ltuning.methods.model import Branches
from ltuning.training.long_texts import score_texts

COUNTS = [3, 1, 4]


@pytest.mark.parametrize("counts", [COUNTS, [1, 1, 1]])
def test_texts_have_the_pooled_scores_of_their_windows_and_their_gradient(
    counts: list[int],
) -> None:
    weight = torch.randn(5, 2, requires_grad=True)
    states = torch.randn(sum(counts), 5)
    sizes: list[int] = []

    def score(windows: Tensor, branches: Branches | None) -> Tensor:
        assert branches is None
        sizes.append(len(windows))
        return torch.tanh(states[windows] @ weight)

    scores = score_texts(score, counts, None, torch.device("cpu"))
    (got,) = torch.autograd.grad(scores.square().sum(), weight)
    every = torch.tanh(states @ weight)
    expected = torch.stack([part.exp().mean(0).log() for part in every.split(counts)])
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), weight)[0])
    # No more than there are texts, and what is computed at once is not computed again.
    assert sizes == ([3] if counts == [1, 1, 1] else [3, 3, 2, 2, 3, 3])


def test_a_branch_has_the_pooled_scores_of_its_label_with_every_window() -> None:
    states, labels = torch.randn(8, 5), torch.randn(3, 5)
    branches = Branches(torch.tensor([2, 0, 2, 1]), torch.tensor([0, 1, 1, 2]))

    def score(windows: Tensor, of_windows: Branches | None) -> Tensor:
        assert of_windows is not None and len(of_windows.texts) <= 4
        assert len(windows) == len(windows.unique())
        return (states[windows][of_windows.texts] * labels[of_windows.rows]).sum(1)

    found = score_texts(score, COUNTS, branches, torch.device("cpu"))
    table = states @ labels.T
    expected = [table[4:, 0], table[:3, 1], table[4:, 1], table[3:4, 2]]
    torch.testing.assert_close(found, torch.stack([one.exp().mean().log() for one in expected]))
