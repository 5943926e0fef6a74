"""What every compared method is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.metrics import figures_of
from ltuning.tasks.task import Labelled, Task


class Spending(Protocol):
    """The grid's `Budget`, as a fit reads it."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""

    @property
    def batch(self) -> int:
        """Passes of the backbone in a step."""

    @property
    def evaluations(self) -> int:
        """Measurements on the validation texts."""


@dataclass(frozen=True)
class Job:
    """What a method is fitted on; it has no test texts.

    Attributes:
        task: what is predicted.
        backbone: how the frozen model is loaded.
        outline: its tokenizer and sizes, without weights.
        load: gives it, loaded.
        release: frees it, for methods that load a model of their own.
        train: texts to train on.
        validation: texts to choose by.
        labels: name -> texts, the classes in the order of every table of probabilities; of tags,
            the types of entities.
        budget: what it may spend.
        metric: what chooses: a figure of the task, or `loss`.
        seed: of every draw.
        recipe: of ltuning's methods.
        options: of the method.
    """

    task: Task
    backbone: BackboneOptions
    outline: Backbone
    load: Callable[[], Backbone]
    release: Callable[[], None]
    train: Labelled
    validation: Labelled
    labels: dict[str, list[str]]
    budget: Spending
    metric: str
    seed: int
    recipe: str
    options: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """The K names of the classes."""
        return list(self.labels)

    @property
    def eval_steps(self) -> int:
        """Steps between two measurements; the last step is measured after in any case."""
        return -(-self.budget.steps // self.budget.evaluations)

    def on_validation(
        self, scored: object, thresholds: np.ndarray | None = None
    ) -> dict[str, float]:
        """Figures of what a method says of the validation texts."""
        predicted = self.task.decide(scored, thresholds)
        truth = self.task.truth(self.validation, self.names)
        return figures_of(self.task.measure(scored, predicted, truth, self.names))


@dataclass(frozen=True)
class Fitted:
    """A fitted method.

    Attributes:
        probabilities: N texts -> `[N, K]`; of N sentences a table `[W, 1 + 2K]` for each.
        num_parameters: trainable ones, heads included.
        seconds: of fitting, without measurements on the validation texts.
        history: measurements on the way: step, seconds and figures.
        texts_per_step: texts in a step, where an epoch ends fewer; None where there are no steps.
        steps: how many, where a method has a budget of its own.
        thresholds: `[K]` from which on labels apply, where several may.
    """

    probabilities: Callable[[Sequence[Any]], Any]
    num_parameters: int
    seconds: float
    history: list[dict[str, float]]
    texts_per_step: int | None = None
    steps: int | None = None
    thresholds: np.ndarray | None = None


def is_better(new: float, old: float | None, metric: str) -> bool:
    """Whether one figure on the validation texts beats another; the earlier one wins a tie."""
    return old is None or (new < old if metric == "loss" else new > old)


class Clock(TrainerCallback):
    """Seconds of a training run without those of its validation.

    Attributes:
        seconds: so far, while the clock stands still.
        at: a step's, of each step after which there was a measurement.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.at: dict[int, float] = {}
        self._since: float | None = None

    def start(self) -> None:
        """Let it run."""
        if self._since is None:
            self._since = time.perf_counter()

    def stop(self) -> None:
        """Let it stand still."""
        if self._since is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # steps may still wait in its queue
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Training: runs."""
        self.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Before a measurement, and at the end: stands still."""
        if control.should_evaluate or state.global_step >= state.max_steps:
            self.stop()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Runs again, unless a checkpoint is written after the measurement."""
        self.at[state.global_step] = self.seconds
        if not control.should_save:
            self._go_on(state)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Runs again."""
        self._go_on(state)

    def _go_on(self, state: TrainerState) -> None:
        if state.global_step < state.max_steps:
            self.start()


def history_of(
    logged: Sequence[Mapping[str, float]], clock: Clock, task: Task
) -> list[dict[str, float]]:
    """The measurements among what a Trainer logged, with the clock's seconds."""
    return [
        {
            "step": row["step"],
            "seconds": round(clock.at[int(row["step"])], 3),
            **{name: row[f"eval_{name}"] for name in ("loss", *task.figures)},
        }
        for row in logged
        if "eval_loss" in row and row["step"] in clock.at
    ]
