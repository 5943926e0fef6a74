"""What a training step and a scored text cost, in layer-tokens.

A layer-token is one token's way through one layer. Letters: T text tokens (padded), L label tokens
or virtual tokens (padded), M layers, s the first layer with a prefix, K labels, B texts in a step.
`docs/cost.md` has the formulas; a test counts the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from ltuning.config import MethodOptions
from ltuning.methods.catalog import one_pass, site_of


@dataclass(frozen=True)
class Cost:
    """Layer-tokens of a training step.

    Attributes:
        forward: through the layers.
        backward: back through them, for activations only: frozen weights have no gradient, so that
            a backward layer-token costs about as much as a forward one.
    """

    forward: int
    backward: int


@dataclass(frozen=True)
class Step:
    """Sizes of a training step.

    Attributes:
        texts: B.
        text: T.
        tokens: L.
        num_labels: K.
        applying: labels that apply to each text, where several may.
    """

    texts: int
    text: int
    tokens: int
    num_labels: int
    applying: int = 1


def scored_text(
    method: MethodOptions,
    num_layers: int,
    *,
    text: int,
    tokens: int,
    num_labels: int,
) -> int:
    """Layer-tokens of a text that is scored against every label.

    Args:
        method: resolved options (no choice left open).
        num_layers: M.
        text: T.
        tokens: L.
        num_labels: K.
    """
    return _forward(method, num_layers, text, tokens, _branches(method, num_labels))


def training_step(
    method: MethodOptions, num_layers: int, step: Step, *, stored: bool = False
) -> Cost:
    """Layer-tokens of a training step; the label texts' own were paid once, before the first.

    Args:
        method: resolved options (no choice left open).
        num_layers: M.
        step: its sizes.
        stored: whether what the layers below s make of the texts is kept over the epochs; it was
            computed once, before the first step.
    """
    branches = trained_branches(method, step.num_labels, step.applying)
    forward = step.texts * _forward(method, num_layers, step.text, step.tokens, branches)
    # Below the first layer with a prefix nothing depends on a parameter.
    shared = step.texts * step.text * (method.first_layer or 0)
    return Cost(forward - shared if stored else forward, forward - shared)


def trained_branches(method: MethodOptions, num_labels: int, applying: int = 1) -> int:
    """Passes of a text in a training step, one for each label that it is compared with.

    Args:
        method: resolved options (no choice left open).
        num_labels: K.
        applying: labels that apply to the text, where several may.
    """
    if method.objective == "pairs":
        return 1
    branches = _branches(method, num_labels)
    if method.negatives and method.negatives < num_labels - 1:
        return min(branches, applying + method.negatives)
    return branches


def _branches(method: MethodOptions, num_labels: int) -> int:
    return 1 if one_pass(method) else num_labels


def _forward(method: MethodOptions, num_layers: int, text: int, tokens: int, branches: int) -> int:
    if site_of(method) == "embeddings":
        return branches * (tokens + text) * num_layers
    first = method.first_layer or 0
    return text * first + branches * text * (num_layers - first)
