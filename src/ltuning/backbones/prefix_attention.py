"""Attention over `[prefix; text]`: registered functions, a cache, and wrapped modules.

Three ways, one for each kind of model:

- transformers' attention interface: a function registered beside its own, with a mask function
  that never leaves the mask out;
- models that read `past_key_values` themselves (Bloom, Falcon): a cache that holds the prefix, and
  nothing else, so that it can be read any number of times;
- models with neither (DeBERTa, MPNet): their self-attention runs as it is, except that its softmax
  is taken over the prefix's columns too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from ltuning.backbones.prefix import LAYER
from ltuning.errors import BackboneError

Attention = Callable[..., tuple[Tensor, Tensor | None]]


_OWN = "ltuning_"


def use(model: PreTrainedModel) -> None:
    """Let a model use our twin of its attention implementation: `ltuning_sdpa` for `sdpa`."""
    known = _implementations()
    for name, (attention, mask) in known.items():
        AttentionInterface.register(_OWN + name, _over_prefix(attention))
        AttentionMaskInterface.register(_OWN + name, _explicit(mask))
    implementation = model.config._attn_implementation
    # A model that is built otherwise keeps its own, and takes no prefix: the self-test says so.
    if plain_name(implementation) not in known:
        raise BackboneError(
            f"expected a model with attention {' or '.join(known)}, got '{implementation}'; load "
            "it with one of these as attn_implementation"
        )
    if model._can_set_attn_implementation() and not implementation.startswith(_OWN):
        model.set_attn_implementation(_OWN + implementation)


def plain_name(implementation: str) -> str:
    """transformers' name of an implementation: `sdpa` for `ltuning_sdpa`."""
    return implementation.removeprefix(_OWN)


def _implementations() -> dict[str, tuple[Attention, Callable[..., Tensor | None]]]:
    return {
        "sdpa": (sdpa_attention_forward, sdpa_mask),
        "eager": (_eager, eager_mask),
    }


def _over_prefix(attention: Attention) -> Attention:
    def with_prefix(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        here = LAYER.get()
        if here is not None and here.recorder is not None:
            here.recorder.add(key, value)
        prefix = None if here is None else here.prefix(key)
        if prefix is not None:
            assert attention_mask is not None  # the mask function below never leaves it out
            prefix_key, prefix_value, prefix_mask = prefix
            key = torch.cat([prefix_key, key], dim=2)
            value = torch.cat([prefix_value, value], dim=2)
            attention_mask = _widened(prefix_mask, attention_mask)
            # Columns of the prefix have no relative position.
            if kwargs.get("position_bias") is not None:
                bias = kwargs["position_bias"]
                kwargs["position_bias"] = nn.functional.pad(bias, (prefix_key.shape[2], 0))
        return attention(module, query, key, value, attention_mask, **kwargs)

    return with_prefix


def _widened(label: Tensor, text: Tensor) -> Tensor:
    """`[R, L]` and `[R, 1, T, T]` -> `[R, 1, T, L + T]`: a token sees its real prefix tokens."""
    columns = label.to(text.device)[:, None, None, :]
    if text.dtype != torch.bool:
        lowest = torch.finfo(text.dtype).min
        columns = torch.zeros_like(columns, dtype=text.dtype).masked_fill(~columns, lowest)
    branches = label.shape[0]
    return torch.cat(
        [columns.expand(-1, 1, text.shape[2], -1), text.expand(branches, -1, -1, -1)], dim=3
    )


def _explicit(mask: Callable[..., Tensor | None]) -> Callable[..., Tensor | None]:
    """A mask function that writes the mask out even where a kernel could do without."""

    def explicit(*args: object, **kwargs: object) -> Tensor | None:
        kwargs["allow_is_causal_skip"] = False
        kwargs["allow_is_bidirectional_skip"] = False
        return mask(*args, **kwargs)

    return explicit


def _eager(module: nn.Module, *args: object, **kwargs: object) -> tuple[Tensor, Tensor | None]:
    # Each model has an eager function of its own, with what only it does (soft caps, sinks).
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **kwargs)


