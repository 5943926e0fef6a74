"""Classifiers on a backbone's states, with its weights tuned or not: LS, probe and full.

The backbone that is given stays as it is, for whoever shares it: LoRA goes into a copy that shares
its weights, full fine-tuning into a copy of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ltuning.backbones import selftest
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.copies import own_copy, shared_copy
from ltuning.backbones.frozen_model import LabelStates, TextBatch
from ltuning.backbones.lower import Lower
from ltuning.backbones.masks import unmasked
from ltuning.backbones.words import WordBatch, gather
from ltuning.config import MethodOptions, layer_numbers
from ltuning.config.yaml import shown
from ltuning.errors import ArtifactError, BackboneError
from ltuning.labels import Labels
from ltuning.locks import temporary_folder
from ltuning.methods.heads import TAU, CentredMatchHead, pool
from ltuning.methods.model import Branches, Model, TextModel, Trainable
from ltuning.methods.parameter_counts import Count, check_fits
from ltuning.methods.saved_tensors import Saved, fitting
from ltuning.methods.weight_methods import WEIGHT_METHODS

LORA = "lora"
_FILES = ("adapter_config.json", "adapter_model.safetensors")
# PEFT's options that are looked at one by one, or say nothing of the numbers.
_CHOSEN = frozenset(
    {
        "peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out",
        "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping",
        "task_type",
    }
)  # fmt: skip


class Tuned(Trainable):
    """A classifier on states, with the weights of the backbone that are trained beside it.

    `new` and `load` make it.

    Args:
        model: what the states come from.
        method: resolved options (no choice left open).
        num_outputs: K, classes or tags.
        peft: PEFT's own wrapper of the model, where LoRA is trained.
    """

    head: nn.Linear | CentredMatchHead

    def __init__(self, model: Backbone, method: MethodOptions, num_outputs: int, peft: Any = None):
        super().__init__()
        self.method = method
        # In a tuple, so that frozen weights do not become weights of this module.
        self._parts = (model, peft)
        self._replaced: tuple[str, ...] = ()
        self.weights = _TrainedWeights(model.model)
        if method.head == "match":
            bias = method.objective == "multilabel"
            self.head = CentredMatchHead(model.sizes.hidden, TAU, bias).to(model.device)
        else:
            bias = method.bias is not False
            self.head = nn.Linear(model.sizes.hidden, num_outputs, bias).to(model.device)

    @classmethod
    def new(cls, backbone: Backbone, method: MethodOptions, num_outputs: int) -> Tuned:
        """Before the first step.

        Raises:
            BackboneError: a mask that cannot be removed, a model without the modules for LoRA,
                weights in few bits that would have to be in floats.
        """
        trains = WEIGHT_METHODS[method.name].trains
        is_quantised = getattr(backbone.config, "quantization_config", None) is not None
        if is_quantised and (trains == "everything" or method.merge):
            what = "method.merge" if method.merge else f"method '{method.name}'"
            raise BackboneError(
                f"expected weights in floats for {what}, got quantised ones in '{backbone.name}'; "
                "use method ls-lora without merge, or a checkpoint in floats"
            )
        if trains == "everything":
            model = own_copy(backbone)
            model.model.requires_grad_(True)
            return cls(model, method, num_outputs)
        if trains == "nothing":
            return cls(backbone, method, num_outputs)
        model = _copy(backbone, method)
        return cls(model, method, num_outputs, _with_lora(model, method))

    @classmethod
    def load(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        num_outputs: int,
        tensors: Mapping[str, Tensor],
        parts: Mapping[str, object],
        folder: Path,
    ) -> Tuned:
        """As it was when `tensors`, and `files` as parts, were saved to an artifact's folder.

        Raises:
            ArtifactError: tensors or options of LoRA that are not those of the method.
        """
        if method.merge:
            model = _copy(backbone, method)
            replaced = _replace_weights(model, tensors, folder)
            tuned = cls(model, method, num_outputs)
            tuned._replaced = replaced
            tensors = {name: of for name, of in tensors.items() if not name.startswith("weights.")}
        elif WEIGHT_METHODS[method.name].trains == "lora":
            model = _copy(backbone, method)
            tuned = cls(model, method, num_outputs, _saved_lora(model, method, parts, folder))
        else:
            tuned = cls.new(backbone, method, num_outputs)
        own = tuned.state_dict()
        if WEIGHT_METHODS[method.name].trains == "lora":
            own = {name: weight for name, weight in own.items() if name.startswith("head.")}
        tuned.load_state_dict(fitting(tensors, own, folder), strict=False)
        return tuned

    @property
    def model(self) -> Backbone:
        """What the states come from."""
        return self._parts[0]

    def merged(self, backbone: Backbone, num_outputs: int) -> Tuned:
        """The same with LoRA added to the weights; itself where there is none beside them.

        Args:
            backbone: that it was made from, which stays as it is.
            num_outputs: K, classes or tags.
        """
        if self._parts[1] is None:
            return self
        tensors = {f"head.{name}": weight for name, weight in self.head.state_dict().items()}
        for name, weight in _merged(self.model.model).items():
            tensors[f"weights.{_one_word(name)}"] = weight
        method = replace(self.method, merge=True)
        return Tuned.load(backbone, method, num_outputs, tensors, {}, Path())

    @property
    def num_parameters(self) -> int:
        """Trainable parameters; of a merged artifact, those that its LoRA had."""
        replaced = (self.model.model.get_parameter(name) for name in self._replaced)
        lora = sum((self.method.rank or 0) * sum(weight.shape) for weight in replaced)
        return lora + super().num_parameters

    def train(self, mode: bool = True) -> Tuned:
        """Dropout on or off: of LoRA alone, or of the whole model where all of it is trained."""
        super().train(mode)
        if WEIGHT_METHODS[self.method.name].trains == "everything":
            self.model.model.train(mode)
        for name, module in self.model.model.named_modules():
            if name.endswith(".lora_dropout"):
                module.train(mode)
        return self

    def shift(self, by: Tensor) -> None:
        """Add `[K]` to the scores, or with the head `match` one number for all labels."""
        bias = self.head.bias
        assert bias is not None
        bias.data += by

    def hidden(self, batch: TextBatch) -> Tensor:
        """Last hidden states `[B, T, H]`, in float32."""
        return self.model.forward(batch).float()

    def score(self, batch: TextBatch, labels: Tensor | None = None) -> Tensor:
        """Scores `[B, K]` of texts, or with the head `match` `[B, V]` of the label texts.

        Args:
            batch: B texts.
            labels: `[V, H]` mean states of the label texts, for the head `match`.
        """
        return self.read(self.states(batch), labels)

    def states(self, batch: TextBatch) -> Tensor:
        """Pooled states `[B, H]` of texts."""
        assert self.method.pooling is not None  # resolved
        return pool(self.hidden(batch), batch.mask, self.method.pooling)

    def read(self, states: Tensor, labels: Tensor | None) -> Tensor:
        """Scores of pooled states `[B, H]`; see `score`."""
        return self.head(states) if labels is None else self.head(states, labels)

    def score_words(self, batch: WordBatch) -> Tensor:
        """Scores `[B, W, K]` of words, each read at its first token."""
        return self.head(gather(self.hidden(batch.texts), batch.places))

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of it: the classifier, and weights that replace some of the backbone's."""
        if WEIGHT_METHODS[self.method.name].trains != "lora":
            return super().tensors()
        named = {f"head.{name}": weight for name, weight in self.head.state_dict().items()}
        if self.method.merge:
            merged = self._merged_weights()
            named |= {f"weights.{_one_word(name)}": weight for name, weight in merged.items()}
        return named

    def _merged_weights(self) -> dict[str, Tensor]:
        """The weights with LoRA added: now, or before they were loaded."""
        model = self.model.model
        if self._parts[1] is not None:
            return _merged(model)
        return {name: model.get_parameter(name) for name in self._replaced}

    def files(self) -> dict[str, bytes]:
        """PEFT's own files by their path in the artifact; PEFT alone can load that folder."""
        peft = self._parts[1]
        if peft is None or self.method.merge:
            return {}
        with temporary_folder() as folder:
            peft.save_pretrained(str(folder), save_embedding_layers=False)
            return {f"{LORA}/{name}": (folder / name).read_bytes() for name in _FILES}


