"""What holds for the frozen model of every family, whatever method is on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ltuning.backbones import families
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import TextBatch
from ltuning.backbones.lower import Lower
from ltuning.backbones.prefix import Prefix

from .cases import (
    LABELS,
    ROWS,
    TEXTS,
    WORDS,
    Pad,
    close,
    counted,
    everywhere,
    on_families,
    random_prefix,
    random_prompt,
    where_padding_may_be_left,
)
from .tiny import FAMILIES, LAYERS

KINDS = ("none", "prefix", "prompt")


def test_every_family_of_the_library_has_a_tiny_model() -> None:
    tiny = {getattr(transformers, tiny.config).model_type for tiny in FAMILIES.values()}
    assert set(families.FAMILIES) == tiny


def with_virtual_tokens(
    backbone: Backbone, kind: str, batch: TextBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """States of the texts' real tokens, one below the other, and all states of the texts."""
    extra: dict[str, Any] = {}
    if kind == "prefix":
        extra["prefix"] = random_prefix(backbone)
    elif kind == "prompt":
        extra["prompt"] = random_prompt(backbone)
    with torch.no_grad():
        states = backbone.forward(batch, **extra)[:, -batch.ids.shape[1] :]
    return states[batch.mask], states


@everywhere
def test_states_are_those_of_the_plain_model(backbone: Backbone, plain: Any) -> None:
    batch = backbone.batch(backbone.tokenize(TEXTS))
    with torch.no_grad():
        states = backbone.forward(batch)
        for row, text in enumerate(TEXTS):
            inputs = dict(backbone.tokenizer(text, return_tensors="pt"))
            expected = plain(**inputs).last_hidden_state[0]
            close(states[row, : len(expected)], expected)


@everywhere
def test_label_states_are_those_of_the_plain_model(backbone: Backbone, plain: Any) -> None:
    for text in LABELS:
        ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        labels = backbone.encode_labels([text], ids.shape[1])
        with torch.no_grad():
            close(labels.hidden, plain(input_ids=ids).last_hidden_state, 1e-4)
        sizes = backbone.sizes
        shape = (1, sizes.layers, 2, sizes.kv_heads, ids.shape[1], sizes.head_dim)
        assert labels.key_values.shape == shape


@everywhere
def test_a_longer_label_text_changes_no_state_of_the_others(backbone: Backbone) -> None:
    known = backbone.encode_labels(LABELS)
    more = backbone.encode_labels(
        [*LABELS, "the old map of the hotel and the beach"], room=known.room
    )
    count, length = known.ids.shape
    assert more.ids.shape[1] > length
    close(more.hidden[:count, :length][known.mask], known.hidden[known.mask])
    kept, as_before = (of.key_values[:count, ..., :length, :].movedim(4, 1) for of in (more, known))
    close(kept[known.mask], as_before[known.mask])
    assert torch.isfinite(more.hidden).all()


@everywhere
@pytest.mark.parametrize("kind", KINDS)
def test_length_of_padding_changes_no_state(backbone: Backbone, pad: Pad, kind: str) -> None:
    expected, _ = with_virtual_tokens(backbone, kind, pad(ROWS))
    found, states = with_virtual_tokens(backbone, kind, pad(ROWS, extra=5))
    assert torch.isfinite(states).all()
    close(found, expected)


@where_padding_may_be_left("kind", {kind: kind == "prompt" for kind in KINDS})
def test_side_of_padding_changes_no_state(backbone: Backbone, pad: Pad, kind: str) -> None:
    expected, _ = with_virtual_tokens(backbone, kind, pad(ROWS))
    for extra in (0, 3):
        found, states = with_virtual_tokens(backbone, kind, pad(ROWS, "left", extra))
        assert torch.isfinite(states).all()
        close(found, expected)


@everywhere
def test_a_prefix_of_no_tokens_is_no_prefix(backbone: Backbone, pad: Pad) -> None:
    sizes, batch = backbone.sizes, pad(ROWS)
    empty = Prefix(
        torch.zeros(1, sizes.layers, 2, sizes.kv_heads, 0, sizes.head_dim),
        torch.zeros(1, 0, dtype=torch.bool),
        first_layer=0,
        rows=torch.zeros(3, dtype=torch.long),
    )
    with torch.no_grad():
        close(
            backbone.forward(batch, prefix=empty)[batch.mask], backbone.forward(batch)[batch.mask]
        )


