from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.families import FAMILIES, Sizes
from ltuning.backbones.frozen_model import LabelStates, TextBatch
from ltuning.config import MethodOptions
from ltuning.methods.adapter import Adapter
from ltuning.methods.catalog import METHODS, one_pass, resolve, uses_labels
from ltuning.methods.model import Branches

Pad = Callable[..., TextBatch]
LABELS = ["bread", "the ball and team", "a hotel"]
ROWS = [[5, 20, 31, 9], [7, 8], [40, 12, 33, 6, 11, 25]]
# A method, its options beside the recipe's: every kind of virtual token, head and start.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"recipe": recipe}) for name in METHODS for recipe in ("default", "paper")),
    ("lt-prefix", {"start": "label-kv", "first_layer": 0}),
    ("lt-prefix", {"labels": "apart", "start": "label-kv", "first_layer": 0}),
    ("lt-prefix", {"labels": "apart", "start": "random", "head": "binary", "pooling": "last"}),
    ("lt-prompt", {"transform": "lowrank", "start": "small", "pooling": "mean"}),
    ("prefix", {"start": "random", "first_layer": 0}),
]


def build(
    sizes: Sizes, family: str, name: str, length: int, num_labels: int, **options: Any
) -> Adapter:
    method = MethodOptions(name=name, **options)  # type: ignore[arg-type]
    chosen = resolve(method, FAMILIES[family], sizes.layers)
    return Adapter(sizes, chosen, length=length, num_labels=num_labels)


def on(backbone: Backbone, name: str, **options: Any) -> tuple[Adapter, LabelStates | None]:
    """An adapter for a backbone with the label states it reads; 5 tokens for the plain methods."""
    labels = backbone.encode_labels(LABELS) if METHODS[name].source == "labels" else None
    length = 5 if labels is None else labels.ids.shape[1]
    return build(backbone.sizes, backbone.family.name, name, length, 3, **options), labels


def scores(
    backbone: Backbone, adapter: Adapter, labels: LabelStates | None, batch: TextBatch
) -> torch.Tensor:
    """`[B, K]` scores, all labels of a text beside one another."""
    tokens = adapter.virtual_tokens(labels, backbone.embed)
    if one_pass(adapter.method):
        return adapter.score(backbone, batch, tokens, labels)
    texts = torch.arange(len(batch)).repeat_interleave(3)
    branches = Branches(texts, torch.arange(3).repeat(len(batch)))
    return adapter.score(backbone, batch, tokens, labels, branches).view(-1, 3)


MATCH = {"head.tau": (), "head.read.weight": (1, 32), "head.map.weight": (32, 32)}
CENTRED = {"head.tau": (), "head.map.weight": (32, 32)}
# What a head that compares from centres keeps beside its weights.
CENTERS = {"head.text_center", "head.label_center", "head.scale"}
KEPT = {"lt-prompt": CENTERS, "lt-prefix": CENTERS | {"head.trained"}}
CLASSES = {"head.out.weight": (3, 32)}
BINARY = {"head.out.weight": (2, 32)}
# M = 4 layers, H = 32, L = 5, K = 3, r = 64. Keys and values of one layer and token are 64 numbers
# in the encoders and 32 in the decoder, which has two key-value heads for four query heads.
ENCODER_SHAPES: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {
    ("prefix", "default"): {"tokens.tokens": (5, 256), **CLASSES},
    ("prefix", "paper"): {"tokens.tokens": (5, 256), **CLASSES},
    ("prompt", "default"): {"tokens.tokens": (5, 32), **CLASSES},
    ("prompt", "paper"): {"tokens.tokens": (5, 32), **CLASSES},
    ("lt-prefix", "default"): {
        "tokens.down.weight": (64, 32),
        "tokens.up.weight": (128, 64),
        **CENTRED,
    },
    ("lt-prefix", "paper"): {
        "tokens.phi.weight": (1, 32),
        "tokens.psi.weight": (1280, 5),
        **BINARY,
    },
    ("lt-prompt", "default"): {"tokens.square.weight": (32, 32), **MATCH},
    ("lt-prompt", "paper"): {"tokens.square.weight": (32, 32), **BINARY},
}
DECODER_SHAPES = {
    **ENCODER_SHAPES,
    ("prefix", "default"): {"tokens.tokens": (5, 128), **CLASSES},
    ("prefix", "paper"): {"tokens.tokens": (5, 128), **CLASSES},
    ("lt-prefix", "default"): {
        "tokens.down.weight": (64, 32),
        "tokens.up.weight": (64, 64),
        **CENTRED,
    },
    ("lt-prefix", "paper"): {
        "tokens.phi.weight": (1, 32),
        "tokens.psi.weight": (640, 5),
        **BINARY,
    },
}


