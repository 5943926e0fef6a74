"""What processes that train together add up, hand on and divide; each of them calls all of this.

A step is drawn for the whole batch in every process, by the same seed, and each computes the part
of it that `datasets.runs` gives it. The loss of a part weighs what it is of the whole one, so that
gradients need only be added up. accelerate's own wrapper is left out: it takes the mean, it waits
for a gradient of every weight, which a process without a text has not, and of small adapters one
message a step is faster than its many.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from transformers import TrainingArguments

from ltuning import processes
from ltuning.backbones.frozen_model import Tokens
from ltuning.backbones.words import Window
from ltuning.errors import DataError, TrainingError
from ltuning.stages import Advance
from ltuning.training.datasets import TokenDataset

# Of `accelerate launch`: ways to divide what Trainer sees, which is the adapter alone.
_NOT_TAKEN = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def check_launch(arguments: TrainingArguments) -> None:
    """Refuse processes that were started in a way in which they would not train together.

    Raises:
        TrainingError: says which.
    """
    for name, way in _NOT_TAKEN.items():
        if os.environ.get(name, "false").lower() in ("true", "1"):
            raise TrainingError(
                f"expected processes that share their batches alone, got {way} from `accelerate "
                "launch`, which would divide the adapter and not the backbone; leave it out, and "
                "divide a large backbone with device=shard"
            )
    if arguments.world_size != processes.number():
        raise TrainingError(
            f"expected {processes.number()} processes, as RANK, WORLD_SIZE and LOCAL_RANK say, got "
            f"{arguments.world_size} by accelerate; start them with torchrun"
        )


def check_same(data: TokenDataset[Any]) -> None:
    """Refuse texts that are others in another process, each of which draws whole batches.

    Raises:
        DataError: says where.
    """
    _refuse_others(data.digest)


def check_same_inputs(*given: object) -> None:
    """The same of texts and labels as they were given, before a pass is made of any.

    Raises:
        DataError: says where.
    """
    _refuse_others(hashlib.sha256(repr(given).encode()).hexdigest())


def _refuse_others(digest: str) -> None:
    found = processes.gathered(digest)
    others = [str(place) for place, one in enumerate(found) if one != found[0]]
    if others:
        raise DataError(
            "expected the same texts and labels in every process, each of which sees to its part "
            f"of a batch, got others in process {', '.join(others)} than in process 0; give all of "
            "them to each"
        )


def add_up(weights: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    """Put the sum over all processes in the place of the gradients; the sum of the losses.

    Args:
        weights: those that are trained; one without a gradient has one of zeros.
        loss: of this process.
    """
    own = [torch.zeros_like(one) if one.grad is None else one.grad for one in weights]
    message = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in own)])
    distributed.all_reduce(message)
    whole, *sums = message.split([1, *(one.numel() for one in weights)])
    for weight, total in zip(weights, sums, strict=True):
        weight.grad = total.view_as(weight).to(weight.dtype)
    return whole[0].clone()


def hand_on(module: nn.Module) -> None:
    """Give every process the tensors of the main one."""
    for tensor in module.state_dict().values():
        distributed.broadcast(tensor, src=0)


class DividedScorer:
    """A scorer of texts or of words that scores a part in every process; all have all scores.

    Args:
        scorer: `Scorer` or `TagScorer`.
    """

    def __init__(self, scorer: Any):
        self._scorer = scorer

    def score_tokens(
        self,
        tokens: Sequence[Tokens],
        progress: Advance | None = None,
        counts: Sequence[int] | None = None,
    ) -> np.ndarray:
        """See `Scorer.score_tokens`."""
        sizes = [1] * len(tokens) if counts is None else [*counts]
        starts, own = [0, *accumulate(sizes)], processes.part(len(sizes))
        scores = np.empty((0, self._scorer.model.num_labels), dtype=np.float32)
        if own:
            mine = tokens[starts[own.start] : starts[own.stop]]
            of_mine = None if counts is None else sizes[own.start : own.stop]
            scores = self._scorer.score_tokens(mine, progress, of_mine)
        return np.concatenate(processes.gathered(scores))

    def of_windows(
        self, windows: Sequence[Window], lengths: Sequence[int], progress: Advance | None = None
    ) -> list[np.ndarray]:
        """See `TagScorer.of_windows`."""
        own = processes.part(len(lengths))
        mine = [
            replace(window, sentence=window.sentence - own.start)
            for window in windows
            if window.sentence in own
        ]
        tables: list[np.ndarray] = []
        if own:
            tables = self._scorer.of_windows(mine, lengths[own.start : own.stop], progress)
        return [table for part in processes.gathered(tables) for table in part]
