"""What a centred head compares from: the mean states of texts and of label texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

import torch

from ltuning.backbones.frozen_model import Tokens
from ltuning.methods.heads import CentredMatchHead, MatchHead
from ltuning.methods.model import Model
from ltuning.scoring import mean_states
from ltuning.stages import counting

# Texts whose mean state is the centre of all.
_CENTERED = 1000


def center(model: Model[Never], tokens: Sequence[Tokens], *, batch_size: int, seed: int) -> None:
    """Give a head that compares from centres those of the training texts and of the label texts.

    Read apart, states of encoders are compared as they are.

    Args:
        model: on the backbone's device.
        tokens: the training texts.
        batch_size: texts in a pass at a time.
        seed: of the draw of the texts whose mean is taken.
    """
    labels, head = model.labels, model.adapter.head
    causal = model.backbone.family.causal
    kinds = (CentredMatchHead, MatchHead) if causal else (CentredMatchHead,)
    if labels is None or not isinstance(head, kinds):
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(tokens), generator=generator)[:_CENTERED].tolist()
    chosen = [tokens[row] for row in drawn]
    pooling = model.method.pooling
    assert pooling is not None  # resolved
    with counting("averaging training texts", len(chosen)) as advance:
        states = mean_states(model.backbone, chosen, batch_size, pooling, advance)
    head.center(states, labels.mean, scaled=causal)
