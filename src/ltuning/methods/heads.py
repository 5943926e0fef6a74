"""How a text's state is read: pooling, and a head that turns it into scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ltuning.backbones.families import Pooling
from ltuning.errors import ScoresError

# A square map on the label's mean state costs H^2; past this width it becomes identity + low rank.
FULL_MATCH_WIDTH = 1024
MATCH_RANK = 64
# Weight of a head's cosine at the start.
TAU = 10.0
# Of tau: what a label that came after training gets on top.
_OF_LATER = 0.05
# Of the median spread of all features: below it a feature is no more divided.
_LEAST_SPREAD = 1e-2


def pool(states: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """The state that stands for a text.

    Args:
        states: `[R, T, H]`.
        mask: `[R, T]` bool, True at the text's real tokens; padding may be on either side.
        how: `cls` the first real token, `last` the last one, `mean` over all of them, `max` of
            each feature over all of them.

    Returns:
        `[R, H]` in float32.
    """
    states = states.float()
    if how == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)
    if how == "max":
        return states.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)
    places = torch.arange(mask.shape[1], device=mask.device)
    index = mask.int().argmax(1) if how == "cls" else (places * mask).argmax(1)
    return states[torch.arange(index.shape[0], device=index.device), index]


def over_windows(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """The scores of texts from those of their windows: the log of the mean of the exponentials.

    Between the mean and the highest one: a window that is sure outweighs those that say nothing,
    and texts of many windows score no higher than others (log-sum-exp of Pinheiro and Collobert
    2015, "From Image-level to Pixel-level Labeling with Convolutional Networks", section 3.2, r=1).

    Args:
        scores: `[W, ...]` of all windows, one text after the other.
        counts: `[N]` how many windows each text has.

    Returns:
        `[N, ...]`.
    """
    if len(scores) == len(counts):
        return scores
    parts = scores.split(list(counts))
    return torch.stack([part.logsumexp(0) - math.log(len(part)) for part in parts])


class ClassesHead(nn.Module):
    """`[B, H] -> [B, K]`, linear, of itself without bias (the paper's A.5 counts `H K`).

    Classes are compared with each other, where an output by itself says yes or no from its bias on.

    Args:
        hidden: H.
        num_labels: K.
        bias: whether every output has one.
    """

    def __init__(self, hidden: int, num_labels: int, bias: bool = False):
        super().__init__()
        self.out = nn.Linear(hidden, num_labels, bias=bias)

    def forward(self, state: Tensor) -> Tensor:
        """A score per class."""
        return self.out(state)

    def shift(self, by: Tensor) -> None:
        """Add `[K]` to the scores, where there is a bias."""
        self.out.bias.data += by


class BinaryHead(nn.Module):
    """The paper's head, `2H`: true against false.

    The score is the difference of the two, the log-odds that the label is true.

    Args:
        hidden: H.
        bias: whether both have one.
    """

    def __init__(self, hidden: int, bias: bool = False):
        super().__init__()
        self.out = nn.Linear(hidden, 2, bias=bias)

    def forward(self, state: Tensor, label: Tensor) -> Tensor:
        """`[R, H], [R, H] -> [R]`; the label's mean state is not used."""
        false, true = self.out(state).unbind(-1)
        return true - false

    def shift(self, by: Tensor) -> None:
        """Add a number to every score, where there is a bias."""
        self.out.bias.data[1] += by


class _Centred(nn.Module):
    """What states are compared from.

    States of decoders have most of their length in common, and a few features that are far wider
    than the others and would decide every cosine. So those of texts are taken from a centre r0,
    those of labels from h0, and both are divided by s, the spread of each feature over the training
    texts. Until `center` is called r0 and h0 are 0 and s is 1.
    """

    text_center: Tensor
    label_center: Tensor
    scale: Tensor

    def __init__(self, hidden: int):
        super().__init__()
        self.register_buffer("text_center", torch.zeros(hidden))
        self.register_buffer("label_center", torch.zeros(hidden))
        self.register_buffer("scale", torch.ones(hidden))

    def center(self, texts: Tensor, labels: Tensor, *, scaled: bool) -> None:
        """Take the centres of `[N, H]` states of texts and `[V, H]` mean states of label texts.

        Args:
            texts: all of one state, such as a single one, have no spread and give no scale.
            labels: those that training knows.
            scaled: whether features are divided by their spread.
        """
        self.text_center.copy_(texts.mean(0))
        self.label_center.copy_(labels.mean(0))
        spread = texts.float().std(0, correction=0)
        middle = spread.median()
        if scaled and middle > 0:
            self.scale.copy_((spread / middle).clamp_min(_LEAST_SPREAD))

    def of_texts(self, states: Tensor) -> Tensor:
        """`(r - r0) / s` of states `[..., H]` of texts."""
        return (states - self.text_center) / self.scale

    def of_labels(self, states: Tensor) -> Tensor:
        """`(h - h0) / s` of mean states `[..., H]` of label texts."""
        return (states - self.label_center) / self.scale


class MatchHead(_Centred):
    """`w . r + tau cos(r, h G)`: reads the branch's state and compares it with its label's.

    G starts as the identity (identity plus low rank for wide models) and w at zero, so the
    meaning of the labels gives a gradient at step 0. In decoders r and h are those of `_Centred`.

    Args:
        hidden: H.
        tau: weight of the cosine at the start.
        bias: whether a number that all labels share is added: a label that is compared with no
            other needs one.
    """

    def __init__(self, hidden: int, tau: float, bias: bool = False):
        super().__init__(hidden)
        self.read = nn.Linear(hidden, 1, bias=bias)
        for weight in self.read.parameters():
            nn.init.zeros_(weight)
        self.tau = nn.Parameter(torch.tensor(float(tau)))
        self.map = label_map(hidden)

    def forward(self, state: Tensor, label: Tensor) -> Tensor:
        """`[R, H]` branch states and `[R, H]` label mean states `-> [R]` scores."""
        state, label = self.of_texts(state), self.of_labels(label)
        similarity = nn.functional.cosine_similarity(state, self.map(label), dim=-1)
        return self.read(state).squeeze(-1) + self.tau * similarity

    def shift(self, by: Tensor) -> None:
        """Add a number to every score, where there is a bias."""
        self.read.bias.data += by


class CentredMatchHead(_Centred):
    """`tau cos((r - r0) / s, G ((h - h0) / s))`: a text's state against every label's mean state.

    The scale s is 1 in encoders. G starts as the identity. For a label that came after training G
    goes half of its way, `(I + G) / 2`, and where labels compete its score is raised a little: no
    text of its own ever drew it.

    Args:
        hidden: H.
        tau: weight of the cosine at the start.
        bias: whether a number that all labels share is added; labels then do not compete.
    """

    trained: Tensor

    def __init__(self, hidden: int, tau: float, bias: bool = False):
        super().__init__(hidden)
        self.map = label_map(hidden)
        self.tau = nn.Parameter(torch.tensor(float(tau)))
        self.bias = nn.Parameter(torch.zeros(())) if bias else None
        # Label texts that training knew; those beyond came later, before training none.
        self.register_buffer("trained", torch.tensor(torch.iinfo(torch.long).max))

    def center(self, texts: Tensor, labels: Tensor, *, scaled: bool) -> None:
        """Take the centres; labels beyond these are later ones."""
        super().center(texts, labels, scaled=scaled)
        self.trained.fill_(len(labels))

    def forward(self, states: Tensor, labels: Tensor) -> Tensor:
        """`[B, H]` states of texts and `[V, H]` mean states of label texts `-> [B, V]` scores."""
        texts = nn.functional.normalize(self.of_texts(states), dim=-1)
        centered = self.of_labels(labels)
        is_later = torch.arange(len(labels), device=labels.device) >= self.trained
        mapped = self.map(centered)
        mapped = torch.where(is_later[:, None], (centered + mapped) / 2, mapped)
        scores = self.tau * texts @ nn.functional.normalize(mapped, dim=-1).T
        if self.bias is not None:
            return scores + self.bias
        return scores + _OF_LATER * self.tau * is_later

    def shift(self, by: Tensor) -> None:
        """Add a number to every score, where there is a bias."""
        assert self.bias is not None
        self.bias.data += by


def missing_centers(saved: Mapping[str, Any], head: str) -> dict[str, Tensor]:
    """What a head lacks that was saved before it had centres, or a scale: those of no effect.

    Args:
        saved: tensors by name.
        head: what the names of those of the head begin with.
    """
    center = saved.get(f"{head}text_center", saved.get(f"{head}read.weight"))
    if center is None:
        return {}
    zeros = torch.zeros_like(center.reshape(-1))
    given = {"text_center": zeros, "label_center": zeros.clone(), "scale": torch.ones_like(zeros)}
    return {f"{head}{name}": of for name, of in given.items() if f"{head}{name}" not in saved}


def mean_over_texts(scores: Tensor, owners: Tensor, num_labels: int) -> Tensor:
    """A label's score is the mean over its texts.

    Args:
        scores: `[B, V]` of label texts.
        owners: `[V]` the label of each, every label at least once.
        num_labels: K.

    Returns:
        `[B, K]`.
    """
    if num_labels == len(owners):
        return scores
    # Not `bincount`, whose size depends on what is counted: a graph has it from the outset.
    zeros = scores.new_zeros(num_labels)
    count = zeros.index_add(0, owners, torch.ones_like(owners, dtype=scores.dtype))
    return scores.new_zeros(scores.shape[0], num_labels).index_add(1, owners, scores) / count


def label_map(hidden: int) -> nn.Module:
    """G, `[..., H] -> [..., H]`, at first the identity."""
    if hidden > FULL_MATCH_WIDTH:
        return _IdentityPlusLowRank(hidden, MATCH_RANK)
    square = nn.Linear(hidden, hidden, bias=False)
    nn.init.eye_(square.weight)
    return square


class _IdentityPlusLowRank(nn.Module):
    def __init__(self, hidden: int, rank: int):
        super().__init__()
        self.down = nn.Linear(hidden, rank, bias=False)
        self.up = nn.Linear(rank, hidden, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, state: Tensor) -> Tensor:
        return state + self.up(self.down(state))


def check_finite(scores: np.ndarray, what: str) -> None:
    """Refuse what a classifier says of `what`, such as texts, where it is no number.

    Raises:
        ScoresError: by weights that are too large, or states beyond the range of float16.
    """
    if not np.isfinite(scores).all():
        raise ScoresError(
            f"expected finite scores of {what}, got NaN or infinity: the classifier's weights are "
            "too large, or a text's states for float16; train again, restore its folder from where "
            "it was first saved, or read texts in bfloat16 or float32 (backbone.dtype)"
        )
