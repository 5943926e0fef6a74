"""Method `auto`: what is trained is chosen once texts and labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ltuning import stages
from ltuning.backbones.backbone import Backbone
from ltuning.config import Config, MethodOptions
from ltuning.errors import BackboneError, ConfigError
from ltuning.estimators import choosing
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.methods.choice import Choice


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(stages, "note", said.append)
    return said


def test_the_chosen_method_is_trained_as_if_it_was_named(
    bert: Backbone, classifier: Any, toy: Any, notes: list[str], tmp_path: Any
) -> None:
    made = classifier(bert, "auto").fit(toy.texts, toy.labels)
    named = classifier(bert, "lt-prefix").fit(toy.texts, toy.labels)
    np.testing.assert_array_equal(made.scores(toy.test_texts), named.scores(toy.test_texts))
    assert made.config == named.config
    chosen = made.figures["choice"]
    assert chosen["method"] == "lt-prefix"
    line = f"auto took lt-prefix: {chosen['why']} ({chosen['source']}, of builtin:minilm)"
    assert line in notes
    made.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert loaded.figures["choice"] == chosen
    assert loaded.config.method.name == "lt-prefix"


def test_another_training_chooses_again(
    bert: Backbone, classifier: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier(bert, "auto")
    took = []
    for name in ("probe", "prefix"):
        choice = Choice(name, "a reason", "a page")
        monkeypatch.setattr(choosing, "choose", lambda *_, choice=choice: choice)
        took.append(made.fit(toy.texts, toy.labels).config.method.name)
    assert took == ["probe", "prefix"]
    # Who changes the configuration after a choice has made one.
    made.config = Config(method=MethodOptions(name="probe"), training={"max_steps": 1})
    made.fit(toy.texts, toy.labels)
    assert "choice" not in made.figures and made.config.method.name == "probe"


def test_a_training_that_fails_leaves_the_choice_of_before(
    bert: Backbone, classifier: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier(bert, "auto").fit(toy.texts, toy.labels)
    before = made.config
    choice = Choice("ls-unmask", "a reason", "a page")
    monkeypatch.setattr(choosing, "choose", lambda *_: choice)
    with pytest.raises(BackboneError, match="expected a decoder for method 'ls-unmask'"):
        made.fit(toy.texts, toy.labels)
    assert made.config is before
    monkeypatch.setattr(choosing, "choose", lambda *_: Choice("probe", "a reason", "a page"))
    assert made.fit(toy.texts, toy.labels).config.method.name == "probe"


def test_a_time_that_is_too_short_cuts_the_steps(
    bert: Backbone, toy: Any, notes: list[str]
) -> None:
    options = {"stopping.seconds": 1e-6}
    made = LabelClassifier(bert, toy.label_texts, "auto", epochs=90, options=options)
    made.fit(toy.texts, toy.labels)
    assert made.figures["training"]["steps"] == 1
    assert made.config.stopping.seconds is None
    end = "; 0% of the usual steps fit into it; by a forecast about 10 s at most"
    assert any(line.endswith(end) for line in notes)


def test_a_time_that_is_long_enough_changes_nothing(bert: Backbone, toy: Any) -> None:
    options = {"stopping.seconds": 1e6}
    made = LabelClassifier(bert, toy.label_texts, "auto", steps=2, options=options)
    assert made.fit(toy.texts, toy.labels).config.method.name == "lt-prefix"
    assert made.figures["training"]["steps"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"method.rank": 8},
            "method.rank: expected no option of a method with method 'auto', got 8; leave it out",
        ),
        (
            {"method.head": "classes"},
            "method.head: expected no option of a method with method 'auto', got 'classes'; "
            "leave it out",
        ),
    ],
)
def test_a_method_that_is_not_known_has_no_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        LabelClassifier(method="auto", options=options)
    assert [str(problem) for problem in raised.value.problems] == [said]


def test_labels_that_are_added_later_can_be_asked_for(bert: Backbone, toy: Any) -> None:
    options = {"method.head": "match"}
    made = LabelClassifier(bert, toy.label_texts, "auto", steps=1, options=options)
    made.fit(toy.texts * 100, toy.labels * 100)
    made.add_labels({"music": "song"})
    assert made.config.method == MethodOptions(name="lt-prefix", head="match")


def test_what_is_refused() -> None:
    message = (
        "method.name: expected the name of a method with task 'multilabel', got 'auto', which "
        "knows texts of one label"
    )
    with pytest.raises(ConfigError) as raised:
        MultilabelClassifier(method="auto")
    assert [str(problem) for problem in raised.value.problems] == [message]
    message = "stopping.seconds: expected with method 'auto' alone, got 'lt-prefix'; leave it out"
    with pytest.raises(ConfigError) as raised:
        LabelClassifier(options={"stopping.seconds": 60})
    assert [str(problem) for problem in raised.value.problems] == [message]
