"""What training, scoring and saving ask of a model, for every kind."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.config import MethodOptions
from ltuning.labels import Labels
from ltuning.methods.adapter import Adapter, AdapterModel
from ltuning.methods.catalog import AUTO, METHODS, ROWS, resolve
from ltuning.methods.model import Model
from ltuning.methods.model_classes import MODELS
from ltuning.methods.tuned import Tuned, TunedModel
from ltuning.scoring import Scorer

LABELS = Labels.from_any({"food": "bread", "sport": ["ball and team", "the game"]})


def made(backbone: Backbone, name: str, **options: Any) -> Model[Any]:
    chosen = MethodOptions(name=name, **options)  # type: ignore[arg-type]
    method = resolve(chosen, backbone.family, backbone.sizes.layers)
    if name not in METHODS:
        states = backbone.encode_labels(LABELS.flat_texts) if method.head == "match" else None
        tuned = Tuned.new(backbone, method, 2)
        return TunedModel(backbone, tuned, states, range(2) if states is None else LABELS.owners)
    adapter = Adapter(backbone.sizes, method, length=4, num_labels=2)
    if METHODS[name].source == "free":
        return AdapterModel(backbone, adapter, None, range(2))
    return AdapterModel(backbone, adapter, backbone.encode_labels(LABELS.flat_texts), LABELS.owners)


def test_every_method_that_may_be_named_has_a_row_and_a_model() -> None:
    names = get_args(get_type_hints(MethodOptions)["name"])
    assert {*names} - {AUTO} == ROWS.keys() == MODELS.keys()


# Virtual tokens, layers below them, passes of a text, columns before it, labels after training.
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("prompt", {}, (4, 0, 1, 0, False)),
        ("prefix", {"first_layer": 3}, (4, 3, 1, 0, False)),
        ("lt-prompt", {}, (4, 0, 3, 0, True)),
        ("lt-prefix", {"labels": "apart"}, (4, 2, 3, 0, True)),
        # Of one, three and two words, each with its two special tokens.
        ("lt-prefix", {"label_tokens": "all"}, (4, 2, 1, 12, True)),
        ("lt-prefix", {"label_tokens": "mean"}, (4, 2, 1, 3, True)),
        ("probe", {}, (0, 0, 1, 0, False)),
        ("ls-lora", {"head": "match"}, (0, 0, 1, 0, True)),
    ],
)
def test_what_is_known_of_a_model(
    bert: Backbone, name: str, options: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    model = made(bert, name, **options)
    columns = model.columns(model.label_side())
    found = model.length, model.lower_layers, model.passes, columns, model.takes_new_labels
    assert found == expected
    assert model.num_labels == 2
    assert model.one_pass == (model.passes == 1)


@pytest.mark.parametrize(("name", "head"), [("lt-prefix", None), ("probe", "match")])
def test_a_model_that_a_scorer_asked_first_is_trained(
    bert: Backbone, name: str, head: str | None
) -> None:
    """What is kept of a label set is made in inference mode there, and has to serve here."""
    model = made(bert, name, head=head)
    tokens = bert.tokenize(["the bread", "a ball"])
    scores = torch.from_numpy(Scorer(model, 8).score_tokens(tokens))
    found = model.score(bert.batch(tokens), model.label_side())
    torch.testing.assert_close(found, scores, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    assert all(weight.grad is not None for weight in model.adapter.parameters())