@everywhere
def test_a_prompt_of_word_embeddings_is_those_words(backbone: Backbone, pad: Pad) -> None:
    batch, words = pad(ROWS), pad(WORDS)
    joined = pad([[*word, *text] for word, text in zip(WORDS, ROWS, strict=True)])
    after = joined.mask & (joined.mask.cumsum(1) > words.mask.sum(1, keepdim=True))
    with torch.no_grad():
        prompt = backbone.embed(words.ids), words.mask
        states = backbone.forward(batch, prompt=prompt)[:, words.ids.shape[1] :]
        expected = backbone.forward(joined)
    close(states[batch.mask], expected[after])


@everywhere
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_padding_of_a_label_takes_no_part(backbone: Backbone, pad: Pad, kind: str) -> None:
    batch = pad(ROWS)
    if kind == "prefix":
        tight = random_prefix(backbone, room=5)
        real = tight.mask[:, None, None, None, :, None]
        garbage = torch.full_like(tight.states, 50.0)
        states = torch.cat([torch.where(real, tight.states, garbage), garbage], dim=4)
        mask = torch.cat([tight.mask, torch.zeros_like(tight.mask)], dim=1)
        pair = {"prefix": tight}, {"prefix": Prefix(states, mask, 0, tight.rows, room=5)}
    else:
        prompt, mask = random_prompt(backbone)
        garbage = torch.full_like(prompt, 50.0)
        longer = torch.cat([torch.where(mask[..., None], prompt, garbage), garbage], dim=1)
        wide = torch.cat([mask, torch.zeros_like(mask)], dim=1)
        pair = {"prompt": (prompt, mask)}, {"prompt": (longer, wide)}
    width = batch.ids.shape[1]
    with torch.no_grad():
        expected, found = (backbone.forward(batch, **extra)[:, -width:] for extra in pair)
    close(found[batch.mask], expected[batch.mask])


# What says where a token stands: parts of names of weights, all zero where position is to be gone.
POSITION_TERMS = {
    "mpnet": ("relative_attention_bias",),
    "deberta": ("rel_embeddings", "pos_q_proj.bias"),
    # Keys and queries of positions come from the projections of the words, with their biases.
    "deberta-v2": ("rel_embeddings", "encoder.LayerNorm.bias", "query_proj.bias", "key_proj.bias"),
    "t5": ("relative_attention_bias",),
    "mt5": ("relative_attention_bias",),
}
POSITION_TERMS["deberta-v2-conv"] = POSITION_TERMS["deberta-v2"]
# Rotary positions cannot be zeroed.
ENCODERS = [name for name, tiny in FAMILIES.items() if not tiny.causal and name != "modernbert"]


@on_families(ENCODERS)
def test_a_prefix_of_the_texts_own_keys_and_values_changes_nothing(
    place: tuple[str, str],
    folder_of: Callable[[str], Path],
    load: Callable[..., Backbone],
    pad: Pad,
) -> None:
    family, attention = place
    backbone = load(folder_of(family), attention=attention)
    terms = POSITION_TERMS.get(family, ())
    for name, weight in backbone.model.named_parameters():
        if any(term in name for term in terms):
            weight.zero_()
    # Each column of the attention stands twice, with the same weight: the mean is the same.
    for row in ROWS:
        states = backbone.encode_ids(torch.tensor([row])).key_values
        prefix = Prefix(states, torch.ones(1, len(row), dtype=torch.bool), 0, torch.tensor([0]))
        with torch.no_grad():
            expected = backbone.forward(pad([row]))
            found = backbone.forward(pad([row]), prefix=prefix)
            louder = backbone.forward(pad([row]), prefix=replace(prefix, states=1.1 * states))
        close(found, expected, 1e-4)
        assert (louder - expected).abs().max() > 1e-2


