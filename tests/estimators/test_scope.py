"""Texts that belong to none of the labels."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltuning.backbones.backbone import Backbone
from ltuning.errors import ConfigError, DataError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier

# Of a topic that has no label.
STRANGE = ["song drum piano", "the choir and a tune", "violin chord now"]
NONE = "none"


def made_with(bert: Backbone, toy: Any, texts: list[str], labels: list[str]) -> LabelClassifier:
    made = LabelClassifier(
        bert,
        method="prefix",
        steps=20,
        oos_label=NONE,
        options={"training.learning_rate": 2e-2},
    )
    held_out = (toy.texts + toy.test_texts + STRANGE, toy.labels + toy.test_labels + [NONE] * 3)
    return made.fit(texts, labels, held_out)


@pytest.fixture(scope="module")
def without(bert: Backbone, toy: Any) -> LabelClassifier:
    """Trained without any text of the label for none. Not to be changed."""
    return made_with(bert, toy, toy.texts, toy.labels)


@pytest.fixture(scope="module")
def with_some(bert: Backbone, toy: Any) -> LabelClassifier:
    """Trained with some. Not to be changed."""
    return made_with(bert, toy, toy.texts + STRANGE * 3, toy.labels + [NONE] * 9)


def test_a_text_with_low_scores_belongs_to_no_label(without: LabelClassifier, toy: Any) -> None:
    texts = toy.texts + toy.test_texts
    highest = without.scores(texts).max(axis=1)
    # The third lowest of 78: 2 of them are below it.
    assert without._trained().oos_threshold == pytest.approx(np.sort(highest)[2], rel=1e-6)
    assert without.classes_.tolist() == toy.names
    said = without.predict(texts + STRANGE)
    scores = without.scores(texts + STRANGE)
    below = scores.max(axis=1) < without._trained().oos_threshold
    best = without.classes_[scores.argmax(axis=1)]
    assert said.dtype == object
    assert said.tolist() == [NONE if out else name for name, out in zip(best, below, strict=True)]
    assert without.is_outside(scores).tolist() == below.tolist()
    np.testing.assert_allclose(without.predict_proba(STRANGE).sum(axis=1), 1)
    # Nothing else of a text is said than that it belongs nowhere, however unsure.
    withheld = without.predict(texts + STRANGE, abstain=1.0)
    assert [name for name in withheld if name is not None] == [NONE] * int(below.sum())


def test_a_label_for_none_is_trained_where_there_are_texts(
    with_some: LabelClassifier, toy: Any
) -> None:
    assert with_some.classes_.tolist() == ["food", "none", "sport", "travel"]
    texts = toy.test_texts + STRANGE
    scores = with_some.scores(texts)
    others = np.delete(scores, 1, axis=1).max(axis=1)
    assert (scores[:, 1] > others).any()
    outside = (scores[:, 1] > others) | (others < with_some._trained().oos_threshold)
    assert (with_some.predict(texts) == NONE).tolist() == outside.tolist()


def test_a_target_precision_counts_what_is_said_to_belong_nowhere(
    without: LabelClassifier, with_some: LabelClassifier, toy: Any
) -> None:
    texts, labels = toy.texts + toy.test_texts, toy.labels + toy.test_labels
    for made, more in ((without, []), (with_some, STRANGE)):
        truth = np.array(labels + [NONE] * len(more))
        said = made.predict(texts + more)
        outside = made.is_outside(made.scores(texts + more))
        assert outside.any()
        assert made.answers_.right.tolist() == (said == truth).tolist()
        assert (made.answers_.confidence[outside] == 1).all()
        found = made.threshold_for(0.9)
        kept = made.predict(texts + more, abstain=found.threshold)
        is_said = np.array([one is not None for one in kept])
        assert is_said.mean() == found.coverage
        assert (kept == truth)[is_said].mean() >= 0.9


def test_evaluation_tells_how_well_they_are_told(without: LabelClassifier, toy: Any) -> None:
    texts, labels = toy.test_texts + STRANGE, [*toy.test_labels, NONE, NONE, NONE]
    report = without.evaluate(texts, labels)
    said = without.predict(texts)
    found = report["out_of_scope"]
    right = [name == label for name, label in zip(said[:30], toy.test_labels, strict=True)]
    assert found["in_domain_accuracy"] == pytest.approx(np.mean(right))
    assert found["recall"] == pytest.approx(np.mean(said[30:] == NONE))
    assert found["support"] == 3
    assert report["accuracy"] == pytest.approx(np.mean(said == np.array(labels)))
    assert [row["label"] for row in report["per_class"]] == [*toy.names, NONE]
    assert without.score(texts, labels) == pytest.approx(report["accuracy"])
    # Probabilities are of labels: those of texts without one have no truth.
    within = without.evaluate(*toy.test)
    assert "out_of_scope" not in within
    for name in ("log_loss", "aurc", "uncalibrated"):
        assert report[name] == within[name]  # type: ignore[literal-required]


def test_an_ordinary_label_may_stand_for_none(
    without: LabelClassifier, bert: Backbone, toy: Any
) -> None:
    plain = LabelClassifier(bert, method="prefix", steps=2)
    plain.fit(toy.texts + STRANGE, toy.labels + [NONE] * 3)
    texts, labels = toy.test_texts + STRANGE, [*toy.test_labels, NONE, NONE, NONE]
    assert "out_of_scope" not in plain.evaluate(texts, labels)
    report = plain.evaluate(texts, labels, oos_label=NONE)
    row = next(row for row in report["per_class"] if row["label"] == NONE)
    found = report["out_of_scope"]
    assert {name: row[name] for name in ("f1", "precision", "recall")} == {
        name: found[name] for name in ("f1", "precision", "recall")
    }
    # One that no training text had is never said, and can be told apart all the same.
    other = plain.evaluate(
        [*toy.test_texts, *STRANGE], [*toy.test_labels, *["x"] * 3], oos_label="x"
    )
    assert (other["out_of_scope"]["recall"], other["out_of_scope"]["support"]) == (0.0, 3)
    with pytest.raises(
        DataError,
        match="^expected oos_label 'none', as the classifier was trained with it, got 'x'; leave",
    ):
        without.evaluate(texts, labels, oos_label="x")
    with pytest.raises(
        DataError,
        match="^expected oos_label to be a label of the classifier or of the texts, got 'y'; check",
    ):
        plain.evaluate(texts, labels, oos_label="y")


def test_it_is_saved_and_stays_with_added_labels(
    bert: Backbone, classifier: Any, toy: Any, tmp_path: Path
) -> None:
    made = classifier(bert, "lt-prefix", steps=2, data__oos_label="_none_")
    made.fit(toy.texts, toy.labels, toy.test).save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    threshold = made._trained().oos_threshold
    assert loaded._trained().oos_threshold == threshold
    assert loaded.predict(STRANGE).tolist() == made.predict(STRANGE).tolist()
    card = (tmp_path / "saved" / "README.md").read_text()
    assert f"A text whose highest score is below {threshold:.4f} gets \\_none\\_, which" in card
    loaded.add_labels({"music": "the song"})
    assert loaded._trained().oos_threshold == threshold
    texts, labels = toy.texts + STRANGE, toy.labels + ["_none_"] * 3
    loaded.calibrate(texts + toy.test_texts, labels + toy.test_labels)
    highest = loaded.scores(toy.texts + toy.test_texts).max(axis=1)
    assert loaded._trained().oos_threshold == pytest.approx(np.sort(highest)[2], rel=1e-6)
    assert loaded.figures["calibration"]["texts"] == 78


def test_too_few_validation_texts_have_labels(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, steps=1, oos_label=NONE)
    message = (
        "expected 19 or more validation texts of other labels than 'none', to find out which "
        "scores such texts have, got {}; give more, or leave oos_label out"
    )
    with pytest.raises(DataError) as caught:
        made.fit(toy.texts, toy.labels)
    held = "texts held out, 0.1 of those to train on, of other labels"
    part = message.replace("validation texts of other labels", held)
    assert str(caught.value) == part.format(6)
    none = LabelClassifier(
        config=replace(made.config, data=replace(made.config.data, validation_fraction=0.0))
    )
    with pytest.raises(DataError) as caught:
        none.fit(toy.texts, toy.labels)
    assert str(caught.value) == message.format(0)
    with pytest.raises(DataError) as caught:
        made.fit(toy.texts, toy.labels, (toy.texts[:18] + STRANGE, toy.labels[:18] + [NONE] * 3))
    assert str(caught.value) == message.format(18)


def test_without_validation_a_part_is_held_out_for_it(bert: Backbone, toy: Any) -> None:
    from sklearn.model_selection import cross_val_score

    made = LabelClassifier(bert, method="prefix", steps=2, oos_label=NONE)
    texts, labels = toy.texts * 8, toy.labels * 8
    made.fit(texts, labels, sample_weight=[1.0] * len(texts))
    counts = {name: labels.count(name) for name in toy.names}
    held = sum(round(0.1 * count) for count in counts.values())
    assert held >= 19
    assert made.figures["training"]["texts"] == len(texts) - held
    assert made._trained().oos_threshold is not None
    assert made.predict(STRANGE).dtype == object
    # And so it can be measured over folds, with texts of no label among them.
    scores = cross_val_score(
        made, texts + STRANGE * 2, labels + [NONE] * 6, cv=3, error_score="raise"
    )
    assert len(scores) == 3 and all(0 <= score <= 1 for score in scores)


def test_prediction_sets_say_that_a_text_may_belong_nowhere(
    without: LabelClassifier, with_some: LabelClassifier, toy: Any
) -> None:
    texts = toy.test_texts + STRANGE
    for made in (without, with_some):
        outside = made.is_outside(made.scores(texts))
        assert outside.any() and not outside.all()
        least = made.answers_.least_probability(0.9)
        chances = made.predict_proba(texts)
        for one, chance, out in zip(made.predict_sets(texts, 0.9), chances, outside, strict=True):
            likely = {str(made.classes_[k]) for k in np.flatnonzero(chance >= least)}
            assert ({*one} - {NONE} if out else {*one}) == likely - ({NONE} if out else set())
            assert (one[:1] == [NONE]) >= out
            assert len({*one}) == len(one)


def test_too_few_texts_to_calibrate_with_have_labels(with_some: LabelClassifier, toy: Any) -> None:
    made = copy.deepcopy(with_some)
    threshold = made._trained().oos_threshold
    for number in (0, 18):
        texts, labels = [*toy.texts[:number], *STRANGE * 20], [*toy.labels[:number], *[NONE] * 60]
        with pytest.raises(DataError) as caught:
            made.calibrate(texts, labels)
        assert str(caught.value) == (
            "expected 19 or more texts of other labels than 'none', to find out which scores such "
            f"texts have, got {number}; give more, or leave the classifier as it is"
        )
    assert made._trained().oos_threshold == threshold


def test_it_is_of_the_type_of_the_labels_where_it_can_be(bert: Backbone, toy: Any) -> None:
    numbers = [toy.names.index(label) for label in toy.labels]
    for name, said in (("99", 99), ("none", "none")):
        made = LabelClassifier(bert, method="prefix", steps=1, oos_label=name)
        made.fit(toy.texts, numbers, (toy.texts, numbers))
        made._fitted = replace(made._trained(), oos_threshold=1e9)
        assert made.predict(STRANGE).tolist() == [said] * 3


def test_other_tasks_have_no_such_label() -> None:
    with pytest.raises(
        ConfigError,
        match="data.oos_label: task 'multilabel' says of no text that it belongs nowhere; leave it",
    ):
        MultilabelClassifier(oos_label=NONE)
