"""TrainingArguments from what a user chose, and what is wrong with it before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, get_scheduler
from transformers.integrations.integration_utils import get_available_reporting_integrations

from ltuning import processes
from ltuning.backbones.prefix import Compiler, InTraining
from ltuning.config import StoppingOptions
from ltuning.errors import Problem
from ltuning.suggestions import listed, suggest

# How long a run is that is given no length: so many passes over its texts, but no more texts than
# these; and so many steps at least, as an epoch of a few-shot set of 100 texts has six.
_EPOCHS = 3
_MOST_TEXTS = 30_000
_LEAST_STEPS = 150
# Evaluations of a run that is not told when to make them, at least and at most.
_EVALUATIONS = 5, 10

# Of those evaluations, how many without improvement end a run of which nothing of this is given.
_PATIENCE = 3
_SCHEDULE = frozenset({"num_train_epochs", "max_steps", "eval_strategy", "eval_steps"})

_DEFAULTS: dict[str, Any] = {
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 10,
    # It waits for the GPU in every step, and a loss that is not finite ends the run here anyway.
    "logging_nan_inf_filter": False,
}

# Two names of one field.
_CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
_COMPILING = ("torch_compile", "torch_compile_backend", "torch_compile_mode")


@dataclass(frozen=True)
class Chosen:
    """What a user chose of a run, and what it depends on.

    Attributes:
        fields: the section `training`, the recipe's part included.
        stopping: when training ends early.
        has_validation: whether there are texts to validate on.
        on_cpu: whether the backbone runs on the CPU.
        published: whether the recipe is that of the paper.
    """

    fields: Mapping[str, Any]
    stopping: StoppingOptions
    has_validation: bool
    on_cpu: bool
    published: bool = False


@dataclass(frozen=True)
class Run:
    """How a training goes on, whatever is trained.

    Attributes:
        arguments: of transformers' Trainer.
        stopping: with a number, or None, as its patience.
        layers: how the backbone's layers run. Checkpointing takes less memory and a third more
            time.
        max_branches: most texts, or branches, at a time in an evaluation.
        cache_size: most GiB for what the layers below a prefix make of the texts; they then run
            once for each text and not in every epoch.
        resume: go on from the newest checkpoint in the folder of `arguments`.
        callbacks: beside our own.
    """

    arguments: TrainingArguments
    stopping: StoppingOptions
    layers: InTraining
    max_branches: int
    cache_size: float = 0.0
    resume: bool = False
    callbacks: Sequence[TrainerCallback] = ()

    @property
    def at_once(self) -> int:
        """Texts that run together in this process without a gradient: as many as in a step."""
        return math.ceil(self.arguments.train_batch_size / processes.number())


def in_training(fields: Mapping[str, Any]) -> InTraining:
    """How the backbone's layers run; Trainer, which has not the layers, is not told."""
    checkpointing = any(fields.get(name) for name in _CHECKPOINTING)
    wanted, backend, mode = (fields.get(name) for name in _COMPILING)
    # As in transformers, to name a backend or a mode is to ask for it.
    compiler = Compiler(backend, mode) if wanted or backend or mode else None
    return InTraining(checkpointing, compiler)


def training_arguments(
    chosen: Chosen,
    folder: Path,
    *,
    seed: int,
    num_texts: int,
    kind: type[TrainingArguments] = TrainingArguments,
) -> TrainingArguments:
    """TrainingArguments from what a user chose and what this library owns.

    Without a number of epochs or steps, a run sees its texts three times or 30,000 texts, whichever
    is less, and takes 150 steps at least. Without a word on evaluations it makes five to ten,
    evenly over its steps. With the `published` recipe it sees its texts three times, however many
    they are, and evaluates after each.
    """
    fields = _planned(chosen, num_texts)
    has_validation, metric = chosen.has_validation, chosen.stopping.metric
    arguments = kind(
        output_dir=str(folder.absolute()),
        seed=seed,
        remove_unused_columns=False,
        load_best_model_at_end=fields["eval_strategy"] != "no",
        restore_callback_states_from_checkpoint=True,
        metric_for_best_model=f"eval_{metric}" if has_validation else None,
        greater_is_better=metric != "loss" if has_validation else None,
        save_total_limit=fields.pop("save_total_limit", 2),
        use_cpu=chosen.on_cpu,
        **fields,
    )
    if kind is TrainingArguments:
        # With several devices in sight Trainer would copy the model onto each; the backbone stays.
        arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def planned_steps(chosen: Chosen, num_texts: int) -> tuple[int, int]:
    """Optimizer steps of a run that does not end early, and texts in a step."""
    fields = _planned(chosen, num_texts)
    batch = _batch(fields)
    epochs = fields.get("num_train_epochs", 0)
    return fields.get("max_steps") or math.ceil(epochs * math.ceil(num_texts / batch)), batch


