"""A classifier with LoRA as a folder that transformers and PEFT alone load, its head included.

transformers' own classifier of texts reads a decoder's last token by a linear map without bias, and
that of words every token by one with a bias. A classifier that computes something else is refused.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

import safetensors.torch
from torch import Tensor

from ltuning.artifacts import store
from ltuning.artifacts.card import hub_id
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import is_gguf, own_head
from ltuning.config import TaskFacts
from ltuning.errors import ArtifactError
from ltuning.locks import temporary_folder
from ltuning.methods.model import Model
from ltuning.methods.tuned import LORA
from ltuning.methods.weight_methods import WEIGHT_METHODS

_OPTIONS, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
# What PEFT puts before the names of a model's weights.
_PREFIX = "base_model.model."


def write(folder: str | Path, model: Model[Never], outputs: Sequence[str], task: TaskFacts) -> None:
    """Write the folder, whole or not at all.

    Args:
        folder: where to; refused when it holds something.
        model: the trained classifier.
        outputs: names of its scores.
        task: facts of its task.

    Raises:
        ArtifactError: a classifier that transformers' own does not compute, or a folder that
            cannot be written.
        BackboneError: a model without such a classifier.
    """
    if (misfit := _misfit(model, task)) is not None:
        raise ArtifactError(
            "expected a classifier that transformers and PEFT alone can compute, got "
            f"{misfit}; save_pretrained keeps any"
        )
    base, head = own_head(model.backbone.config, task.of_words)
    lora = model.adapter.files()
    options = json.loads(lora[f"{LORA}/{_OPTIONS}"]) | {
        "base_model_name_or_path": hub_id(model.backbone.name) or model.backbone.name,
        "task_type": "TOKEN_CLS" if task.of_words else "SEQ_CLS",
        "modules_to_save": [head],
        # Of a model by a class of its own, which a type of task stands for.
        "auto_mapping": None,
    }
    tensors = _named(safetensors.torch.load(lora[f"{LORA}/{_TENSORS}"]), base)
    for name, weight in model.adapter.tensors().items():
        tensors[f"{_PREFIX}{head}.{name.removeprefix('head.')}"] = weight.cpu().contiguous()
    files = {
        _OPTIONS: (json.dumps(options, indent=2) + "\n").encode(),
        _TENSORS: safetensors.torch.save(tensors, metadata={"format": "pt"}),
    }
    store.write_folder(folder, files | _base_files(model.backbone, outputs))


def _misfit(model: Model[Never], task: TaskFacts) -> str | None:
    """What of a classifier transformers' own has not, and what to do."""
    method, backbone = model.method, model.backbone
    row = WEIGHT_METHODS.get(method.name)
    if row is None or row.trains != "lora" or row.removes_mask or method.merge:
        merged = " with method.merge" if method.merge else ""
        return f"method '{method.name}'{merged}; train with method ls-lora, without merge"
    if method.head != "classes":
        return f"the head '{method.head}'; train with method.head=classes"
    if backbone.options is not None and is_gguf(backbone.options):
        return f"a backbone in a GGUF file, '{backbone.name}'; train on a checkpoint in floats"
    return None if task.of_words else _misfit_of_texts(model, task)


def _misfit_of_texts(model: Model[Never], task: TaskFacts) -> str | None:
    backbone, pooling = model.backbone, model.method.pooling
    if not backbone.family.causal:
        return (
            f"the encoder family '{backbone.family.name}', whose state transformers' own "
            "classifier of texts reads through another layer; train on a decoder"
        )
    if task.several:
        return (
            "a classifier of several labels, whose head has a bias, and transformers' own of "
            "texts has none; train one of single labels"
        )
    if pooling != "last":
        return f"the pooling '{pooling}'; train with method.pooling=last"
    if model.method.bias is not False:
        return (
            "a head with a bias, and transformers' own of texts has none; train with "
            "method.bias=false"
        )
    tokens = backbone.tokenize(["a"])[0]["input_ids"]
    if tokens[-1] == backbone.tokenizer.pad_token_id:
        return (
            "a tokenizer that ends a text with what it pads with, which transformers' own "
            "classifier does not read; set another pad token and train again"
        )
    return None


def _named(lora: dict[str, Tensor], base: str) -> dict[str, Tensor]:
    """LoRA of a base model by its names in a classifier, where the base model is a part."""
    return {
        f"{_PREFIX}{base}.{name.removeprefix(_PREFIX)}": weight for name, weight in lora.items()
    }


def _base_files(backbone: Backbone, outputs: Sequence[str]) -> dict[str, bytes]:
    """transformers' configuration with the names of the outputs, and the tokenizer's files."""
    config: Any = copy.deepcopy(backbone.config)
    config.id2label = dict(enumerate(outputs))
    config.label2id = {name: index for index, name in enumerate(outputs)}
    config.pad_token_id = backbone.tokenizer.pad_token_id
    with temporary_folder() as folder:
        config.save_pretrained(folder)
        backbone.tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
