"""ltuning's own methods as a comparison fits them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ltuning.backbones.backbone import Backbone
from ltuning.config import Config
from ltuning.errors import ConfigError, Problem
from ltuning.estimators.rows import unsaid
from ltuning.experiments.fitting import Clock, Fitted, Job, history_of
from ltuning.methods import catalog
from ltuning.methods.checks import configure
from ltuning.methods.step_costs import trained_branches


def fit(method: str, job: Job, rate: float | None) -> Fitted:
    """Train by the front door of the task; the best weights on the validation texts are kept.

    Args:
        method: its id.
        job: what on.
        rate: learning rate; None is the recipe's.

    Raises:
        ConfigError: a batch of fewer passes than one text takes.
    """
    backbone, config = job.load(), _config(method, job)
    texts = _texts_per_step(config, backbone, job)
    training = {
        "max_steps": job.budget.steps,
        "per_device_train_batch_size": texts,
        "eval_strategy": "steps",
        "eval_steps": job.eval_steps,
    }
    if rate is not None:
        training["learning_rate"] = rate
    config = replace(config, training={**config.training, **training})
    trained = job.task.door()(backbone, config=config)
    clock = Clock()
    clock.start()
    with unsaid():
        trained.fit(
            job.train.inputs,
            job.train.labels,
            (job.validation.inputs, job.validation.labels),
            callbacks=[clock],
            progress=False,
        )
    clock.stop()
    assert trained.result_ is not None  # it is fitted
    return Fitted(
        partial(job.task.scored, trained),
        trained.num_parameters,
        clock.seconds,
        history_of(trained.result_.history, clock, job.task),
        min(texts, len(job.train)),
        thresholds=job.task.thresholds(trained),
    )


def _config(method: str, job: Job) -> Config:
    """Of a method, with its training as the grid's entry has it."""
    mapping: dict[str, Any] = {
        "task": job.task.name,
        "backbone": job.backbone,
        "labels": job.labels,
        "method": {"name": method, "recipe": job.recipe},
        "stopping": {"metric": job.metric},
        # Methods are compared by what their scores say; no peer has a temperature.
        "calibrate": False,
        "seed": job.seed,
        "training": {},
    }
    for path, value in job.options.items():
        section, _, name = path.partition(".")
        mapping.setdefault(section, {})[name] = value
    config = configure(mapping)
    if catalog.reads_texts(config.method):
        return config
    # A twin that reads no texts is not to warn of those that are there for the others.
    return replace(config, labels={name: [name] for name in job.names})


def _texts_per_step(config: Config, backbone: Backbone, job: Job) -> int:
    layers, batch = backbone.sizes.layers, job.budget.batch
    options = catalog.options_of(config)
    resolved = catalog.resolve(options, backbone.family, layers, len(job.train))
    per_text = trained_branches(resolved, len(job.labels), _applying(job))
    if batch < per_text:
        message = (
            f"expected {per_text} or more, the passes of one text with its labels, got {batch}; "
            "set a larger batch, or fewer method.negatives"
        )
        raise ConfigError([Problem("budget.batch", message)])
    return batch // per_text


def _applying(job: Job) -> int:
    """Labels that apply to a training text: their mean, rounded up."""
    labels = job.train.labels
    if job.task.one_of_each or not labels:
        return 1
    return max(1, -(-sum(map(len, labels)) // len(labels)))


def own_rate(method: str, job: Job) -> float:
    """The learning rate that the recipe has for a method."""
    options = _config(method, job).method
    causal = job.outline.family.causal
    return float(catalog.training_defaults(options, len(job.train), causal=causal)["learning_rate"])
