"""What is answered, as JSON has it: labels with their probabilities, entities, facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ltuning.calibration import probabilities_of, sigmoid
from ltuning.config import TASK_FACTS
from ltuning.estimators.answers import labels_reached
from ltuning.serving.batcher import Found


def predictions(
    classifier: Any, found: Found, top_k: int | None, abstain: float | None
) -> list[dict[str, Any]]:
    """What `predict` and `predict_proba` say, for each text.

    Args:
        classifier: a front door that is trained.
        found: what it says of N texts.
        top_k: labels with a probability, the most probable first; None is all.
        abstain: from which probability on a label is said.
    """
    facts = TASK_FACTS[classifier.config.task]
    if facts.of_words:
        return [{"entities": [asdict(entity) for entity in said]} for said in found.scores]
    if facts.several:
        chances = sigmoid(found.scores)
        labels = labels_reached(classifier.labels_.values, chances >= classifier.thresholds_)
        said: list[dict[str, Any]] = [{"labels": one} for one in labels]
    else:
        chances = probabilities_of(found.scores, classifier.temperature_)
        said = [{"label": one} for one in classifier.predict_of(found.scores, abstain).tolist()]
    listed = _listed(chances, classifier.labels_.values, top_k)
    return [
        {**one, "probabilities": several, "truncated": truncated}
        for one, several, truncated in zip(said, listed, found.truncated, strict=True)
    ]


def _listed(
    chances: np.ndarray, values: Sequence[object], top_k: int | None
) -> list[list[dict[str, Any]]]:
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top_k]
    return [
        [{"label": values[label], "probability": float(row[label])} for label in best]
        for row, best in zip(chances, order.tolist(), strict=True)
    ]


def facts_of(
    name: str, classifier: Any, pairs: bool | None, added: Sequence[str]
) -> dict[str, Any]:
    """What is to be known of a classifier: its labels with their texts, its method, its figures.

    Args:
        name: what it is called.
        classifier: a front door that is trained.
        pairs: whether it reads pairs of texts; None is both.
        added: labels that came after it was loaded.
    """
    config, facts = classifier.config, TASK_FACTS[classifier.config.task]
    if facts.of_words:
        labels = [{"label": type_} for type_ in classifier.types_]
    else:
        known = classifier.labels_
        labels = [
            {"label": value, "texts": list(texts), "added": of_name in added}
            for value, of_name, texts in zip(known.values, known.names, known.texts, strict=True)
        ]
    takes_labels = not facts.of_words and classifier.scorer().model.takes_new_labels
    return {
        "name": name,
        "task": config.task,
        "method": config.method.name,
        "pairs": pairs,
        "takes_new_labels": takes_labels,
        "oos_label": config.data.oos_label,
        "labels": labels,
        "figures": classifier.figures,
    }
