"""Classifiers whose labels are all read in one pass over a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltuning import LabelClassifier, MultilabelClassifier
from ltuning.backbones.backbone import Backbone
from ltuning.methods.heads import CentredMatchHead, pool

Make = Callable[..., Any]

TOGETHER = {"method__labels": "together"}


def test_a_text_is_read_once_whatever_the_number_of_labels(
    backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    fitted = classifier(backbone, steps=60, rate=2e-2, **TOGETHER).fit(toy.texts, toy.labels)
    assert fitted.evaluate(*toy.test)["accuracy"] >= 0.8
    scorer = fitted.scorer()
    before = scorer.num_branches
    scores = fitted.scores(toy.test_texts)
    assert scorer.num_branches - before == len(toy.test_texts)
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=backbone)
    assert np.array_equal(loaded.scores(toy.test_texts), scores)


def test_the_head_has_the_means_of_texts_and_of_labels_as_centres(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, steps=1, **TOGETHER).fit(toy.texts, toy.labels)
    head = fitted.scorer().model.adapter.head
    assert isinstance(head, CentredMatchHead)
    states, mask = bert.encode(toy.texts)
    weights = mask.unsqueeze(-1).float()
    mean = ((states * weights).sum(1) / weights.sum(1)).mean(0)
    torch.testing.assert_close(head.text_center, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head.label_center, fitted.scorer().model.labels.mean.mean(0))
    assert torch.equal(head.scale, torch.ones(32))
    # Label texts that come later are none that training knew.
    assert int(head.trained) == 3
    fitted.add_labels({"music": ["song", "a drum"]})
    assert int(head.trained) == 3 and len(fitted.scorer().model.labels.mean) == 5


@pytest.mark.parametrize(
    ("method", "pooling", "options"),
    [
        ("lt-prefix", "last", TOGETHER),
        ("lt-prefix", "mean", TOGETHER),
        ("lt-prefix", "mean", {"method__labels": "apart"}),
        ("lt-prompt", "mean", {}),
        ("probe", "mean", {"method__head": "match"}),
    ],
)
def test_with_a_decoder_the_head_divides_by_the_spread_of_the_texts(
    llama: Backbone,
    classifier: Make,
    toy: Any,
    tmp_path: Path,
    method: str,
    pooling: str,
    options: dict[str, Any],
) -> None:
    fitted = classifier(llama, method, steps=1, pooling=pooling, **options)
    fitted.fit(toy.texts, toy.labels)
    states, mask = llama.encode(toy.texts)
    head = fitted.scorer().model.adapter.head
    pooled = pool(states, mask, pooling)
    spread = pooled.std(0, correction=0)
    torch.testing.assert_close(head.scale, spread / spread.median(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head.text_center, pooled.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head.label_center, fitted.scorer().model.labels.mean.mean(0))
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=llama)
    assert torch.equal(loaded.scorer().model.adapter.head.scale, head.scale)


def test_labels_apart_of_an_encoder_are_compared_as_they_are(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, steps=1, method__labels="apart").fit(toy.texts, toy.labels)
    head = fitted.scorer().model.adapter.head
    assert not head.text_center.any() and not head.label_center.any()
    assert torch.equal(head.scale, torch.ones(32))


@pytest.mark.parametrize("label_tokens", ["all", "mean"])
def test_a_label_is_added_after_training(
    backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path, label_tokens: str
) -> None:
    options = {**TOGETHER, "label_tokens": label_tokens}
    fitted = classifier(backbone, steps=40, rate=2e-2, **options).fit(toy.texts, toy.labels)
    before = fitted.scores(toy.test_texts)
    fitted.add_labels({"music": ["a song", "the very good choir and the old piano"]})
    after = fitted.scores(toy.test_texts)
    assert after.shape == (30, 4)
    # The others' scores change through the attention that all labels share.
    assert 0 < np.abs(after[:, :3] - before).max() < 4
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=backbone)
    assert np.array_equal(loaded.scores(toy.test_texts), after)


def test_a_label_scores_the_mean_over_its_texts(bert: Backbone, classifier: Make, toy: Any) -> None:
    labels = {"food": ["bread", "soup"], "sport": ["ball"], "travel": ["hotel"]}
    fitted = classifier(bert, steps=2, labels=labels, **TOGETHER).fit(toy.texts, toy.labels)
    scorer = fitted.scorer()
    batch = bert.batch(bert.tokenize(toy.test_texts[:4]))
    with torch.no_grad():
        texts = scorer.model.adapter.score(bert, batch, scorer.side, scorer.model.labels)
    assert texts.shape == (4, 4)
    expected = torch.stack([texts[:, :2].mean(1), texts[:, 2], texts[:, 3]], dim=1)
    found = torch.from_numpy(fitted.scores(toy.test_texts[:4]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_several_labels_apply(bert: Backbone, toy: Any, tmp_path: Path) -> None:
    made = MultilabelClassifier(bert, steps=30, options={"method.labels": "together"})
    lists = [[name] for name in toy.labels]
    made.fit(toy.texts, lists)
    probabilities = made.predict_proba(toy.test_texts)
    assert probabilities.shape == (30, 3)
    made.save_pretrained(tmp_path / "saved")
    loaded = MultilabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert np.array_equal(loaded.predict_proba(toy.test_texts), probabilities)
