from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertModel, TrainerCallback

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import fingerprint, load_config, load_model
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError, ConfigError, MissingExtraError
from ltuning.estimators.label_classifier import LabelClassifier

from ..conftest import Toy

Load = Callable[..., Backbone]


# --- precision


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_a_cpu_computes_in_float32_whatever_is_stored(
    tiny_bert: Path, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch, stored: Any
) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "stored"))
    BertModel.from_pretrained(tiny_bert, dtype=stored).save_pretrained(folder)
    assert load(folder).dtype == torch.float32
    # Also where there is a GPU, if the CPU is asked for.
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    assert load(folder, device="cpu").dtype == torch.float32


class Precisions(TrainerCallback):
    """What the weights and gradients of a training step are computed in."""

    def __init__(self) -> None:
        self.found: set[tuple[torch.dtype, torch.dtype]] = set()

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any, **_: Any
    ) -> None:
        for weight in model.parameters():
            self.found.add((weight.dtype, weight.grad.dtype))


@pytest.mark.parametrize("method", ["prefix", "prompt", "lt-prefix", "lt-prompt"])
def test_an_adapter_is_trained_in_float32_on_a_backbone_in_bfloat16(
    toy: Toy,
    tiny_llama: Path,
    load: Load,
    classifier: Callable[..., LabelClassifier],
    method: str,
) -> None:
    backbone = load(tiny_llama, dtype="bfloat16")
    seen = Precisions()
    classifier(backbone, method).fit(toy.texts, toy.labels, callbacks=[seen])
    assert backbone.dtype == torch.bfloat16
    assert seen.found == {(torch.float32, torch.float32)}


# --- GPUs, as far as a machine without one can tell


class Loader:
    """Stands in for the loading of weights, and keeps what it was given."""

    def __init__(self, model: Any):
        self.model = model
        self.given: dict[str, Any] = {}

    def __call__(self, _: str, **given: Any) -> tuple[Any, dict[str, Any]]:
        self.given = given
        return self.model, {"missing_keys": []}


