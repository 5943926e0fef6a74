"""What the backbone computes, against plain transformers models and plain torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import TextBatch
from ltuning.backbones.prefix import Prefix

from ..conformance.cases import random_prefix, random_prompt

ROWS = [[5, 20, 31, 9], [7, 8], [40, 12, 33, 6, 11, 25]]
Pad = Callable[..., TextBatch]


def close(left: torch.Tensor, right: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=0)


def real(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return states[mask]


def virtual_tokens(backbone: Backbone, kind: str) -> dict[str, Any]:
    if kind == "prefix":
        return {"prefix": random_prefix(backbone)}
    return {"prompt": random_prompt(backbone)} if kind == "prompt" else {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_virtual_tokens_the_states_are_those_of_the_plain_model(
    tiny_models: dict[str, Path], load: Callable[..., Backbone], pad: Pad, dtype: str
) -> None:
    batch = pad(ROWS)
    for folder in tiny_models.values():
        backbone = load(folder, dtype=dtype)
        plain = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        assert plain.config._attn_implementation == "sdpa"
        with torch.no_grad():
            expected = plain(input_ids=_fill(batch, backbone), attention_mask=batch.mask.long())
            states = backbone.forward(batch)
        assert states.dtype == getattr(torch, dtype)
        tolerance = 1e-5 if dtype == "float32" else 0.1
        close(real(states, batch.mask), real(expected[0], batch.mask), tolerance)


def _fill(batch: TextBatch, backbone: Backbone) -> torch.Tensor:
    # RoBERTa counts its positions from the padding ids.
    return batch.ids.masked_fill(~batch.mask, backbone.tokenizer.pad_token_id)


@pytest.mark.parametrize("kind", ["none", "prefix", "prompt"])
@pytest.mark.parametrize(("side", "extra"), [("right", 5), ("left", 0), ("left", 3)])
def test_states_of_real_tokens_do_not_depend_on_padding(
    backbone: Backbone, pad: Pad, kind: str, side: str, extra: int
) -> None:
    tokens = virtual_tokens(backbone, kind)
    skipped = 4 if kind == "prompt" else 0
    tight, loose = pad(ROWS), pad(ROWS, side, extra)
    with torch.no_grad():
        expected = backbone.forward(tight, **tokens)[:, skipped:]
        states = backbone.forward(loose, **tokens)[:, skipped:]
    assert torch.isfinite(states).all()
    close(real(states, loose.mask), real(expected, tight.mask))


def test_a_text_alone_has_the_states_that_it_has_in_a_batch(backbone: Backbone, pad: Pad) -> None:
    batch = pad(ROWS)
    with torch.no_grad():
        together = backbone.forward(batch)
        for row, tokens in enumerate(ROWS):
            close(backbone.forward(pad([tokens]))[0], together[row, : len(tokens)])


def test_encode_gives_the_states_of_tokenized_texts(backbone: Backbone) -> None:
    states, mask = backbone.encode(["the bread", "ball team goal"])
    batch = backbone.batch(backbone.tokenize(["the bread", "ball team goal"]))
    assert torch.equal(mask, batch.mask)
    with torch.no_grad():
        assert torch.equal(states, backbone.forward(batch))


def test_a_prefix_of_no_tokens_is_no_prefix(backbone: Backbone, pad: Pad) -> None:
    sizes, batch = backbone.sizes, pad(ROWS)
    empty = Prefix(
        torch.zeros(1, sizes.layers, 2, sizes.kv_heads, 0, sizes.head_dim),
        torch.zeros(1, 0, dtype=torch.bool),
        first_layer=0,
        rows=torch.zeros(3, dtype=torch.long),
    )
    with torch.no_grad():
        assert torch.equal(backbone.forward(batch, prefix=empty), backbone.forward(batch))


def test_a_prompt_of_no_tokens_is_no_prompt(backbone: Backbone, pad: Pad) -> None:
    batch = pad(ROWS)
    empty = torch.zeros(3, 0, backbone.sizes.hidden), torch.zeros(3, 0, dtype=torch.bool)
    with torch.no_grad():
        close(backbone.forward(batch, prompt=empty), backbone.forward(batch))


@pytest.mark.parametrize("first_layer", [0, 2, 3])
@pytest.mark.parametrize("num_texts", [1, 3])
def test_branches_that_fan_out_are_those_of_repeated_texts(
    backbone: Backbone, pad: Pad, first_layer: int, num_texts: int
) -> None:
    batch = pad(ROWS[:num_texts])
    texts = torch.tensor([0, 0, 1, 2, 2, 2]).clamp(max=num_texts - 1)
    rows = torch.tensor([1, 0, 2, 0, 1, 2])
    repeated = TextBatch(batch.ids[texts], batch.mask[texts])
    with torch.no_grad():
        fanned = random_prefix(backbone, first_layer, rows=rows, texts=texts)
        alone = random_prefix(backbone, first_layer, rows=rows)
        expected = backbone.forward(repeated, prefix=alone)
        states = backbone.forward(batch, prefix=fanned)
    assert states.shape[0] == 6
    close(real(states, repeated.mask), real(expected, repeated.mask))


@pytest.mark.parametrize("first_layer", [0, 2])
def test_layers_below_the_first_prefix_run_once_per_text(
    backbone: Backbone, pad: Pad, first_layer: int
) -> None:
    widths: list[int] = []
    layers = backbone.model.get_submodule(backbone.family.layers)
    hooks = [
        layer.register_forward_hook(lambda *a: widths.append(len(_states(a[2]))))
        for layer in layers
    ]
    texts = torch.arange(3).repeat_interleave(3)
    prefix = random_prefix(backbone, first_layer, rows=torch.arange(3).repeat(3), texts=texts)
    with torch.no_grad():
        backbone.forward(pad(ROWS), prefix=prefix)
    for hook in hooks:
        hook.remove()
    assert widths == [3] * first_layer + [9] * (4 - first_layer)


def _states(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("first_layer", [0, 2])
def test_encoder_prefixes_are_keys_and_values_before_the_texts_own(
    backbones: dict[str, Backbone], first_layer: int
) -> None:
    for family in ("bert", "roberta"):
        backbone = backbones[family]
        prefix = random_prefix(backbone, first_layer, rows=torch.tensor([0]))
        ids = torch.tensor([ROWS[0]])
        batch = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
        with torch.no_grad():
            states = backbone.forward(batch, prefix=prefix)
            expected = _written_out(backbone, ids, prefix)
        close(states, expected)


def _written_out(backbone: Backbone, ids: torch.Tensor, prefix: Prefix) -> torch.Tensor:
    """BERT's encoder for one text whose prefix has two tokens, without a mask."""
    start = 0 if backbone.family.name == "bert" else 2
    positions = torch.arange(start, start + ids.shape[1])[None]
    hidden = backbone.model.embeddings(input_ids=ids, position_ids=positions)
    for index, layer in enumerate(backbone.model.encoder.layer):
        attention = layer.attention.self
        heads = [
            linear(hidden).view(1, -1, 4, 8).transpose(1, 2)
            for linear in (attention.query, attention.key, attention.value)
        ]
        query, key, value = heads
        if index >= prefix.first_layer:
            own = prefix.states[:1, index - prefix.first_layer, :, :, :2]
            key, value = torch.cat([own[:, 0], key], 2), torch.cat([own[:, 1], value], 2)
        weights = (query @ key.transpose(2, 3) / 8**0.5).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).reshape(1, -1, 32)
        hidden = layer.attention.output(mixed, hidden)
        hidden = layer.output(layer.intermediate(hidden), hidden)
    return hidden


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_prompt_of_word_embeddings_is_those_words(
    backbone: Backbone, pad: Pad, side: str
) -> None:
    words = [[9, 30, 31], [14], [22, 8]]
    batch, label = pad(ROWS, side), pad(words)
    joined = pad([[*word, *text] for word, text in zip(words, ROWS, strict=True)])
    with torch.no_grad():
        prompted = backbone.forward(batch, prompt=(backbone.embed(label.ids), label.mask))
        expected = backbone.forward(joined)
    # The padding of a prompt comes before its words.
    own = torch.cat([label.mask.sort(dim=1).values, batch.mask], 1)
    close(real(prompted, own), real(expected, joined.mask))


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_padding_of_a_label_never_takes_part(backbone: Backbone, pad: Pad, kind: str) -> None:
    batch = pad(ROWS)
    if kind == "prefix":
        tight = random_prefix(backbone)
        garbage = torch.full_like(tight.states, 50.0)
        longer = torch.where(tight.mask[:, None, None, None, :, None], tight.states, garbage)
        states = torch.cat([longer, garbage], dim=4)
        mask = torch.cat([tight.mask, torch.zeros_like(tight.mask)], dim=1)
        loose = {"prefix": Prefix(states, mask, 0, tight.rows)}
        expected = backbone.forward(batch, prefix=tight)
        found = backbone.forward(batch, **loose)
    else:
        prompt, mask = random_prompt(backbone)
        garbage = torch.full_like(prompt, 50.0)
        longer = torch.cat([torch.where(mask[..., None], prompt, garbage), garbage], dim=1)
        expected = backbone.forward(batch, prompt=(prompt, mask))[:, 4:]
        found = backbone.forward(
            batch, prompt=(longer, torch.cat([mask, torch.zeros_like(mask)], 1))
        )[:, 8:]
    close(real(found, batch.mask), real(expected, batch.mask))


