"""The cost model against the tokens that really pass the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ltuning.backbones.backbone import Backbone
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.methods.step_costs import Cost, Step, scored_text, training_step


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[tuple[int, bool]]]:
    """Layer-tokens of every layer that runs, and whether a gradient comes back through it."""
    calls: list[tuple[int, bool]] = []

    def count(_module: Any, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        calls.append((states.shape[0] * states.shape[1], states.requires_grad))

    layers = backbone.model.get_submodule(backbone.family.layers)
    # A layer whose output is kept is called and does not run; its attention, its first part, does.
    hooks = [next(layer.children()).register_forward_hook(count) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def total(calls: list[tuple[int, bool]]) -> Cost:
    forward = sum(tokens for tokens, _ in calls)
    return Cost(forward, sum(tokens for tokens, has_gradient in calls if has_gradient))


def has_centers(chosen: Any, backbone: Backbone) -> bool:
    """Whether states are compared from the mean of the texts."""
    return chosen.head == "match" and (chosen.labels == "together" or backbone.family.causal)


APART = {"method__labels": "apart"}
METHODS = [
    ("prefix", {}),
    ("prefix", {"first_layer": 2}),
    ("prompt", {}),
    ("lt-prefix", {"first_layer": 3}),
    ("lt-prefix", {**APART, "first_layer": 0}),
    ("lt-prefix", {**APART, "first_layer": 3}),
    ("lt-prefix", {**APART, "negatives": 1}),
    ("lt-prefix", {**APART, "objective": "pairs", "head": "binary"}),
    ("lt-prompt", {}),
    ("lt-prompt", {"objective": "pairs"}),
]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_the_cost_of_a_step_and_of_a_text_is_what_is_counted(
    backbone: Backbone,
    classifier: Callable[..., Any],
    toy: Any,
    method: str,
    options: dict[str, Any],
) -> None:
    texts = toy.texts[:6]
    with counted(backbone) as calls:
        # One batch of six texts, one step; the first pass, if any, is that of the label texts.
        fitted = classifier(backbone, method, steps=1, batch=6, **options)
        fitted.fit(texts, toy.labels[:6])
    chosen = fitted.resolved_config.method
    layers = backbone.sizes.layers
    widest = max(len(row["input_ids"]) for row in backbone.tokenize(texts))
    labels = 0 if chosen.num_tokens else max(fitted.scorer().model.labels.mask.sum(1)).item()
    tokens = chosen.num_tokens or labels
    sizes = {"text": widest, "tokens": tokens, "num_labels": 3}
    label_pass = layers if method.startswith("lt-") else 0
    # Plain prefixes start from the keys and values of words, a head with centres from the mean
    # state of the texts, which is a pass of its own.
    start_pass = layers if method == "prefix" or has_centers(chosen, backbone) else 0
    step = calls[label_pass + start_pass :]
    assert len(step) == layers
    assert total(step) == training_step(chosen, layers, Step(texts=6, **sizes))

    with counted(backbone) as calls:
        fitted.predict(texts)
    assert total(calls).forward == 6 * scored_text(chosen, layers, **sizes)


@pytest.mark.parametrize("applying", [1, 2, 4])
@pytest.mark.parametrize("negatives", [0, 1, 2])
def test_the_cost_of_a_step_where_several_labels_apply(
    backbone: Backbone, toy: Any, negatives: int, applying: int
) -> None:
    labels = {"a": "bread", "b": "ball", "c": "hotel", "d": "song"}
    options = {"method.negatives": negatives, "training.per_device_train_batch_size": 6}
    made = MultilabelClassifier(backbone, labels, "lt-prompt", steps=1, options=options)
    texts, lists = toy.texts[:6], [list(labels)[:applying]] * 5 + [list(labels)[4 - applying :]]
    with counted(backbone) as calls:
        made.fit(texts, lists)
    widest = max(len(row["input_ids"]) for row in backbone.tokenize(texts))
    sizes = {"text": widest, "tokens": made.scorer().side.shape[1], "num_labels": 4}
    step = Step(texts=6, **sizes, applying=applying)
    expected = training_step(made.resolved_config.method, backbone.sizes.layers, step)
    assert total(calls[-backbone.sizes.layers :]) == expected


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prefix", {"first_layer": 2}),
        ("lt-prefix", {"first_layer": 2}),
        ("lt-prefix", {**APART, "first_layer": 3}),
        ("lt-prefix", {**APART, "first_layer": 1, "objective": "pairs"}),
    ],
)
def test_over_epochs_the_layers_below_the_prefix_run_once(
    backbone: Backbone,
    classifier: Callable[..., Any],
    toy: Any,
    method: str,
    options: dict[str, Any],
) -> None:
    texts, layers, first = toy.texts[:6], backbone.sizes.layers, options["first_layer"]
    with counted(backbone) as calls:
        fitted = classifier(backbone, method, steps=3, batch=6, **options)
        fitted.fit(texts, toy.labels[:6])
    chosen = fitted.resolved_config.method
    widest = max(len(row["input_ids"]) for row in backbone.tokenize(texts))
    # The first pass is that of the label texts, or of the words that a plain prefix starts from; a
    # head with centres compares from the mean state of the texts, the second one.
    calls = calls[layers * (2 if has_centers(chosen, backbone) else 1) :]
    before, steps = calls[:first], calls[first:]
    assert total(before) == Cost(6 * widest * first, 0)
    sizes = {"texts": 6, "text": widest, "tokens": 0, "num_labels": 3}
    expected = training_step(chosen, layers, Step(**sizes), stored=True)
    assert expected.forward == expected.backward
    each = layers - first
    assert len(steps) == 3 * each
    for at in range(0, len(steps), each):
        assert total(steps[at : at + each]) == expected


def test_a_label_more_costs_the_upper_layers_only() -> None:
    from ltuning.config import MethodOptions

    method = MethodOptions(labels="apart", first_layer=3)
    few, more = (scored_text(method, 6, text=20, tokens=5, num_labels=number) for number in (2, 3))
    assert more - few == 3 * 20
