"""Front doors on texts that are longer than the model reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier

from ..conftest import FILLERS, Toy

WINDOWS = {"data__long_texts": "windows"}


def late(texts: list[str]) -> list[str]:
    """Texts whose own words come after some that say nothing, and after the model's limit."""
    draw = random.Random(0)
    return [" ".join([*draw.choices(FILLERS.split(), k=14), text]) for text in texts]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [record.getMessage() for record in caplog.records if record.name == "ltuning"]


@pytest.fixture
def short(tiny_bert: Path, load: Callable[..., Backbone]) -> Backbone:
    return load(tiny_bert, max_length=16)


def test_what_comes_late_is_read_in_windows_and_cut_without(
    short: Backbone,
    classifier: Callable[..., LabelClassifier],
    toy: Toy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts, test = late(toy.texts), late(toy.test_texts)
    once = {"training__eval_strategy": "steps", "training__eval_steps": 40}
    made = classifier(short, steps=40, rate=2e-2, **once, **WINDOWS).fit(
        texts, toy.labels, (test, toy.test_labels)
    )
    report = made.evaluate(test, toy.test_labels)
    assert not said(caplog)
    assert report["accuracy"] >= 0.9  # chance is a third
    assert made.figures["validation"]["accuracy"] == pytest.approx(report["accuracy"])
    assert made.figures["training"]["texts"] == 48
    made.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=short)
    np.testing.assert_allclose(loaded.scores(test), made.scores(test), atol=1e-5)


def test_what_is_cut_is_not_read_and_told_of_once_a_call(
    short: Backbone,
    classifier: Callable[..., LabelClassifier],
    toy: Toy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts, test = late(toy.texts), late(toy.test_texts)
    made = classifier(short).fit(texts, toy.labels, (test, toy.test_labels))
    other = [text.rsplit(" ", 1)[0] + " song" for text in test]
    assert np.array_equal(made.scores(test), made.scores([*other, "the bread"])[:-1])
    sentence = (
        "{0} of {1} texts are longer than the 16 tokens that the model reads, and are cut: of the "
        "longest, {2} tokens, {3} are not read; train with --long-texts windows (data.long_texts) "
        "to read texts whole"
    )
    # Two tokens are special.
    every, of_test = (max(len(text.split()) for text in some) + 2 for some in (texts + test, test))
    assert said(caplog) == [
        sentence.format(78, 78, every, every - 16),
        sentence.format(30, 30, of_test, of_test - 16),
        sentence.format(30, 31, of_test, of_test - 16),
    ]


def test_layers_that_are_kept_do_not_change_what_is_learnt(
    short: Backbone, classifier: Callable[..., LabelClassifier], toy: Toy
) -> None:
    texts, labels = [*late(toy.texts[:6]), *toy.texts[6:9]], toy.labels[:9]

    def trained(gib: float) -> dict[str, torch.Tensor]:
        made = classifier(short, steps=3, batch=4, backbone__cache_size=gib, **WINDOWS)
        return made.fit(texts, labels)._trained().model.adapter.state_dict()

    expected = trained(0)
    for name, weight in trained(2).items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["lt-prompt", "probe"])
def test_every_method_is_trained_on_windows(
    short: Backbone, classifier: Callable[..., LabelClassifier], toy: Toy, method: str
) -> None:
    pairs = list(zip(["the ball"] * 12, late(toy.texts[:12]), strict=True))
    made = classifier(short, method, **WINDOWS, batch=5).fit(pairs, toy.labels[:12])
    assert np.isfinite(made.scores(pairs)).all()


@pytest.mark.parametrize("labels", ["together", "apart"])
def test_several_labels_of_texts_in_windows(short: Backbone, toy: Toy, labels: str) -> None:
    lists = [[label] if row % 3 else [] for row, label in enumerate(toy.labels)][:24]
    options: dict[str, Any] = {"data.long_texts": "windows", "method.labels": labels}
    made = MultilabelClassifier(short, toy.names, steps=2, options=options)
    made.fit(late(toy.texts)[:24], lists, (late(toy.texts)[:24], lists))
    # The thresholds are those of the texts, and so are the figures.
    report = made.evaluate(late(toy.texts)[:24], lists)
    assert made.figures["validation"]["micro_f1"] == pytest.approx(report["micro_f1"])