def _batch(fields: Mapping[str, Any]) -> int:
    each: int = fields["per_device_train_batch_size"]
    return each * int(fields.get("gradient_accumulation_steps", 1))


def _planned(chosen: Chosen, num_texts: int) -> dict[str, Any]:
    """The user's fields with the length, the evaluations and what else is open."""
    of_layers = {*_CHECKPOINTING, *_COMPILING}
    given = {name: value for name, value in chosen.fields.items() if name not in of_layers}
    fields = _DEFAULTS | given
    batch = _batch(fields)
    epoch = math.ceil(num_texts / batch)
    if "num_train_epochs" not in fields and "max_steps" not in fields:
        most = math.inf if chosen.published else max(_LEAST_STEPS, math.ceil(_MOST_TEXTS / batch))
        fields |= _length(epoch, most)
    if not chosen.has_validation:
        return fields | {"eval_strategy": "no"}
    steps = fields.get("max_steps") or math.ceil(fields["num_train_epochs"] * epoch)
    return fields | _evaluations(fields, steps, chosen.published)


def resolved_stopping(
    stopping: StoppingOptions, given: Collection[str], published: bool
) -> StoppingOptions:
    """With a number, or None, in place of the patience `auto`.

    Args:
        stopping: as given.
        given: names of the fields that the user gives.
        published: whether the recipe is that of the paper.
    """
    if stopping.patience != "auto":
        return stopping
    own = not published and _SCHEDULE.isdisjoint(given)
    return replace(stopping, patience=_PATIENCE if own else None)


def _length(epoch: int, most: float) -> dict[str, Any]:
    """Epochs of so many steps, or steps where three epochs have more than `most`."""
    epochs = max(_EPOCHS, math.ceil(_LEAST_STEPS / epoch))
    is_long = epochs == _EPOCHS and epochs * epoch > most
    return {"max_steps": most} if is_long else {"num_train_epochs": epochs}


def _evaluations(fields: Mapping[str, object], steps: int, published: bool) -> dict[str, Any]:
    """When a run of so many steps evaluates, and writes checkpoints.

    The best weights can only be kept where evaluations and checkpoints fall together.
    """
    when = _strategy(fields, published)
    if when != "steps":
        return {"eval_strategy": when, "save_strategy": when}
    asked = _asked_steps(fields)
    every = _every(steps) if asked is None else asked
    return {
        "eval_strategy": when,
        "save_strategy": when,
        "eval_steps": every,
        "save_steps": every,
    }


def _asked_steps(fields: Mapping[str, Any]) -> float | None:
    """Steps between two evaluations that were asked for.

    Who asks for steps and gives no number has as many as transformers takes, those of its log.
    """
    of_log = fields.get("logging_steps", _DEFAULTS["logging_steps"])
    asked: float | None = fields.get("eval_steps", of_log if "eval_strategy" in fields else None)
    return asked