@pytest.mark.parametrize(("name", "recipe"), ENCODER_SHAPES)
def test_trainable_parameters(backbone: Backbone, name: str, recipe: str) -> None:
    family = backbone.family.name
    adapter = build(backbone.sizes, family, name, 5, 3, recipe=recipe)
    table = DECODER_SHAPES if family == "llama" else ENCODER_SHAPES
    shapes = {key: tuple(weight.shape) for key, weight in adapter.named_parameters()}
    assert shapes == table[name, recipe]
    assert adapter.num_parameters == sum(weight.numel() for weight in adapter.parameters())
    kept = set() if recipe == "paper" or not name.startswith("lt-") else KEPT[name]
    assert set(adapter.state_dict()) == set(shapes) | kept


BERT_BASE = Sizes(layers=12, hidden=768, kv_heads=12, head_dim=64)
LLAMA_2_7B = Sizes(layers=32, hidden=4096, kv_heads=32, head_dim=128)


@pytest.mark.parametrize(("family", "sizes"), [("bert", BERT_BASE), ("llama", LLAMA_2_7B)])
@pytest.mark.parametrize("name", METHODS)
def test_the_paper_recipe_has_the_counts_of_the_paper(family: str, sizes: Sizes, name: str) -> None:
    length, num_labels, layers, hidden = 10, 3, sizes.layers, sizes.hidden
    with torch.device("meta"):
        adapter = build(sizes, family, name, length, num_labels, recipe="paper")
    assert (
        adapter.num_parameters
        == {
            "lt-prefix": 2 * length**2 * layers * hidden + 3 * hidden,
            "lt-prompt": hidden * (hidden + 2),
            "prompt": hidden * (length + num_labels),
            "prefix": 2 * length * layers * hidden + hidden * num_labels,
        }[name]
    )


def test_the_low_rank_prefix_has_the_count_of_its_formula() -> None:
    with torch.device("meta"):
        adapter = build(
            LLAMA_2_7B, "llama", "lt-prefix", 10, 2, rank=8, first_layer=0, head="binary",
            labels="apart",
        )  # fmt: skip
    assert adapter.num_parameters == 8 * (4096 + 2 * 32 * 4096) + 2 * 4096


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_one_backward_reaches_every_adapter_weight_and_no_backbone_weight(
    backbone: Backbone, pad: Pad, name: str, options: dict[str, Any]
) -> None:
    adapter, labels = on(backbone, name, **options)
    found = scores(backbone, adapter, labels, pad(ROWS))
    torch.nn.functional.cross_entropy(found, torch.tensor([0, 1, 2])).backward()
    for key, weight in adapter.named_parameters():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key
        assert weight.grad.norm() > 0, key
    assert all(weight.grad is None for weight in backbone.model.parameters())


@pytest.mark.parametrize("first_layer", [0, 2])
def test_the_gradient_reaches_key_and_value_of_every_prefixed_layer(
    backbone: Backbone, pad: Pad, first_layer: int
) -> None:
    adapter, _ = on(backbone, "prefix", start="random", first_layer=first_layer)
    found = scores(backbone, adapter, None, pad(ROWS))
    torch.nn.functional.cross_entropy(found, torch.tensor([0, 1, 2])).backward()
    sizes = backbone.sizes
    gradient = adapter.tokens.tokens.grad
    gradient = gradient.view(5, 4 - first_layer, 2, sizes.kv_heads, sizes.head_dim)
    # Every token's key and value, of every head in every layer.
    assert (gradient.norm(dim=-1) > 0).all()


def test_features_are_layers_then_key_and_value_then_heads(backbone: Backbone) -> None:
    sizes = backbone.sizes
    adapter, _ = on(backbone, "prefix", start="random", first_layer=1)
    tokens = adapter.virtual_tokens(None, backbone.embed)
    assert tokens.shape == (1, 3, 2, sizes.kv_heads, 5, sizes.head_dim)
    flat = adapter.tokens.tokens.view(5, 3, 2, sizes.kv_heads, sizes.head_dim)
    for token in range(5):
        assert torch.equal(tokens[0, :, :, :, token], flat[token])


