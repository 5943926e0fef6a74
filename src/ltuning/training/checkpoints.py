"""Checkpoints of a run: when they are written, and what a run that goes on from one needs."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from ltuning import processes
from ltuning.errors import TrainingError

STATE = "trainer_state.json"
_WEIGHTS = "model.safetensors"
# As torch writes them: zip archives, whose directory comes last.
_ARCHIVES = ("optimizer.pt", "scheduler.pt")
# Of one process, or of the main one of several.
_RANDOM = ("rng_state.pth", "rng_state_0.pth")

# Seconds of training that an interruption may cost.
INTERVAL = 300.0
# Steps after which several processes ask the main one whether it is time.
_ASKED = 10


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        TrainingError: there is none, or a file of it is missing or damaged.
    """
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        raise TrainingError(
            f"expected a checkpoint to resume from in '{folder}', got none; train without resume"
        )
    if problem := fault(Path(found)):
        raise TrainingError(
            f"expected a whole checkpoint in '{found}', got one in which {problem}; remove this "
            "folder to resume from an earlier one, or train without resume"
        )
    return Path(found)


def fault(checkpoint: Path) -> str | None:
    """What a run cannot go on from in a checkpoint, such as `scheduler.pt is missing`."""
    random = next((name for name in _RANDOM if (checkpoint / name).is_file()), _RANDOM[0])
    for name in (_WEIGHTS, *_ARCHIVES, random, STATE):
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if not _is_whole(path):
            return f"{name} is cut off or damaged"
    return None


def check_same_run(checkpoint: Path, identity: str | None) -> None:
    """Refuse to go on with something else than a run began with.

    Raises:
        TrainingError: its texts, labels or weights are others.
    """
    kept = (_state(checkpoint / STATE) or {}).get("stateful_callbacks", {})
    began = kept.get(Tally.__name__, {}).get("args", {}).get("identity")
    if began is not None and began != identity:
        raise TrainingError(
            "expected the texts, labels and method that the run began with whose checkpoints are "
            f"in '{checkpoint.parent}', got others; bring them back, train without resume, or "
            "choose another folder"
        )


def has_lost_its_best(checkpoint: Path) -> bool:
    """Whether the checkpoint with the best weights so far, which end as the run's, is gone."""
    best = (_state(checkpoint / STATE) or {}).get("best_model_checkpoint")
    return best is not None and not (checkpoint.parent / Path(str(best)).name).is_dir()


def _is_whole(path: Path) -> bool:
    if path.name in (*_ARCHIVES, *_RANDOM):
        return zipfile.is_zipfile(path)
    if path.name == STATE:
        return _state(path) is not None
    try:
        with safe_open(path, "pt"):
            return True
    except (OSError, SafetensorError):
        return False


def _state(path: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


class TimedCheckpoints(TrainerCallback):
    """Writes a checkpoint where the last one is older than some seconds.

    They come beside those of the evaluations, and which weights are the best is not touched.
    """

    clock = staticmethod(time.monotonic)

    def __init__(self, seconds: float = INTERVAL):
        self._seconds = seconds

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The run begins."""
        self._last = self.clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """One optimizer step is done."""
        if processes.number() > 1 and state.global_step % _ASKED:
            return
        ends_epoch = state.epoch is not None and float(state.epoch).is_integer()
        if args.eval_strategy == "epoch" and ends_epoch:
            return  # one is written after the evaluation, with which a resumed run would not begin
        if processes.of_main(self.clock() - self._last >= self._seconds):
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """A checkpoint is written, whatever for; the end of an epoch need not write it again."""
        self._last = self.clock()
        control.should_save = False


class Tally(TrainerCallback, ExportableState):
    """What checkpoints keep of a run.

    Seconds and losses, since Trainer counts a resumed part alone.

    Args:
        identity: of what is trained and on what; None in a checkpoint of before.
        seconds: of training before this part.
        logged: sum of the steps' losses up to the last one logged.
        pending: sum of those since.
        logged_step: the last step whose loss is logged.
    """

    clock = staticmethod(time.monotonic)

    def __init__(
        self,
        identity: str | None = None,
        seconds: float = 0.0,
        logged: float = 0.0,
        pending: float = 0.0,
        logged_step: int = 0,
    ):
        self.identity = identity
        self.seconds = seconds
        self._logged = logged
        self._pending: float | Tensor = pending
        self._logged_step = logged_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """The run begins, or goes on."""
        self._began = self.clock()
        # It is declared a list, and is a dictionary once a run begins.
        kept: Any = state.stateful_callbacks
        if type(self).__name__ not in kept:  # a checkpoint of before
            kept[type(self).__name__] = {}
            self._logged_step = state.global_step

    def add(self, loss: Tensor) -> None:
        """A part of a step's loss; on a GPU it is not waited for."""
        self._pending = self._pending + loss.detach()

    def log(self, step: int) -> float:
        """Mean loss of the steps since this was last asked for, up to and with `step`."""
        pending = float(self._pending)
        mean = pending / (step - self._logged_step)
        self._logged, self._pending, self._logged_step = self._logged + pending, 0.0, step
        return mean

    def mean(self, step: int) -> float:
        """Mean loss of all steps up to and with `step`."""
        return (self._logged + float(self._pending)) / step

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        began = getattr(self, "_began", None)
        return {
            "args": {
                "identity": self.identity,
                "seconds": self.seconds + (0.0 if began is None else self.clock() - began),
                "logged": self._logged,
                "pending": float(self._pending),
                "logged_step": self._logged_step,
            },
            "attributes": {},
        }
