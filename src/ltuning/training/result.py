"""What a training did; apart from the Trainer, which a pickle of a classifier does not need."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingResult:
    """What a run did.

    Attributes:
        steps: optimizer steps.
        seconds: wall-clock time of training, evaluations included; of a run that was interrupted
            without what was done twice.
        padding_share: part of the first epoch's text tokens that was padding, 0 to 1.
        history: what was logged, in order.
        best: figures on validation of the weights that were kept; empty without validation.
    """

    steps: int
    seconds: float
    padding_share: float
    history: list[dict[str, float]]
    best: dict[str, float]