@pytest.mark.parametrize("first_layer", [0, 3])
def test_label_kv_adds_the_map_to_the_backbones_own_keys_and_values(
    backbone: Backbone, first_layer: int
) -> None:
    options = {"labels": "apart", "start": "label-kv", "first_layer": first_layer}
    adapter, labels = on(backbone, "lt-prefix", **options)
    assert labels is not None
    tokens = adapter.virtual_tokens(labels, backbone.embed)
    own = labels.key_values[:, first_layer:]
    assert 0 < (tokens - own).abs().max() < 0.1
    torch.nn.init.zeros_(adapter.tokens.up.weight)
    assert torch.equal(adapter.virtual_tokens(labels, backbone.embed), own)


def test_a_decoder_starts_label_kv_by_reading_the_label_before_the_text(
    llama: Backbone, pad: Pad
) -> None:
    options = {"labels": "apart", "start": "label-kv", "first_layer": 0, "pooling": "last"}
    adapter, labels = on(llama, "lt-prefix", **options)
    assert labels is not None
    torch.nn.init.zeros_(adapter.tokens.up.weight)
    tokens = adapter.virtual_tokens(labels, llama.embed)
    texts, rows = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2, 0])
    states = adapter.states(llama, pad(ROWS), tokens, labels, Branches(texts, rows))
    for branch in range(4):
        label = labels.ids[rows[branch]][labels.mask[rows[branch]]].tolist()
        whole = llama.forward(pad([[*label, *ROWS[texts[branch]]]]))
        torch.testing.assert_close(states[branch], whole[0, -1], atol=1e-4, rtol=0)


def test_a_prompt_from_text_starts_near_the_words_of_the_label(backbone: Backbone) -> None:
    adapter, labels = on(backbone, "lt-prompt", start="text")
    assert labels is not None
    words = backbone.embed(labels.ids)
    tokens = adapter.virtual_tokens(labels, backbone.embed)
    assert 0 < (tokens - words).abs().max() < 0.1
    torch.nn.init.zeros_(adapter.tokens.square.weight)
    assert torch.equal(adapter.virtual_tokens(labels, backbone.embed), words)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_scores_do_not_depend_on_the_side_of_the_padding(
    backbone: Backbone, pad: Pad, name: str, options: dict[str, Any], pooling: str
) -> None:
    adapter, labels = on(backbone, name, **{**options, "pooling": pooling})
    with torch.no_grad():
        expected = scores(backbone, adapter, labels, pad(ROWS))
        found = scores(backbone, adapter, labels, pad(ROWS, "left", 2))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_a_text_alone_has_the_scores_that_it_has_in_a_batch(
    backbone: Backbone, pad: Pad, name: str, options: dict[str, Any]
) -> None:
    adapter, labels = on(backbone, name, **options)
    with torch.no_grad():
        together = scores(backbone, adapter, labels, pad(ROWS))
        for row, tokens in enumerate(ROWS):
            alone = scores(backbone, adapter, labels, pad([tokens]))
            torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["lt-prefix", "lt-prompt"])
@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_label_scores_the_same_beside_a_longer_label(
    backbone: Backbone, pad: Pad, name: str, recipe: str
) -> None:
    adapter, labels = on(backbone, name, recipe=recipe, labels="apart")
    alone = backbone.encode_labels(LABELS[:1])
    branches = Branches(torch.arange(3), torch.zeros(3, dtype=torch.long))
    with torch.no_grad():
        found = [
            adapter.score(
                backbone,
                pad(ROWS),
                adapter.virtual_tokens(states, backbone.embed),
                states,
                branches,
            )
            for states in (labels, alone)
        ]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_the_pooled_state_is_of_the_text_and_not_of_the_prompt(llama: Backbone, pad: Pad) -> None:
    adapter, _ = on(llama, "prompt", pooling="mean")
    tokens = adapter.virtual_tokens(None, llama.embed)
    state = adapter.states(llama, pad(ROWS[:1]), tokens, None, None)
    mask = torch.ones(1, 5, dtype=torch.bool)
    hidden = llama.forward(pad(ROWS[:1]), prompt=(tokens, mask))
    torch.testing.assert_close(state[0], hidden[0, 5:].mean(0))


def test_only_label_methods_use_labels(bert: Backbone) -> None:
    used = {name: uses_labels(on(bert, name)[0].method) for name in METHODS}
    assert used == {"prompt": False, "prefix": False, "lt-prompt": True, "lt-prefix": True}
