"""Answers before `fit`: the label whose text is nearest in the frozen backbone."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ltuning.backbones.backbone import Backbone
from ltuning.errors import LabelError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.methods.zero_shot import TEMPERATURE
from ltuning.scoring import mean_states

LABELS = {"food": ["bread", "cheese and soup"], "sport": "ball and team", "travel": "the hotel"}
TEXTS = ["bread and cheese", "the team", "a hotel at the beach", "the ball and the team"]
GUESS = (
    "nothing is trained: every answer is a guess, the label whose text is nearest in the frozen "
    "model; train on labelled texts for better ones"
)


def cosines(backbone: Backbone, texts: list[Any], labels: list[str]) -> np.ndarray:
    """`[N, V]` by hand."""

    def states(texts: list[Any], how: Any) -> np.ndarray:
        found = mean_states(backbone, backbone.tokenize(texts), 1, how).numpy()
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    return states(texts, "mean") @ states(list(labels), "mean").T


def test_the_nearest_label_text_answers_before_fit(backbone: Backbone) -> None:
    guess = LabelClassifier(backbone, LABELS)
    flat = ["bread", "cheese and soup", "ball and team", "the hotel"]
    near = cosines(backbone, TEXTS, flat)
    # A label of two texts has the mean of both.
    expected = np.column_stack([near[:, :2].mean(1), near[:, 2:]]) / TEMPERATURE
    np.testing.assert_allclose(guess.scores(TEXTS), expected, atol=1e-4)
    powers = np.exp(expected - expected.max(1, keepdims=True))
    chances = powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(guess.predict_proba(TEXTS), chances, atol=1e-4)
    assert guess.classes_.tolist() == ["food", "sport", "travel"]
    assert guess.predict(TEXTS).tolist() == [guess.classes_[row] for row in expected.argmax(1)]


def test_the_guess_is_that_of_the_label_texts(bert: Backbone, toy: Any) -> None:
    report = LabelClassifier(bert, toy.label_texts).evaluate(*toy.test)
    # Words of a topic have something in common in the tiny model; chance is a third.
    assert report["accuracy"] > 0.6
    by_name = LabelClassifier(bert, toy.names)
    assert by_name.labels_.to_dict() == {name: [name] for name in toy.names}
    assert by_name.predict(["food"]).tolist() == ["food"]


@pytest.mark.parametrize("method", ["prefix", "lt-prompt", "ls-lora", "probe", "full"])
def test_the_guess_does_not_depend_on_the_method(bert: Backbone, method: str) -> None:
    expected = LabelClassifier(bert, LABELS).scores(TEXTS)
    np.testing.assert_array_equal(LabelClassifier(bert, LABELS, method).scores(TEXTS), expected)


def test_it_is_said_once_to_be_a_guess(bert: Backbone, caplog: Any) -> None:
    guess = LabelClassifier(bert, LABELS)
    assert guess.labels_.names == ("food", "sport", "travel") and caplog.messages == []
    with caplog.at_level(logging.WARNING, "ltuning"):
        for _ in range(2):
            guess.predict(TEXTS)
            guess.evaluate(TEXTS, ["food", "sport", "travel", "sport"])
    assert caplog.messages == [GUESS]


def test_pairs_and_labels_that_are_numbers(bert: Backbone) -> None:
    pairs = [("bread", "the hotel"), ("a ball", "the team")]
    guess = LabelClassifier(bert, {0: "bread", 1: "ball and team"})
    near = cosines(bert, pairs, ["bread", "ball and team"])
    np.testing.assert_allclose(guess.scores(pairs), near / TEMPERATURE, atol=1e-4)
    assert guess.predict(pairs).dtype.kind == "i"


def test_training_takes_its_place(bert: Backbone, classifier: Any, toy: Any) -> None:
    made = classifier(bert)
    before = made.scores(toy.test_texts)
    made.fit(toy.texts, toy.labels)
    assert not np.allclose(made.scores(toy.test_texts), before)
    assert made.scores(toy.test_texts).shape == before.shape


def test_nothing_trained_is_nothing_to_save(bert: Backbone, tmp_path: Path) -> None:
    guess = LabelClassifier(bert, LABELS)
    guess.predict(TEXTS)
    with pytest.raises(
        LabelError,
        match=r"expected a trained classifier, got one that is not fitted; call "
        r"fit\(texts, labels\) or LabelClassifier.from_pretrained\(folder\)",
    ):
        guess.save_pretrained(tmp_path / "guess")
    assert not (tmp_path / "guess").exists()


def test_without_labels_there_is_no_guess(bert: Backbone) -> None:
    for ask in (LabelClassifier.predict, LabelClassifier.predict_proba, LabelClassifier.scores):
        with pytest.raises(LabelError, match="expected a trained classifier, got one that is not"):
            ask(LabelClassifier(bert), TEXTS)


def test_the_peer_of_comparisons_is_the_guess(bert: Backbone) -> None:
    from ltuning.experiments.peers import PEERS

    job: Any = SimpleNamespace(load=lambda: bert, labels={"x": ["bread"], "y": ["the team"]})
    found = PEERS["cosine"].fit(job, None).probabilities(TEXTS)
    guess = LabelClassifier(bert, {"x": "bread", "y": "the team"})
    np.testing.assert_allclose(found, guess.predict_proba(TEXTS), atol=1e-6)