LABELS = ["bread", "the ball and team", "a hotel"]


def test_label_states_are_those_of_each_label_text_alone(
    tiny_models: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    for family, folder in tiny_models.items():
        backbone, plain = backbones[family], AutoModel.from_pretrained(folder).eval()
        states = backbone.encode_labels(LABELS)
        for row, text in enumerate(LABELS):
            ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                alone = plain(input_ids=ids)[0][0]
            assert int(states.mask[row].sum()) == ids.shape[1]
            close(states.hidden[row, : ids.shape[1]], alone, 1e-4)
            close(states.mean[row], alone.mean(0), 1e-4)
        sizes, length = backbone.sizes, states.ids.shape[1]
        shape = (3, sizes.layers, 2, sizes.kv_heads, length, sizes.head_dim)
        assert states.key_values.shape == shape
        assert not states.hidden.requires_grad
        assert not states.key_values.requires_grad


def test_a_label_in_a_longer_batch_has_the_same_states(backbone: Backbone) -> None:
    alone, together = backbone.encode_labels(LABELS[:1]), backbone.encode_labels(LABELS)
    length = alone.ids.shape[1]
    close(together.hidden[:1, :length], alone.hidden)
    close(together.key_values[:1, :, :, :, :length], alone.key_values)
    assert not together.mask[0, length:].any()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_reads_a_label_prefix_as_the_words_before_the_text(
    tiny_llama: Path, llama: Backbone, pad: Pad, side: str
) -> None:
    plain = AutoModel.from_pretrained(tiny_llama).eval()
    states = llama.encode_labels(LABELS)
    texts = torch.arange(3).repeat_interleave(3)
    rows = torch.arange(3).repeat(3)
    batch = pad(ROWS, side)
    with torch.no_grad():
        prefix = Prefix(states.key_values, states.mask, 0, rows, texts)
        branches = llama.forward(batch, prefix=prefix)
        for branch in range(9):
            text, label = ROWS[texts[branch]], states.ids[rows[branch]][states.mask[rows[branch]]]
            sequence = torch.cat([label, torch.tensor(text)])[None]
            expected = plain(input_ids=sequence)[0][0, len(label) :]
            close(branches[branch][batch.mask[texts[branch]]], expected, 1e-4)


def test_a_backbone_loaded_around_the_same_model_twice_fans_out_once(
    tiny_bert: Path, load: Callable[..., Backbone], pad: Pad
) -> None:
    first = load(tiny_bert)
    texts, rows = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 2, 0])
    prefix = random_prefix(first, 1, rows=rows, texts=texts)
    with torch.no_grad():
        expected = first.forward(pad(ROWS), prefix=prefix)
        second = Backbone(first.model, first.tokenizer, name="again")
        assert torch.equal(second.forward(pad(ROWS), prefix=prefix), expected)


def test_a_frozen_backbone_has_no_dropout_and_no_gradient(backbone: Backbone) -> None:
    assert not any(module.training for module in backbone.model.modules())
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
