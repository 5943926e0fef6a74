"""What is wrong with the options of a run, before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from ltuning.backbones.backbone import Backbone
from ltuning.config import StoppingOptions
from ltuning.errors import ConfigError, Problem, TrainingError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier
from ltuning.training.arguments import Chosen, trainer_problems

Make = Callable[..., LabelClassifier]
LEAST = {"per_device_train_batch_size": 4}


def problems(has_validation: bool = False, on_cpu: bool = True, **fields: Any) -> list[Problem]:
    return trainer_problems(Chosen(LEAST | fields, StoppingOptions(), has_validation, on_cpu))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optim": "adamw_bnb_8bit"}, "You need to install `bitsandbytes`"),
        ({"optim_args": "x"}, "transformers refuses these options: not enough values to unpack"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "One of min_lr or min_lr_rate should be set"),
        ({"lr_scheduler_kwargs": {"a": 1}}, "got an unexpected keyword argument 'a'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "requires an eval strategy"),
        ({"logging_steps": 1.5}, "--logging_steps must be an integer if bigger than 1: 1.5"),
        ({"dataloader_prefetch_factor": 2}, "--dataloader_prefetch_factor can only be set when"),
    ],
)
def test_transformers_is_asked_for_what_it_refuses(fields: dict[str, Any], message: str) -> None:
    (problem,) = problems(**fields)
    assert problem.path == "training" and message in problem.message


@pytest.mark.parametrize(
    ("name", "has_validation", "fields", "message"),
    [
        (
            "report_to",
            False,
            {"report_to": ["wandb"]},
            "expected 'none' or a tracker that is installed (none is), got 'wandb'; install its "
            "library, or leave it out",
        ),
        (
            "eval_strategy",
            False,
            {"eval_strategy": "epoch"},
            "there are no texts to validate on; give some, or leave it out",
        ),
        (
            "save_strategy",
            True,
            {"save_strategy": "no"},
            "expected 'steps', as training.eval_strategy, got 'no': the best weights are kept at "
            "evaluations; leave it out",
        ),
        (
            "save_steps",
            True,
            {"save_steps": 5},
            "checkpoints are written at evaluations, and every five minutes; leave it out",
        ),
        (
            "eval_steps",
            True,
            {"eval_strategy": "epoch", "eval_steps": 5},
            "it has an effect with training.eval_strategy=steps only; leave it out",
        ),
        (
            "dataloader_persistent_workers",
            False,
            {"dataloader_persistent_workers": True},
            "expected training.dataloader_num_workers of 1 or more beside it, got 0",
        ),
    ],
)
def test_options_that_something_else_takes_the_effect_from(
    name: str,
    has_validation: bool,
    fields: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "ltuning.training.arguments.get_available_reporting_integrations", lambda: []
    )
    assert problems(has_validation, **fields) == [Problem(f"training.{name}", message)]


@pytest.mark.parametrize(
    ("name", "came", "choices"),
    [
        ("backend", "inducter", ["'inductor'", "did you mean 'inductor'?"]),
        ("mode", "fast", ["'default', ", "'max-autotune'"]),
    ],
)
def test_torch_compile_is_asked_for_what_it_has(name: str, came: str, choices: list[str]) -> None:
    (problem,) = problems(**{f"torch_compile_{name}": came})
    assert problem.path == f"training.torch_compile_{name}"
    assert problem.message.startswith(f"expected a {name} of torch.compile (")
    assert f"got '{came}'" in problem.message
    assert all(choice in problem.message for choice in choices)
    assert not problems(torch_compile_backend="eager", torch_compile_mode="default")


def test_options_that_are_right_and_a_look_at_them_that_touches_nothing() -> None:
    before = dict(AcceleratorState._shared_state)
    assert problems() == []
    assert problems(True, lr_scheduler_type="reduce_lr_on_plateau", optim="adafactor") == []
    assert problems(True, eval_steps=3, save_steps=3) == []
    assert problems(True, eval_strategy="steps", logging_steps=3, save_steps=3) == []
    assert AcceleratorState._shared_state == before


@pytest.mark.parametrize("door", [LabelClassifier, MultilabelClassifier, TokenClassifier])
def test_a_run_is_refused_before_a_backbone_is_loaded(door: Any, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nothing-here")
    data = {
        LabelClassifier: (["bread", "ball"], ["a", "b"]),
        MultilabelClassifier: (["bread", "ball"], [["a"], ["b"]]),
        TokenClassifier: ([["bread"], ["ball"]], [["B-a"], ["O"]]),
    }[door]
    made = door(nowhere, options={"stopping.patience": 2})
    with pytest.raises(ConfigError, match="there are no texts to validate on"):
        made.fit(*data)


def test_texts_that_are_fewer_than_a_batch_are_not_dropped_in_silence(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    made = classifier(bert, "prefix", batch=8, training__dataloader_drop_last=True)
    with pytest.raises(
        TrainingError,
        match="^expected texts for one batch of 8 or more, got fewer, which "
        "training.dataloader_drop_last drops; give more, or leave it out$",
    ):
        made.fit(toy.texts[:6], toy.labels[:6])


def test_an_artifact_with_options_that_are_refused_now_still_loads(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    made = classifier(bert, "prefix").fit(toy.texts, toy.labels)
    made.config.training["save_only_model"] = True
    made.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert loaded.config.training == made.config.training
    with pytest.raises(ConfigError, match="a run cannot be resumed from such checkpoints"):
        loaded.fit(toy.texts, toy.labels)
