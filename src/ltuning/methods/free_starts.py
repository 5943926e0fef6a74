"""Where the free tokens of plain prefix and prompt tuning start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import tokenized
from ltuning.config import MethodOptions
from ltuning.methods.catalog import METHODS


def free_start(
    backbone: Backbone,
    method: MethodOptions,
    length: int,
    label_texts: Sequence[str],
    generator: torch.Generator,
) -> Tensor:
    """The start of a plain method's virtual tokens, `[L, F]`.

    `random` draws from a normal distribution (with the spread of the word embeddings for a
    prompt), `vocabulary` takes L words drawn from the vocabulary, `text` the words of the labels.

    Args:
        backbone: whose embeddings, or keys and values, the words become.
        method: resolved options of `prefix` or `prompt`.
        length: L.
        label_texts: what `text` starts from, repeated until L tokens are full.
        generator: source of the draws.
    """
    is_prompt = METHODS[method.name].site == "embeddings"
    if method.start == "random":
        if is_prompt:
            noise = torch.randn(length, backbone.sizes.embedding, generator=generator)
            words = backbone.embed(torch.arange(backbone.vocabulary_size, device=backbone.device))
            return noise * words.float().std().cpu()
        sizes = backbone.sizes
        layers = sizes.layers - (method.first_layer or 0)
        features = layers * 2 * sizes.kv_heads * sizes.head_dim
        return torch.randn(length, features, generator=generator)
    ids = _word_ids(backbone, method.start == "text", length, label_texts, generator)
    if is_prompt:
        return backbone.embed(ids.to(backbone.device)).float().cpu()
    key_values = backbone.encode_ids(ids[None]).key_values[0, method.first_layer :]
    return key_values.permute(3, 0, 1, 2, 4).flatten(1).cpu()


def _word_ids(
    backbone: Backbone,
    from_text: bool,
    length: int,
    label_texts: Sequence[str],
    generator: torch.Generator,
) -> Tensor:
    special = set(backbone.tokenizer.all_special_ids)
    if not from_text:
        size = backbone.vocabulary_size
        usable = torch.tensor([index for index in range(size) if index not in special])
        return usable[torch.randint(len(usable), (length,), generator=generator)]
    words: list[int] = []
    encoded = tokenized(backbone.tokenizer, list(label_texts), add_special_tokens=False)
    for row in encoded["input_ids"]:
        words.extend(row)
    return torch.tensor([words[place % len(words)] for place in range(length)])
