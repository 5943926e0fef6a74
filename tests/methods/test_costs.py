"""The cost model against the tokens that really pass the layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ltuning.backbones.backbone import Backbone
from ltuning.methods.costs import Cost, scored_text, training_step


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[tuple[int, bool]]]:
    """Layer-tokens of every call of a layer, and whether a gradient comes back through it."""
    calls: list[tuple[int, bool]] = []

    def count(_module: Any, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        calls.append((states.shape[0] * states.shape[1], states.requires_grad))

    path = backbone.family.layers
    hooks = [layer.register_forward_hook(count) for layer in backbone.model.get_submodule(path)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def total(calls: list[tuple[int, bool]]) -> Cost:
    forward = sum(tokens for tokens, _ in calls)
    return Cost(forward, sum(tokens for tokens, has_gradient in calls if has_gradient))


METHODS = [
    ("prefix", {}),
    ("prefix", {"first_layer": 2}),
    ("prompt", {}),
    ("lt-prefix", {"first_layer": 0}),
    ("lt-prefix", {"first_layer": 3}),
    ("lt-prefix", {"negatives": 1}),
    ("lt-prefix", {"objective": "pairs", "head": "binary"}),
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
    labels = 0 if chosen.num_tokens else max(fitted.scorer().labels.mask.sum(1)).item()
    tokens = chosen.num_tokens or labels
    sizes = {"text": widest, "tokens": tokens, "num_labels": 3}
    label_pass = layers if method.startswith("lt-") else 0
    # Plain prefixes start from the keys and values of words, which is a pass of its own.
    start_pass = layers if method == "prefix" else 0
    step = calls[label_pass + start_pass :]
    assert len(step) == layers
    assert total(step) == training_step(chosen, layers, texts=6, **sizes)

    with counted(backbone) as calls:
        fitted.predict(texts)
    assert total(calls).forward == 6 * scored_text(chosen, layers, **sizes)


def test_a_label_more_costs_the_upper_layers_only() -> None:
    from ltuning.config import MethodOptions

    method = MethodOptions(first_layer=3)
    few, more = (scored_text(method, 6, text=20, tokens=5, num_labels=number) for number in (2, 3))
    assert more - few == 3 * 20
