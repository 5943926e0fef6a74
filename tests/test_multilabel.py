"""Several labels, or none, of a text through the front door."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from ltuning.backbones.backbone import Backbone
from ltuning.classifier import LabelClassifier
from ltuning.errors import ArtifactError, ConfigError, DataError, LabelError
from ltuning.labels import Labels
from ltuning.methods.adapter import Adapter
from ltuning.methods.catalog import resolve
from ltuning.methods.tuned import Tuned
from ltuning.multilabel import MultilabelClassifier
from ltuning.scoring import Scorer
from ltuning.training.multilabel import sigmoid, start_at_base_rate
from ltuning.training.trainer import TrainingModel

from .conftest import FILLERS, TOPICS

Rows = tuple[list[str], list[list[str]]]
LABELS = {"food": "bread", "sport": "ball and team", "travel": "the hotel"}
RATES = {
    "prompt": 2e-2,
    "prefix": 2e-2,
    "lt-prompt": 3e-3,
    "lt-prefix": 1e-2,
    "ls-lora": 1e-2,
    "ls-unmask": 1e-2,
    "probe": 5e-2,
    "full": 3e-3,
}


def rows(number: int, seed: int, topics: Any = LABELS) -> Rows:
    """Texts with words of none, one or several topics; their labels are these topics."""
    draw = random.Random(seed)
    texts, lists = [], []
    for _ in range(number):
        labels = [topic for topic in topics if draw.random() < 0.35]
        words = [word for topic in labels for word in draw.choices(TOPICS[topic].split(), k=2)]
        words += draw.choices(FILLERS.split(), k=draw.randint(2, 5))
        draw.shuffle(words)
        texts.append(" ".join(words))
        lists.append(labels)
    return texts, lists


TRAINING, VALIDATION, TEST = rows(64, seed=1), rows(40, seed=2), rows(60, seed=3)


def multilabel(
    backbone: Any, method: str = "lt-prefix", steps: int = 2, labels: Any = LABELS, **options: Any
) -> MultilabelClassifier:
    paths = {name.replace("__", "."): value for name, value in options.items()}
    paths.setdefault("training.learning_rate", RATES[method])
    return MultilabelClassifier(backbone, labels, method, steps=steps, options=paths)


@pytest.fixture(scope="module", params=RATES)
def trained(request: pytest.FixtureRequest, bert: Backbone, llama: Backbone) -> Any:
    method = request.param
    backbone = llama if method == "ls-unmask" else bert
    return multilabel(backbone, method, steps=60).fit(*TRAINING, VALIDATION)


def micro_f1(classifier: MultilabelClassifier) -> float:
    return float(classifier.evaluate(*TEST)["micro_f1"])


# --- every method ---------------------------------------------------------------------------------


def test_it_learns(trained: MultilabelClassifier) -> None:
    # To give every label to every text has 2p / (1 + p) = .52.
    print(trained.config.method.name, micro_f1(trained), trained.figures)
    assert micro_f1(trained) > 0.75
