"""One tiny random model of every family, built from its configuration, with a local tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

LAYERS = 4
WORDS = (
    "apple bread cheese soup rice salt lemon sugar ball team goal race match player coach score "
    "train plane hotel ticket beach road map harbour the a of and is was it to in on with for"
)
BOTH = ("eager", "sdpa")


@dataclass(frozen=True)
class Vocabulary:
    """Special tokens, what the tokenizer calls them, and where it puts them.

    Attributes:
        special: the first tokens of the vocabulary, in the order of their ids.
        names: transformers' names of some of them.
        single: template of a text; None = the words alone.
        pair: template of a pair of texts.
        segments: whether the tokenizer gives segment ids.
        byte_level: whether it is Qwen's, which transformers loads whatever was saved.
    """

    special: tuple[str, ...]
    names: dict[str, str]
    single: str | None = None
    pair: str | None = None
    segments: bool = False
    byte_level: bool = False

    @property
    def size(self) -> int:
        """Number of tokens."""
        return len(self.special) + len(WORDS.split())

    def save(self, folder: Path) -> None:
        """Write a tokenizer of whole words."""
        tokenizer = self._byte_level() if self.byte_level else self._word_level()
        tokenizer.save_pretrained(folder)

    def _word_level(self) -> Any:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        ids = {word: index for index, word in enumerate([*self.special, *WORDS.split()])}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=self.names["unk_token"]))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        if self.single is not None:
            special = [(word, ids[word]) for word in self.special]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=self.single, pair=self.pair, special_tokens=special
            )
        inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if self.segments else [])]
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_input_names=inputs, **self.names
        )

    def _byte_level(self) -> Any:
        from tokenizers import AddedToken
        from transformers import Qwen2Tokenizer

        ids = {word: index for index, word in enumerate(self.special)}
        tokenizer = Qwen2Tokenizer(vocab=ids, merges=[], pad_token=None, **self.names)
        # Words that are added whole need no merges of bytes.
        words = [AddedToken(word, lstrip=True, single_word=True) for word in WORDS.split()]
        tokenizer.add_tokens(words)
        return tokenizer


def _bert(segments: bool) -> Vocabulary:
    return Vocabulary(
        ("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
        {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
        },
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        segments,
    )


SEGMENTS = _bert(segments=True)
CLS = _bert(segments=False)
ROBERTA = Vocabulary(
    ("<s>", "<pad>", "</s>", "<unk>"),
    {
        "bos_token": "<s>",
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
    },
    "<s> $A </s>",
    "<s> $A </s> </s> $B </s>",
)
END = Vocabulary(
    ("<pad>", "</s>", "<unk>"),
    {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "$A </s>",
    "$A </s> $B </s>",
)
# As many decoders are published: with a begin token or without one, and no token for padding.
BEGIN = Vocabulary(
    ("<unk>", "<s>", "</s>"),
    {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "<s> $A",
    "<s> $A $B",
)
BARE = Vocabulary(("<unk>", "<|endoftext|>"), {"unk_token": "<unk>", "eos_token": "<|endoftext|>"})
QWEN = replace(BARE, byte_level=True)


@dataclass(frozen=True)
class Tiny:
    """A family's tiny model.

    Attributes:
        config: transformers' configuration class.
        model: the class that is saved.
        vocabulary: its tokenizer.
        options: what its configuration is given.
        attention: the implementations of attention that transformers offers for it.
        causal: whether a token sees only those before it.
        counts_places: whether padding between two tokens moves them apart: their distance is
            counted in places of the batch, which neither a mask nor positions can change.
    """

    config: str
    model: str
    vocabulary: Vocabulary
    options: dict[str, Any] = field(default_factory=dict)
    attention: tuple[str, ...] = BOTH
    causal: bool = False
    counts_places: bool = False

    def save(self, folder: Path) -> Path:
        """Write the random model and its tokenizer; the same weights every time.

        Returns:
            What a backbone is loaded from.
        """
        self._model(self.vocabulary.size).save_pretrained(folder)
        self.vocabulary.save(folder)
        return folder

    def _model(self, words: int) -> Any:
        import torch
        import transformers

        special = {
            f"{name}_id": self.vocabulary.special.index(token)
            for name, token in self.vocabulary.names.items()
            if name in ("pad_token", "bos_token", "eos_token")
        }
        # The defaults of a configuration are ids of a large vocabulary.
        special = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None, **special}
        config = getattr(transformers, self.config)(vocab_size=words, **special, **self.options)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            model = getattr(transformers, self.model)(config)
            _make_visible(model)
        return model


class GgufTiny(Tiny):
    """A Llama in a GGUF file, with its tables in 8 bits and a tokenizer of bytes."""

    def save(self, folder: Path) -> Path:
        """Write the file."""
        from .gguf_file import write_llama

        folder.mkdir()
        model = self._model(700).eval().requires_grad_(False)
        return write_llama(model, folder / "tiny.gguf", quantised=True)


def _make_visible(model: Any) -> None:
    """Biases and norms away from 0 and 1, where a part that is left out would not be missed."""
    import torch

    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight += 0.1 * torch.randn_like(weight)
        assert weight.std() > 0, name


# A wide start: at the usual 0.02 a model of this size makes much the same of every text.
_WIDE: dict[str, Any] = {"initializer_range": 0.1}
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    **_WIDE,
}
_ENCODER: dict[str, Any] = {**_SIZES, "intermediate_size": 64, "max_position_embeddings": 64}
_DECODER: dict[str, Any] = {**_ENCODER, "num_key_value_heads": 2}
_DEBERTA: dict[str, Any] = {
    **_ENCODER,
    "type_vocab_size": 0,
    "relative_attention": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
# As version 3 is published.
_DEBERTA_V3: dict[str, Any] = {
    **_DEBERTA,
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
}
_T5: dict[str, Any] = {
    "d_model": 32,
    "d_ff": 64,
    "num_layers": LAYERS,
    "num_decoder_layers": 1,
    "num_heads": 4,
    # Places a few tokens apart share a bucket, as in long texts.
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
_FALCON: dict[str, Any] = {**_SIZES, "max_position_embeddings": 64}
# Windows wider than the tests' texts with their labels.
_WINDOW = {"sliding_window": 48}

FAMILIES: dict[str, Tiny] = {
    "bert": Tiny("BertConfig", "BertModel", SEGMENTS, _ENCODER),
    # Positions start after the padding id, so the table has two places more than tokens.
    "roberta": Tiny(
        "RobertaConfig",
        "RobertaModel",
        ROBERTA,
        {**_ENCODER, "max_position_embeddings": 66, "type_vocab_size": 1},
    ),
    "xlm-roberta": Tiny(
        "XLMRobertaConfig",
        "XLMRobertaModel",
        ROBERTA,
        {**_ENCODER, "max_position_embeddings": 66, "type_vocab_size": 1},
    ),
    "camembert": Tiny(
        "CamembertConfig",
        "CamembertModel",
        ROBERTA,
        {**_ENCODER, "max_position_embeddings": 66, "type_vocab_size": 1},
    ),
    "electra": Tiny("ElectraConfig", "ElectraModel", SEGMENTS, {**_ENCODER, "embedding_size": 16}),
    "albert": Tiny(
        "AlbertConfig",
        "AlbertModel",
        SEGMENTS,
        {**_ENCODER, "embedding_size": 16, "num_hidden_groups": 1},
    ),
    "distilbert": Tiny(
        "DistilBertConfig",
        "DistilBertModel",
        CLS,
        {
            "dim": 32,
            "hidden_dim": 64,
            "n_layers": LAYERS,
            "n_heads": 4,
            "max_position_embeddings": 64,
            **_WIDE,
        },
    ),
    "mpnet": Tiny(
        "MPNetConfig",
        "MPNetModel",
        ROBERTA,
        {**_ENCODER, "max_position_embeddings": 66, "relative_attention_num_buckets": 32},
        attention=("eager",),
        counts_places=True,
    ),
    # Version 1 has absolute positions beside the relative ones, version 3 has not.
    "deberta": Tiny(
        "DebertaConfig",
        "DebertaModel",
        SEGMENTS,
        {**_DEBERTA, "position_biased_input": True},
        attention=("eager",),
        counts_places=True,
    ),
    "deberta-v2": Tiny(
        "DebertaV2Config",
        "DebertaV2Model",
        SEGMENTS,
        _DEBERTA_V3,
        attention=("eager",),
        counts_places=True,
    ),
    "deberta-v2-conv": Tiny(
        "DebertaV2Config",
        "DebertaV2Model",
        SEGMENTS,
        {**_DEBERTA_V3, "conv_kernel_size": 3, "conv_act": "gelu"},
        attention=("eager",),
        counts_places=True,
    ),
    # Local layers see two tokens to each side: less than the tests' texts.
    "modernbert": Tiny(
        "ModernBertConfig",
        "ModernBertModel",
        CLS,
        {
            **_ENCODER,
            "local_attention": 4,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "cls_token_id": 2,
            "sep_token_id": 3,
        },
        counts_places=True,
    ),
    "t5": Tiny("T5Config", "T5Model", END, {**_T5, "d_kv": 8}, counts_places=True),
    # The heads together are narrower than the model.
    "mt5": Tiny(
        "MT5Config",
        "MT5Model",
        END,
        {**_T5, "d_kv": 6, "feed_forward_proj": "gated-gelu"},
        counts_places=True,
    ),
    "gpt2": Tiny(
        "GPT2Config",
        "GPT2LMHeadModel",
        BARE,
        {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, **_WIDE},
        causal=True,
    ),
    "opt": Tiny(
        "OPTConfig",
        "OPTForCausalLM",
        BEGIN,
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.1,
        },
        causal=True,
    ),
    # Words are narrower than the layers, at both ends.
    "opt-projected": Tiny(
        "OPTConfig",
        "OPTForCausalLM",
        BEGIN,
        {
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "do_layer_norm_before": False,
            "ffn_dim": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "init_std": 0.1,
        },
        causal=True,
    ),
    "gpt_neox": Tiny("GPTNeoXConfig", "GPTNeoXForCausalLM", BARE, _ENCODER, causal=True),
    "bloom": Tiny(
        "BloomConfig",
        "BloomForCausalLM",
        BARE,
        {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4, **_WIDE},
        attention=("eager",),
        causal=True,
    ),
    "falcon-multi-query": Tiny(
        "FalconConfig",
        "FalconForCausalLM",
        BARE,
        {**_FALCON, "multi_query": True, "new_decoder_architecture": False, "alibi": False},
        causal=True,
    ),
    "falcon-new": Tiny(
        "FalconConfig",
        "FalconForCausalLM",
        BARE,
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
        causal=True,
    ),
    "falcon-alibi": Tiny(
        "FalconConfig",
        "FalconForCausalLM",
        BARE,
        {
            **_FALCON,
            "multi_query": False,
            "new_decoder_architecture": False,
            "parallel_attn": False,
            "bias": True,
            "alibi": True,
        },
        causal=True,
    ),
    "llama": Tiny("LlamaConfig", "LlamaForCausalLM", BEGIN, _DECODER, causal=True),
    "mistral": Tiny(
        "MistralConfig", "MistralForCausalLM", BEGIN, {**_DECODER, **_WINDOW}, causal=True
    ),
    "qwen2": Tiny("Qwen2Config", "Qwen2ForCausalLM", QWEN, _DECODER, causal=True),
    # The heads together are wider than the model.
    "qwen3": Tiny(
        "Qwen3Config", "Qwen3ForCausalLM", BARE, {**_DECODER, "head_dim": 16}, causal=True
    ),
    # Its scores are capped, which sdpa cannot do.
    "gemma2": Tiny(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        BEGIN,
        {**_DECODER, **_WINDOW, "head_dim": 16, "query_pre_attn_scalar": 16},
        attention=("eager",),
        causal=True,
    ),
    "gemma3_text": Tiny(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        BEGIN,
        {
            **_DECODER,
            **_WINDOW,
            "head_dim": 12,
            "query_pre_attn_scalar": 12,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        causal=True,
    ),
    "phi3": Tiny("Phi3Config", "Phi3ForCausalLM", BARE, _DECODER, causal=True),
    "olmo2": Tiny("Olmo2Config", "Olmo2ForCausalLM", BARE, _DECODER, causal=True),
    # Its last layer has no rotary positions.
    "smollm3": Tiny("SmolLM3Config", "SmolLM3ForCausalLM", BARE, _DECODER, causal=True),
    "mixtral": Tiny(
        "MixtralConfig",
        "MixtralForCausalLM",
        BEGIN,
        {**_DECODER, **_WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
        causal=True,
    ),
}

# Loaded from a file, where what transformers' own classes load from a folder is not asked.
FILES: dict[str, Tiny] = {
    "llama-gguf": GgufTiny("LlamaConfig", "LlamaModel", BEGIN, _DECODER, causal=True)
}