class PrefixCache(Cache):
    """A cache that holds the prefix of the running layer and keeps nothing.

    Args:
        length: L.
    """

    def __init__(self, length: int):
        super().__init__(layers=[])
        self.length = length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """`[prefix; text]` for keys and values, `[R, N, L + T, D]`."""
        here = LAYER.get()
        assert here is not None  # only the layers of a pass are given this cache
        if here.recorder is not None:
            here.recorder.add(key_states, value_states)
        prefix = here.prefix(key_states)
        if prefix is None:
            return key_states, value_states
        prefix_keys, prefix_values = prefix[:2]
        keys = torch.cat([prefix_keys, key_states], dim=2)
        return keys, torch.cat([prefix_values, value_states], dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """L."""
        return self.length

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """L: the text's first token stands after the prefix."""
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns of the mask, and the place of the first."""
        return self.length + query_length, 0


def wrap(module: nn.Module, query: str) -> None:
    """Wrap a self-attention module whose forward takes the states first and calls softmax once.

    Args:
        module: the module.
        query: the name of what projects its queries.
    """
    if not isinstance(module.forward, _WrappedForward):
        module.forward = _WrappedForward(module, module.forward, _PROJECTIONS[query])


_Projections = Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]]


class _WrappedForward:
    def __init__(self, module: nn.Module, forward: Callable[..., Any], projections: _Projections):
        self.module = module
        self.forward = forward
        self.projections = projections

    # A graph that breaks inside would lose the prefix's columns without a word.
    @torch.compiler.disable
    def __call__(self, states: Tensor, *args: object, **kwargs: object) -> Any:
        here = LAYER.get()
        if here is None or (here.keys is None and here.recorder is None):
            return self.forward(states, *args, **kwargs)
        query, key, value = self.projections(self.module, states)
        if here.recorder is not None:
            here.recorder.add(key, value)
        prefix = here.prefix(query)
        if prefix is None:
            return self.forward(states, *args, **kwargs)
        with _PrefixColumns(query, *prefix):
            return self.forward(states, *args, **kwargs)


class _PrefixColumns(TorchFunctionMode):
    """Takes the softmax inside over `[prefix; text]` and adds the prefix's share of the values.

    The scores of the prefix are content alone: relative positions say nothing of it.
    """

    def __init__(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor):
        super().__init__()
        self.values = values
        scores = query @ keys.transpose(-1, -2)
        hidden = ~mask[:, None, None, :]
        self.scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        self.share: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.softmax:
            joint = func(torch.cat([self.scores, args[0]], dim=-1), *args[1:], **kwargs)
            length = self.scores.shape[-1]
            self.share = joint[..., :length] @ self.values
            return joint[..., length:]
        result = func(*args, **kwargs)
        if self.share is not None and func in (torch.matmul, torch.bmm):
            result = result + self.share.reshape(result.shape)
            self.share = None
        return result


def _deberta_projections(module: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of DeBERTa's disentangled attention: one projection, biases for queries and values only."""
    heads = module.transpose_for_scores
    query, key, value = heads(module.in_proj(states)).chunk(3, dim=-1)
    query = query + heads(module.q_bias[None, None, :])
    value = value + heads(module.v_bias[None, None, :])
    return query / _content_scale(query, len(module.pos_att_type)), key, value


def _deberta_v2_projections(module: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the disentangled attention of DeBERTa-v2 and v3."""
    parts = (module.query_proj, module.key_proj, module.value_proj)
    query, key, value = (_heads(part(states), module.num_attention_heads) for part in parts)
    terms = sum(name in module.pos_att_type for name in ("c2p", "p2c"))
    return query / _content_scale(query, terms), key, value


def _mpnet_projections(module: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of MPNet's self-attention."""
    parts = (module.q, module.k, module.v)
    query, key, value = (_heads(part(states), module.num_attention_heads) for part in parts)
    return query / query.shape[-1] ** 0.5, key, value


def _heads(states: Tensor, number: int) -> Tensor:
    """`[R, T, N D] -> [R, N, T, D]`."""
    return states.unflatten(-1, (number, -1)).transpose(1, 2)


def _content_scale(query: Tensor, position_terms: int) -> float:
    """Content is one of 1 + `position_terms` summands that share the variance."""
    return float((query.shape[-1] * (1 + position_terms)) ** 0.5)


# By the name of what projects the queries: scaled queries, keys and values, `[R, N, T, D]` each.
_PROJECTIONS: dict[str, _Projections] = {
    "in_proj": _deberta_projections,
    "query_proj": _deberta_v2_projections,
    "q": _mpnet_projections,
}
