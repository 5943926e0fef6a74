"""The label match before any training: how near a text's frozen state is to the labels'."""

from __future__ import annotations

import torch

from ltuning.backbones.backbone import Backbone
from ltuning.config import MethodOptions
from ltuning.labels import Labels
from ltuning.methods import catalog
from ltuning.methods.heads import CentredMatchHead
from ltuning.methods.model import TextModel
from ltuning.methods.model_classes import MODELS

# Cosines lie close together: scores are the cosines divided by it. Of .025 to .2 it had the lowest
# log loss over six sets of development texts (Twitter news, SST-5, CLINC150). Taking the mean
# of the label states from texts and labels was better on some of them and worse on others.
TEMPERATURE = 0.07


def zero_shot(backbone: Backbone, labels: Labels) -> TextModel:
    """A classifier that nothing is trained of; a score is `cos(r, h_k) / TEMPERATURE`.

    r is the frozen pooled state of a text, h_k the frozen mean state of a label text; a label of
    several texts has the mean of their scores.

    Args:
        backbone: the frozen model.
        labels: with their texts.

    Raises:
        BackboneError: a label text that is too long.
    """
    options = MethodOptions(name="probe", head="match")
    method = catalog.resolve(options, backbone.family, backbone.sizes.layers)
    states = backbone.encode_labels(labels.flat_texts, key_values=False)
    model = MODELS[method.name].new(backbone, method, labels, states, length=0, seed=0)
    # The head's map starts as the identity and its centres at zero: it is the plain cosine.
    head = model.adapter.head
    assert isinstance(head, CentredMatchHead)
    torch.nn.init.constant_(head.tau, 1 / TEMPERATURE)
    return model
