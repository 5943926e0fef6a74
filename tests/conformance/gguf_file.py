"""A GGUF file of a tiny Llama, written by the package `gguf` the way llama.cpp's converter does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .tiny import WORDS

_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def write_llama(
    model: Any, path: Path, architecture: str = "llama", quantised: bool = False
) -> Path:
    """Write a `LlamaModel` with a tokenizer of bytes that knows the words of the tests.

    Args:
        model: with 300 words or more.
        path: of the file.
        architecture: what the file says that it is.
        quantised: tables in 8 bits.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, config.vocab_size)
    for name, weight in model.state_dict().items():
        tensor, short = _laid_out(name, weight.numpy(), config)
        if quantised and tensor.ndim == 2:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(short, quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(short, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, size: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS, *(f" {word}" for word in WORDS.split())], trainer)
    saved = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].get)
    tokens += [f"<unused{number}>" for number in range(size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in saved["merges"]])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _laid_out(name: str, tensor: Any, config: Any) -> tuple[Any, str]:
    """A tensor in llama.cpp's order of rotary pairs, and its name there."""
    parts = name.split(".")
    short = f"{_NAMES[parts[-2]]}.weight"
    if parts[0] == "layers":
        short = f"blk.{parts[1]}.{short}"
    if parts[-2] in ("q_proj", "k_proj"):
        is_query = parts[-2] == "q_proj"
        heads = config.num_attention_heads if is_query else config.num_key_value_heads
        rows, columns = tensor.shape
        pairs = tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2)
        tensor = pairs.reshape(rows, columns)
    return tensor, short
