"""Model families as rows of data: what differs between them, and nothing else.

A new family whose attention goes through transformers' attention interface is one row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ltuning.errors import BackboneError
from ltuning.registry import suggest

Pooling = Literal["cls", "mean", "last"]


@dataclass(frozen=True)
class Family:
    """What the library must know about one family of models.

    Attributes:
        name: `model_type` in the checkpoint's configuration.
        layers: dotted path from the base model to its list of layers.
        pooling: which state stands for the text, unless an option says otherwise.
        positions: `absolute` positions are learned per place and bounded by a table, `rotary` ones
            count only as differences, so that a label may sit before position 0.
        first_position: the position of the first token, from the model's configuration.
        loader: the transformers class that reads its checkpoints; one with a head where only that
            ties the word embeddings to what the checkpoint stores.
        arguments: what the loader is given besides, such as no pooler (whose weights many
            checkpoints lack, and which nothing here reads).
    """

    name: str
    layers: str
    pooling: Pooling
    positions: Literal["absolute", "rotary"]
    first_position: Literal["zero", "after-padding-id"] = "zero"
    loader: Literal["AutoModel", "AutoModelForCausalLM"] = "AutoModel"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def position_offset(self, config: Any) -> int:
        """Position of the first token."""
        return config.pad_token_id + 1 if self.first_position == "after-padding-id" else 0

    def position_budget(self, config: Any) -> int:
        """Most tokens that the position table holds; virtual tokens of a prompt count."""
        return int(config.max_position_embeddings) - self.position_offset(config)


_NO_POOLER = {"add_pooling_layer": False}

FAMILIES = {
    family.name: family
    for family in (
        Family("bert", "encoder.layer", "mean", "absolute", arguments=_NO_POOLER),
        Family(
            "roberta",
            "encoder.layer",
            "mean",
            "absolute",
            "after-padding-id",
            arguments=_NO_POOLER,
        ),
        Family("llama", "layers", "last", "rotary", loader="AutoModelForCausalLM"),
    )
}


def family_of(model_type: str) -> Family:
    """The row of a checkpoint's `model_type`.

    Raises:
        BackboneError: a family that has no row.
    """
    if model_type not in FAMILIES:
        raise BackboneError(
            f"expected a backbone of one of the families {', '.join(FAMILIES)}, got model type "
            f"'{model_type}'{suggest(model_type, FAMILIES)}; choose a checkpoint of one of these"
        )
    return FAMILIES[model_type]


@dataclass(frozen=True)
class Sizes:
    """A backbone's sizes in the letters of the shape glossary.

    Attributes:
        layers: M.
        hidden: H.
        kv_heads: N.
        head_dim: D.
    """

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int

    @classmethod
    def from_config(cls, config: Any) -> Sizes:
        """Read off a transformers configuration (grouped-query and odd head widths included)."""
        heads = config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )
