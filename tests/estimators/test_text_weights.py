"""What texts and labels count in training: it reaches the loss, and what it is not is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from ltuning.backbones.backbone import Backbone
from ltuning.errors import ConfigError, DataError, LabelError
from ltuning.estimators.inputs import weights_of
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.text_weights import scaled, with_class_weight
from ltuning.estimators.token_classifier import TokenClassifier
from ltuning.labels import Labels

Make = Callable[..., LabelClassifier]
KNOWN = Labels.from_any(["a", "b", "c"])
BALANCED = {"data.class_weight": "balanced"}


# --- in training ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lt-prefix", {}),
        ("lt-prefix", {"method.labels": "apart"}),
        ("lt-prompt", {"method.objective": "pairs"}),
        ("ls-lora", {}),
    ],
    ids=["classes", "contrast", "pairs", "lora"],
)
def test_a_text_without_weight_teaches_nothing(
    bert: Backbone, toy: Any, method: str, options: dict[str, Any]
) -> None:
    def scores(weight: float, label: str) -> np.ndarray:
        made = LabelClassifier(bert, toy.names, method, steps=2, options=options)
        weights = [weight] + [1.0] * 11
        made.fit(toy.texts[:12], [label, *toy.labels[1:12]], sample_weight=weights)
        return made.scores(toy.test_texts)

    assert np.array_equal(scores(0.0, "food"), scores(0.0, "sport"))
    assert not np.array_equal(scores(1.0, "food"), scores(1.0, "sport"))


def test_a_weight_of_two_is_the_text_given_twice(bert: Backbone, toy: Any) -> None:
    """However the step is cut: here in batches of four and three."""
    training = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    options = {"training": {**training, "learning_rate": 0.1}}

    def fitted(rows: list[int], weights: Any) -> np.ndarray:
        made = LabelClassifier(bert, method="probe", steps=5, options=options)
        texts, labels = [toy.texts[row] for row in rows], [toy.labels[row] for row in rows]
        return made.fit(texts, labels, sample_weight=weights).scores(toy.test_texts)

    twice = fitted([0, 1, 2, 3, 4, 5, 0], None)
    once = fitted([0, 1, 2, 3, 4, 5], np.array([2, 1, 1, 1, 1, 1]))
    np.testing.assert_allclose(once, twice, atol=1e-5)
    assert not np.allclose(fitted([0, 1, 2, 3, 4, 5], None), twice, atol=1e-3)


def test_a_class_weight_is_the_weight_of_its_texts(bert: Backbone, toy: Any) -> None:
    texts, labels = toy.texts[:14], toy.labels[:14]  # of one label four, of the others five
    balanced = compute_sample_weight("balanced", labels)

    def scores(weights: Any = None, **given: Any) -> np.ndarray:
        made = LabelClassifier(bert, method="probe", steps=3, **given)
        return made.fit(texts, labels, sample_weight=weights).scores(toy.test_texts)

    expected = scores(balanced)
    assert np.array_equal(scores(class_weight="balanced"), expected)
    assert np.array_equal(scores(options=BALANCED), expected)
    twofold = [2.0 if label == "food" else 1.0 for label in labels]
    assert np.array_equal(scores(class_weight={"food": 2}), scores(twofold))
    both = scores(twofold, class_weight="balanced")
    np.testing.assert_allclose(both, scores(balanced * twofold), atol=1e-6)
    # What all texts count the same is no weight, and neither is another scale.
    assert np.array_equal(scores([5.0] * 14), scores())
    assert not np.array_equal(expected, scores())


def test_labels_that_are_numbers_have_weights_by_number(bert: Backbone, toy: Any) -> None:
    numbers = [toy.names.index(label) for label in toy.labels]
    made = LabelClassifier(bert, method="probe", steps=1, class_weight={np.int64(2): 3.0, 0: 0.5})
    assert made.config.data.class_weight == {"2": 3.0, "0": 0.5}
    training = made.fit(toy.texts, numbers).figures["training"]
    lowest, highest = training["lowest_text_weight"], training["highest_text_weight"]
    assert highest / lowest == pytest.approx(6, rel=1e-3)


def test_empty_texts_that_are_skipped_take_their_weights_along(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, None, "probe", steps=1, options={"data.empty_texts": "skip"})
    weights = [9.0, *range(1, 13)]
    made.fit(["", *toy.texts[:12]], ["food", *toy.labels[:12]], sample_weight=weights)
    expected = LabelClassifier(bert, None, "probe", steps=1)
    expected.fit(toy.texts[:12], toy.labels[:12], sample_weight=weights[1:])
    assert np.array_equal(made.scores(toy.test_texts), expected.scores(toy.test_texts))


def test_validation_is_not_weighted(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, None, "probe", steps=2, class_weight={"food": 7})
    made.fit(toy.texts, toy.labels, toy.test)
    figures, report = made.figures["validation"], made.evaluate(*toy.test)
    assert figures["loss"] == pytest.approx(report["log_loss"], rel=1e-4)


def test_the_artifact_and_its_card_say_that_weights_were_used(
    bert: Backbone, toy: Any, tmp_path: Path
) -> None:
    made = LabelClassifier(bert, None, "probe", steps=1, class_weight={"food": 2})
    made.fit(toy.texts, toy.labels).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "ltuning_config.json").read_text())
    assert saved["config"]["data"]["class_weight"] == {"food": 2.0}
    assert saved["figures"]["training"]["highest_text_weight"] == 1.5
    assert "| highest text weight | 1.5000 |" in (tmp_path / "saved" / "README.md").read_text()
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert loaded.config.data.class_weight == {"food": 2.0}
    made = LabelClassifier(bert, None, "probe", steps=1).fit(toy.texts, toy.labels)
    assert "highest_text_weight" not in made.figures["training"]


def test_texts_with_several_labels_have_weights_of_their_own(bert: Backbone, toy: Any) -> None:
    texts, lists = toy.texts[:12], [[label] for label in toy.labels[:12]]

    def scores(weight: float, first: list[str], **options: Any) -> np.ndarray:
        made = MultilabelClassifier(bert, toy.names, "lt-prompt", steps=2, options=options)
        weights = [weight] + [1.0] * 11
        made.fit(texts, [first, *lists[1:]], sample_weight=weights)
        return made.scores(toy.test_texts)

    # As many labels, so that scores start at the same base rate.
    assert np.array_equal(scores(0.0, ["food"]), scores(0.0, ["sport"]))
    assert not np.array_equal(scores(1.0, ["food"]), scores(1.0, ["sport"]))


# --- what is refused ------------------------------------------------------------------------------


def test_weights_may_be_columns_and_arrays() -> None:
    for given in ([1, 0, 2.5], np.array([1, 0, 2.5]), pd.Series([1, 0, 2.5]), iter([1, 0, 2.5])):
        assert weights_of(given, 3) == [1.0, 0.0, 2.5]
    assert weights_of(np.array([True, False]), 2) == [1.0, 0.0]
    assert weights_of(None, 2) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([1.0], "expected one weight for each text, got 2 texts and 1 weights; give sample_weight"),
        ([1, -0.5], "expected weights of 0 or more, got -0.5 at index 1; write 0 where a text is"),
        ([float("nan"), 1], "expected weights of 0 or more, got nan at index 0; write 0 where"),
        ([1, np.inf], "expected weights of 0 or more, got inf at index 1; write 0 where a text"),
        (["1", 1], "expected weights of 0 or more, got '1' at index 0; write 0 where a text is"),
        ([None, 1], "expected weights of 0 or more, got None at index 0; write 0 where a text is"),
        (2.0, "expected a list of weights, got float; give a list, a tuple, an array, a column"),
    ],
    ids=str,
)
def test_what_is_no_weight_is_refused(bert: Backbone, toy: Any, given: Any, sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        LabelClassifier(bert).fit(["bread", "ball"], ["food", "sport"], sample_weight=given)
    assert str(caught.value).startswith(sentence)


def test_weights_are_scaled_to_the_mean_one() -> None:
    assert scaled([1, 0, 2]) == [1.0, 0.0, 2.0]
    assert scaled([1e308, 1e308, 0]) == pytest.approx([1.5, 1.5, 0])
    assert scaled([3, 3]) is None
    with pytest.raises(
        DataError, match="expected a weight above zero for one text or more, got zero"
    ):
        scaled([0, 0])


def test_class_weights_are_of_labels_that_there_are() -> None:
    assert with_class_weight([1, 1, 2], {"b": 3, "c": 5}, ["a", "b", "b"], KNOWN) == [1, 3, 6]
    assert with_class_weight([1, 1, 1], "balanced", ["a", "b", "b"], KNOWN) == [1.5, 0.75, 0.75]
    with pytest.raises(LabelError, match="class_weight: unknown label 'd': expected one of 'a'"):
        with_class_weight([1], {"d": 3}, ["a"], KNOWN)


def test_class_weights_that_cannot_be_are_problems_of_the_configuration() -> None:
    def problems(door: Any, class_weight: Any, **given: Any) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            door(class_weight=class_weight, **given)
        return [str(problem) for problem in caught.value.problems]

    assert problems(LabelClassifier, "balenced") == [
        "data.class_weight: expected one of 'balanced', got 'balenced'; did you mean 'balanced'?"
    ]
    assert problems(LabelClassifier, [1, 2]) == [
        "data.class_weight: expected balanced, or weights by the names of labels, got [1, 2]"
    ]
    assert problems(LabelClassifier, {"a": -1, "b": float("inf"), "c": "2"}) == [
        "data.class_weight.a: expected a number of 0 or more, got -1",
        "data.class_weight.b: expected a number of 0 or more, got inf",
        "data.class_weight.c: expected a number of 0 or more, got '2'",
    ]
    assert problems(LabelClassifier, {"foot": 2}, labels=["food", "sport"]) == [
        "data.class_weight.foot: unknown label 'foot': expected one of 'food', 'sport'; did you "
        "mean 'food'?"
    ]
    no_class = "data.class_weight: task '{}' has no texts of one class to weigh; leave it out"
    assert problems(TokenClassifier, "balanced") == [no_class.format("tags")]
    (several,) = problems(MultilabelClassifier, "balanced")
    assert several == no_class.format("multilabel") + ", or give sample_weight to fit in Python"
