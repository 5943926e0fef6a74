"""Methods that tune weights and compare a text with the label texts, in the place of outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltuning import LabelClassifier, MultilabelClassifier, TokenClassifier
from ltuning.backbones.backbone import Backbone
from ltuning.errors import ConfigError
from ltuning.methods.heads import CentredMatchHead

Make = Callable[..., Any]


@pytest.mark.parametrize("method", ["ls-lora", "probe", "full"])
def test_labels_come_after_training(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, method: str
) -> None:
    fitted = classifier(bert, method, steps=60, rate=1e-2, head="match").fit(toy.texts, toy.labels)
    assert fitted.evaluate(*toy.test)["accuracy"] >= 0.8
    before = fitted.scores(toy.test_texts)
    fitted.add_labels({"music": ["a song", "the very good choir and the old piano"]})
    after = fitted.scores(toy.test_texts)
    # The others' scores stay: each label is compared by itself.
    np.testing.assert_allclose(after[:, :3], before, atol=1e-4)
    assert after.shape == (30, 4)
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert np.array_equal(loaded.scores(toy.test_texts), after)


def test_at_first_it_is_ten_times_the_cosine_of_centred_states(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, "probe", steps=1, rate=1e-12, head="match")
    fitted.fit(toy.texts, toy.labels)
    head = fitted.scorer().model.adapter.head
    assert isinstance(head, CentredMatchHead)
    states, mask = bert.encode(toy.test_texts)
    weights = mask.unsqueeze(-1).float()
    texts = (states * weights).sum(1) / weights.sum(1) - head.text_center
    labels = fitted.scorer().model.labels.mean - head.label_center
    expected = 10 * torch.nn.functional.cosine_similarity(texts[:, None], labels[None], dim=-1)
    np.testing.assert_allclose(fitted.scores(toy.test_texts), expected, atol=1e-4)


def test_several_labels_apply(bert: Backbone, toy: Any, tmp_path: Path) -> None:
    made = MultilabelClassifier(bert, method="ls-lora", steps=20, options={"method.head": "match"})
    made.fit(toy.texts, [[name] for name in toy.labels])
    probabilities = made.predict_proba(toy.test_texts)
    made.save_pretrained(tmp_path / "saved")
    loaded = MultilabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert np.array_equal(loaded.predict_proba(toy.test_texts), probabilities)


def test_tags_have_no_texts_to_compare_with(bert: Backbone) -> None:
    with pytest.raises(
        ConfigError,
        match="method.head: expected 'classes' with method 'ls-lora', got 'match'",
    ):
        TokenClassifier(bert, options={"method.head": "match"})
