"""What the properties share: where they hold, and the way from texts to scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import LabelStates, TextBatch
from ltuning.backbones.prefix import Prefix
from ltuning.config import MethodOptions
from ltuning.methods.adapter import Adapter
from ltuning.methods.catalog import METHODS, resolve
from ltuning.methods.model import Branches

from .tiny import FAMILIES, FILES

Pad = Callable[..., TextBatch]
TEXTS = ["apple bread in the soup", "ball team", "train to the beach and hotel map"]
# Token ids of texts without special tokens, and of label texts: different lengths everywhere.
ROWS = [[5, 20, 31, 9], [7, 8], [29, 12, 33, 6, 11, 25]]
WORDS = [[9, 30, 31], [14], [22, 8]]
LABELS = ["bread", "ball and team", "the hotel"]
NUM_TOKENS = 5
EVERY = {**FAMILIES, **FILES}


def _places(families: Iterable[str]) -> list[tuple[str, str]]:
    return [(family, attention) for family in families for attention in EVERY[family].attention]


def on_families(families: Iterable[str]) -> pytest.MarkDecorator:
    """Some families, with every implementation of attention that each one has."""
    places = [pytest.param(place, id="-".join(place)) for place in _places(families)]
    return pytest.mark.parametrize("place", places, indirect=True, scope="session")


everywhere = on_families(EVERY)
once_per_family = pytest.mark.parametrize(
    "place",
    [pytest.param((name, tiny.attention[0]), id=name) for name, tiny in EVERY.items()],
    indirect=True,
    scope="session",
)
on_decoders = on_families(family for family, tiny in EVERY.items() if tiny.causal)


def where_padding_may_be_left(name: str, in_prompts: dict[str, bool]) -> pytest.MarkDecorator:
    """All places with all values of a parameter, except padding that parts a prompt from its text.

    Args:
        name: the parameter.
        in_prompts: its values, and whether each one is a prompt.
    """
    cases = [
        pytest.param(place, value, id=f"{value}-{'-'.join(place)}")
        for place in _places(EVERY)
        for value, is_prompt in in_prompts.items()
        if not (is_prompt and EVERY[place[0]].counts_places)
    ]
    return pytest.mark.parametrize(("place", name), cases, indirect=["place"], scope="session")


with_each_method = pytest.mark.parametrize("method", METHODS)
# To a family it matters where virtual tokens go, and not where they come from: for each of the two
# places the method that reads labels, whose branches and padded labels ask for more.
with_each_site = pytest.mark.parametrize("method", ["lt-prefix", "lt-prompt"])
with_prefix = pytest.mark.parametrize("method", ["lt-prefix"])


def close(left: torch.Tensor, right: torch.Tensor, atol: float = 1e-5) -> None:
    """Equal up to the rounding of float32 sums in another order."""

    def message(details: str) -> str:
        if left.shape != right.shape:
            return details
        return f"differs by {(left - right).abs().max():.1e}\n{details}"

    torch.testing.assert_close(left, right, atol=atol, rtol=1e-5, msg=message)


def select(batch: TextBatch, rows: Sequence[int]) -> TextBatch:
    """Some texts of a batch, in that order."""
    return TextBatch(batch.ids[list(rows)], batch.mask[list(rows)])


def build(
    backbone: Backbone,
    method: str,
    labels: Sequence[str] = LABELS,
    room: int | None = None,
    labels_read: str = "apart",
    **options: Any,
) -> tuple[Adapter, LabelStates | None]:
    """An adapter with the label states it reads; the same seed, so the same weights every time.

    Args:
        backbone: the frozen model.
        method: its name.
        labels: label texts.
        room: tokens that a label text has room for; None = what the longest needs.
        labels_read: the option `labels` of a label method.
        options: of the method.
    """
    torch.manual_seed(1)
    states, length = None, NUM_TOKENS
    if METHODS[method].source == "labels":
        ids = backbone.tokenizer(list(labels))["input_ids"]
        length = room or max(map(len, ids))
        states = backbone.encode_labels(labels, length)
    read = None if states is None else labels_read
    chosen = MethodOptions(name=method, labels=read, **options)
    resolved = resolve(chosen, backbone.family, backbone.sizes.layers)
    adapter = Adapter(backbone.sizes, resolved, length=length, num_labels=len(labels))
    return adapter, states


def visible(backbone: Backbone, method: str, **options: Any) -> tuple[Adapter, LabelStates | None]:
    """As `build`, with virtual tokens far from zero: what is wrong with them shows in scores."""
    return build(backbone, method, start="random", **options)


def virtual_tokens(
    backbone: Backbone, adapter: Adapter, labels: LabelStates | None
) -> torch.Tensor:
    """The adapter's virtual tokens for these labels."""
    return adapter.virtual_tokens(labels, backbone.embed)


def score(
    backbone: Backbone,
    adapter: Adapter,
    labels: LabelStates | None,
    batch: TextBatch,
    tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """`[B, K]` scores: all labels of all texts in one batch of branches."""
    if tokens is None:
        tokens = virtual_tokens(backbone, adapter, labels)
    if labels is None:
        return adapter.score(backbone, batch, tokens)
    number = len(labels.ids)
    texts = torch.arange(len(batch)).repeat_interleave(number)
    branches = Branches(texts, torch.arange(number).repeat(len(batch)))
    return adapter.score(backbone, batch, tokens, labels, branches).view(-1, number)


def loss(backbone: Backbone, adapter: Adapter, labels: Any, batch: TextBatch) -> torch.Tensor:
    """Cross-entropy of the texts, which belong to the labels in their order."""
    scores = score(backbone, adapter, labels, batch)
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(batch)))


def random_prefix(backbone: Backbone, first_layer: int = 0, **rest: Any) -> Prefix:
    """Three label texts, of 2, 4 and 1 virtual tokens."""
    sizes = backbone.sizes
    shape = (3, sizes.layers - first_layer, 2, sizes.kv_heads, 4, sizes.head_dim)
    states = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    mask = torch.arange(4)[None, :] < torch.tensor([2, 4, 1])[:, None]
    rest.setdefault("rows", torch.arange(3))
    return Prefix(states, mask, first_layer, **rest)


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[torch.nn.Module]]:
    """The parts of layers that are called; as many in every layer without a prefix."""
    calls: list[torch.nn.Module] = []
    parts = {
        part
        for layer in backbone.model.get_submodule(backbone.family.layers)
        for part in layer.modules()
        # T5's first layer alone has an embedding, of distances.
        if not list(part.children()) and not isinstance(part, torch.nn.Embedding)
    }
    hooks = [part.register_forward_pre_hook(lambda part, _: calls.append(part)) for part in parts]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def random_prompt(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """One prompt for each of three texts, of 2, 4 and 1 virtual tokens."""
    shape = (3, 4, backbone.sizes.embedding)
    mask = torch.arange(4)[None, :] < torch.tensor([2, 4, 1])[:, None]
    return torch.randn(shape, generator=torch.Generator().manual_seed(4)), mask
