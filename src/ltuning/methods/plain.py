"""The plain scorer: every label's score from one pass over the text, without a branch.

The backbone is frozen, so a text's state without virtual tokens is a constant. A map that is fitted
on such states in a second tells most labels of a text from the few that are worth a branch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltuning.methods.heads import CentredMatchHead

_TAU = 20.0

# A label at the margin is in, whatever the last bits of the two scores say.
SLACK = 1e-4

# Of the handicap, what a label that is added gets back. All of it treats added and fitted labels
# alike and costs the fitted ones more than the added ones gain; half gained the added ones 4 to 9
# points for 2 of the others, on development texts.
_OF_THE_HANDICAP = 0.5


class PlainScorer(CentredMatchHead):
    """A head for a text's mean state without virtual tokens.

    Attributes:
        margin: how far below the best plain score a label's may lie to be in the shortlist.
        num_labels: K of the fit; labels beyond it were added later.
        handicap: how much less a label's own texts score it if it is not among the labels of the
            fit.

    Args:
        hidden: H.
    """

    margin: Tensor
    num_labels: Tensor
    handicap: Tensor

    def __init__(self, hidden: int):
        super().__init__(hidden, _TAU)
        self.register_buffer("margin", torch.tensor(math.inf))
        self.register_buffer("num_labels", torch.tensor(0))
        self.register_buffer("handicap", torch.tensor(0.0))

    def score(self, states: Tensor, labels: Tensor, owners: Tensor) -> Tensor:
        """Scores of labels, which may have several texts and may be later than the fit.

        Args:
            states: `[B, H]` mean states of texts.
            labels: `[V, H]` mean states of label texts.
            owners: `[V]` the label of each.

        Returns:
            `[B, K]`.
        """
        scores = mean_over_texts(self(states, labels), owners)
        is_later = torch.arange(scores.shape[1], device=scores.device) >= self.num_labels
        return scores + is_later * (_OF_THE_HANDICAP * self.handicap)

    def shortlist(self, scores: Tensor, most: int | None = None) -> Tensor:
        """Which labels get a branch: the `most` best, or those within the margin of the best.

        Args:
            scores: `[B, K]` plain scores.
            most: number of labels; None = by the margin.

        Returns:
            `[B, K]` bool, at least one label of every text.
        """
        if most is None:
            return scores.amax(1, keepdim=True) - scores <= self.margin + SLACK
        best = scores.topk(min(most, scores.shape[1]), dim=1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def combine(plain: Tensor, branches: Tensor, inside: Tensor) -> Tensor:
    """One score out of both stages.

    A label inside the shortlist has its plain score and its branch's. One outside has its
    plain score and the lowest branch score inside, so that it stays below every label inside, and a
    shortlist of one label needs no branch: the same number for all labels changes no probability.

    Args:
        plain: `[B, K]` plain scores.
        branches: `[B, K]` scores of the branches, read inside the shortlist only.
        inside: `[B, K]` bool, the shortlist.

    Returns:
        `[B, K]` scores.
    """
    lowest = branches.masked_fill(~inside, math.inf).amin(1, keepdim=True)
    return plain + torch.where(inside, branches, lowest)


def mean_over_texts(scores: Tensor, owners: Tensor) -> Tensor:
    """A label's score is the mean over its texts.

    Args:
        scores: `[B, V]` of label texts.
        owners: `[V]` the label of each, every label at least once.

    Returns:
        `[B, K]`.
    """
    count = torch.bincount(owners)
    if len(count) == len(owners):
        return scores
    return scores.new_zeros(len(scores), len(count)).index_add(1, owners, scores) / count
