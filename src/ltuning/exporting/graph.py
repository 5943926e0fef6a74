"""A classifier as one module from token ids to scores, and that as a graph of ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ltuning.backbones.frozen_model import TextBatch
from ltuning.errors import BackboneError
from ltuning.methods.model import Branches, Model
from ltuning.methods.tuned import TagModel, Tuned

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What they say of themselves no user can do anything about.
_EXPORTERS = ("torch.onnx", "onnxscript", "onnx_ir")
# One protobuf file holds no more; some of it is not weights.
_MOST_BYTES = 2**31 - 2**24


class Graph(nn.Module):
    """Token ids of texts to scores of labels, `[B, K]`, or of a tag for every token, `[B, T, K]`.

    What is made of the label texts is made once, and held as constants.

    Args:
        model: a trained classifier, in float32 on the CPU.
    """

    side: Tensor | None

    def __init__(self, model: Model[Any]):
        super().__init__()
        self.net = model.backbone.model
        if isinstance(model.adapter, Tuned):
            tuned = model.adapter.merged(model.backbone, len(model.owners))
            self.net, model = tuned.model.model, replace(model, adapter=tuned)
        self.head = model.adapter.head
        # In a tuple, so that what its parts share does not become part of this module twice.
        self._parts = (model,)
        with torch.no_grad():
            self.register_buffer("side", model.label_side())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Scores of padded texts, `[B, T]` each; the label texts' where these are several."""
        (model,) = self._parts
        batch = TextBatch(input_ids, attention_mask.bool(), token_type_ids)
        if isinstance(model, TagModel):
            return self.head(model.adapter.hidden(batch))
        if model.one_pass:
            return model.score(batch, self.side)
        number, size = model.passes, input_ids.shape[0]
        texts = torch.arange(size).repeat_interleave(number)
        rows = torch.arange(number).repeat(size)
        scores = model.score(batch, self.side, Branches(texts, rows))
        return model.of_labels(scores.view(size, number))


def save_graph(graph: Graph, batch: TextBatch, path: Path) -> tuple[str, ...]:
    """Write a module as a graph of ONNX, of any number of texts of any length.

    Args:
        graph: the module.
        batch: two texts or more, of three tokens or more.
        path: of the file.

    Returns:
        The names of its inputs.

    Raises:
        BackboneError: a model that is too large for one file, or that cannot be traced.
    """
    inputs = (batch.ids, batch.mask.long(), *(() if batch.types is None else (batch.types,)))
    names = INPUTS[: len(inputs)]
    _check_size(graph)
    with torch.no_grad(), muted(*_EXPORTERS):
        graph.eval()(*inputs)  # so that what is made once is no part of the trace
        try:
            program = torch.onnx.export(
                graph,
                inputs,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["scores"],
                dynamic_shapes=tuple({0: "batch", 1: "length"} for _ in inputs),
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise BackboneError(
                "expected a model that torch.onnx can trace, got one that it cannot "
                f"({type(error.__cause__ or error).__name__}: {reason:.200}); nothing is written; "
                "train on a backbone of another family to export it"
            ) from error
        assert program is not None  # so it is with dynamo=True
        program.save(path)
    return names


def _check_size(graph: Graph) -> None:
    size = sum(weight.nbytes for weight in [*graph.parameters(), *graph.buffers()])
    if size > _MOST_BYTES:
        raise BackboneError(
            f"expected a model of at most 2 GB in float32, what one ONNX file holds, got one of "
            f"{size / 2**30:.1f} GB; train on a smaller backbone to export it"
        )


@contextmanager
def muted(*loggers: str) -> Iterator[None]:
    """Without warnings, and without what these loggers say less than an error."""
    found = [logging.getLogger(name) for name in loggers]
    before = [one.level for one in found]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in found:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(found, before, strict=True):
                one.setLevel(level)
