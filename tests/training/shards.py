"""What two processes fit on a backbone that is divided over them; as a script, one of the two."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ltuning import LabelClassifier, processes
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.copies import own_copy
from ltuning.config import BackboneOptions
from ltuning.errors import LTuningError

if __name__ == "__main__":
    import fits
else:
    from . import fits

Toy = fits.Toy


def again(backbone: Backbone, toy: Toy) -> LabelClassifier:
    """Branches whose layers forget what they computed, and compute it again in backward."""
    options = {"method.negatives": 1, "training.gradient_checkpointing": True}
    return fits.texts_of(backbone, toy, "lt-prefix", **fits.APART, **options)


# One text more than whole batches have: a process has none of the last.
FITS: dict[str, tuple[str, Callable[[Backbone, Toy], Any]]] = {
    **{
        name: ("llama", lambda backbone, toy, name=name: fits.texts_of(backbone, toy, name))
        for name in ("prefix", "prompt", "lt-prefix", "lt-prompt", "probe")
    },
    "again": ("llama", again),
    "micro-batches": ("bert", fits.weighted),
    "tags": ("bert", lambda backbone, toy: fits.tags(backbone, toy, "probe")),
    # One table of words in two modules; layers that return views, and a model that does.
    **{
        family: (family, lambda backbone, toy: fits.texts_of(backbone, toy, "prefix"))
        for family in ("t5", "opt", "gpt2")
    },
}


def scores(classifier: LabelClassifier, toy: Toy) -> list[list[float]]:
    """Of texts that were not trained on."""
    found: list[list[float]] = classifier.predict_proba(toy["test_texts"]).tolist()
    return found


def counts(backbone: Backbone) -> dict[str, int]:
    """Elements of all weights, and of those that this process holds; bytes of all tensors in it."""
    weights = [*backbone.model.parameters()]
    return {
        "whole": sum(weight.numel() for weight in weights),
        "held": sum(_local(weight).numel() for weight in weights),
        "bytes": sum(_storages().values()),
    }


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _storages() -> dict[int, int]:
    """Bytes of the memory of every tensor that Python knows, by where it is."""
    gc.collect()
    storages = (_local(tensor).untyped_storage() for tensor in _tensors())
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _tensors() -> Iterator[Tensor]:
    # Not `isinstance`, which asks proxies of modules what they stand for.
    return (one for one in gc.get_objects() if issubclass(type(one), Tensor))


def passing(backbone: Backbone, toy: Toy) -> int:
    """The most bytes of all tensors while a layer of a pass runs."""
    seen = []
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda *_: seen.append(sum(_storages().values())))
        for layer in backbone.model.layers
    ]
    with torch.inference_mode():  # as whoever scores before training
        backbone.encode(toy["texts"][:1])
    for hook in hooks:
        hook.remove()
    return max(seen)


def recovers(backbone: Backbone, toy: Toy) -> bool:
    """Whether states are what they were after a pass that an error ended."""

    def fail(*_: object) -> None:
        raise ValueError

    before, _ = backbone.encode(toy["texts"][:3])
    hook = backbone.model.layers[1].mlp.register_forward_pre_hook(fail)
    with contextlib.suppress(ValueError):
        backbone.encode(toy["texts"][:3])
    hook.remove()
    return torch.equal(before, backbone.encode(toy["texts"][:3])[0])


def refusals(backbone: Backbone, toy: Toy) -> list[str]:
    """What is said to methods that would change the backbone."""
    found = []
    for attempt in (
        lambda: LabelClassifier(backbone, toy["label_texts"], "full"),
        lambda: own_copy(backbone),
    ):
        try:
            attempt()
        except LTuningError as error:
            found.append(str(error))
    return found


def main(folder: Path) -> None:
    """Everything, in one process of two."""
    from transformers.utils import logging

    from ltuning.cli.main import app

    logging.disable_progress_bar()
    given = json.loads((folder / "given.json").read_text())
    toy, own = given["toy"], folder / f"rank-{processes.rank()}"
    own.mkdir()
    paths, backbones = given["models"], {}
    for family in ("llama", *(family for family in paths if family != "llama")):
        options = BackboneOptions(name=paths[family], device="shard")
        backbones[family] = Backbone.load(options)
        if family == "llama":  # alone in the process
            said: dict[str, Any] = {"loaded": counts(backbones[family])}
            said["passing"] = passing(backbones[family], toy)
    made = {name: fit(backbones[family], toy) for name, (family, fit) in FITS.items()}
    for name, classifier in made.items():
        fits.record(classifier, own / name)
    said["scores"] = scores(made["lt-prefix"], toy)
    said["trained"] = counts(backbones["llama"])
    said["recovers"] = recovers(backbones["llama"], toy)
    said["refusals"] = refusals(backbones["llama"], toy)
    said["others"] = fits.refused(backbones["llama"], toy)
    (own / "classifier.pickle").write_bytes(pickle.dumps(made["lt-prefix"]))
    (own / "said.json").write_text(json.dumps(said))
    processes.leave = lambda: None
    words = fits.command(folder / "data", paths["llama"], folder / "run")
    app([*words, "--set", "backbone.device=shard"], standalone_mode=False)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
