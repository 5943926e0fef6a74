"""What the lower layers' output may be used for, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import TextBatch
from ltuning.backbones.lower import Lower
from ltuning.backbones.prefix import TRAINING, InTraining, announced

from ..conformance.cases import random_prefix, random_prompt

ROWS = [[5, 20, 31, 9], [7, 8], [40, 12, 33, 6, 11, 25]]
Pad = Callable[..., TextBatch]


def test_a_pass_leaves_it_as_it_is(backbone: Backbone, pad: Pad) -> None:
    lower = backbone.run_lower(pad(ROWS), 2)
    assert lower.is_states
    with torch.no_grad():
        output = lower.output
        backbone.forward(pad(ROWS), lower=lower)
        backbone.forward(pad(ROWS), prefix=random_prefix(backbone, 2), lower=lower)
    assert lower.output is output
    assert lower.states.shape == (3, 6, backbone.sizes.hidden)


def test_a_prefix_may_start_above_what_is_kept(backbone: Backbone, pad: Pad) -> None:
    batch = pad(ROWS)
    lower = backbone.run_lower(batch, 1)
    texts, rows = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 0])
    prefix = random_prefix(backbone, 3, rows=rows, texts=texts)
    with torch.no_grad():
        expected = backbone.forward(batch, prefix=prefix)
        found = backbone.forward(batch, prefix=prefix, lower=lower)
    assert torch.equal(found, expected)


def test_with_a_prompt_every_layer_runs(backbone: Backbone, pad: Pad) -> None:
    lower = backbone.run_lower(pad(ROWS), 2)
    with torch.no_grad():
        prompt = random_prompt(backbone)
        expected = backbone.forward(pad(ROWS), prompt=prompt)
        assert torch.equal(backbone.forward(pad(ROWS), prompt=prompt, lower=lower), expected)


def test_checkpointed_layers_take_it(bert: Backbone, pad: Pad) -> None:
    def gradient(lower: Lower | None) -> Any:
        prefix = random_prefix(bert, 2)
        prefix.states.requires_grad_()
        bert.forward(pad(ROWS), prefix=prefix, lower=lower).square().sum().backward()
        return prefix.states.grad

    expected, lower = gradient(None), bert.run_lower(pad(ROWS), 2)
    with announced(TRAINING, InTraining(checkpointing=True)):
        for given in (None, lower):
            torch.testing.assert_close(gradient(given), expected)


def test_a_prefix_below_what_is_kept_is_refused(bert: Backbone, pad: Pad) -> None:
    with pytest.raises(ValueError, match=r"^expected a prefix from layer 2 up, .* from layer 1$"):
        lower = bert.run_lower(pad(ROWS), 2)
        bert.forward(pad(ROWS), prefix=random_prefix(bert, 1), lower=lower)


def test_another_batch_is_refused(bert: Backbone, pad: Pad) -> None:
    lower = bert.run_lower(pad(ROWS), 2)
    for other in (pad(ROWS[:2]), pad(ROWS, extra=1)):
        with pytest.raises(ValueError, match=r"^expected the batch .* kept, \(3, 6\), got one of"):
            bert.forward(other, lower=lower)
