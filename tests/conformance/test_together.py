"""What holds on every family where one pass reads all labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.methods.model import Branches

from .cases import LABELS, ROWS, Pad, close, everywhere, select, virtual_tokens, visible

_OF_LABELS = pytest.mark.parametrize("label_tokens", ["all", "mean"])


def together(backbone: Backbone, **options: Any) -> tuple[Any, Any]:
    return visible(backbone, "lt-prefix", labels_read="together", **options)


def scores(backbone: Backbone, made: tuple[Any, Any], batch: Any) -> torch.Tensor:
    adapter, labels = made
    return adapter.score(backbone, batch, virtual_tokens(backbone, adapter, labels), labels)


@everywhere
@_OF_LABELS
def test_order_of_labels_is_order_of_scores(
    backbone: Backbone, pad: Pad, label_tokens: str
) -> None:
    order = [2, 0, 1]
    turned = [LABELS[index] for index in order]
    with torch.no_grad():
        expected = scores(backbone, together(backbone, label_tokens=label_tokens), pad(ROWS))
        other = together(backbone, label_tokens=label_tokens, labels=turned)
        found = scores(backbone, other, pad(ROWS))
    assert expected.std(dim=1).min() > 1e-3
    close(found, expected[:, order], 1e-4)


@everywhere
@pytest.mark.parametrize("first_layer", [0, 2])
def test_one_label_is_read_as_in_a_branch_of_its_own(
    backbone: Backbone, pad: Pad, first_layer: int
) -> None:
    adapter, labels = together(backbone, first_layer=first_layer, labels=LABELS[1:2])
    apart, _ = visible(backbone, "lt-prefix", first_layer=first_layer, labels=LABELS[1:2])
    apart.tokens.load_state_dict(adapter.tokens.state_dict())
    batch = pad(ROWS)
    branches = Branches(torch.arange(3), torch.zeros(3, dtype=torch.long))
    with torch.no_grad():
        tokens = virtual_tokens(backbone, adapter, labels)
        found = adapter.states(backbone, batch, tokens, labels, None)
        tokens = virtual_tokens(backbone, apart, labels)
        close(found, apart.states(backbone, batch, tokens, labels, branches), 1e-4)


@everywhere
@pytest.mark.parametrize("first_layer", [0, 2])
def test_a_text_alone_has_the_scores_that_it_has_among_others(
    backbone: Backbone, pad: Pad, first_layer: int
) -> None:
    made = together(backbone, first_layer=first_layer)
    with torch.no_grad():
        expected = scores(backbone, made, pad(ROWS))
        assert expected.std(dim=0).min() > 1e-3
        close(
            scores(backbone, made, select(pad(ROWS, extra=5), [2, 0, 1])), expected[[2, 0, 1]], 1e-4
        )
        for text, row in enumerate(ROWS):
            close(scores(backbone, made, pad([row]))[0], expected[text], 1e-4)


@everywhere
def test_gradients_are_where_they_belong(backbone: Backbone, pad: Pad) -> None:
    made = together(backbone, first_layer=1)
    torch.nn.functional.cross_entropy(scores(backbone, made, pad(ROWS)), torch.arange(3)).backward()
    for name, weight in made[0].named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.norm() > 0, name
    assert all(weight.grad is None for weight in backbone.model.parameters())
