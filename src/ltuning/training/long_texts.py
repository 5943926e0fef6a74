"""Texts in windows, as they are trained on: by the scores of the texts, not of the windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ltuning.backbones.prefix import TRAINING, announced
from ltuning.methods.heads import over_windows
from ltuning.methods.model import Branches

# Of some windows of a batch, by their numbers there, or of branches of them.
Score = Callable[[Tensor, Branches | None], Tensor]


def score_texts(
    score: Score, counts: Sequence[int], branches: Branches | None, device: torch.device
) -> Tensor:
    """Scores of texts from those of all their windows.

    No more windows, or branches of them, run at a time than there are texts, or branches of these.
    What they computed is forgotten and computed again in backward, so that a batch of long texts
    takes little more memory than one of short ones.

    Args:
        score: of some windows.
        counts: `[B]` how many windows each text has.
        branches: of the texts; None where one pass reads all labels.
        device: where they run.

    Returns:
        `[B, K]` of texts, or `[R]` of branches.
    """
    if branches is None:
        windows, rows, groups = torch.arange(sum(counts), device=device), None, counts
    else:
        windows, rows, groups = _branches_of_windows(branches, counts)
    parts = []
    for at in range(0, len(windows), len(groups)):
        part = slice(at, at + len(groups))
        used, place = windows[part].unique(return_inverse=True)
        parts.append((used, None if rows is None else Branches(place, rows[part])))
    run = score if len(parts) == 1 else partial(_computed_again, score)
    return over_windows(torch.cat([run(*part) for part in parts]), groups)


def _branches_of_windows(
    branches: Branches, counts: Sequence[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """Window and label text of each window's branch, and how many windows each branch has."""
    sizes = torch.tensor(counts, device=branches.texts.device)
    starts = (sizes.cumsum(0) - sizes)[branches.texts].tolist()
    groups = sizes[branches.texts]
    windows = [
        torch.arange(start, start + size, device=groups.device)
        for start, size in zip(starts, groups.tolist(), strict=True)
    ]
    return torch.cat(windows), branches.rows.repeat_interleave(groups), groups.tolist()


def _computed_again(score: Score, windows: Tensor, branches: Branches | None) -> Tensor:
    in_training = TRAINING.get()

    def run(windows: Tensor) -> Tensor:
        # In backward possibly on another thread, which knows nothing of the training.
        with announced(TRAINING, in_training):
            return score(windows, branches)

    # A tensor of the device as an argument: what dropout drew there is drawn again.
    scores: Tensor = checkpoint(run, windows, use_reentrant=False)
    return scores
