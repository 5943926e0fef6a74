"""The section `training`: which fields of transformers' TrainingArguments it takes, and what."""

from __future__ import annotations

import dataclasses
import math

import pytest

from ltuning.config import check_training, trainer_options
from ltuning.config.trainer_options import HONOURED, OWNED, REFUSED
from ltuning.errors import Problem


def test_the_names_of_training_options():
    names = ["learning_rate", "learing_rate", "zebra", "max_steps"]
    assert check_training(names) == [
        Problem(
            "training.learing_rate",
            "transformers.TrainingArguments has no field 'learing_rate'"
            "; did you mean 'learning_rate'?",
        ),
        Problem("training.zebra", "transformers.TrainingArguments has no field 'zebra'"),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("output_dir", "use `--output` instead"),
        ("seed", "use the option `seed` instead"),
        ("data_seed", "use the option `seed` instead"),
        ("remove_unused_columns", "it is set by ltuning, leave it out"),
        ("label_names", "it is set by ltuning, leave it out"),
        ("load_best_model_at_end", "it is set by ltuning, leave it out"),
        ("metric_for_best_model", "use the option `stopping.metric` instead"),
        ("greater_is_better", "it follows from the option `stopping.metric`, leave it out"),
    ],
)
def test_training_options_that_ltuning_owns(name, message):
    assert check_training([name]) == [Problem(f"training.{name}", f"cannot be set here: {message}")]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("learning_rate", "fast", "expected a number of 0 or more, got 'fast'"),
        ("learning_rate", -1, "expected a number of 0 or more, got -1"),
        ("num_train_epochs", 0, "expected a number above 0, up to 1,000,000, got 0"),
        ("num_train_epochs", 1e20, "expected a number above 0, up to 1,000,000, got 1e+20"),
        ("learning_rate", math.inf, "expected a finite number, got inf"),
        ("warmup_steps", -1, "expected a number of 0 or more, got -1"),
        ("logging_steps", 0, "expected a number above 0, got 0"),
        ("adam_beta1", 1.0, "expected a number from 0 to below 1, got 1.0"),
        ("optim", "schedule_free_adamw", "expected one of 'adamw_torch', "),
        ("log_level", "loud", "expected one of 'debug', "),
        ("report_to", {"wandb": 1}, "expected a name or a list of names, got {'wandb': 1}"),
        ("run_name", 3, "expected a text that is not empty, got the number 3 (put it in quotes)"),
        ("lr_scheduler_kwargs", 3, "expected a section of options, got 3"),
        ("max_steps", 2.5, "expected an integer of 1 or more, got 2.5"),
        ("max_steps", -1, "expected an integer of 1 or more, got -1"),
        ("eval_steps", 10**400, "expected a number of 64 bits at most, got "),
        ("per_device_train_batch_size", 0, "expected an integer of 1 or more, got 0"),
        ("weight_decay", None, "expected a number of 0 or more, got nothing"),
        ("group_by_length", 1, "transformers.TrainingArguments has no field 'group_by_length'"),
        ("gradient_checkpointing", "no", "expected true or false, got 'no'"),
        ("eval_strategy", "step", "expected one of 'no', 'steps', 'epoch', got 'step'; did you"),
        ("eval_strategy", False, "got False (YAML reads yes, no, on, off, true and false as"),
        ("optim", "adamw_torchh", "did you mean 'adamw_torch'?"),
    ],
)
def test_the_values_of_training_options(name, value, message):
    (problem,) = check_training({name: value})
    assert problem.path == f"training.{name}"
    assert message in problem.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("save_only_model", "a run cannot be resumed from such checkpoints, leave it out"),
        ("label_smoothing_factor", "the losses of ltuning have none, leave it out"),
        ("train_sampling_strategy", "the order of the texts is ltuning's, leave it out"),
        ("parallelism_config", "ltuning itself divides a batch among processes, leave it out"),
        ("bf16_full_eval", "use the option `backbone.dtype` instead"),
        ("push_to_hub", "save the classifier, and upload its folder"),
    ],
)
def test_training_options_without_an_effect(name, message):
    assert check_training({name: None}) == [
        Problem(f"training.{name}", f"cannot be set here: {message}")
    ]


def test_every_field_of_transformers_is_honoured_owned_or_refused():
    """A new one has to be put into one of the three tables of `trainer_options`."""
    from transformers import TrainingArguments

    fields = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    tables = [*HONOURED, *OWNED, *REFUSED]
    assert fields - set(tables) == set()
    assert len(tables) == len(set(tables))


def test_a_field_that_is_in_no_table_is_refused(monkeypatch):
    monkeypatch.setattr(trainer_options, "HONOURED", HONOURED - {"max_grad_norm"})
    message = "cannot be set here: ltuning does not know this field yet, leave it out"
    assert check_training({"max_grad_norm": 1}) == [Problem("training.max_grad_norm", message)]


def test_values_that_training_options_take():
    options = {"learning_rate": 1e-3, "max_steps": 3, "bf16": False, "eval_strategy": "steps"}
    free = {"save_total_limit": None, "report_to": ["none"], "lr_scheduler_kwargs": {"a": 1}}
    assert check_training(options | free | {"logging_steps": 0.5, "weight_decay": 0}) == []


def test_a_run_has_one_length():
    assert check_training({"max_steps": 3, "num_train_epochs": 1}) == [
        Problem("training", "expected one of num_train_epochs and max_steps, got both")
    ]
