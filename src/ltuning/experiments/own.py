"""ltuning's own methods as a comparison fits them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ltuning.errors import ConfigError, Problem
from ltuning.experiments.fitting import Clock, Fitted, Job, history_of
from ltuning.methods import catalog
from ltuning.methods.costs import trained_branches


def fit(method: str, job: Job, rate: float | None) -> Fitted:
    """Train by the front door of the task; the best weights on the validation texts are kept.

    Args:
        method: its id.
        job: what on.
        rate: learning rate; None is the recipe's.

    Raises:
        ConfigError: a batch of fewer passes than one text takes.
    """
    backbone, budget, door = job.load(), job.budget, job.task.door()
    options = {
        **job.options,
        "stopping.metric": job.metric,
        "training.eval_strategy": "steps",
        "training.eval_steps": job.eval_steps,
    }
    if rate is not None:
        options["training.learning_rate"] = rate
    classifier = door(
        backbone,
        job.labels,
        method,
        recipe=job.recipe,
        seed=job.seed,
        steps=budget.steps,
        options=options,
    )
    resolved = catalog.resolve(
        catalog.options_of(classifier.config),
        backbone.family,
        backbone.sizes.layers,
        len(job.train),
    )
    per_text = trained_branches(resolved, len(job.labels), _applying(job))
    texts = budget.batch // per_text
    if not texts:
        message = (
            f"expected {per_text} or more, the passes of one text with its labels, got "
            f"{budget.batch}; set a larger batch, or fewer method.negatives"
        )
        raise ConfigError([Problem("budget.batch", message)])
    config = classifier.config.with_set([f"training.per_device_train_batch_size={texts}"])
    trained: Any = door(backbone, config=replace(config, backbone=job.backbone))
    clock = Clock(job.task.main)
    clock.start()
    trained.fit(
        job.train.inputs,
        job.train.labels,
        (job.validation.inputs, job.validation.labels),
        callbacks=[clock],
        progress=False,
    )
    clock.stop()
    return Fitted(
        partial(job.task.scored, trained),
        trained.num_parameters,
        clock.seconds,
        history_of(trained.result_.history, clock, job.task),
        min(texts, len(job.train)),
        thresholds=job.task.thresholds(trained),
    )


def _applying(job: Job) -> int:
    """Labels that apply to a training text: their mean, rounded up."""
    labels = job.train.labels
    if job.task.one_of_each or not labels:
        return 1
    return max(1, -(-sum(map(len, labels)) // len(labels)))


def own_rate(method: str, job: Job) -> float:
    """The learning rate that the recipe has for a method."""
    config = job.task.door()(method=method, recipe=job.recipe).config
    return float(catalog.training_defaults(config.method, len(job.train))["learning_rate"])
