"""Model families as rows of data: what differs between them, and nothing else.

A new family whose attention goes through transformers' attention interface is one row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ltuning.errors import BackboneError
from ltuning.suggestions import suggest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Pooling = Literal["cls", "mean", "max", "last"]


def _config_kv_heads(config: PreTrainedConfig) -> int:
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def _falcon_kv_heads(config: PreTrainedConfig) -> int:
    if config.new_decoder_architecture:
        return config.num_kv_heads
    return 1 if config.multi_query else config.num_attention_heads


@dataclass(frozen=True)
class Family:
    """What the library must know about one family of models.

    Attributes:
        name: `model_type` in the checkpoint's configuration.
        layers: dotted path from the base model to its list of layers; None = look for it.
        positions: `absolute` positions are learned per place and bounded by a table, `rotary` ones
            count only as differences, so that a label may sit before position 0, and `relative`
            ones are the model's own affair: it takes no position.
        causal: whether a token sees only what stands before it.
        attention: how a prefix enters: through transformers' attention interface (`function`),
            through `past_key_values` (`cache`), or by wrapping the self-attention (`wrapped`).
        first_position: the position of the first token, from the model's configuration.
        loader: the transformers class that reads its checkpoints; one with a head where only that
            ties the word embeddings to what the checkpoint stores.
        arguments: what the loader is given besides, such as no pooler (whose weights many
            checkpoints lack, and which nothing here reads).
        wrapped: path from a layer to the self-attention that is wrapped, and the name of what
            projects its queries, which says how it makes queries, keys and values.
        kv_heads: N, from the model's configuration.
        beside_first: path to a module that reads the first layer's input beside its output.
        lora: names of the modules that project queries and values, which LoRA goes beside; where
            one module projects queries, keys and values together, that one.
    """

    name: str
    layers: str | None
    positions: Literal["absolute", "rotary", "relative"]
    causal: bool = False
    attention: Literal["function", "cache", "wrapped"] = "function"
    first_position: Literal["zero", "after-padding-id"] = "zero"
    loader: Literal["AutoModel", "AutoModelForCausalLM", "AutoModelForTextEncoding"] = "AutoModel"
    arguments: Mapping[str, bool] = field(default_factory=dict)
    wrapped: tuple[str, str] | None = None
    kv_heads: Callable[[PreTrainedConfig], int] = _config_kv_heads
    beside_first: str | None = None
    lora: tuple[str, ...] = ("q_proj", "v_proj")

    @property
    def prefix_spends_positions(self) -> bool:
        """Whether a prefix takes places of the position table, as words before the text would."""
        return self.causal and self.positions == "absolute"

    def position_offset(self, config: PreTrainedConfig) -> int:
        """Position of the first token."""
        return config.pad_token_id + 1 if self.first_position == "after-padding-id" else 0

    def position_budget(self, config: PreTrainedConfig) -> int | None:
        """Most tokens that the model has positions for, virtual ones included; None = no limit."""
        number = getattr(config, "max_position_embeddings", None)
        if number is None or self.positions == "relative":
            return None
        return int(number) - self.position_offset(config)


_NO_POOLER = {"add_pooling_layer": False}


def _encoder(name: str, layers: str = "encoder.layer", **rest: Any) -> Family:
    positions = rest.pop("positions", "absolute")
    return Family(name, layers, positions, lora=rest.pop("lora", ("query", "value")), **rest)


def _decoder(name: str, layers: str = "layers", **rest: Any) -> Family:
    positions = rest.pop("positions", "rotary")
    return Family(name, layers, positions, causal=True, loader="AutoModelForCausalLM", **rest)


def _t5(name: str) -> Family:
    return _encoder(
        name,
        "encoder.block",
        positions="relative",
        loader="AutoModelForTextEncoding",
        lora=("q", "v"),
    )


_FUSED = ("query_key_value",)

FAMILIES = {
    family.name: family
    for family in (
        _encoder("bert", arguments=_NO_POOLER),
        _encoder("roberta", first_position="after-padding-id", arguments=_NO_POOLER),
        _encoder("xlm-roberta", first_position="after-padding-id", arguments=_NO_POOLER),
        _encoder("camembert", first_position="after-padding-id", arguments=_NO_POOLER),
        _encoder("electra"),
        _encoder("albert", "encoder.albert_layer_groups", arguments=_NO_POOLER),
        _encoder("distilbert", "transformer.layer", lora=("q_lin", "v_lin")),
        _encoder("modernbert", "layers", positions="rotary", lora=("Wqkv",)),
        _encoder(
            "mpnet",
            attention="wrapped",
            wrapped=("attention.attn", "q"),
            first_position="after-padding-id",
            arguments=_NO_POOLER,
            lora=("q", "v"),
        ),
        _encoder(
            "deberta",
            attention="wrapped",
            wrapped=("attention.self", "in_proj"),
            lora=("in_proj",),
        ),
        _encoder(
            "deberta-v2",
            attention="wrapped",
            wrapped=("attention.self", "query_proj"),
            beside_first="encoder.conv",
            lora=("query_proj", "value_proj"),
        ),
        _t5("t5"),
        _t5("mt5"),
        _decoder("gpt2", "h", positions="absolute", lora=("c_attn",)),
        _decoder("opt", "decoder.layers", positions="absolute"),
        _decoder("gpt_neox", lora=_FUSED),
        _decoder("bloom", "h", positions="relative", attention="cache", lora=_FUSED),
        _decoder("falcon", "h", attention="cache", kv_heads=_falcon_kv_heads, lora=_FUSED),
        _decoder("llama"),
        _decoder("mistral"),
        _decoder("mixtral"),
        _decoder("qwen2"),
        _decoder("qwen3"),
        _decoder("gemma2"),
        _decoder("gemma3_text"),
        _decoder("phi3", lora=("qkv_proj",)),
        _decoder("olmo2"),
        _decoder("smollm3"),
    )
}


def family_of(config: PreTrainedConfig) -> Family:
    """The row of a checkpoint, or one made from its configuration where the table has none.

    A made row is a guess (attention interface, layers by their number, rotary where the
    configuration has rotary parameters); the self-test at load says whether it holds.

    Raises:
        BackboneError: a model type that is not one of a text encoder or decoder.
    """
    name = config.model_type
    if name in FAMILIES:
        return FAMILIES[name]
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # Code of the checkpoint's own says what it is in the same words.
    remote = getattr(config, "auto_map", None) or {}
    is_decoder = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in remote
    is_encoder = name in MODEL_FOR_MASKED_LM_MAPPING_NAMES or "AutoModelForMaskedLM" in remote
    if getattr(config, "is_encoder_decoder", False) or not (is_decoder or is_encoder):
        raise BackboneError(
            f"expected a backbone of one of the families {', '.join(FAMILIES)}, got model type "
            f"'{name}'{suggest(name, FAMILIES)}; choose a checkpoint of one of these"
        )
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    return Family(
        name,
        None,
        "rotary" if rotary else "absolute",
        causal=is_decoder and not is_encoder,
    )


@dataclass(frozen=True)
class Sizes:
    """A backbone's sizes in the letters of the shape glossary.

    Attributes:
        layers: M.
        hidden: H, of the last states.
        kv_heads: N.
        head_dim: D.
        embedding: E, of the word embeddings; the same as H in most models, which 0 stands for.
    """

    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    embedding: int = 0

    def __post_init__(self) -> None:
        if not self.embedding:
            object.__setattr__(self, "embedding", self.hidden)

    @classmethod
    def of(cls, model: PreTrainedModel, family: Family) -> Sizes:
        """Read off a base model (grouped queries, odd head widths, factorised embeddings)."""
        config = model.config
        embeddings: Any = model.get_input_embeddings()
        try:
            return cls(
                layers=config.num_hidden_layers,
                # OPT projects its last states to the width of the word embeddings.
                hidden=getattr(config, "word_embed_proj_dim", None) or config.hidden_size,
                kv_heads=family.kv_heads(config),
                head_dim=getattr(config, "head_dim", None)
                or config.hidden_size // config.num_attention_heads,
                embedding=embeddings.embedding_dim,
            )
        except AttributeError as error:
            raise BackboneError(
                f"expected a transformer with attention heads, got model type '{family.name}' "
                f"({error}); choose a checkpoint of one of {', '.join(FAMILIES)}"
            ) from error
