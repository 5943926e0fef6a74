"""What holds on every family where texts for several classifiers run in one pass."""

from __future__ import annotations

import numpy as np
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.labels import Labels
from ltuning.methods.adapter import AdapterModel
from ltuning.methods.zero_shot import zero_shot
from ltuning.scoring import Scorer
from ltuning.serving.shared_pass import Asked, score_together

from .cases import LABELS, ROWS, everywhere, visible


@everywhere
def test_a_classifier_says_in_company_what_it_says_alone(backbone: Backbone) -> None:
    """Prefixes of other lengths, rooms and layers, branches, and none at all."""
    several = [
        visible(backbone, "prefix", num_tokens=2, first_layer=1),
        visible(backbone, "lt-prefix", labels_read="together", first_layer=1),
        visible(backbone, "lt-prefix", first_layer=1),
        visible(backbone, "prefix", num_tokens=5, first_layer=3),
    ]
    models = [AdapterModel(backbone, *made, range(len(LABELS))) for made in several]
    models.append(zero_shot(backbone, Labels.from_any(LABELS)))  # type: ignore[arg-type]
    with torch.inference_mode():
        scorers = [Scorer(model, 256) for model in models]
        asked = [Asked(one, [{"input_ids": row} for row in ROWS]) for one in scorers]
        found = dict(score_together(asked))
        expected = [one.scorer.score_tokens(one.tokens) for one in asked]
    for number, scores in enumerate(expected):
        assert scores.std() > 1e-3
        np.testing.assert_allclose(found[number], scores, atol=1e-4, rtol=1e-4)
