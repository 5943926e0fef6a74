"""What the virtual tokens are: free parameters, or a map of the label states.

Each module returns a `[V, L, F]` tensor; `adapter.py` gives the features F their meaning
(`M'*2*N*D` for a prefix of M' layers, `E` for a prompt).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ltuning.backbones.frozen_model import LabelStates


class FreeTokens(nn.Module):
    """Free parameters, the same for every label (plain prefix and prompt tuning).

    Args:
        start: `[L, F]` what the tokens are before the first step.
    """

    def __init__(self, start: Tensor):
        super().__init__()
        self.tokens = nn.Parameter(start.clone())

    def forward(self, labels: LabelStates | None = None) -> Tensor:
        """`[1, L, F]`."""
        return self.tokens.unsqueeze(0)


class PooledMap(nn.Module):
    """The published map of LT-Prefix: one weight per label token, then a linear map.

    `a_k = softmax(h_k phi)`, `[L]`, and the tokens are `Z a_k`, both without a bias. The paper's
    prose speaks of a vector pooled to `R^d`; its parameter count (A.5) and its formula agree only
    with one in `R^l`, so that is what is built: `H + L * (L * F)` parameters.

    Args:
        hidden: H.
        length: L, room for a label text.
        features: F.
    """

    def __init__(self, hidden: int, length: int, features: int):
        super().__init__()
        self.length = length
        self.features = features
        self.phi = nn.Linear(hidden, 1, bias=False)
        self.psi = nn.Linear(length, length * features, bias=False)

    def forward(self, labels: LabelStates) -> Tensor:
        """`[V, L, F]`."""
        logits = self.phi(labels.hidden).squeeze(-1)
        weights = logits.masked_fill(~labels.mask, float("-inf")).softmax(-1)
        padded = nn.functional.pad(weights, (0, self.length - weights.shape[1]))
        return self.psi(padded).unflatten(1, (self.length, self.features))


class LowRankMap(nn.Module):
    """Token-wise `tanh(h A) B`, `r (H + F)` parameters.

    Args:
        hidden: H.
        rank: r.
        features: F.
        output_scale: standard deviation of B at the start.
    """

    def __init__(self, hidden: int, rank: int, features: int, output_scale: float):
        super().__init__()
        self.down = nn.Linear(hidden, rank, bias=False)
        self.up = nn.Linear(rank, features, bias=False)
        nn.init.normal_(self.up.weight, std=output_scale)

    def forward(self, labels: LabelStates) -> Tensor:
        """`[V, L, F]`."""
        return self.up(torch.tanh(self.down(labels.hidden)))


class SquareMap(nn.Module):
    """The published map of LT-Prompt: `h G`, `H E` parameters (`H^2` in most models), no bias.

    Args:
        hidden: H.
        features: E, width of the word embeddings.
        output_scale: standard deviation of G at the start, or None for the usual linear start.
    """

    def __init__(self, hidden: int, features: int, output_scale: float | None):
        super().__init__()
        self.square = nn.Linear(hidden, features, bias=False)
        if output_scale is not None:
            nn.init.normal_(self.square.weight, std=output_scale)

    def forward(self, labels: LabelStates) -> Tensor:
        """`[V, L, E]`."""
        return self.square(labels.hidden)