def _every(steps: int) -> int:
    """Steps between two evaluations, so that few or no steps come after the last."""
    least, most = _EVALUATIONS
    shortest = math.ceil(steps / most)
    choices = range(shortest, max(shortest, steps // least) + 1)
    return min(choices, key=lambda every: steps % every)


def _strategy(fields: Mapping[str, object], published: bool) -> str:
    """What a run with validation texts counts between its evaluations."""
    return str(fields.get("eval_strategy", "epoch" if published else "steps"))


class _Unplaced(TrainingArguments):
    """Looks for no device: that would set accelerate anew, also under a training that runs."""

    @property
    def device(self) -> torch.device:
        """Where nothing is computed."""
        return torch.device("cpu")


def trainer_problems(chosen: Chosen) -> list[Problem]:
    """What is wrong with a run's options, as far as it is known without its model.

    Each option by itself is right, as `check_training` finds it. transformers is asked for the
    rest: its arguments, the optimizer and the schedule are made, of two weights.
    """
    if found := list(_clashes(chosen)):
        return found
    if found := list(_compiler_problems(chosen.fields)):
        return found
    try:
        arguments = training_arguments(chosen, Path(), seed=0, num_texts=1, kind=_Unplaced)
        _make_optimizer(arguments)
    except (ValueError, TypeError, LookupError, ImportError, RuntimeError) as error:
        return [Problem("training", f"transformers refuses these options: {error}")]
    available = get_available_reporting_integrations()
    return [
        Problem(
            "training.report_to",
            f"expected 'none' or a tracker that is installed ({listed(available) or 'none is'}), "
            f"got {name!r}; install its library, or leave it out",
        )
        for name in arguments.report_to or ()
        if name not in available
    ]


def _compiler_problems(fields: Mapping[str, Any]) -> Iterator[Problem]:
    """Backends and modes that torch.compile does not have; it would say so in the first step."""
    backend, mode = fields.get("torch_compile_backend"), fields.get("torch_compile_mode")
    if backend is not None and backend not in torch.compiler.list_backends(exclude_tags=()):
        yield _unknown("backend", backend, torch.compiler.list_backends())
    if mode is not None:
        from torch._inductor import list_mode_options

        if mode not in list_mode_options():
            yield _unknown("mode", mode, list(list_mode_options()))


def _unknown(what: str, came: str, choices: list[str]) -> Problem:
    message = f"expected a {what} of torch.compile ({listed(choices)}), got {came!r}"
    return Problem(f"training.torch_compile_{what}", message + suggest(came, choices))


def _clashes(chosen: Chosen) -> Iterator[Problem]:
    """Options that something else takes the effect from."""
    fields = chosen.fields
    size, number = fields["per_device_train_batch_size"], processes.number()
    if size < number:
        message = (
            f"expected {number} or more, a text for each of {number} processes, which share a "
            f"batch, got {size}; raise it, or start fewer"
        )
        yield Problem("training.per_device_train_batch_size", message)
    yield from _beside_evaluations(chosen) if chosen.has_validation else _without_texts(chosen)
    if fields.get("dataloader_persistent_workers") and not fields.get("dataloader_num_workers"):
        message = "expected training.dataloader_num_workers of 1 or more beside it, got 0"
        yield Problem("training.dataloader_persistent_workers", message)


def _beside_evaluations(chosen: Chosen) -> Iterator[Problem]:
    fields = chosen.fields
    when = _strategy(fields, chosen.published)
    if fields.get("save_strategy", when) != when:
        message = (
            f"expected {when!r}, as training.eval_strategy, got {fields['save_strategy']!r}: "
            "the best weights are kept at evaluations; leave it out"
        )
        yield Problem("training.save_strategy", message)
    if "save_steps" in fields and (when != "steps" or fields["save_steps"] != _asked_steps(fields)):
        message = "checkpoints are written at evaluations, and every five minutes; leave it out"
        yield Problem("training.save_steps", message)
    if when != "steps" and "eval_steps" in fields:
        message = "it has an effect with training.eval_strategy=steps only; leave it out"
        yield Problem("training.eval_steps", message)


def _without_texts(chosen: Chosen) -> Iterator[Problem]:
    fields, stopping = chosen.fields, chosen.stopping
    wanting = "there are no texts to validate on; give some, or leave it out"
    if isinstance(stopping.patience, int):
        yield Problem("stopping.patience", wanting)
    if stopping.metric != "loss":
        yield Problem("stopping.metric", wanting)
    for name in ("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"):
        if fields.get(name) not in (None, "no", False, 0):
            yield Problem(f"training.{name}", wanting)
    if fields.get("save_strategy") == "best":
        yield Problem("training.save_strategy", wanting)
    if fields.get("save_strategy", "steps") != "steps" and "save_steps" in fields:
        message = "it has an effect with training.save_strategy=steps only; leave it out"
        yield Problem("training.save_steps", message)


def _make_optimizer(arguments: TrainingArguments) -> None:
    model = nn.Module()  # a layer would draw its weights
    model.register_parameter("weight", nn.Parameter(torch.zeros(1, 1)))
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)  # type: ignore[arg-type]
    get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=kind(model.parameters(), **options),
        num_warmup_steps=arguments.get_warmup_steps(10),
        num_training_steps=10,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
    )
