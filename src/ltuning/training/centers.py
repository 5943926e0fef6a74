"""What a centred head compares from: the mean states of texts and of label texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ltuning.backbones.backbone import Backbone, LabelStates
from ltuning.methods.adapter import Adapter
from ltuning.methods.heads import CentredMatchHead
from ltuning.methods.tuned import Tuned
from ltuning.scoring import mean_states
from ltuning.stages import counting

# Texts whose mean state is the centre of all.
_CENTERED = 1000


def center(
    backbone: Backbone,
    adapter: Adapter | Tuned,
    labels: LabelStates | None,
    tokens: Sequence[dict[str, Any]],
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Give a head that has centres those of the training texts and of the label texts.

    Args:
        backbone: the frozen model.
        adapter: on the backbone's device.
        labels: states of the label texts.
        tokens: the training texts.
        batch_size: texts in a pass at a time.
        seed: of the draw of the texts whose mean is taken.
    """
    if labels is None or not isinstance(adapter.head, CentredMatchHead):
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(tokens), generator=generator)[:_CENTERED].tolist()
    chosen = [tokens[row] for row in drawn]
    pooling = adapter.method.pooling
    assert pooling is not None  # resolved
    with counting("averaging training texts", len(chosen)) as advance:
        states = mean_states(backbone, chosen, batch_size, pooling, advance)
    adapter.head.center(states, labels.mean)
