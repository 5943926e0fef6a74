"""Compiled layers: one family for each way that a prefix enters attention (BERT: the trainer's)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.prefix import TRAINING, Compiler, InTraining, Prefix, announced

from .cases import TEXTS, close, random_prefix

# Other numbers of texts, of branches and of tokens; all more than one, which has code of its own.
BATCHES = [TEXTS, TEXTS[:2], [TEXTS[2]] * 5, TEXTS * 3]


def run(backbone: Backbone, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """States of three branches of each text, and the gradient of the prefix."""
    batch = backbone.batch(backbone.tokenize(texts))
    number = torch.arange(len(texts))
    prefix = random_prefix(
        backbone, 1, rows=torch.arange(3).repeat(len(texts)), texts=number.repeat_interleave(3)
    )
    weights = prefix.states.requires_grad_()
    prefix = Prefix(weights * 1.0, prefix.mask, 1, prefix.rows, prefix.texts, room=4)
    states = backbone.forward(batch, prefix=prefix)
    states = states * batch.mask.repeat_interleave(3, 0).unsqueeze(-1)
    states.square().sum().backward()
    assert weights.grad is not None
    return states.detach(), weights.grad


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch hides it where it may
@pytest.mark.parametrize("family", ["qwen2", "falcon-alibi", "deberta"])
def test_compiled_layers_are_the_same(
    family: str, folder_of: Callable[[str], Path], load: Callable[..., Backbone]
) -> None:
    backbone = load(folder_of(family))
    expected = [run(backbone, texts) for texts in BATCHES]
    counters = torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    with announced(TRAINING, InTraining(compiler=Compiler("eager"))):
        for texts, (states, gradient) in zip(BATCHES, expected, strict=True):
            computed = run(backbone, texts)
            graphs.append(counters["unique_graphs"])
            close(computed[0], states)
            close(computed[1], gradient, atol=1e-4)
    assert graphs[0] > 0
    # Sizes that happen to be equal in the first batch may not be in the second.
    assert set(graphs[1:]) == {graphs[1]}
    with torch.no_grad():
        backbone.encode(TEXTS)
    assert counters["unique_graphs"] == graphs[-1]
