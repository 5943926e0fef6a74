"""The frozen weights of a backbone divided over processes that train together, by torch's FSDP2.

Each process keeps a part of every weight, and all of a layer is gathered in all of them while it
runs. So every pass of a process is one of all: they make the same ones, in the same order. What is
trained comes beside the backbone later and is whole in each process. FSDP by accelerate would
divide what transformers' Trainer sees, and that is the adapter alone.
"""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ltuning import processes
from ltuning.backbones import layers
from ltuning.backbones.frozen_model import FrozenModel
from ltuning.errors import BackboneError


def shard(backbone: FrozenModel) -> None:
    """Leave this process its part of a backbone's weights, on its device; all processes call it.

    Weights are cut along their first dimension. A layer is gathered while it runs, the word
    embeddings while words are looked up, and what is left (norms, positions) for a whole pass.

    Args:
        backbone: whole, wherever its weights are.

    Raises:
        BackboneError: processes on devices of different kinds.
        TrainingError: one of them is gone.
    """
    # OPT's layers, and GPT-2 as a whole, return views; nothing is written into what they return.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    with torch.inference_mode(False), processes.together():
        _check_alike(backbone)
        mesh = init_device_mesh(device_type(), (processes.number(),))
        divide = partial(fully_shard, mesh=mesh, reshard_after_forward=True)
        model = backbone.model
        words = model.get_input_embeddings()
        model.set_input_embeddings(words)  # T5 has the same weights in two modules
        for layer in layers.find(model, backbone.family):
            divide(layer)
        divide(words).set_unshard_in_backward(False)
        divide(model)
        backbone.is_sharded = True
        # What the first pass makes for weights to be gathered into is kept: made in inference mode,
        # as a scorer's passes are, it would serve no training.
        backbone.encode_ids(torch.zeros(1, 1, dtype=torch.long), key_values=False)


def _check_alike(backbone: FrozenModel) -> None:
    """Refuse weights that are others in another process: they would be mixed into one model.

    The fingerprint reads whole weights, and is kept.
    """
    found = processes.gathered((str(backbone.dtype), backbone.fingerprint))
    others = [str(rank) for rank, one in enumerate(found) if one != found[0]]
    if others:
        raise BackboneError(
            f"expected the same weights of '{backbone.name}' in every process with device=shard, "
            f"got others, or another precision, in process {', '.join(others)} than in process 0 "
            f"({found[0][0]}); give every machine the same files, and set dtype"
        )


def device_type() -> str:
    """Where all processes run."""
    kinds = processes.gathered("cuda" if torch.cuda.is_available() else "cpu")
    if len(set(kinds)) > 1:
        without = ", ".join(str(rank) for rank, kind in enumerate(kinds) if kind == "cpu")
        raise BackboneError(
            "expected a GPU for every process, or for none, with device=shard, got none for "
            f"process {without}; start them on machines that are alike, or hide the GPUs of the "
            "others with CUDA_VISIBLE_DEVICES="
        )
    return kinds[0]