@dataclass(frozen=True, eq=False)
class TunedModel(TextModel):
    """A classifier of texts by the pooled states of a backbone with weights of its own."""

    adapter: Tuned

    @classmethod
    def new(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        labels: Labels,
        states: LabelStates | None,
        *,
        length: int,
        seed: int,
    ) -> Self:
        """Before the first step; see `Tuned.new`."""
        owners = range(len(labels)) if states is None else labels.owners
        return cls(backbone, Tuned.new(backbone, method, len(labels)), states, owners)

    @classmethod
    def load(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        saved: Saved,
        *,
        length: int,
        num_labels: int,
    ) -> Self:
        """As it was saved; see `Tuned.load`."""
        tuned = Tuned.load(backbone, method, num_labels, saved.tensors, saved.parts, saved.folder)
        return cls(backbone, tuned, None, range(num_labels))

    def label_side(self) -> Tensor | None:
        """`[V, H]` mean states of the label texts, with the head `match`."""
        return None if self.labels is None else self.labels.mean

    def score(
        self,
        batch: TextBatch,
        side: Tensor | None,
        branches: Branches | None = None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Scores `[B, K]` of the labels."""
        return self.of_labels(self.adapter.score(batch, side))

    @property
    def shares_passes(self) -> bool:
        """Where no weight is tuned."""
        return self.adapter.model is self.backbone

    def read(self, states: Tensor, side: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """Scores `[B, K]` of the labels."""
        return self.of_labels(self.adapter.read(states, side))


@dataclass(frozen=True, eq=False)
class TagModel(Model[WordBatch]):
    """A classifier of words, each read at its first token."""

    adapter: Tuned

    def score(
        self,
        batch: WordBatch,
        side: Tensor | None = None,
        branches: Branches | None = None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Scores `[B, W, K]` of the words."""
        return self.adapter.score_words(batch)


class _TrainedWeights(nn.Module):
    """The weights of a model that have a gradient, under names that a module takes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                self.register_parameter(_one_word(name), weight)


def _one_word(name: str) -> str:
    return name.replace(".", "/")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _copy(backbone: Backbone, method: MethodOptions) -> Backbone:
    if method.unmask_layers is None:
        return shared_copy(backbone)
    # One that was not made by `Backbone.load` was not tried; who passed there, is not again.
    problem = backbone.problems.unmasking or selftest.require(backbone).unmasking
    if problem is not None:
        raise BackboneError(problem)
    return unmasked(backbone, layer_numbers(method.unmask_layers, backbone.sizes.layers))


def _beside_lora(model: Backbone) -> dict[str, Any]:
    """The modules that LoRA goes beside, by name.

    Raises:
        BackboneError: there are none.
    """
    targets = model.family.lora
    found = {
        name: module
        for name, module in model.model.named_modules()
        if name.rpartition(".")[2] in targets
        and isinstance(getattr(module, "weight", None), Tensor)
    }
    if not found:
        raise BackboneError(
            f"expected modules named {' and '.join(targets)} for LoRA in '{model.name}' (model "
            f"type '{model.family.name}'), got none; use method probe or full with it"
        )
    return found


def _with_lora(model: Backbone, method: MethodOptions) -> Any:
    """PEFT's wrapper of a model that LoRA was put into, beside queries and values."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    found = [*_beside_lora(model).values()]
    rank = method.rank or 0
    widths = sum(_width(module) for module in found)
    check_fits(Count("r·(in + out) of each", rank * widths), model.device.type == "cpu")
    config = LoraConfig(
        r=rank,
        lora_alpha=method.alpha or 0,
        lora_dropout=method.dropout or 0.0,
        target_modules=list(model.family.lora),
        # GPT-2's projections have their weights the other way round.
        fan_in_fan_out=isinstance(found[0], Conv1D),
    )
    with _without_deprecations():
        peft = get_peft_model(model.model, config)
    peft.peft_config["default"].base_model_name_or_path = model.name
    peft.peft_config["default"].revision = model.revision
    peft.eval()
    return peft


def _width(module: Any) -> int:
    """Inputs and outputs of a linear map, whose quantised weight has another shape."""
    if hasattr(module, "in_features"):
        return int(module.in_features + module.out_features)
    return sum(module.weight.shape)


def _saved_lora(
    model: Backbone, method: MethodOptions, parts: Mapping[str, Any], folder: Path
) -> Any:
    """PEFT's wrapper of a model with the LoRA that was saved: made anew, then filled.

    PEFT is not given the folder: it would take a pickle or a slow pattern from there, too.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    for name in _FILES:
        if f"{LORA}/{name}" not in parts:
            raise ArtifactError(
                f"expected the file {LORA}/{name} with its checksum (parts_sha256) in '{folder}', "
                "got none; restore the folder from where it was first saved, or train again"
            )
    options, tensors = (parts[f"{LORA}/{name}"] for name in _FILES)
    _check_lora(options, model, method, folder)
    # How large it is to be is the file's word so far.
    ranks = {tensor.shape[:1] for name, tensor in tensors.items() if ".lora_A." in name}
    if ranks != {(method.rank,)}:
        raise ArtifactError(
            f"expected the tensors of LoRA of rank {method.rank} in '{folder}', got others; "
            "restore the folder from where it was first saved, or train again"
        )
    peft = _with_lora(model, method)
    own = get_peft_model_state_dict(peft, save_embedding_layers=False)
    set_peft_model_state_dict(peft, fitting(tensors, own, folder))
    return peft


def _check_lora(options: object, model: Backbone, method: MethodOptions, folder: Path) -> None:
    """Refuse options of PEFT that are not those with which LoRA is made anew."""
    from peft import LoraConfig

    given = options if isinstance(options, dict) else {}
    ours = {"peft_type": "LORA", "r": method.rank, "lora_alpha": method.alpha}
    wrong = [name for name, value in ours.items() if given.get(name) != value]
    targets = given.get("target_modules")
    # A text would be a pattern, and any other name another module.
    if not isinstance(targets, list) or sorted(map(str, targets)) != sorted(model.family.lora):
        wrong.append("target_modules")
    default = LoraConfig().to_dict()
    wrong += [
        name
        for name, value in given.items()
        if name not in _CHOSEN and value and value != "none" and value != default.get(name)
    ]
    if wrong:
        raise ArtifactError(
            f"expected the options of LoRA as its method has them in '{folder}', got "
            f"{wrong[0]}={shown(given.get(wrong[0]))} in {LORA}/{_FILES[0]}; restore the folder "
            "from where it was first saved, or train again"
        )


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """PEFT asks transformers for an attribute under its old name; a user cannot help it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")
        yield


@torch.no_grad()
def _merged(model: nn.Module) -> dict[str, Tensor]:
    """The weights that LoRA stands beside, with it added, by their names without it."""
    from peft.tuners.lora import LoraLayer

    found: list[tuple[str, Any]] = [
        (name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)
    ]
    merged = {}
    for name, module in found:
        weight = module.get_base_layer().weight
        merged[f"{name}.weight"] = weight + module.get_delta_weight("default").to(weight)
    return merged


def _replace_weights(
    model: Backbone, tensors: Mapping[str, Tensor], folder: Path
) -> tuple[str, ...]:
    """Put saved weights in the place of a copy's own, which others share; their names."""
    saved = _part(tensors, "weights.")
    if not saved:
        raise ArtifactError(
            f"expected in '{folder}', an artifact with method.merge, the weights that LoRA was "
            "added to (weights.*), got none; restore its tensors from where it was first saved, "
            "or train again"
        )
    modules = _beside_lora(model)
    own = {_one_word(f"{name}.weight"): module.weight for name, module in modules.items()}
    for name, weight in fitting(saved, own, folder).items():
        module = modules[name.replace("/", ".").removesuffix(".weight")]
        module.weight = nn.Parameter(weight.to(module.weight.device), requires_grad=False)
    return tuple(name.replace("/", ".") for name in saved)
