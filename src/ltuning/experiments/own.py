"""ltuning's own methods as a comparison fits them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ltuning.errors import ConfigError, Problem
from ltuning.experiments.fitting import Clock, Fitted, Task, history_of
from ltuning.methods import catalog
from ltuning.methods.costs import trained_branches


def fit(method: str, task: Task, rate: float | None) -> Fitted:
    """Train by the front door of the task; the best weights on the validation texts are kept.

    Args:
        method: its id.
        task: what on.
        rate: learning rate; None is the recipe's.

    Raises:
        ConfigError: a batch of fewer passes than one text takes.
    """
    backbone, budget, door = task.load(), task.budget, task.kind.door()
    options = {
        **task.options,
        "stopping.metric": task.metric,
        "training.eval_strategy": "steps",
        "training.eval_steps": task.eval_steps,
    }
    if rate is not None:
        options["training.learning_rate"] = rate
    classifier = door(
        backbone,
        task.labels,
        method,
        recipe=task.recipe,
        seed=task.seed,
        steps=budget.steps,
        options=options,
    )
    resolved = catalog.resolve(
        catalog.options_of(classifier.config),
        backbone.family,
        backbone.sizes.layers,
        len(task.train),
    )
    per_text = trained_branches(resolved, len(task.labels), _applying(task))
    texts = budget.batch // per_text
    if not texts:
        message = (
            f"expected {per_text} or more, the passes of one text with its labels, got "
            f"{budget.batch}; set a larger batch, or fewer method.negatives"
        )
        raise ConfigError([Problem("budget.batch", message)])
    config = classifier.config.with_set([f"training.per_device_train_batch_size={texts}"])
    trained: Any = door(backbone, config=replace(config, backbone=task.backbone))
    clock = Clock(task.kind.main)
    clock.start()
    trained.fit(
        task.train.inputs,
        task.train.labels,
        (task.validation.inputs, task.validation.labels),
        callbacks=[clock],
        progress=False,
    )
    clock.stop()
    return Fitted(
        partial(task.kind.scored, trained),
        trained.num_parameters,
        clock.seconds,
        history_of(trained.result_.history, clock, task.kind),
        min(texts, len(task.train)),
        thresholds=task.kind.thresholds(trained),
    )


def _applying(task: Task) -> int:
    """Labels that apply to a training text: their mean, rounded up."""
    labels = task.train.labels
    if task.kind.one_of_each or not labels:
        return 1
    return max(1, -(-sum(map(len, labels)) // len(labels)))


def own_rate(method: str, task: Task) -> float:
    """The learning rate that the recipe has for a method."""
    config = task.kind.door()(method=method, recipe=task.recipe).config
    return float(catalog.training_defaults(config.method, len(task.train))["learning_rate"])
