"""The front doors among scikit-learn's tools, and in pickles."""

from __future__ import annotations

import copy
import pickle
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array, get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from ltuning import errors
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.copies import own_copy
from ltuning.config import Config
from ltuning.errors import ArtifactError, BackboneError, ConfigError, LabelError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier

from ..conftest import FILLERS

WORDS = FILLERS.split()
ARGUMENTS = {
    "backbone", "labels", "method", "recipe", "seed", "epochs", "steps", "class_weight",
    "oos_label", "options", "config",
}  # fmt: skip


# --- scikit-learn's own checks --------------------------------------------------------------------


class OfNumbers(LabelClassifier):
    """Of rows of numbers, each of which is a word: scikit-learn's checks have no texts."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array, tags.input_tags.two_d_array = False, True
        # What is made of the numbers is no matter of ours, and neither is how well it is learned.
        tags.no_validation = tags.classifier_tags.poor_score = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:  # type: ignore[override]
        return super().fit(_texts(X), y, sample_weight=sample_weight)

    def predict(self, X: Any) -> Any:  # type: ignore[override]
        return super().predict(_texts(X))

    def predict_proba(self, X: Any) -> Any:  # type: ignore[override]
        return super().predict_proba(_texts(X))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # type: ignore[override]
        return super().score(_texts(X), y, sample_weight)


def _texts(rows: Any) -> list[str]:
    numbers = np.floor(4 * check_array(rows, dtype=float)).astype(int)
    return [" ".join(WORDS[number % len(WORDS)] for number in row) for row in numbers]


TRAINING = {"learning_rate": 0.1, "per_device_train_batch_size": 512}
EXEMPTED = {
    "check_do_not_raise_errors_in_init_or_set_params": "the constructor tells all problems of the "
    "options at once, before anything is loaded; scikit-learn waits for fit",
    "check_no_attributes_set_in_init": "`figures` and `result_` are there before fit, as empty",
    "check_dont_overwrite_parameters": "fit writes `figures`, a public name without _ at its end",
    "check_classifiers_one_label": "a single label is refused: nothing is to be told apart",
    "check_sample_weight_equivalence_on_dense_data": "training is in float32: a weight and as many "
    "copies are the same to 4e-7, where 1e-7 is asked",
    "check_fit2d_1sample": "it is refused, for its single label and not for being one text",
}

with warnings.catch_warnings():
    # That no class of theirs is inherited, and that texts are no table, so that all checks but one
    # are left out: `OfNumbers` is for these.
    warnings.simplefilter("ignore")
    scikit_learn_checks = parametrize_with_checks(
        [
            LabelClassifier(),
            MultilabelClassifier(),
            OfNumbers(method="probe", steps=4, options={"training": TRAINING}),
        ],
        expected_failed_checks=lambda estimator: EXEMPTED,
    )


@pytest.mark.filterwarnings("ignore")  # of what the checks do to an estimator
@scikit_learn_checks
def test_what_scikit_learn_checks(estimator: Any, check: Any, bert: Backbone) -> None:
    check(estimator.set_params(backbone=bert))


def test_tags_say_that_texts_come_in() -> None:
    tags = get_tags(LabelClassifier())
    assert is_classifier(LabelClassifier()) and tags.target_tags.required
    assert tags.input_tags.string and not tags.input_tags.two_d_array
    assert not tags.classifier_tags.multi_label
    assert get_tags(MultilabelClassifier()).classifier_tags.multi_label


# --- arguments and clones -------------------------------------------------------------------------


def test_arguments_are_given_back_as_they_were_given(bert: Backbone) -> None:
    labels, options = {"food": "bread", "sport": "ball"}, {"method.rank": 4}
    made = LabelClassifier(bert, labels, steps=3, options=options)
    params = made.get_params()
    assert params.keys() == ARGUMENTS
    assert params["backbone"] is bert and params["labels"] is labels
    assert params["options"] is options
    given = {"backbone": bert, "labels": labels, "steps": 3, "options": options}
    assert {name: value for name, value in params.items() if value is not None} == given
    assert made.config.method.rank == 4  # and what is made of them is here


@pytest.mark.parametrize("door", [LabelClassifier, MultilabelClassifier, TokenClassifier])
def test_every_front_door_can_be_cloned(bert: Backbone, door: Any) -> None:
    made = door(bert, ["food", "sport"], "probe", seed=4)
    cloned = clone(made)
    assert type(cloned) is door and cloned is not made
    assert cloned.get_params() == made.get_params() and cloned.config == made.config
    assert cloned.get_params()["labels"] is not made.get_params()["labels"]
    assert cloned.backbone is bert and clone(bert) is bert


def test_clones_of_a_name_load_one_backbone(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda given: loads.append(given) or load(given))
    made = LabelClassifier(tiny_bert, method="probe")
    first, second = clone(made), clone(made).set_params(steps=9)
    assert not loads
    assert first.backbone is second.backbone is made.backbone is copy.deepcopy(made).backbone
    assert len(loads) == 1
    # Another length is another backbone.
    changed = clone(made).set_params(options={"backbone.max_length": 9})
    assert changed.backbone is not made.backbone and changed.backbone.max_length == 9


def test_changed_arguments_take_back_what_was_trained(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, toy.names, "probe", steps=1).fit(toy.texts, toy.labels)
    before = made.config
    assert made.set_params() is made
    check_is_fitted(made)
    for wrong, sentence in (
        ({"step": 3}, "step: unknown argument 'step': expected one of 'backbone', 'labels', "),
        ({"steps": 0}, "training.max_steps: expected an integer of 1 or more, got 0"),
        ({"options": 3}, "options: expected options by their paths such as method.rank, got 3"),
        ({"config": {}}, "config: expected a Config, got {}; Config.from_dict makes one of a map"),
    ):
        with pytest.raises(ConfigError) as caught:
            made.set_params(**wrong)
        assert sentence in str(caught.value)
        assert made.config == before and made.num_parameters
    assert made.set_params(labels=None, steps=2) is made
    assert made.config.training["max_steps"] == 2 and made.backbone is bert
    assert repr(made) == f"<LabelClassifier probe on {bert.name}, not trained>"
    with pytest.raises(NotFittedError):
        check_is_fitted(made)
    # Also the type that names were given with.
    numbers = [toy.names.index(label) for label in toy.labels]
    assert made.fit(toy.texts, numbers).predict(toy.texts).dtype.kind == "i"


def test_a_loaded_classifier_is_cloned_by_its_configuration(
    bert: Backbone, toy: Any, tmp_path: Path
) -> None:
    made = LabelClassifier(bert, toy.names, "probe", steps=1, seed=3).fit(toy.texts, toy.labels)
    made.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    cloned = clone(loaded)
    assert cloned.config == loaded.config and cloned.backbone is bert
    cloned.fit(toy.texts, toy.labels)
    assert np.array_equal(cloned.scores(toy.texts), made.scores(toy.texts))


def test_what_is_not_fitted_is_an_error_of_both(
    bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LabelClassifier(bert)
    assert not hasattr(made, "classes_") and not hasattr(MultilabelClassifier(bert), "thresholds_")
    with pytest.raises(NotFittedError, match="expected a trained classifier, got one that is not"):
        made.predict(["bread"])
    with pytest.raises(errors.NotFittedError) as caught:
        made.predict(["bread"])
    again = pickle.loads(pickle.dumps(caught.value))  # as of a worker
    assert isinstance(again, NotFittedError) and str(again) == str(caught.value)
    # Who has not imported it cannot catch its error, and need not wait for it.
    monkeypatch.delitem(sys.modules, "sklearn.exceptions")
    with pytest.raises(LabelError) as caught:
        made.predict(["bread"])
    assert type(caught.value) is errors.NotFittedError


# --- tools ----------------------------------------------------------------------------------------


def test_cross_validation(bert: Backbone, toy: Any) -> None:
    options = {"training.learning_rate": 1.0}
    made = LabelClassifier(bert, toy.names, "probe", steps=15, options=options)
    scores = cross_val_score(made, toy.texts, toy.labels, cv=3)
    assert scores.shape == (3,) and scores.mean() > 0.5  # chance is a third
    assert not made.__sklearn_is_fitted__()
    made.set_params(steps=3)
    texts = pd.Series(toy.texts)
    losses = [
        cross_val_score(made, texts, toy.labels, cv=2, params=params, scoring="neg_log_loss")
        for params in (None, {"sample_weight": np.arange(48) % 3 == 0})
    ]
    assert np.isfinite(losses).all() and not np.array_equal(*losses)


def test_a_search_over_steps_and_options(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, method="probe", options={"training.learning_rate": 1.0})
    slow = {"training.learning_rate": 1e-6}
    grid = [{"steps": [1, 15]}, {"steps": [15], "options": [slow]}]
    numbers = np.array([toy.names.index(label) for label in toy.labels])
    search = GridSearchCV(made, grid, cv=2).fit(pd.DataFrame({"text": toy.texts}), numbers)
    assert search.best_params_ == {"steps": 15}
    assert search.classes_.tolist() == [0, 1, 2]
    assert search.predict(toy.test_texts).dtype == numbers.dtype
    assert search.best_estimator_.backbone is bert


def test_in_a_pipeline_behind_columns(bert: Backbone, toy: Any) -> None:
    frame = pd.DataFrame({"first": toy.texts, "second": toy.texts[::-1], "number": range(48)})
    answers = np.array(toy.labels) == "food"
    for columns in (["first"], ["first", "second"]):  # texts, and pairs of texts
        chosen = ColumnTransformer([("texts", "passthrough", columns)])
        made = make_pipeline(chosen, LabelClassifier(bert, method="probe", steps=2))
        made.set_params(labelclassifier__seed=5).fit(frame, answers)
        assert made.classes_.tolist() == [False, True]
        assert made.predict(frame).dtype == bool
        assert made[-1]._trained().pairs == (len(columns) == 2)
        assert 0 <= made.score(frame, answers) <= 1
        assert "LabelClassifier" in repr(made) and "LabelClassifier" in made._repr_html_()
    lowered = make_pipeline(
        FunctionTransformer(lambda texts: texts.str.lower()), LabelClassifier(bert, steps=1)
    )
    assert lowered.fit(frame["first"].str.upper(), toy.labels).predict(frame["first"]).shape == (
        48,
    )


def test_calibrated_by_scikit_learn(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, method="probe", steps=20)
    calibrated = CalibratedClassifierCV(made, cv=2).fit(toy.texts, toy.labels)
    assert calibrated.predict_proba(toy.test_texts).shape == (30, 3)
    assert calibrated.classes_.tolist() == sorted(toy.names)


def test_several_labels_are_cross_validated_where_the_folds_are_given(
    bert: Backbone, toy: Any
) -> None:
    made = MultilabelClassifier(bert, toy.names, "probe", steps=2)
    lists = [[label] for label in toy.labels]
    assert cross_val_score(made, toy.texts, lists, cv=KFold(2)).shape == (2,)
    made.fit(toy.texts, lists)
    report = made.evaluate(toy.texts, lists)
    assert made.score(toy.texts, lists) == pytest.approx(report["exact_match"])


def test_a_score_is_the_share_of_right_answers(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, method="probe", steps=9).fit(toy.texts, toy.labels)
    assert made.score(*toy.test) == pytest.approx(made.evaluate(*toy.test)["accuracy"])
    right = made.predict(toy.test_texts) == np.array(toy.test_labels)
    assert made.score(*toy.test, sample_weight=right) == 1.0
    # A label that it does not know, as of another fold, is a wrong answer.
    assert made.score(toy.test_texts[:2], ["music", "music"]) == 0.0


@pytest.mark.parametrize("named", [False, True])
def test_random_numbers_go_on_as_if_nothing_had_been(
    bert: Backbone, tiny_bert: Path, toy: Any, named: bool
) -> None:
    def drawn(between: Callable[[], object]) -> tuple[float, float, float]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        between()
        return random.random(), np.random.rand(), float(torch.rand(()))

    made = LabelClassifier(tiny_bert if named else bert, toy.names, "ls-lora", steps=2)
    expected = drawn(lambda: None)
    assert drawn(lambda: made.fit(toy.texts, toy.labels, toy.test)) == expected
    assert drawn(lambda: made.predict_proba(toy.test_texts)) == expected
    again = pickle.loads(pickle.dumps(made))
    assert drawn(lambda: again.predict(toy.test_texts)) == expected


# --- pickles --------------------------------------------------------------------------------------


def test_what_is_not_fitted_is_pickled_by_its_arguments(bert: Backbone, tiny_bert: Path) -> None:
    for backbone in (tiny_bert, bert):
        made = LabelClassifier(backbone, {"food": "bread", "sport": "ball"}, steps=3)
        content = pickle.dumps(made)
        assert len(content) < 5000  # no weights
        again = pickle.loads(content)
        assert again.config == made.config
        assert {**again.get_params(), "backbone": 0} == {**made.get_params(), "backbone": 0}
        assert again.backbone.fingerprint == bert.fingerprint
        assert again.set_params(steps=4).config.training == {"max_steps": 4}


@pytest.mark.parametrize("method", ["lt-prefix", "prefix", "ls-lora", "full"])
def test_a_fitted_classifier_is_pickled_without_its_backbone(
    tiny_bert: Path, toy: Any, method: str, tmp_path: Path
) -> None:
    made = LabelClassifier(tiny_bert, toy.label_texts, method, steps=2)
    made.fit(toy.texts, toy.labels, toy.test)
    expected = made.scores(toy.test_texts)
    joblib.dump(made, tmp_path / "made.joblib")
    for again in (
        pickle.loads(pickle.dumps(made)),
        joblib.load(tmp_path / "made.joblib"),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(made)))),
        copy.deepcopy(made),
    ):
        assert again._fitted is None and "trained, not loaded yet" in repr(again)
        check_is_fitted(again)
        assert np.array_equal(again.scores(toy.test_texts), expected)
        assert again.predict_sets(toy.test_texts) == made.predict_sets(toy.test_texts)
        assert again.figures == made.figures and again.result_ == made.result_
        assert again.classes_.tolist() == made.classes_.tolist()
    again.save_pretrained(tmp_path / "saved")
    made.save_pretrained(tmp_path / "first")
    for name in ("adapter_model.safetensors", "ltuning_config.json"):
        first, second = (tmp_path / folder / name for folder in ("first", "saved"))
        assert first.read_bytes() == second.read_bytes()


def test_a_pickle_goes_on_being_trained_and_taking_labels(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, toy.label_texts, steps=2).fit(toy.texts, toy.labels)
    again = pickle.loads(pickle.dumps(made))
    again.add_labels({"music": "the song"})
    assert again.classes_.tolist() == [*toy.names, "music"] and len(made.classes_) == 3
    assert pickle.loads(pickle.dumps(again)).predict_proba(toy.texts).shape == (48, 4)
    assert np.array_equal(
        clone(again).fit(toy.texts, toy.labels).scores(["bread"]), made.scores(["bread"])
    )


def test_other_tasks_are_pickled_too(bert: Backbone, toy: Any) -> None:
    lists = [[label] for label in toy.labels]
    several = MultilabelClassifier(bert, toy.names, "probe", steps=2)
    several.fit(toy.texts, lists, (toy.texts, lists))
    again = pickle.loads(pickle.dumps(several))
    assert again.predict(toy.test_texts) == several.predict(toy.test_texts)
    assert again.thresholds_.tolist() == several.thresholds_.tolist()
    words = [text.split() for text in toy.texts]
    tags = [["B-x"] + ["O"] * (len(row) - 1) for row in words]
    tagger = TokenClassifier(bert, method="probe", steps=2).fit(words, tags)
    assert pickle.loads(pickle.dumps(tagger)).predict_tags(words) == tagger.predict_tags(words)


def test_no_thread_finds_a_pickled_classifier_half_made(
    bert: Backbone, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LabelClassifier(bert, method="probe", steps=2).fit(toy.texts, toy.labels)
    again = pickle.loads(pickle.dumps(made))
    restore, seen = LabelClassifier._restore, []

    def watched(self: LabelClassifier, opened: Any) -> None:
        restore(self, opened)
        seen.append((again._fitted, again.__sklearn_is_fitted__()))

    monkeypatch.setattr(LabelClassifier, "_restore", watched)
    assert again.predict(toy.texts).tolist() == made.predict(toy.texts).tolist()
    assert seen == [(None, True)] and again._saved is None


def test_a_guess_is_no_part_of_a_pickle(bert: Backbone, toy: Any) -> None:
    made = LabelClassifier(bert, toy.label_texts)
    expected = made.predict(toy.texts)
    again = pickle.loads(pickle.dumps(made))
    assert again._guess is None and again.predict(toy.texts).tolist() == expected.tolist()
    fitted = LabelClassifier(bert, toy.label_texts, steps=2).fit(toy.texts, toy.labels)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(toy.texts), fitted.predict_proba(toy.texts))


def test_another_backbone_in_the_place_of_the_pickled_one_is_refused(
    tiny_bert: Path, tiny_roberta: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LabelClassifier(tiny_bert, method="probe", steps=1).fit(toy.texts, toy.labels)
    content, load = pickle.dumps(made), Backbone.load
    monkeypatch.setattr(Backbone, "load", lambda options: load(str(tiny_roberta)))
    with pytest.raises(
        ArtifactError, match="expected the backbone that 'the pickle' was trained on"
    ):
        pickle.loads(content).predict(toy.texts)


def test_a_backbone_made_of_a_model_has_nothing_to_be_loaded_from(bert: Backbone, toy: Any) -> None:
    by_hand = Backbone(own_copy(bert).model, bert.tokenizer, name="mine")
    made = LabelClassifier(by_hand, method="probe", steps=1).fit(toy.texts, toy.labels)
    with pytest.raises(BackboneError) as caught:
        pickle.dumps(made)
    assert str(caught.value) == (
        "expected a backbone for the pickle that can be loaded again, got 'mine', which was made "
        "of a model; save the model and its tokenizer in a folder and take Backbone.load(folder)"
    )
    assert copy.deepcopy(made).predict(toy.texts).tolist() == made.predict(toy.texts).tolist()
    assert clone(made).backbone is by_hand


def test_a_configuration_is_an_argument_like_others(bert: Backbone) -> None:
    made = LabelClassifier(bert, config=Config.from_dict({"backbone": {"name": bert.name}}))
    again = pickle.loads(pickle.dumps(clone(made)))
    assert again.config == made.config and again.get_params()["config"] == made.config