@everywhere
@pytest.mark.parametrize("first_layer", [0, 2])
# Not every text has as many branches, and they are in no order; or as many as there are texts.
@pytest.mark.parametrize(
    "branches", [((2, 0, 1, 2, 0, 2), (1, 0, 2, 0, 1, 2)), ((2, 0, 1), (1, 0, 2))]
)
def test_branches_fan_out_like_repeated_texts(
    backbone: Backbone, pad: Pad, first_layer: int, branches: tuple[tuple[int, ...], ...]
) -> None:
    batch = pad(ROWS)
    texts, rows = (torch.tensor(part) for part in branches)
    repeated = TextBatch(batch.ids[texts], batch.mask[texts])
    with torch.no_grad():
        fanned = random_prefix(backbone, first_layer, rows=rows, texts=texts)
        states = backbone.forward(batch, prefix=fanned)
        expected = backbone.forward(
            repeated, prefix=random_prefix(backbone, first_layer, rows=rows)
        )
    assert len(states) == len(texts)
    close(states[repeated.mask], expected[repeated.mask])


def with_branches(
    backbone: Backbone, batch: TextBatch, first_layer: int, lower: Lower | None = None
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """States of six branches at real tokens, the prefix's gradient, and the calls that it took."""
    texts, rows = torch.tensor([2, 0, 1, 2, 0, 2]), torch.tensor([1, 0, 2, 0, 1, 2])
    prefix = random_prefix(backbone, first_layer, rows=rows, texts=texts % len(batch), room=4)
    prefix.states.requires_grad_()
    with counted(backbone) as calls:
        states = backbone.forward(batch, prefix=prefix, lower=lower)
    states = states[batch.mask[texts % len(batch)]]
    states.square().sum().backward()
    return states, prefix.states.grad, len(calls)


@everywhere
@pytest.mark.parametrize("first_layer", [1, 3])
@pytest.mark.parametrize("first_pass", ["plain", "prefix"])
def test_a_second_pass_starts_above_the_lower_layers(
    backbone: Backbone, pad: Pad, first_layer: int, first_pass: str
) -> None:
    batch = pad(ROWS)
    expected, gradient, whole = with_branches(backbone, batch, first_layer)
    with counted(backbone) as calls, torch.no_grad():
        plain = backbone.forward(batch)
    lower = backbone.run_lower(batch, first_layer, room=0 if first_pass == "plain" else 4)
    if first_pass == "plain":
        close(backbone.forward(batch, lower=lower)[batch.mask], plain[batch.mask], 1e-6)
    states, found, number = with_branches(backbone, batch, first_layer, lower)
    close(states, expected, 1e-6)
    close(found, gradient, 1e-4)
    # Without a prefix, where it takes positions, texts stand elsewhere: all layers run again.
    moved = first_pass == "plain" and backbone.family.prefix_spends_positions
    saved = 0 if moved else first_layer
    assert number == whole - saved * len(calls) // LAYERS


@everywhere
def test_lower_layers_alone_give_what_is_kept_and_padding_may_be_anything(
    backbone: Backbone, pad: Pad, family: str
) -> None:
    batch = pad(ROWS)
    expected, *_ = with_branches(backbone, batch, 2)
    with counted(backbone) as calls:
        backbone.forward(batch)
    with counted(backbone) as lower_calls:
        lower = backbone.run_lower(batch, 2, room=4)
    assert 2 * len(lower_calls) == len(calls)
    assert lower.is_states == (family not in ("t5", "mt5"))
    if lower.is_states:
        lower = lower.with_states(lower.states * batch.mask[..., None])
    states, *_ = with_branches(backbone, batch, 2, lower)
    close(states, expected)
    with torch.no_grad():
        prefix = random_prefix(backbone, 2, room=4)
        assert torch.isfinite(backbone.forward(batch, prefix=prefix, lower=lower)).all()


@everywhere
def test_the_self_test_passes_in_bfloat16(
    family: str, place: tuple[str, str], folder_of: Callable[[str], Path], load: Any
) -> None:
    loaded = load(folder_of(family), attention=place[1], dtype="bfloat16")
    assert loaded.dtype == torch.bfloat16
    assert loaded.problems.prefix is None
