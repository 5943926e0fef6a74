"""How long a run is, said before it and, once a few steps are done, in minutes of this machine."""

from __future__ import annotations

import math
import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ltuning import stages
from ltuning.texts import counted

# Steps, and seconds, after the first of which enough are measured; the very first is slower.
_STEPS = 10
_SECONDS = 5.0
# What a text takes that is only scored, of what one takes that is trained on as well.
_SCORED = 0.5


class Forecast(TrainerCallback):
    """Says how long a run is.

    Args:
        num_texts: training texts.
        num_validation: texts of an evaluation.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, num_texts: int, num_validation: int):
        self._num_texts = num_texts
        self._num_validation = num_validation
        self._durations: list[float] = []
        self._is_said = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """What is known beforehand."""
        evaluations = _evaluations(args, state)
        on = f"; {counted(evaluations, 'evaluation')} on {self._num_validation:,} validation texts"
        stages.note(self._length(args, state) + (on if evaluations else ""))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The time is taken, evaluations left out."""
        self._began = self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """When enough steps are done, the time is said, unless the run is over."""
        if self._is_said or state.global_step >= state.max_steps:
            return
        self._durations.append(self.clock() - self._began)
        measured = self._durations[1:]
        if len(measured) >= _STEPS or sum(measured) >= _SECONDS:
            self._is_said = True
            step = sum(measured) / len(measured)
            stages.note(f"about {in_words(self._seconds(args, state, step))} on this machine")

    def _length(self, args: TrainingArguments, state: TrainerState) -> str:
        batch = min(_batch(args), self._num_texts)
        seen = state.max_steps * batch
        times = f"{seen / self._num_texts:.1f}".removesuffix(".0")
        how = f"each seen {times} times" if times != "1" else "each seen once"
        if seen < self._num_texts:
            how = f"{seen:,} of them are seen"
        texts = f"{self._num_texts:,} training texts"
        return f"{texts}, {counted(state.max_steps, 'step')} of {batch} texts: {how}"

    def _seconds(self, args: TrainingArguments, state: TrainerState, step: float) -> float:
        scored = _evaluations(args, state) * self._num_validation * _SCORED
        return step * (state.max_steps + scored / _batch(args))


def _batch(args: TrainingArguments) -> int:
    return int(args.train_batch_size * args.gradient_accumulation_steps)


def _evaluations(args: TrainingArguments, state: TrainerState) -> int:
    if args.eval_strategy == "steps":
        return int(state.max_steps // state.eval_steps)
    return math.ceil(args.num_train_epochs) if args.eval_strategy == "epoch" else 0


def in_words(seconds: float) -> str:
    """Such as `40 s`, `4 min` or `1.5 h`."""
    if seconds < 55:
        return f"{max(1, round(seconds / 10)) * 10} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
