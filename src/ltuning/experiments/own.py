"""ltuning's own methods as a comparison fits them."""

from __future__ import annotations

from dataclasses import replace

from ltuning.classifier import LabelClassifier
from ltuning.errors import ConfigError, Problem
from ltuning.experiments.fitting import Clock, Fitted, Task, history_of
from ltuning.methods import catalog
from ltuning.methods.costs import trained_branches


def fit(method: str, task: Task, rate: float | None) -> Fitted:
    """Train a `LabelClassifier`; the best weights on the validation texts are kept.

    Args:
        method: its id.
        task: what on.
        rate: learning rate; None is the recipe's.

    Raises:
        ConfigError: a batch of fewer passes than one text takes.
    """
    backbone, budget = task.load(), task.budget
    options = {
        **task.options,
        "stopping.metric": task.metric,
        "training.eval_strategy": "steps",
        "training.eval_steps": task.eval_steps,
    }
    if rate is not None:
        options["training.learning_rate"] = rate
    classifier = LabelClassifier(
        backbone,
        task.labels,
        method,
        recipe=task.recipe,
        seed=task.seed,
        steps=budget.steps,
        options=options,
    )
    resolved = catalog.resolve(
        classifier.config.method,
        backbone.family,
        backbone.sizes.layers,
        len(task.train),
    )
    per_text = trained_branches(resolved, len(task.labels))
    texts = budget.batch // per_text
    if not texts:
        message = (
            f"expected {per_text} or more, the passes of one text with its labels, got "
            f"{budget.batch}; set a larger batch, or fewer method.negatives"
        )
        raise ConfigError([Problem("budget.batch", message)])
    config = classifier.config.with_set([f"training.per_device_train_batch_size={texts}"])
    classifier = LabelClassifier(backbone, config=replace(config, backbone=task.backbone))
    assert task.train.labels is not None and task.validation.labels is not None
    clock = Clock()
    clock.start()
    classifier.fit(
        task.train.texts,
        task.train.labels,
        (task.validation.texts, task.validation.labels),
        callbacks=[clock],
        progress=False,
    )
    clock.stop()
    assert classifier.result_ is not None
    return Fitted(
        classifier.predict_proba,
        classifier.num_parameters,
        clock.seconds,
        history_of(classifier.result_.history, clock),
        min(texts, len(task.train)),
    )


def own_rate(method: str, task: Task) -> float:
    """The learning rate that the recipe has for a method."""
    config = LabelClassifier(method=method, recipe=task.recipe).config
    return float(catalog.training_defaults(config.method, len(task.train))["learning_rate"])
