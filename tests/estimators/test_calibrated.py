"""What a classifier of single labels says with held-out texts: how sure, nothing, or a set."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltuning.backbones.backbone import Backbone
from ltuning.calibration import softmax
from ltuning.errors import DataError, LabelError
from ltuning.estimators.label_classifier import LabelClassifier

Make = Callable[..., LabelClassifier]


@pytest.fixture(scope="module")
def made(bert: Backbone, classifier: Make, toy: Any) -> LabelClassifier:
    """Validated on 78 texts. Not to be changed."""
    validation = (toy.texts + toy.test_texts, toy.labels + toy.test_labels)
    return classifier(bert, steps=20, rate=2e-2).fit(toy.texts, toy.labels, validation)


@pytest.fixture
def loaded(made: LabelClassifier, tmp_path: Path) -> LabelClassifier:
    """A copy, to be changed."""
    made.save_pretrained(tmp_path / "saved")
    return LabelClassifier.from_pretrained(tmp_path / "saved", backbone=made.backbone)


def test_a_temperature_is_fitted_on_enough_validation_texts(
    made: LabelClassifier, toy: Any
) -> None:
    found = made.figures["calibration"]
    assert (found["texts"], found["temperature"]) == (78, made.temperature_)
    assert made.temperature_ != 1
    assert found["log_loss"] < found["log_loss_before"]
    scores = made.scores(toy.test_texts).astype(np.float64)
    assert np.array_equal(made.predict_proba(toy.test_texts), softmax(scores / made.temperature_))
    names = [made.labels_.names[best] for best in scores.argmax(axis=1)]
    assert made.predict(toy.test_texts).tolist() == names


def test_evaluation_is_of_calibrated_probabilities(made: LabelClassifier, toy: Any) -> None:
    report = made.evaluate(*toy.test)
    truth = [toy.names.index(label) for label in toy.test_labels]
    said = made.predict_proba(toy.test_texts)
    of_truth = said[np.arange(30), truth]
    assert report["log_loss"] == pytest.approx(-np.log(of_truth).mean())
    before = softmax(made.scores(toy.test_texts).astype(np.float64))[np.arange(30), truth]
    assert report["uncalibrated"]["log_loss"] == pytest.approx(-np.log(before).mean())
    assert report["temperature"] == made.temperature_
    curve = report["risk_coverage"]
    assert curve["coverage"][-1] == 1
    assert curve["risk"][-1] == pytest.approx(1 - report["accuracy"])
    assert curve["threshold"][-1] == said.max(axis=1).min()


def test_what_is_kept_is_saved(made: LabelClassifier, loaded: LabelClassifier, toy: Any) -> None:
    assert loaded.temperature_ == made.temperature_
    assert np.array_equal(loaded.predict_proba(toy.test_texts), made.predict_proba(toy.test_texts))
    again = pickle.loads(pickle.dumps(made))
    assert np.array_equal(again.predict_proba(toy.test_texts), made.predict_proba(toy.test_texts))
    for one in (loaded, again):
        assert one.threshold_for(0.6) == made.threshold_for(0.6)
    assert loaded.figures["calibration"] == made.figures["calibration"]


@pytest.mark.parametrize("number", [49, 78])
def test_without_enough_texts_or_where_it_is_off_it_is_one(
    number: int, bert: Backbone, toy: Any
) -> None:
    texts, labels = toy.texts + toy.test_texts, toy.labels + toy.test_labels
    made = LabelClassifier(bert, method="prefix", steps=1, options={"calibrate": number < 50})
    made.fit(toy.texts, toy.labels, (texts[:number], labels[:number]))
    assert made.temperature_ == 1
    assert "calibration" not in made.figures
    assert "uncalibrated" not in made.evaluate(*toy.test)
    # What was said of held-out texts is kept all the same.
    assert len(made.predict_sets(toy.test_texts, 0.9)) == 30


def test_nothing_is_said_where_it_is_not_sure(made: LabelClassifier, toy: Any) -> None:
    sure = made.predict_proba(toy.test_texts).max(axis=1)
    at = float(np.median(sure))
    said = made.predict(toy.test_texts, abstain=at)
    assert said.dtype == object
    assert [label is None for label in said] == (sure < at).tolist()
    kept = made.predict(toy.test_texts)[sure >= at]
    assert said[sure >= at].tolist() == kept.tolist()
    assert made.predict([], abstain=0.5).tolist() == []
    with pytest.raises(DataError, match=r"^expected a probability from 0 to 1 for abstain, got 2$"):
        made.predict(toy.test_texts, abstain=2)


def test_sets_are_of_the_labels_that_reach_a_probability(made: LabelClassifier, toy: Any) -> None:
    said = made.predict_proba(toy.texts + toy.test_texts)
    sets = made.predict_sets(toy.texts + toy.test_texts, 0.9)
    truth = toy.labels + toy.test_labels
    # Of the texts they were fitted to the rank says it exactly: the 72nd of 78.
    assert sum(label in found for label, found in zip(truth, sets, strict=True)) == 72
    for row, found in zip(said, sets, strict=True):
        order = [toy.names[label] for label in np.argsort(-row)]
        assert found == order[: len(found)]
    with pytest.raises(DataError, match="^expected 99 or more held-out texts for a coverage of"):
        made.predict_sets(toy.texts, 0.99)


def test_it_is_fitted_anew_on_texts_of_ones_own(loaded: LabelClassifier, toy: Any) -> None:
    before, proba = loaded.predict(toy.texts), loaded.predict_proba(toy.texts)
    labels = [*toy.labels[1:], toy.labels[0], *toy.labels[:6]]
    assert loaded.calibrate(toy.texts + toy.texts[:6], labels) is loaded
    found = loaded.figures["calibration"]
    assert (found["texts"], found["temperature"]) == (54, loaded.temperature_)
    # Nearly every label is wrong: nothing is sure any more.
    assert loaded.temperature_ > 2
    assert loaded.predict_proba(toy.texts).max() < proba.max()
    assert loaded.predict(toy.texts).tolist() == before.tolist()
    with pytest.raises(DataError, match="^expected a threshold from which on"):
        loaded.threshold_for(0.9)


def test_texts_that_nothing_can_be_fitted_to(made: LabelClassifier, toy: Any) -> None:
    with pytest.raises(
        DataError,
        match="^expected 50 or more texts to fit a temperature to, got 48; give more, or leave the "
        "classifier as it is$",
    ):
        made.calibrate(toy.texts, toy.labels)
    with pytest.raises(LabelError, match="^unknown label 'tea'"):
        made.calibrate([*toy.texts, "tea", "tea"], [*toy.labels, "tea", "tea"])


def test_added_labels_keep_the_temperature_and_no_answers(
    made: LabelClassifier, loaded: LabelClassifier, toy: Any, tmp_path: Path
) -> None:
    loaded.add_labels({"music": "the song"})
    assert loaded.temperature_ == made.temperature_
    for ask in (lambda: loaded.threshold_for(0.6), lambda: loaded.predict_sets(toy.texts)):
        with pytest.raises(
            DataError,
            match="^expected a classifier that keeps its answers on held-out texts, got one "
            "without: train with validation texts, or calibrate it on texts of your own; labels "
            "that are added take the answers away$",
        ):
            ask()
    loaded.save_pretrained(tmp_path / "more")
    assert not (tmp_path / "more" / "calibration").exists()
    assert "It was fitted before labels were added." in (tmp_path / "more/README.md").read_text()
