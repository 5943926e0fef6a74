"""Every field of `transformers.TrainingArguments`, and what ltuning makes of it.

A field is honoured, or set by ltuning, or refused because it would change nothing here or something
other than it says. One that stands in none of the three tables is refused until it does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, get_args

from ltuning.config.reading import (
    ABOVE_ZERO,
    FROM_ONE,
    FROM_ZERO,
    SHARE,
    Range,
    hints_of,
    plain_copy,
    read_boolean,
    read_choice,
    read_scalar,
)
from ltuning.config.yaml import shown
from ltuning.errors import Problem
from ltuning.suggestions import suggest

HONOURED = frozenset(
    {
        # how long, and how fast
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        # how it is computed
        "bf16",
        "fp16",
        "tf32",
        "activation_checkpointing",
        "gradient_checkpointing",
        "torch_compile",
        "torch_compile_backend",
        "torch_compile_mode",
        "torch_empty_cache_steps",
        "full_determinism",
        # batches
        "dataloader_drop_last",
        "dataloader_num_workers",
        "dataloader_pin_memory",
        "dataloader_persistent_workers",
        "dataloader_prefetch_factor",
        # evaluations and checkpoints
        "eval_strategy",
        "eval_steps",
        "eval_delay",
        "eval_on_start",
        "save_strategy",
        "save_steps",
        "save_total_limit",
        # what is said of it
        "logging_strategy",
        "logging_steps",
        "logging_first_step",
        "logging_nan_inf_filter",
        "log_level",
        "disable_tqdm",
        "skip_memory_metrics",
        "report_to",
        "run_name",
        "project",
        "trackio_space_id",
        "trackio_bucket_id",
        "trackio_static_space_id",
    }
)

_OURS = "it is set by ltuning, leave it out"
_RESUME = "use `--resume`, or `resume` of `fit`, instead"
OWNED = {
    "output_dir": "use `--output` instead",
    "seed": "use the option `seed` instead",
    "data_seed": "use the option `seed` instead",
    "use_cpu": "use the option `backbone.device` instead",
    "per_device_eval_batch_size": "use the option `backbone.max_branches` instead",
    "metric_for_best_model": "use the option `stopping.metric` instead",
    "greater_is_better": "it follows from the option `stopping.metric`, leave it out",
    "resume_from_checkpoint": _RESUME,
    "restore_callback_states_from_checkpoint": _OURS,
    "remove_unused_columns": _OURS,
    "label_names": _OURS,
    "load_best_model_at_end": _OURS,
    "do_train": _OURS,
    "do_eval": _OURS,
    "do_predict": _OURS,
}

_LOSS = "the losses of ltuning have none, leave it out"
_ORDER = "the order of the texts is ltuning's, leave it out"
_EVALUATION = "evaluations are ltuning's own, leave it out"
_PROCESS = "ltuning itself divides a batch among processes, leave it out"
_HUB = "save the classifier, and upload its folder"
REFUSED = {
    "label_smoothing_factor": _LOSS,
    "neftune_noise_alpha": "ltuning adds no noise to embeddings, leave it out",
    "average_tokens_across_devices": _PROCESS,
    "train_sampling_strategy": _ORDER,
    "length_column_name": _ORDER,
    "group_by_length": _ORDER,
    "dataloader_in_order": _ORDER,
    "dataloader_multiprocessing_context": "workers are forked, leave it out",
    "ignore_data_skip": "a resumed run ends as an uninterrupted one does, leave it out",
    "save_only_model": "a run cannot be resumed from such checkpoints, leave it out",
    "enable_jit_checkpoint": "checkpoints are written every five minutes, leave it out",
    "auto_find_batch_size": "use the option `training.per_device_train_batch_size` instead",
    "optim_target_modules": "what is trained is chosen by `method.name`, leave it out",
    "bf16_full_eval": "use the option `backbone.dtype` instead",
    "fp16_full_eval": "use the option `backbone.dtype` instead",
    "prediction_loss_only": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "activation_checkpointing_kwargs": "it has no effect here, leave it out",
    "gradient_checkpointing_kwargs": "it has no effect here, leave it out",
    "use_liger_kernel": "it has no effect here, leave it out",
    "liger_kernel_config": "it has no effect here, leave it out",
    "use_cache": "it has no effect here, leave it out",
    "include_num_input_tokens_seen": "it has no effect here, leave it out",
    "debug": "it has no effect here, leave it out",
    "log_level_replica": _PROCESS,
    "log_on_each_node": _PROCESS,
    "save_on_each_node": _PROCESS,
    "local_rank": _PROCESS,
    "accelerator_config": _PROCESS,
    "parallelism_config": _PROCESS,
    "ddp_find_unused_parameters": _PROCESS,
    "ddp_bucket_cap_mb": _PROCESS,
    "ddp_broadcast_buffers": _PROCESS,
    "ddp_static_graph": _PROCESS,
    "ddp_backend": _PROCESS,
    "ddp_timeout": _PROCESS,
    "fsdp": _PROCESS,
    "fsdp_config": _PROCESS,
    "deepspeed": _PROCESS,
    "push_to_hub": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
}

# These take a step, or the weights that are evaluated, into their own hands.
REFUSED_OPTIMIZERS = ("galore_", "apollo_", "schedule_free_", "lomo", "adalomo")

LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "passive")

# Narrower than what TrainingArguments takes and only fails on later, or takes as "not given".
_RANGES = {
    "learning_rate": FROM_ZERO,
    "num_train_epochs": Range("above 0, up to 1,000,000", lambda number: 0 < number <= 10**6),
    "max_steps": FROM_ONE,
    "per_device_train_batch_size": FROM_ONE,
    "gradient_accumulation_steps": FROM_ONE,
    "warmup_steps": FROM_ZERO,
    "weight_decay": FROM_ZERO,
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    "adam_epsilon": FROM_ZERO,
    "max_grad_norm": FROM_ZERO,
    "logging_steps": ABOVE_ZERO,
    "eval_steps": ABOVE_ZERO,
    "eval_delay": FROM_ZERO,
    "save_steps": ABOVE_ZERO,
    "save_total_limit": FROM_ONE,
    "torch_empty_cache_steps": FROM_ONE,
    "dataloader_num_workers": FROM_ZERO,
    "dataloader_prefetch_factor": FROM_ONE,
}


def read_training(value: object, path: str, problems: list[Problem]) -> Any:
    """The section `training` in plain values; `check_training` says what they may be."""
    if value is not None and not isinstance(value, Mapping):
        problems.append(Problem(path, f"expected a section of options, got {shown(value)}"))
        return {}
    try:
        return plain_copy({} if value is None else value, path, problems)
    except RecursionError:
        problems.append(Problem(path, "contains itself, or is nested too deeply"))
        return {}


def check_training(options: Iterable[str]) -> list[Problem]:
    """What is wrong with the options of a `training` section, or with their names alone.

    A name must be a field of the installed transformers' `TrainingArguments` that ltuning honours;
    see the tables above. The values of a mapping must be numbers, booleans and choices where the
    field takes such. Imports transformers' Trainer where there are options.
    """
    if not options:
        return []
    from transformers import TrainingArguments

    known = {item.name for item in dataclasses.fields(TrainingArguments) if item.init}
    problems: list[Problem] = []
    for name in options:
        refusal = _refusal(name, known)
        if refusal is not None:
            problems.append(Problem(f"training.{name}", refusal))
        elif isinstance(options, Mapping):
            _check_value(name, hints_of(TrainingArguments)[name], options[name], problems)
    if isinstance(options, Mapping) and {"num_train_epochs", "max_steps"} <= options.keys():
        message = "expected one of num_train_epochs and max_steps, got both"
        problems.append(Problem("training", message))
    return problems


def _refusal(name: str, known: Collection[str]) -> str | None:
    """Why a field cannot be set; None where it can."""
    if name not in known:
        near = suggest(name, sorted(HONOURED & set(known)))
        return f"transformers.TrainingArguments has no field {name!r}{near}"
    reason = OWNED.get(name) or REFUSED.get(name)
    if reason is not None:
        return f"cannot be set here: {reason}"
    if name not in HONOURED:
        return "cannot be set here: ltuning does not know this field yet, leave it out"
    return None


def _check_value(name: str, hint: object, value: object, problems: list[Problem]) -> None:
    path = f"training.{name}"
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    choices = [
        member.value
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, Enum)
        for member in kind
    ]
    if name == "log_level":
        choices = list(LOG_LEVELS)
    if name == "optim":
        choices = [one for one in choices if not one.startswith(REFUSED_OPTIMIZERS)]
    if value is None and type(None) in get_args(hint):
        return
    if choices:
        read_choice(choices, value, path, problems)
    elif kinds == [bool]:
        read_boolean(value, path, problems)
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(path, f"expected a finite number, got {shown(value)}"))
    elif kinds in ([int], [float]):
        read_scalar(kinds[0], _RANGES.get(name), value, path, problems)
    elif kinds == [str]:
        read_scalar(str, None, value, path, problems)
    elif dict in kinds and not isinstance(value, (Mapping, str)):
        problems.append(Problem(path, f"expected a section of options, got {shown(value)}"))
    elif name == "report_to" and not _is_texts(value):
        message = f"expected a name or a list of names, got {shown(value)}"
        problems.append(Problem(path, message))


def _is_texts(value: object) -> bool:
    several = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(one, str) and one for one in several)
