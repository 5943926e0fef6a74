from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import fingerprint
from ltuning.calibration import softmax
from ltuning.config import Config
from ltuning.errors import (
    ArtifactError,
    BackboneError,
    ConfigError,
    DataError,
    LabelError,
    TrainingError,
)
from ltuning.estimators.answers import label_array
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.labels import Labels

from ..conformance.tiny import FAMILIES

Make = Callable[..., LabelClassifier]
METHODS = ("prefix", "prompt", "lt-prefix", "lt-prompt")
LABEL_METHODS = ("lt-prefix", "lt-prompt")
APART = {"method__labels": "apart"}


def close(left: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(left, right, atol=1e-5, rtol=1e-5)


def weights(classifier: LabelClassifier) -> dict[str, torch.Tensor]:
    return classifier._trained().model.adapter.state_dict()


@dataclass
class Trained:
    """A trained classifier, with what its backbone was before and after."""

    classifier: LabelClassifier
    before: dict[str, torch.Tensor]
    fingerprint: str


@pytest.fixture(scope="module", params=METHODS)
def trained(
    request: pytest.FixtureRequest, backbone: Backbone, classifier: Make, toy: Any
) -> Trained:
    """Every method on every family, long enough to learn the toy's topics. Not to be changed."""
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    mark = fingerprint(backbone.model)
    made = classifier(backbone, request.param, steps=40, rate=2e-2)
    return Trained(made.fit(toy.texts, toy.labels, toy.test), before, mark)


# --- what training gives ------------------------------------------------------------------------


def test_it_learns(trained: Trained, toy: Any) -> None:
    report = trained.classifier.evaluate(*toy.test)
    # Chance is a third.
    assert report["accuracy"] >= 0.75
    assert report["num_examples"] == 30


def test_the_backbone_is_bit_identical_after_training(trained: Trained) -> None:
    backbone = trained.classifier.backbone
    for name, weight in backbone.model.state_dict().items():
        assert torch.equal(weight, trained.before[name]), name
    assert fingerprint(backbone.model) == trained.fingerprint
    assert all(weight.grad is None for weight in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


def test_predictions_scores_and_probabilities_agree(trained: Trained, toy: Any) -> None:
    classifier = trained.classifier
    scores, probabilities = (
        classifier.scores(toy.test_texts),
        classifier.predict_proba(toy.test_texts),
    )
    assert scores.shape == probabilities.shape == (30, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    exponentials = np.exp(scores.astype(np.float64))
    close(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True))
    assert classifier.classes_.tolist() == ["food", "sport", "travel"]
    predicted = classifier.predict(toy.test_texts)
    assert predicted.tolist() == [toy.names[row] for row in scores.argmax(axis=1)]


def test_evaluation_is_of_the_predictions(trained: Trained, toy: Any) -> None:
    classifier = trained.classifier
    report = classifier.evaluate(*toy.test)
    hits = classifier.predict(toy.test_texts) == np.array(toy.test_labels)
    assert report["accuracy"] == pytest.approx(hits.mean())
    truth = [toy.names.index(label) for label in toy.test_labels]
    chosen = classifier.predict_proba(toy.test_texts)[np.arange(30), truth]
    assert report["log_loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-4)
    assert 0 <= report["expected_calibration_error"] <= 1
    assert [row["label"] for row in report["per_class"]] == toy.names


def test_the_figures_of_the_run_are_kept(trained: Trained, toy: Any) -> None:
    classifier, adapter = trained.classifier, trained.classifier._trained().model.adapter
    training = classifier.figures["training"]
    assert (training["steps"], training["texts"]) == (40, 48)
    assert training["trainable_parameters"] == adapter.num_parameters == classifier.num_parameters
    validation = classifier.figures["validation"]
    assert validation["accuracy"] == pytest.approx(classifier.evaluate(*toy.test)["accuracy"])


def test_a_saved_classifier_loads_with_the_same_scores(
    trained: Trained, toy: Any, tmp_path: Path
) -> None:
    trained.classifier.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert np.array_equal(loaded.scores(toy.test_texts), trained.classifier.scores(toy.test_texts))
    assert loaded.classes_.tolist() == trained.classifier.classes_.tolist()
    assert loaded.figures == trained.classifier.figures
    # What was left open is written as it was computed.
    computed = replace(trained.classifier.config.backbone, attention="sdpa")
    assert loaded.config == replace(trained.classifier.config, backbone=computed)
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"adapter_model.safetensors", "ltuning_config.json", "README.md", "calibration"}


def test_a_classifier_saves_and_loads_again_unchanged(trained: Trained, tmp_path: Path) -> None:
    classifier = trained.classifier
    classifier.save_pretrained(tmp_path / "one")
    loaded = LabelClassifier.from_pretrained(tmp_path / "one", backbone=classifier.backbone)
    loaded.save_pretrained(tmp_path / "two")
    for name in ("adapter_model.safetensors", "ltuning_config.json", "README.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_no_texts_have_no_scores(trained: Trained) -> None:
    classifier = trained.classifier
    assert classifier.predict([]).shape == (0,)
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.scores([]).shape == (0, 3)


def test_empty_texts_keep_their_place_at_prediction(trained: Trained, toy: Any) -> None:
    classifier = trained.classifier
    texts = ["", toy.test_texts[0], "   ", toy.test_texts[1]]
    probabilities = classifier.predict_proba(texts)
    assert np.isfinite(probabilities).all()
    close(probabilities[[1, 3]], classifier.predict_proba(toy.test_texts[:2]))


def test_a_long_text_is_cut_and_not_refused(trained: Trained) -> None:
    assert np.isfinite(trained.classifier.predict_proba(["bread " * 500, "ball"])).all()


def test_arrays_and_tuples_of_texts_are_lists_of_texts(trained: Trained, toy: Any) -> None:
    expected = trained.classifier.scores(toy.test_texts[:4])
    assert np.array_equal(trained.classifier.scores(np.array(toy.test_texts[:4])), expected)
    assert np.array_equal(trained.classifier.scores(tuple(toy.test_texts[:4])), expected)


def test_classifiers_share_a_backbone_without_disturbing_each_other(
    trained: Trained, classifier: Make, toy: Any
) -> None:
    before = trained.classifier.scores(toy.test_texts)
    other = classifier(trained.classifier.backbone, seed=9).fit(toy.texts, toy.labels)
    between = other.scores(toy.test_texts)
    assert np.array_equal(trained.classifier.scores(toy.test_texts), before)
    assert np.array_equal(other.scores(toy.test_texts), between)


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_recipe_trains(
    backbone: Backbone, classifier: Make, toy: Any, method: str
) -> None:
    fitted = classifier(backbone, method, recipe="paper", steps=3).fit(toy.texts, toy.labels)
    assert np.isfinite(fitted.scores(toy.test_texts)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_backbone_in_half_precision_has_an_adapter_in_single(
    tiny_models: dict[str, Path],
    load: Callable[..., Backbone],
    classifier: Make,
    toy: Any,
    tmp_path: Path,
    method: str,
    dtype: str,
) -> None:
    for family, folder in tiny_models.items():
        half = load(folder, dtype=dtype)
        fitted = classifier(half, method).fit(toy.texts, toy.labels)
        adapter = fitted._trained().model.adapter
        assert {weight.dtype for weight in adapter.parameters()} == {torch.float32}
        floats = [kept for kept in weights(fitted).values() if kept.is_floating_point()]
        assert {kept.dtype for kept in floats} == {torch.float32}
        scores = fitted.scores(toy.test_texts)
        assert np.isfinite(scores).all()
        fitted.save_pretrained(tmp_path / family)
        loaded = LabelClassifier.from_pretrained(tmp_path / family, backbone=half)
        assert np.array_equal(loaded.scores(toy.test_texts), scores)


def test_fitting_twice_is_fitting_once(bert: Backbone, classifier: Make, toy: Any) -> None:
    twice = classifier(bert).fit(toy.texts, toy.labels)
    twice.predict(toy.test_texts)
    twice.fit(toy.texts, toy.labels)
    once = classifier(bert).fit(toy.texts, toy.labels)
    for name, weight in weights(once).items():
        assert torch.equal(weight, weights(twice)[name])
    assert np.array_equal(twice.scores(toy.test_texts), once.scores(toy.test_texts))


def test_names_may_be_left_to_the_data(bert: Backbone, classifier: Make, toy: Any) -> None:
    fitted = classifier(bert, labels=None).fit(toy.texts, toy.labels)
    assert fitted.classes_.tolist() == ["food", "sport", "travel"]
    assert fitted.labels_.texts == (("food",), ("sport",), ("travel",))


def test_labels_that_are_numbers_are_their_names(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    numbers = [toy.names.index(label) for label in toy.labels]
    fitted = classifier(bert, labels={"0": "food", "1": "ball", "2": "hotel"})
    fitted.fit(toy.texts, numbers)
    assert set(fitted.predict(toy.test_texts)) <= {"0", "1", "2"}


TYPED = {"integer": [10, 2, -1], "number": [0.5, 2.0, 10.0], "boolean": [True, False]}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((1, 2**63 - 1), np.int64),
        # NumPy alone makes floats of these, in which the last digits are lost.
        ((1, 2**63 + 1), object),
        ((1, 2**70), object),
        ((0.5, 1.5), np.float64),
    ],
)
def test_an_array_of_labels_has_every_digit(values: tuple[float, float], dtype: type) -> None:
    labels = Labels.from_any(dict(zip(values, ("low", "high"), strict=True)))
    array = label_array(labels.values)
    assert array.tolist() == list(values)
    assert array.dtype == dtype


@pytest.mark.parametrize("type_", TYPED)
def test_labels_come_back_as_they_were_given(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, type_: str
) -> None:
    values = TYPED[type_]
    labels = [values[toy.names.index(label) % len(values)] for label in toy.labels]
    fitted = classifier(bert, "probe", None).fit(toy.texts, np.array(labels), (toy.texts, labels))
    expected = np.array(sorted(values))
    assert fitted.classes_.tolist() == expected.tolist()
    assert fitted.classes_.dtype == fitted.predict(toy.test_texts).dtype == expected.dtype
    assert set(fitted.predict(toy.test_texts).tolist()) <= set(values)
    report = fitted.evaluate(toy.texts, labels)
    assert {row["label"] for row in report["per_class"]} == set(fitted.labels_.names)
    # The command line has names only.
    names = [fitted.labels_.names[sorted(values).index(label)] for label in labels]
    assert fitted.evaluate(toy.texts, names) == report
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert loaded.classes_.dtype == expected.dtype
    assert loaded.predict(toy.texts).tolist() == fitted.predict(toy.texts).tolist()
    assert loaded.evaluate(toy.texts, labels) == report


def test_labels_given_as_numbers_are_numbers(bert: Backbone, classifier: Make, toy: Any) -> None:
    numbers = [toy.names.index(label) for label in toy.labels]
    names = [str(number) for number in numbers]
    for labels in ([0, 1, 2], np.arange(3)):
        fitted = classifier(bert, "probe", labels=labels).fit(toy.texts, numbers)
        assert fitted.classes_.tolist() == [0, 1, 2]
        assert fitted.fit(toy.texts, names).classes_.tolist() == [0, 1, 2]
    fitted = classifier(bert, labels={0: "food", 1: "ball", 2: "hotel"}).fit(toy.texts, numbers)
    fitted.add_labels({7: "song"})
    assert fitted.classes_.tolist() == [0, 1, 2, 7]
    with pytest.raises(LabelError, match="expected labels that are each an integer, got 'x': re"):
        fitted.add_labels({"x": "choir"})


def test_names_of_a_configuration_have_the_type_of_the_data(bert: Backbone, toy: Any) -> None:
    config = Config.from_dict(
        {
            "backbone": {"name": bert.name},
            "labels": {"0": "food", "1": "ball", "2": "hotel"},
            "training": {"max_steps": 1},
        }
    )
    numbers = [toy.names.index(label) for label in toy.labels]
    assert LabelClassifier(bert, config=config).fit(toy.texts, numbers).classes_.tolist() == [
        0,
        1,
        2,
    ]
    more = replace(config, labels={**(config.labels or {}), "other": ["song"]})
    assert LabelClassifier(bert, config=more).fit(toy.texts, numbers).classes_.tolist() == [
        "0",
        "1",
        "2",
        "other",
    ]


def test_an_artifact_without_a_type_has_texts(
    bert: Backbone, classifier: Make, toy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    numbers = [toy.names.index(label) for label in toy.labels]
    fitted = classifier(bert, "probe", None).fit(toy.texts, numbers)
    whole = LabelClassifier._own_config
    monkeypatch.setattr(
        LabelClassifier,
        "_own_config",
        lambda *given: {k: v for k, v in whole(*given).items() if k != "label_type"},
    )
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert loaded.classes_.tolist() == ["0", "1", "2"]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_labels_are_no_class(
    bert: Backbone, classifier: Make, toy: Any, missing: Any
) -> None:
    labels = [*toy.labels[:-1], missing]
    made = classifier(bert, "probe", None)
    sentence = (
        "^expected a label for every {} text, got 1 of 48 without one, the first, "
        f"{missing}, at index 47; label them, or leave these texts out$"
    )
    with pytest.raises(DataError, match=sentence.format("training")):
        made.fit(toy.texts, labels)
    with pytest.raises(DataError, match=sentence.format("validation")):
        made.fit(toy.texts, toy.labels, (toy.texts, labels))
    made.fit(toy.texts, toy.labels)
    with pytest.raises(DataError, match=sentence.format("test")):
        made.evaluate(toy.texts, labels)


def test_columns_and_generators_are_read_by_every_verb(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": toy.texts, "label": toy.labels})
    fitted = classifier(bert, "probe").fit(
        frame[["text"]], frame["label"], (iter(toy.test_texts), iter(toy.test_labels))
    )
    expected = classifier(bert, "probe").fit(toy.texts, toy.labels, toy.test)
    scores = expected.scores(toy.texts)
    assert np.array_equal(fitted.scores(frame[["text"]]), scores)
    close(fitted.predict_proba(text for text in toy.texts), softmax(scores))
    assert len(fitted.predict(frame["text"])) == 48
    assert fitted.evaluate(frame["text"], frame[["label"]])["num_examples"] == 48
    pairs = frame[["text", "label"]]
    assert np.array_equal(
        fitted.scores(pairs), fitted.scores(list(zip(toy.texts, toy.labels, strict=True)))
    )
    for use in (fitted.predict, fitted.predict_proba, fitted.scores):
        with pytest.raises(DataError, match="expected a list of texts, got dict; give a list, a t"):
            use({"text": toy.texts})


def test_labels_that_differ_by_signs_are_told_apart_where_no_text_is_read(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    names = ["+", "-", "a-b", "a_b"]
    labels = [names[row % 4] for row in range(48)]
    for given in (None, names):
        fitted = classifier(bert, "probe", given).fit(toy.texts, labels)
        assert fitted.classes_.tolist() == names
        assert fitted.labels_.flat_texts == ("+", "-", "a-b", "a_b")
    assert classifier(bert, "prefix", [-1, 1]).fit(toy.texts, [1, -1] * 24).classes_.tolist() == [
        -1,
        1,
    ]
    sentence = "the labels 'a-b' and 'a_b' have the same text 'a b': give each its own"
    with pytest.raises(LabelError, match=sentence):
        classifier(bert, "lt-prefix", None).fit(toy.texts, labels)
    with pytest.raises(LabelError, match=sentence):
        classifier(bert, "lt-prompt", names)
    with pytest.raises(LabelError, match=sentence):
        classifier(bert, "prefix", names, start="text")


def test_a_label_that_comes_during_a_prediction_leaves_no_stale_scorer(
    bert: Backbone, classifier: Make, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = classifier(bert).fit(toy.texts, toy.labels)
    whole, calls = LabelClassifier._new_scorer, []

    def interrupted(self: LabelClassifier, of: Any) -> Any:
        scorer = whole(self, of)
        calls.append(of)
        if len(calls) == 1:
            self.add_labels({"music": "song"})
        return scorer

    monkeypatch.setattr(LabelClassifier, "_new_scorer", interrupted)
    # What began before the label came ends as it began.
    assert set(fitted.predict(toy.test_texts)) <= set(toy.names)
    assert fitted.scores(toy.test_texts).shape == (30, 4)
    assert fitted.classes_.tolist() == [*toy.names, "music"]


def test_labels_are_added_while_others_predict(bert: Backbone, classifier: Make, toy: Any) -> None:
    fitted = classifier(bert).fit(toy.texts, toy.labels)
    texts, failed = toy.test_texts[:2], []

    def predict() -> None:
        try:
            for _ in range(8):
                assert len(fitted.predict(texts)) == 2
                assert fitted.predict_proba(texts).shape[1] in (3, 4, 5)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    fitted.add_labels({"music": "song"}).add_labels({"noise": "drum"})
    for thread in threads:
        thread.join()
    assert failed == []
    assert fitted.scores(texts).shape == (2, 5)


def test_text_pairs(backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path) -> None:
    pairs = list(zip(toy.texts, reversed(toy.texts), strict=True))
    fitted = classifier(backbone).fit(pairs, toy.labels)
    scores = fitted.scores(pairs)
    assert scores.shape == (48, 3)
    swapped = fitted.scores([(second, first) for first, second in pairs])
    assert not np.allclose(scores, swapped)
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=backbone)
    assert np.array_equal(loaded.scores(pairs), scores)


def test_single_texts_for_a_classifier_of_pairs_are_said(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [(text, "the bread") for text in toy.texts]
    classifier(bert, "probe", None).fit(pairs, toy.labels).save_pretrained(tmp_path / "saved")
    made = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    made.predict(pairs)
    single = classifier(bert, "probe", None).fit(toy.texts, toy.labels)
    single.predict(toy.texts)
    assert caplog.messages == []
    made.predict([pairs[0], "the bread", "a ball"])
    single.predict(pairs[:1])
    assert caplog.messages == [
        "the classifier was trained on pairs of texts, and 2 of the 3 given are single texts: its "
        "answers for them mean little",
        "the classifier was trained on single texts, and 1 of the 1 given are pairs of texts: its "
        "answers for them mean little",
    ]


def test_a_text_scores_the_same_beside_a_pair(
    backbone: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(backbone).fit(toy.texts, toy.labels)
    alone = fitted.scores(toy.test_texts[:1])
    beside = fitted.scores([toy.test_texts[0], ("the bread", "a ball")])
    close(beside[:1], alone)


# --- labels after training ----------------------------------------------------------------------


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_a_label_is_added_after_training(
    backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path, method: str
) -> None:
    fitted = classifier(backbone, method, steps=40, rate=2e-2, **APART).fit(toy.texts, toy.labels)
    before, adapter = fitted.scores(toy.test_texts), dict(weights(fitted))
    # Longer than the label texts of training.
    fitted.add_labels({"music": ["a song", "the very good choir and the old piano"]})
    assert fitted.classes_.tolist() == ["food", "sport", "travel", "music"]
    after = fitted.scores(toy.test_texts)
    assert after.shape == (30, 4)
    close(after[:, :3], before)
    assert all(torch.equal(weight, adapter[name]) for name, weight in weights(fitted).items())
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=backbone)
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    assert np.array_equal(loaded.scores(toy.test_texts), after)


@pytest.mark.parametrize("method", ["probe", "lt-prompt"])
def test_a_longer_label_moves_no_other_where_positions_are_counted_from_a_room(
    tmp_path: Path, classifier: Make, toy: Any, method: str
) -> None:
    FAMILIES["gpt2"].save(tmp_path / "gpt2")
    backbone = Backbone.load(str(tmp_path / "gpt2"))
    match = {"method__head": "match"} if method == "probe" else {}
    fitted = classifier(backbone, method, steps=5, **match).fit(toy.texts, toy.labels)
    before = fitted.scores(toy.test_texts)
    longer = "the very good choir and the old piano of the hotel"
    # And one more, once the longer one is known.
    for number, added in enumerate([{"music": longer}, {"dance": f"{longer} and the tune"}], 4):
        fitted.add_labels(added)
        after = fitted.scores(toy.test_texts)
        close(after[:, :3], before)
        fitted.save_pretrained(tmp_path / f"saved-{number}")
        fitted = LabelClassifier.from_pretrained(tmp_path / f"saved-{number}", backbone=backbone)
        assert np.array_equal(fitted.scores(toy.test_texts), after)


def test_a_new_topic_is_recognised_from_its_label_text(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, steps=40, rate=2e-2).fit(toy.texts, toy.labels)
    fitted.add_labels({"music": "song"})
    new = ["the drum and the violin", "choir tune band", "piano song", "a chord on the piano"]
    assert (fitted.predict(new) == "music").mean() >= 0.75
    assert fitted.evaluate(*toy.test)["accuracy"] >= 0.75


@pytest.mark.parametrize("method", LABEL_METHODS)
def test_a_longer_label_leaves_room_for_the_longest_text(
    backbone: Backbone, classifier: Make, toy: Any, method: str, tmp_path: Path
) -> None:
    long = ["bread " * 100, "ball"]
    fitted = classifier(backbone, method).fit(toy.texts, toy.labels)
    assert np.isfinite(fitted.scores(long)).all()
    fitted.add_labels({"music": "the very good choir and the old piano in the new harbour"})
    scores = fitted.scores(long)
    assert np.isfinite(scores).all()
    fitted.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=backbone)
    assert np.array_equal(loaded.scores(long), scores)


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_plain_methods_say_why_they_take_no_label_after_training(
    bert: Backbone, classifier: Make, toy: Any, method: str
) -> None:
    fitted = classifier(bert, method).fit(toy.texts, toy.labels)
    with pytest.raises(
        LabelError,
        match="^expected method 'lt-prefix' or 'lt-prompt' for labels after training, got "
        f"'{method}', whose head has one output for each class it was trained on; train again "
        "with the new label, or with a label method$",
    ):
        fitted.add_labels({"music": "song"})


@pytest.mark.parametrize(
    ("labels", "error", "sentence"),
    [
        ({"food": "soup"}, LabelError, "there is a label 'food' already"),
        ({"music": "bread"}, LabelError, "'food' and 'music' have the same text 'bread'"),
        ({"music": " "}, LabelError, "the label 'music' has an empty text"),
        ({"music": "song " * 40}, BackboneError, "label texts of at most 32 tokens"),
    ],
)
def test_a_label_that_cannot_be_added_changes_nothing(
    bert: Backbone,
    classifier: Make,
    toy: Any,
    labels: dict[str, str],
    error: type[Exception],
    sentence: str,
) -> None:
    fitted = classifier(bert).fit(toy.texts, toy.labels)
    before = fitted.scores(toy.test_texts)
    with pytest.raises(error, match=sentence):
        fitted.add_labels(labels)
    assert np.array_equal(fitted.scores(toy.test_texts), before)


def test_the_pooled_map_has_no_room_for_a_longer_label(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, recipe="paper").fit(toy.texts, toy.labels)
    with pytest.raises(BackboneError, match="expected label texts of at most 5 tokens, got 6"):
        fitted.add_labels({"music": "song and a drum"})
    assert fitted.add_labels({"music": "song"}).scores(toy.test_texts).shape == (30, 4)


def test_room_for_longer_labels_can_be_asked_for(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, recipe="paper", num_tokens=8).fit(toy.texts, toy.labels)
    fitted.add_labels({"music": "song and a drum"})
    assert np.isfinite(fitted.scores(toy.test_texts)).all()
    with pytest.raises(BackboneError, match="at most 3 tokens, got 5 for 'ball and team'"):
        classifier(bert, num_tokens=3).fit(toy.texts, toy.labels)


# --- loading ------------------------------------------------------------------------------------


@pytest.fixture
def saved(bert: Backbone, classifier: Make, toy: Any, tmp_path: Path) -> Path:
    classifier(bert).fit(toy.texts, toy.labels).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_another_backbone_than_the_one_trained_on_is_refused(
    saved: Path, bert: Backbone, backbones: dict[str, Backbone]
) -> None:
    other = backbones["roberta"]
    with pytest.raises(ArtifactError) as caught:
        LabelClassifier.from_pretrained(saved, backbone=other)
    assert str(caught.value) == (
        f"expected the backbone that '{saved}' was trained on, '{bert.name}' with fingerprint "
        f"{bert.fingerprint[:16]}, got '{other.name}' with {other.fingerprint[:16]}; give the "
        "folder or hub id of the first one as backbone, in Python with its revision"
    )


def test_the_backbone_may_have_moved(
    saved: Path, tiny_bert: Path, toy: Any, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(tiny_bert)
    loaded = LabelClassifier.from_pretrained(saved, backbone=moved)
    expected = LabelClassifier.from_pretrained(saved)
    assert np.array_equal(loaded.scores(toy.test_texts), expected.scores(toy.test_texts))
    assert loaded.config.backbone.name == str(moved)


def test_saving_over_something_is_refused(saved: Path) -> None:
    loaded = LabelClassifier.from_pretrained(saved)
    with pytest.raises(ArtifactError, match="holds a trained classifier already"):
        loaded.save_pretrained(saved)
    loaded.save_pretrained(saved, overwrite=True, files={"metrics.json": "{}"})
    assert (saved / "metrics.json").read_text() == "{}"


def test_a_loaded_classifier_can_be_fitted_again(saved: Path, toy: Any) -> None:
    loaded = LabelClassifier.from_pretrained(saved)
    again = LabelClassifier.from_pretrained(saved).fit(toy.texts, toy.labels)
    assert np.array_equal(again.scores(toy.test_texts), loaded.scores(toy.test_texts))


# --- what is refused ----------------------------------------------------------------------------


def test_what_is_not_fitted_cannot_predict(
    bert: Backbone, classifier: Make, tmp_path: Path
) -> None:
    raw = classifier(bert, labels=None)
    uses: list[Callable[[], Any]] = [
        lambda: raw.predict(["bread"]),
        lambda: raw.predict_proba(["bread"]),
        lambda: raw.evaluate(["bread"], ["food"]),
        lambda: raw.add_labels({"music": "song"}),
        lambda: raw.save_pretrained(tmp_path / "saved"),
        lambda: raw.classes_,
    ]
    for use in uses:
        with pytest.raises(LabelError, match="got one that is not fitted; call fit"):
            use()


NAN = float("nan")


@pytest.mark.parametrize(
    ("texts", "labels", "sentence"),
    [
        (["a", "b"], ["food"], "expected one label for each text, got 2 texts and 1"),
        ("bread", ["food"], "expected a list of texts, got one text; write [text]"),
        ([], [], "expected at least one text, got none"),
        (
            ["bread", " \t", ""],
            ["food", "food", "sport"],
            "expected texts with words in them, got 2 empty ones, the first at index 1; remove "
            "them or set data.empty_texts=skip",
        ),
        ([("", " "), "ball"], ["food", "sport"], "got 1 empty ones, the first at index 0"),
        (["ball", ("the", "")], ["food", "sport"], "got 1 empty ones, the first at index 1"),
        (["bread", None], ["food", "sport"], "expected a text or a pair of texts, got NoneType"),
        (["bread", NAN], ["food", "sport"], "expected a text or a pair of texts, got float"),
        ([("a", "b", "c")], ["food"], "expected a text or a pair of texts, got tuple"),
    ],
)
def test_training_data_that_cannot_be_used_is_refused(
    bert: Backbone, classifier: Make, toy: Any, texts: Any, labels: list[str], sentence: str
) -> None:
    with pytest.raises(DataError) as caught:
        classifier(bert).fit(texts, labels)
    assert sentence in str(caught.value)
    with pytest.raises(DataError) as caught:
        classifier(bert).fit(toy.texts, toy.labels, (texts, labels))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("text", [None, NAN, 3, ("a", "b", "c"), ("a", None)])
def test_what_is_no_text_is_refused_at_prediction(
    bert: Backbone, classifier: Make, toy: Any, text: Any
) -> None:
    fitted = classifier(bert).fit(toy.texts, toy.labels)
    with pytest.raises(DataError, match="expected a text or a pair of texts, got"):
        fitted.predict(["bread", text])


def test_one_text_alone_is_no_list_of_texts(bert: Backbone, classifier: Make, toy: Any) -> None:
    fitted = classifier(bert).fit(toy.texts, toy.labels)
    for use in (fitted.predict, fitted.predict_proba, fitted.scores):
        with pytest.raises(DataError, match="expected a list of texts, got one text"):
            use("bread")


@pytest.mark.parametrize(
    ("method", "options", "problem"),
    [
        (
            "prefix",
            {"num_tokens": 65},
            "method.num_tokens: expected at most 64 virtual tokens with this backbone, got 65",
        ),
        (
            "lt-prefix",
            {**APART, "transform": "pooled", "num_tokens": 65},
            "method.num_tokens: expected at most 64 virtual tokens with this backbone, got 65",
        ),
        (
            "lt-prefix",
            {"rank": 10**12},
            "method: expected trainable parameters that fit into 8 GiB of memory, got "
            "160,000,000,001,025 (r·(H + 2·M·N·D) + H² + 1), which take 2,384,186; lower "
            "method.rank or method.num_tokens",
        ),
        (
            "ls-lora",
            {"rank": 10**12},
            "method: expected trainable parameters that fit into 8 GiB of memory, got "
            "512,000,000,000,000 (r·(in + out) of each), which take 7,629,395; lower method.rank "
            "or method.num_tokens",
        ),
    ],
)
def test_what_no_machine_could_hold_is_refused_before_it_is_built(
    bert: Backbone,
    classifier: Make,
    toy: Any,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, Any],
    problem: str,
) -> None:
    monkeypatch.setattr("ltuning.methods.parameter_counts._memory", lambda: 8 * 2**30)
    with pytest.raises(ConfigError) as caught:
        classifier(bert, method, **options).fit(toy.texts, toy.labels)
    assert [str(found) for found in caught.value.problems] == [problem]


def test_labels_that_say_nothing_or_look_like_several_are_told_of(
    bert: Backbone, classifier: Make, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {**toy.label_texts, "sport": "a"}
    classifier(bert, labels=labels, steps=1).fit(toy.texts, toy.labels)
    assert caplog.messages == [
        "the text of the label 'sport' says nothing, and method 'lt-prefix' reads what labels "
        "mean: give each a text with --label NAME=TEXT (in Python labels={name: text}), or take "
        "method 'prefix', which reads none"
    ]
    caplog.clear()
    joined = ["food|sport" if label == "travel" else label for label in toy.labels]
    classifier(bert, "probe", None, steps=1).fit(toy.texts, joined)
    assert [message.partition(" with ")[0] for message in caplog.messages] == [
        "the label 'food|sport' looks like several"
    ]


def test_empty_texts_can_be_skipped_and_are_counted(
    bert: Backbone, classifier: Make, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    skipping = classifier(bert, data__empty_texts="skip")
    with caplog.at_level(logging.WARNING, logger="ltuning"):
        skipping.fit([*toy.texts, "", " "], [*toy.labels, "food", "sport"])
    assert [record.message for record in caplog.records if record.name == "ltuning"] == [
        "left out 2 of 50 texts: they are empty"
    ]
    expected = classifier(bert).fit(toy.texts, toy.labels)
    assert np.array_equal(skipping.scores(toy.test_texts), expected.scores(toy.test_texts))
    with pytest.raises(DataError, match="expected at least one text with words in it, got none"):
        skipping.fit(["", " "], ["food", "sport"])


def test_a_training_label_that_was_not_given_is_refused(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    with pytest.raises(
        LabelError,
        match="unknown label 'foot': expected one of 'food', 'sport', 'travel'; did you mean",
    ):
        classifier(bert).fit([*toy.texts, "bread"], [*toy.labels, "foot"])


@pytest.mark.parametrize(("method", "labels"), [("prefix", True), ("lt-prefix", False)])
def test_a_validation_label_that_training_lacks_is_refused(
    bert: Backbone, classifier: Make, toy: Any, method: str, labels: bool
) -> None:
    given = {**toy.label_texts, "music": "song"} if labels else None
    with pytest.raises(
        DataError,
        match="^expected validation labels that training has, got 'music' in validation only; "
        "add training texts for them or remove these rows$",
    ):
        classifier(bert, method, given).fit(
            toy.texts, toy.labels, ([*toy.test_texts, "song"], [*toy.test_labels, "music"])
        )


def test_a_label_method_validates_a_label_that_it_was_told_of(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, labels={**toy.label_texts, "music": "song"})
    fitted.fit(toy.texts, toy.labels, ([*toy.test_texts, "song"], [*toy.test_labels, "music"]))
    assert fitted.classes_.tolist() == ["food", "sport", "travel", "music"]


def test_one_class_is_refused(bert: Backbone, classifier: Make) -> None:
    with pytest.raises(LabelError, match="expected two labels or more, got 1"):
        classifier(bert, labels=None).fit(["bread", "soup"], ["food", "food"])
    with pytest.raises(LabelError, match="expected two labels or more, got 1"):
        classifier(bert, labels={"food": "bread"})


def test_an_evaluation_label_that_is_unknown_is_refused(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert).fit(toy.texts, toy.labels)
    with pytest.raises(LabelError, match="unknown label 'music'"):
        fitted.evaluate(["song"], ["music"])
    with pytest.raises(DataError, match="expected one label for each text, got 2 texts and 1"):
        fitted.evaluate(["song", "ball"], ["food"])


def test_a_prompt_that_leaves_no_room_for_text_is_refused(
    backbone: Backbone, classifier: Make, toy: Any
) -> None:
    with pytest.raises(
        BackboneError,
        match="expected room for at least 16 tokens of text beside the virtual tokens, got 4 "
        r"\(64 positions less 60\); use fewer virtual tokens, shorter label texts, or "
        "method.label_tokens=mean where labels are read together",
    ):
        classifier(backbone, "prompt", num_tokens=60).fit(toy.texts, toy.labels)


def test_a_prefix_spends_no_positions(backbone: Backbone, classifier: Make, toy: Any) -> None:
    fitted = classifier(backbone, "prefix", num_tokens=60).fit(toy.texts, toy.labels)
    assert np.isfinite(fitted.scores(["bread " * 100])).all()


@pytest.mark.parametrize("first", [True, False])
def test_a_run_that_failed_leaves_the_classifier_as_it_was(
    bert: Backbone, classifier: Make, toy: Any, first: bool
) -> None:
    broken = classifier(bert, "prefix", steps=9, rate=1e38, training__warmup_steps=0)
    before = None
    if not first:
        broken._fitted = classifier(bert, "prefix").fit(toy.texts, toy.labels)._fitted
        before = broken.scores(toy.test_texts)
    with pytest.raises(TrainingError, match="expected a finite loss"):
        broken.fit(toy.texts, toy.labels)
    if before is None:
        with pytest.raises(LabelError, match="not fitted"):
            broken.add_labels({"music": "song"})
    else:
        assert np.array_equal(broken.scores(toy.test_texts), before)


# --- configuration ------------------------------------------------------------------------------


def test_all_problems_of_the_options_come_at_once_before_a_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Backbone, "load", refuse)
    with pytest.raises(ConfigError) as caught:
        LabelClassifier(
            "/no/such/folder",
            ["food", "sport"],
            "lt-prefx",
            recipe="papr",
            seed=-1,
            options={"method.rank": 0, "backbone.dtyp": "float32", "stopping.metric": "f2"},
        )
    assert [problem.path for problem in caught.value.problems] == [
        "backbone.dtyp",
        "method.name",
        "method.recipe",
        "method.rank",
        "stopping.metric",
        "seed",
    ]
    assert "did you mean 'lt-prefix'" in str(caught.value)


def test_choices_and_training_names_are_checked_together(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        LabelClassifier(
            tiny_bert,
            method="prefix",
            options={
                "method.head": "match",
                "training.learning_rat": 1e-3,
                "training.output_dir": "somewhere",
            },
        )
    assert [problem.path for problem in caught.value.problems] == [
        "method.head",
        "training.learning_rat",
        "training.output_dir",
    ]


def test_values_choices_and_training_names_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        LabelClassifier(
            "/no/such/folder",
            method="prefix",
            seed=-1,
            options={"method.head": "match", "training.learning_rat": 1e-3},
        )
    paths = {problem.path for problem in caught.value.problems}
    assert paths == {"seed", "method.head", "training.learning_rat"}


@pytest.mark.parametrize("name", ["use_cpu", "eval_strategy", "save_strategy", "report_to"])
def test_a_training_field_of_ours_is_refused_or_taken_but_never_given_twice(
    bert: Backbone, toy: Any, name: str
) -> None:
    value = {"use_cpu": True, "report_to": "none"}.get(name, "no")
    options = {f"training.{name}": value, "training.max_steps": 1}
    try:
        # What validation decides is known when there are texts for it.
        LabelClassifier(bert, toy.names, options=options).fit(toy.texts, toy.labels, toy.test)
    except ConfigError as error:
        assert [problem.path for problem in error.problems] == [f"training.{name}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "fast"),
        ("eval_strategy", "sometimes"),
        ("per_device_train_batch_size", 0),
        ("num_train_epochs", -1),
    ],
)
def test_a_training_value_that_cannot_be_used_is_a_problem_of_the_configuration(
    bert: Backbone, toy: Any, name: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=f"training.{name}"):
        LabelClassifier(bert, toy.names, options={f"training.{name}": value}).fit(
            toy.texts, toy.labels, toy.test
        )


@pytest.mark.parametrize("length", [{"steps": 0}, {"epochs": 0}, {"steps": -5}])
def test_a_run_of_no_steps_is_a_problem_of_the_configuration(
    bert: Backbone, toy: Any, length: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match="training"):
        LabelClassifier(bert, toy.names, **length).fit(toy.texts, toy.labels)


def test_patience_without_evaluations_is_a_problem_of_the_configuration(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    with pytest.raises(ConfigError, match="stopping.patience"):
        classifier(bert, stopping__patience=2, training__eval_strategy="no").fit(
            toy.texts, toy.labels, toy.test
        )


def test_an_option_may_name_a_whole_section() -> None:
    with pytest.raises(ConfigError, match="method: expected a section of options"):
        LabelClassifier("/no/such/folder", options={"method": "prefix"})


def test_a_configuration_says_the_same_as_its_arguments(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    made = classifier(bert, "lt-prefix", seed=3, steps=2, rank=8).fit(toy.texts, toy.labels)
    config = Config.from_dict(
        {
            "backbone": {"name": bert.name},
            "labels": toy.label_texts,
            "method": {"name": "lt-prefix", "rank": 8},
            "seed": 3,
            "training": {"max_steps": 2},
        }
    )
    assert made.config == config
    again = LabelClassifier(bert, config=config).fit(toy.texts, toy.labels)
    assert np.array_equal(again.scores(toy.test_texts), made.scores(toy.test_texts))


def test_a_backbone_beside_a_configuration_that_names_another_is_not_ignored(
    tiny_roberta: Path, bert: Backbone
) -> None:
    config = Config.from_dict({"backbone": {"name": bert.name}})
    try:
        made = LabelClassifier(tiny_roberta, config=config)
    except ConfigError:
        return
    assert made.backbone.name == str(tiny_roberta)


def test_a_missing_backbone_is_seen_when_it_is_needed(toy: Any, tmp_path: Path) -> None:
    made = LabelClassifier(tmp_path / "nothing", toy.names)
    with pytest.raises(BackboneError, match="expected a model folder with a config.json"):
        made.fit(toy.texts, toy.labels)


# --- decoders whose tokenizer puts nothing before a text ----------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_text_without_any_token_keeps_its_place(
    save_tiny_llama: Callable[[str | None], Path],
    load: Callable[..., Backbone],
    classifier: Make,
    toy: Any,
    method: str,
) -> None:
    bare = load(save_tiny_llama(None))
    fitted = classifier(bare, method).fit(toy.texts, toy.labels)
    expected = fitted.predict_proba(toy.test_texts[:2])
    probabilities = fitted.predict_proba([toy.test_texts[0], "", toy.test_texts[1]])
    assert np.isfinite(probabilities).all()
    close(probabilities[[0, 2]], expected)
    assert np.isfinite(fitted.predict_proba([""])).all()


def test_softmax_of_large_scores_is_finite() -> None:
    assert softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]])).tolist() == [[1, 0], [0.5, 0.5]]


def test_an_artifact_does_not_decide_whether_code_of_a_checkpoint_runs(
    bert: Backbone, classifier: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = classifier(bert, "prompt", steps=1).fit(toy.texts, toy.labels)
    trusted = replace(fitted.config.backbone, trust_remote_code=True)
    fitted.config = replace(fitted.config, backbone=trusted)
    fitted.save_pretrained(tmp_path / "run")
    asked = []

    def load(options: Any) -> Backbone:
        asked.append(options.trust_remote_code)
        return bert

    monkeypatch.setattr(Backbone, "load", load)
    LabelClassifier.from_pretrained(tmp_path / "run")
    LabelClassifier.from_pretrained(tmp_path / "run", trust_remote_code=True)
    assert asked == [False, True]


def test_training_on_another_gpu_than_the_first_is_refused(
    bert: Backbone, classifier: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "device", torch.device("cuda:1"))
    with pytest.raises(BackboneError, match="got cuda:1; set CUDA_VISIBLE_DEVICES=1 and leave"):
        classifier(bert, "prompt").fit(toy.texts, toy.labels)


@pytest.mark.parametrize(
    ("method", "options", "also"),
    [
        ("prefix", {}, ""),
        ("probe", {}, "; with method.head=match it reads them"),
        ("probe", {"head": "match"}, None),
        ("prefix", {"start": "text"}, None),
    ],
)
def test_label_texts_that_a_method_does_not_read_are_told_of(
    bert: Backbone,
    classifier: Any,
    toy: Any,
    caplog: pytest.LogCaptureFixture,
    method: str,
    options: dict[str, str],
    also: str | None,
) -> None:
    made = classifier(bert, method, steps=1, **options).fit(toy.texts[:6], toy.labels[:6])
    assert made.labels_.to_dict() == {name: [text] for name, text in toy.label_texts.items()}
    said = (
        f"method '{method}' reads no label texts: those given have no effect, and are kept with "
        f"the classifier{also}"
    )
    assert caplog.messages == ([] if also is None else [said])
    caplog.clear()
    classifier(bert, method, toy.names, steps=1, **options).fit(toy.texts[:6], toy.labels[:6])
    assert caplog.messages == []