@pytest.fixture
def loader(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Two GPUs that have bfloat16, and a loader that puts nothing on them."""
    model = BertModel.from_pretrained(tiny_bert, add_pooling_layer=False)

    def stay(*_: Any) -> None:
        raise AssertionError("the model was moved")

    monkeypatch.setattr(model, "to", stay)
    loader = Loader(model)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", loader)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    return loader


def read(folder: Path, **options: Any) -> Any:
    chosen = BackboneOptions(name=str(folder), **options)
    return load_model(*load_config(chosen), chosen)


def test_a_split_model_is_spread_by_transformers_and_stays_there(
    tiny_bert: Path, loader: Loader
) -> None:
    assert read(tiny_bert, device="split") is loader.model
    assert loader.given["device_map"] == "auto"
    assert loader.given["dtype"] == torch.bfloat16
    assert "quantization_config" not in loader.given


def test_a_split_model_that_the_gpus_cannot_hold_is_refused(
    tiny_bert: Path, loader: Loader
) -> None:
    loader.model.encoder.layer[3].to("meta")
    with pytest.raises(BackboneError, match="expected the GPUs to hold .*, got weights that they"):
        read(tiny_bert, device="split")


def test_the_device_is_that_of_the_word_embeddings(tiny_bert: Path, load: Load) -> None:
    backbone = load(tiny_bert)
    backbone.model.encoder.to("meta")
    assert backbone.device == torch.device("cpu")
    backbone.model.embeddings.to("meta")
    assert backbone.device == torch.device("meta")


def test_a_gpu_without_bfloat16_computes_in_float32(
    tiny_bert: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Emulated, it is slower than float32.
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    read(tiny_bert, device="split")
    assert loader.given["dtype"] == torch.float32


# --- quantised weights


@pytest.fixture
def quantizes(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> Loader:
    monkeypatch.setattr("ltuning.backbones.loading.find_spec", lambda _: object())
    return loader


def test_weights_in_4_bits(tiny_bert: Path, quantizes: Loader) -> None:
    read(tiny_bert, quantize="4bit", device="cuda:1")
    assert quantizes.given["device_map"] == "cuda:1"
    bits = quantizes.given["quantization_config"]
    assert (bits.load_in_4bit, bits.load_in_8bit) == (True, False)
    assert (bits.bnb_4bit_quant_type, bits.bnb_4bit_use_double_quant) == ("nf4", True)
    assert bits.bnb_4bit_compute_dtype == torch.bfloat16


def test_weights_in_8_bits_over_all_gpus(tiny_bert: Path, quantizes: Loader) -> None:
    read(tiny_bert, quantize="8bit", device="split", dtype="float32")
    assert (quantizes.given["device_map"], quantizes.given["dtype"]) == ("auto", torch.float32)
    bits = quantizes.given["quantization_config"]
    assert (bits.load_in_4bit, bits.load_in_8bit) == (False, True)


def test_quantising_needs_an_extra(
    tiny_bert: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltuning.backbones.loading.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"quantize=4bit needs .*'ltuning\[quantize\]'"):
        read(tiny_bert, quantize="4bit")


@pytest.fixture
def without_weights(tiny_bert: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "empty"))
    (folder / "model.safetensors").unlink()
    return folder


def set_quantization(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": fields}))


def test_quantising_on_a_cpu_is_refused_before_weights_are_read(without_weights: Path) -> None:
    with pytest.raises(
        BackboneError,
        match="^expected a CUDA device for quantize=4bit, got a CPU; leave quantize out, or use a "
        "machine with a GPU$",
    ):
        read(without_weights, quantize="4bit", device="cpu")


@pytest.mark.parametrize(
    ("fields", "method"),
    [({"quant_method": "gptq", "bits": 4}, "gptq"), ({"load_in_4bit": True}, "bitsandbytes")],
)
def test_a_quantised_checkpoint_is_refused_on_a_cpu(
    without_weights: Path, fields: dict[str, Any], method: str
) -> None:
    set_quantization(without_weights, **fields)
    with pytest.raises(
        BackboneError,
        match=f"^expected a CUDA device for weights quantised with '{method}', got a CPU; choose a "
        "checkpoint in floats, or use a machine with a GPU$",
    ):
        read(without_weights, device="cpu")


def test_a_quantised_checkpoint_stays_on_its_gpu(without_weights: Path, loader: Loader) -> None:
    set_quantization(without_weights, quant_method="gptq", bits=4)
    read(without_weights)
    assert loader.given["device_map"] == "cuda"
    assert "quantization_config" not in loader.given
    with pytest.raises(
        BackboneError,
        match="expected weights in floats for quantize=8bit, got ones quantised with 'gptq'; leave",
    ):
        read(without_weights, quantize="8bit")


def test_a_classifier_is_loaded_on_weights_as_it_was_trained_on(
    toy: Toy,
    bert: Backbone,
    classifier: Callable[..., LabelClassifier],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = classifier(bert).config
    monkeypatch.setattr(bert, "options", BackboneOptions(name=bert.name, quantize="4bit"))
    quantized = replace(config, backbone=replace(config.backbone, quantize="4bit", device="auto"))
    trained = LabelClassifier(bert, config=quantized).fit(toy.texts, toy.labels)
    trained.save_pretrained(tmp_path / "run")
    with pytest.raises(ConfigError, match="backbone.quantize: expected a CUDA device for 4bit"):
        LabelClassifier.from_pretrained(tmp_path / "run", device="cpu")
    loaded = LabelClassifier.from_pretrained(tmp_path / "run", backbone=bert)
    assert loaded.config.backbone.quantize == "4bit"


# --- fingerprints


def packed(values: torch.Tensor) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(values, requires_grad=False)
    return module


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.bool, torch.float8_e4m3fn, torch.float64]
)
def test_a_fingerprint_reads_weights_of_every_kind(dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    other = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    assert fingerprint(packed(values)) == fingerprint(packed(values.clone()))
    assert fingerprint(packed(values)) != fingerprint(packed(other))
    assert fingerprint(packed(values)) != fingerprint(packed(values.reshape(4)))


def test_a_fingerprint_tells_packed_numbers_that_bfloat16_would_not() -> None:
    # 8 bits of precision: 254 and 255 are one number there, and so is what follows.
    one, two = torch.tensor([1 << 20]), torch.tensor([(1 << 20) + 1])
    assert fingerprint(packed(one)) != fingerprint(packed(two))


def test_a_fingerprint_of_no_element() -> None:
    assert fingerprint(packed(torch.empty(0, 4))) != fingerprint(packed(torch.empty(4, 0)))
