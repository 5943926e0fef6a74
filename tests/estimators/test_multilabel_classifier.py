"""Several labels, or none, of a text through the front door."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from ltuning.backbones.backbone import Backbone
from ltuning.calibration import sigmoid
from ltuning.errors import ArtifactError, ConfigError, DataError, LabelError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.labels import Labels
from ltuning.methods.catalog import METHODS
from ltuning.methods.parameter_counts import closed_forms
from ltuning.scoring import Scorer
from ltuning.training.objectives import objective_of
from ltuning.training.trainer import AdapterTrainer, TrainingModel
from ltuning.training.validation import start_at_base_rate

from ..conftest import FILLERS, TOPICS

Rows = tuple[list[str], list[list[str]]]
LABELS = {"food": "bread", "sport": "ball and team", "travel": "the hotel"}
RATES = {
    "prompt": 2e-2,
    "prefix": 2e-2,
    "lt-prompt": 3e-3,
    "lt-prefix": 1e-2,
    "ls-lora": 1e-2,
    "ls-unmask": 1e-2,
    "probe": 5e-2,
    "full": 3e-3,
}


def rows(number: int, seed: int, topics: Any = LABELS) -> Rows:
    """Texts with words of none, one or several topics; their labels are these topics."""
    draw = random.Random(seed)
    texts, lists = [], []
    for _ in range(number):
        labels = [topic for topic in topics if draw.random() < 0.35]
        words = [word for topic in labels for word in draw.choices(TOPICS[topic].split(), k=2)]
        words += draw.choices(FILLERS.split(), k=draw.randint(2, 5))
        draw.shuffle(words)
        texts.append(" ".join(words))
        lists.append(labels)
    return texts, lists


TRAINING, VALIDATION, TEST = rows(64, seed=1), rows(40, seed=2), rows(60, seed=3)


def multilabel(
    backbone: Any, method: str = "lt-prefix", steps: int = 2, labels: Any = LABELS, **options: Any
) -> MultilabelClassifier:
    paths = {name.replace("__", "."): value for name, value in options.items()}
    paths.setdefault("training.learning_rate", RATES[method])
    return MultilabelClassifier(backbone, labels, method, steps=steps, options=paths)


@pytest.fixture(scope="module", params=RATES)
def trained(request: pytest.FixtureRequest, bert: Backbone, llama: Backbone) -> Any:
    method = request.param
    backbone = llama if method == "ls-unmask" else bert
    return multilabel(backbone, method, steps=60).fit(*TRAINING, VALIDATION)


def micro_f1(classifier: MultilabelClassifier) -> float:
    return float(classifier.evaluate(*TEST)["micro_f1"])


# --- every method ---------------------------------------------------------------------------------


def test_it_learns(trained: MultilabelClassifier) -> None:
    # To give every label to every text has 2p / (1 + p) = .5.
    assert micro_f1(trained) > 0.8


def test_probabilities_are_sigmoids_and_labels_those_that_reach_their_threshold(
    trained: MultilabelClassifier,
) -> None:
    texts = TEST[0]
    scores = trained.scores(texts).astype(np.float64)
    chances = trained.predict_proba(texts)
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-scores)), rtol=1e-9)
    names, thresholds = trained.classes_, trained.thresholds_
    assert names.tolist() == list(LABELS) and thresholds.shape == (3,)
    assert trained.predict(texts) == [
        [name for name, chance, at in zip(names, row, thresholds, strict=True) if chance >= at]
        for row in chances
    ]
    assert [] in trained.predict(texts)
    assert trained.predict([]) == []


def test_thresholds_are_the_best_of_the_validation_texts(trained: MultilabelClassifier) -> None:
    texts, lists = VALIDATION
    chances, thresholds = trained.predict_proba(texts), trained.thresholds_
    for place, name in enumerate(LABELS):
        truth = np.array([name in labels for labels in lists])

        def f1(at: float, column: int = place, real: Any = truth) -> float:
            return float(metrics.f1_score(real, chances[:, column] >= at))

        assert f1(thresholds[place]) == max(f1(at) for at in np.unique(chances[:, place]))
    validation = trained.figures["validation"]
    measured = trained.evaluate(texts, lists)
    for name in ("micro_f1", "macro_f1", "exact_match"):
        assert validation[name] == pytest.approx(measured[name])
    assert validation["loss"] == pytest.approx(measured["log_loss"], abs=1e-6)
    assert trained.figures["thresholds"] == dict(zip(LABELS, thresholds, strict=True))


def test_a_saved_classifier_says_the_same(trained: MultilabelClassifier, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "saved")
    loaded = MultilabelClassifier.from_pretrained(tmp_path / "saved")
    assert np.array_equal(loaded.thresholds_, trained.thresholds_)
    np.testing.assert_allclose(loaded.scores(TEST[0]), trained.scores(TEST[0]), atol=1e-5)
    assert loaded.predict(TEST[0]) == trained.predict(TEST[0])
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "MultilabelClassifier.from_pretrained" in card
    assert f"| food | bread | {trained.thresholds_[0]:.4f} |" in card
    assert "figures of validation are of the same texts and flatter" in card
    assert "Every text gets one" not in card


def test_order_and_company_change_nothing(trained: MultilabelClassifier) -> None:
    texts = TEST[0][:20]
    scores = trained.scores(texts)
    np.testing.assert_allclose(trained.scores(texts[::-1])[::-1], scores, atol=1e-5)
    alone = np.concatenate([trained.scores([text]) for text in texts[:3]])
    np.testing.assert_allclose(alone, scores[:3], atol=1e-5)


def test_its_resolved_options_train_the_same_again(trained: MultilabelClassifier) -> None:
    again = MultilabelClassifier(trained.backbone, config=trained.resolved_config)
    again.fit(*TRAINING, VALIDATION)
    assert np.array_equal(again.scores(TEST[0]), trained.scores(TEST[0]))
    assert np.array_equal(again.thresholds_, trained.thresholds_)


# --- the loss -------------------------------------------------------------------------------------


def built(backbone: Backbone, method: str, **options: Any) -> Any:
    made = multilabel(backbone, method, **options)
    return made._build(Labels.from_any(LABELS), 10)


@pytest.mark.parametrize("method", RATES)
def test_the_loss_is_the_mean_over_texts_and_labels(
    method: str, bert: Backbone, llama: Backbone
) -> None:
    backbone = llama if method == "ls-unmask" else bert
    fitted = built(backbone, method)
    fitted.model.adapter.eval()
    texts, targets = TRAINING[0][:4], [[0, 2], [], [1], [0, 1, 2]]
    model = TrainingModel(fitted.model, objective_of(fitted.model), 0)
    tokens = backbone.tokenize(texts)
    loss = model(backbone.batch(tokens), range(4), model.draw(targets, 0))
    scores = Scorer(fitted.model, 256).score_tokens(tokens)
    truth = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(scores), truth)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "options"),
    [("prefix", {}), ("lt-prefix", {}), ("lt-prefix", {"labels": "apart", "negatives": 1})],
)
def test_accumulated_batches_are_one_of_their_size(
    method: str, options: dict[str, Any], bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AdapterTrainer, "_get_train_sampler", lambda *_: SequentialSampler(range(7))
    )

    def weights(batch: int, parts: int) -> dict[str, torch.Tensor]:
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": parts}
        paths = {f"training__{name}": value for name, value in sizes.items()}
        paths |= {f"method__{name}": value for name, value in options.items()}
        rate = {"training__learning_rate": 0.1, "training__optim": "sgd"}
        made = multilabel(bert, method, steps=2, **paths, **rate)
        made.fit(TRAINING[0][:7], TRAINING[1][:7])
        return made._trained().model.adapter.state_dict()

    whole = weights(7, 1)
    # Of 4 and 3 texts, whose branches differ in number more than that.
    for name, weight in weights(4, 2).items():
        torch.testing.assert_close(weight, whole[name], atol=1e-6, rtol=1e-5)


def test_a_label_s_output_learns_from_its_own_truth_only(bert: Backbone) -> None:
    """Where classes exclude each other, one that is right pushes the others down."""
    fitted = built(bert, "probe")
    model, batch = (
        TrainingModel(fitted.model, objective_of(fitted.model), 0),
        bert.batch(bert.tokenize(TRAINING[0][:2])),
    )

    def gradient(targets: list[list[int]]) -> torch.Tensor:
        fitted.model.adapter.zero_grad()
        model(batch, range(2), model.draw(targets, 0)).backward()
        return fitted.model.adapter.head.weight.grad.clone()

    first, second = gradient([[0], [1]]), gradient([[0, 2], [1]])
    assert torch.equal(first[:2], second[:2])
    assert not torch.allclose(first[2], second[2])


def test_branches_start_from_drawn_labels_and_the_shift_makes_up_for_it(bert: Backbone) -> None:
    """With one wrong label of two, and three if the true one were wrong, odds are 2 and 3 times."""
    fitted = built(bert, "lt-prefix", method__labels="apart", method__negatives=1)
    model, tokens = (
        TrainingModel(fitted.model, objective_of(fitted.model), 0),
        bert.tokenize(TRAINING[0][:1]),
    )
    scores = Scorer(fitted.model, 256)
    row = torch.tensor(scores.score_tokens(tokens)[0]) + torch.tensor([3.0, 2.0, 2.0]).log()
    with torch.no_grad():
        draws = [model.draw([[0]], step) for step in range(20)]
        found = [float(model(bert.batch(tokens), [0], draw)) for draw in draws]
    nothing, applies = torch.nn.functional.softplus(row), torch.nn.functional.softplus(-row)
    wanted = [float((applies[0] + nothing[wrong]) / 2) for wrong in (1, 2)]
    assert sorted({round(loss, 4) for loss in found}) == pytest.approx(sorted(wanted), abs=1e-3)


@pytest.mark.parametrize("method", RATES)
def test_scores_start_at_the_log_odds_of_the_base_rate(
    method: str, bert: Backbone, llama: Backbone
) -> None:
    backbone = llama if method == "ls-unmask" else bert
    fitted = built(backbone, method)
    tokens = backbone.tokenize(TRAINING[0])
    targets = [[0]] * 8 + [[0, 1]] * 24 + [[]] * 32  # of 64: 32, 24 and none
    fitted.model.adapter.eval()
    start_at_base_rate(Scorer(fitted.model, 256), tokens, targets, seed=0)
    mean = Scorer(fitted.model, 256).score_tokens(tokens).mean(0)
    if fitted.model.labels is None:
        wanted = np.log([32.5 / 32.5, 24.5 / 40.5, 0.5 / 64.5])
        np.testing.assert_allclose(mean, wanted, atol=1e-4)
    else:
        assert mean.mean() == pytest.approx(np.log(56.5 / (192 - 56 + 0.5)), abs=1e-4)


def test_only_this_task_has_a_bias_in_the_heads_of_virtual_tokens(bert: Backbone, toy: Any) -> None:
    for method, more in {"prefix": 3, "lt-prefix": 1}.items():
        of_classes = LabelClassifier(bert, LABELS, method)._build(Labels.from_any(LABELS), 10)
        found = built(bert, method).model.adapter.num_parameters
        assert found == of_classes.model.adapter.num_parameters + more


@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("method", METHODS)
def test_the_biases_are_in_the_closed_form(method: str, recipe: str, bert: Backbone) -> None:
    made = MultilabelClassifier(bert, LABELS, method, recipe=recipe)
    adapter = made._build(Labels.from_any(LABELS), 10).model.adapter
    forms = closed_forms(adapter.method, bert.sizes, adapter.length, 3)
    assert forms.published is None
    assert forms.total.value == adapter.num_parameters
    assert forms.head.value == sum(weight.numel() for weight in adapter.head.parameters())


def test_the_published_recipe_is_trained_with_this_objective(bert: Backbone) -> None:
    made = MultilabelClassifier(bert, LABELS, recipe="paper", steps=2).fit(*TRAINING)
    method = made.resolved_config.method
    assert (method.head, method.transform, method.objective) == ("binary", "pooled", "multilabel")
    assert made.predict_proba(TEST[0]).shape == (60, 3)


@pytest.mark.parametrize(
    "options", [{}, {"method__labels": "apart", "method__negatives": 4}], ids=["together", "apart"]
)
def test_many_labels_of_several_texts(bert: Backbone, options: dict[str, Any]) -> None:
    labels = {word: [word, f"the {word}"] for topic in TOPICS.values() for word in topic.split()}
    lists = [[word for word in text.split() if word in labels] for text in TRAINING[0]]
    lists = [sorted(set(words)) for words in lists]
    made = multilabel(bert, labels=labels, steps=3, **options).fit(TRAINING[0], lists)
    assert made.predict_proba(TEST[0][:2]).shape == (2, 32)


# --- thresholds and validation --------------------------------------------------------------------


def test_without_validation_every_threshold_is_half(bert: Backbone) -> None:
    made = multilabel(bert).fit(*TRAINING)
    assert made.thresholds_.tolist() == [0.5, 0.5, 0.5]
    assert "thresholds" not in made.figures


def test_a_label_that_validation_lacks_keeps_half_and_is_said(
    bert: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    texts, lists = rows(20, seed=4, topics=("food", "sport"))
    with caplog.at_level(logging.WARNING, "ltuning"):
        made = multilabel(bert, steps=5).fit(*TRAINING, (texts, lists))
    assert made.thresholds_[2] == 0.5
    said = [record.getMessage() for record in caplog.records if record.name == "ltuning"]
    assert said == ["no validation text has the label 'travel': the threshold stays .5"]
    assert not any("callback" in message for message in caplog.messages)


def test_thresholds_belong_to_the_weights_that_were_kept(bert: Backbone) -> None:
    options = {
        "training.eval_strategy": "steps", "training.eval_steps": 5, "stopping.metric": "macro_f1",
        "training.learning_rate": 1e-2,
    }  # fmt: skip
    made = MultilabelClassifier(bert, LABELS, steps=30, options=options)
    made.fit(*TRAINING, VALIDATION)
    assert made.result_ is not None
    seen = [row["eval_macro_f1"] for row in made.result_.history if "eval_macro_f1" in row]
    assert len(seen) == 6
    measured = made.evaluate(*VALIDATION)["macro_f1"]
    assert measured == pytest.approx(max(seen)) == pytest.approx(made.result_.best["macro_f1"])


def test_evaluations_may_be_left_out(bert: Backbone) -> None:
    made = multilabel(bert, steps=30, training__eval_strategy="no").fit(*TRAINING, VALIDATION)
    measured = made.evaluate(*VALIDATION)
    assert made.figures["validation"]["macro_f1"] == pytest.approx(measured["macro_f1"])
    assert made.thresholds_.tolist() != [0.5, 0.5, 0.5]


def test_validation_without_any_label(bert: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "ltuning"):
        made = multilabel(bert, "probe", labels=None).fit(
            *TRAINING, (["the a of", "of the"], [[], []])
        )
    assert made.thresholds_.tolist() == [0.5, 0.5, 0.5]
    assert "'food', 'sport', 'travel'" in caplog.messages[0]
    assert made.figures["validation"]["micro_f1"] == 0.0


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lt-prefix", {}),
        ("lt-prefix", {"method__labels": "apart", "method__negatives": 1}),
        ("probe", {}),
    ],
)
def test_a_text_may_have_every_label_and_a_batch_none(
    method: str, options: dict[str, Any], bert: Backbone
) -> None:
    texts = ["bread ball hotel"] * 2 + ["the a of"] * 2
    lists = [list(LABELS)] * 2 + [[]] * 2
    options = {"training__per_device_train_batch_size": 1, **options}
    made = multilabel(bert, method, steps=8, **options).fit(texts, lists, (texts, lists))
    assert np.isfinite(made.scores(texts)).all()
    assert made.evaluate(texts, lists)["num_examples"] == 4


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lt-prefix", {}),
        ("lt-prefix", {"method__labels": "apart", "method__negatives": 1}),
        ("prefix", {}),
        ("ls-lora", {}),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(
    method: str, options: dict[str, Any], bert: Backbone, tmp_path: Path
) -> None:
    options = {"training__eval_strategy": "steps", "training__eval_steps": 4, **options}

    def new() -> MultilabelClassifier:
        return multilabel(bert, method, steps=12, **options)

    class StopAtFour(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    whole = new().fit(*TRAINING, VALIDATION)
    cut = new().fit(*TRAINING, VALIDATION, checkpoints=tmp_path, callbacks=[StopAtFour()])
    resumed = new().fit(*TRAINING, VALIDATION, checkpoints=tmp_path, resume=True)
    assert cut.result_ is not None and cut.result_.steps == 4
    chances = whole.predict_proba(TEST[0])
    assert not np.allclose(cut.predict_proba(TEST[0]), chances, atol=1e-3)
    np.testing.assert_allclose(resumed.predict_proba(TEST[0]), chances, atol=1e-6)
    np.testing.assert_allclose(resumed.thresholds_, whole.thresholds_, atol=1e-6)
    assert resumed.figures["validation"] == pytest.approx(whole.figures["validation"])


# --- labels that are no texts ---------------------------------------------------------------------


def test_labels_come_back_as_they_were_given(bert: Backbone, tmp_path: Path) -> None:
    numbers = dict(zip(LABELS, (10, 2, 3), strict=True))
    lists = [[numbers[name] for name in names] for names in TRAINING[1]]
    made = multilabel(bert, "probe", steps=60, labels=None)
    made.fit(iter(TRAINING[0]), np.array([*lists, []], dtype=object)[:-1], (TRAINING[0], lists))
    assert made.classes_.tolist() == [2, 3, 10]
    found = made.predict(TEST[0])
    assert {type(label) for labels in found for label in labels} == {int}
    assert made.applying(made.predict_proba(TEST[0])) == [list(map(str, row)) for row in found]
    made.save_pretrained(tmp_path / "saved")
    loaded = MultilabelClassifier.from_pretrained(tmp_path / "saved", backbone=bert)
    assert loaded.predict(TEST[0]) == found
    assert loaded.evaluate(TRAINING[0], lists) == made.evaluate(
        TRAINING[0], [list(map(str, row)) for row in lists]
    )
    given = multilabel(bert, "probe", labels=[2, 3, 10]).fit(TRAINING[0], lists)
    assert given.classes_.tolist() == [2, 3, 10]


def test_a_table_of_zeros_and_ones_is_refused_everywhere(bert: Backbone) -> None:
    table = np.array([[int(name in names) for name in LABELS] for names in TRAINING[1]])
    sentence = "{}: expected the names of the labels that apply to each text, got a table of 0 and"
    for given in (None, LABELS):
        made = multilabel(bert, "probe", labels=given)
        with pytest.raises(DataError, match=sentence.format("training")):
            made.fit(TRAINING[0], table)
        with pytest.raises(DataError, match=sentence.format("validation")):
            made.fit(*TRAINING, (TRAINING[0], table.tolist()))
    with pytest.raises(DataError, match=sentence.format("test")):
        made.fit(*TRAINING).evaluate(TRAINING[0], table)


def test_a_label_that_comes_during_a_prediction_comes_with_its_threshold(
    bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = multilabel(bert).fit(*TRAINING)
    whole, calls = MultilabelClassifier._new_scorer, []

    def interrupted(self: MultilabelClassifier, of: Any) -> Any:
        calls.append(of)
        if len(calls) == 1:
            self.add_labels({"music": "song"})
        return whole(self, of)

    monkeypatch.setattr(MultilabelClassifier, "_new_scorer", interrupted)
    assert len(made.predict(TEST[0])) == 60
    assert made.scores(TEST[0]).shape[1] == len(made.thresholds_) == 4


# --- labels after training ------------------------------------------------------------------------


def test_a_label_is_added_with_the_median_threshold(bert: Backbone, tmp_path: Path) -> None:
    made = multilabel(bert, steps=60, method__labels="apart").fit(*TRAINING, VALIDATION)
    before, median = made.predict_proba(TEST[0]), float(np.median(made.thresholds_))
    made.add_labels({"music": "song"})
    assert made.thresholds_.tolist()[3:] == [median]
    # Whether another label applies is a question of its own.
    np.testing.assert_allclose(made.predict_proba(TEST[0])[:, :3], before, atol=1e-5)
    made.save_pretrained(tmp_path / "saved")
    loaded = MultilabelClassifier.from_pretrained(tmp_path / "saved")
    assert loaded.thresholds_.tolist() == made.thresholds_.tolist()
    assert loaded.predict(["song piano", "the a of"]) == made.predict(["song piano", "the a of"])
    with pytest.raises(LabelError, match="there is a label 'food' already"):
        made.add_labels(["food"])
    assert len(made.thresholds_) == 4


def test_a_plain_method_takes_no_label_after_training(bert: Backbone) -> None:
    with pytest.raises(LabelError, match="expected method 'lt-prefix' or 'lt-prompt' for labels"):
        multilabel(bert, "probe").fit(*TRAINING).add_labels(["music"])


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        (["food", []], "training, row 1: expected a list of label names, got 'food'; write"),
        ([["food"], None], "training, row 2: expected a list of label names, got None; write"),
        ([[], ["food", "food"]], "training, row 2: expected every label once, got 'food' 2 times"),
        ([[], ["fod"]], "training, row 2: unknown label 'fod': expected one of 'food', 'sport', "),
        ([[], []], "expected labels in the training texts, got an empty list for every one"),
        ([["food"]], "expected one label for each text, got 2 texts and 1"),
        ("fo", "expected a list of label names for each text, got one text"),
    ],
)
def test_label_lists_that_cannot_be_used(lists: Any, sentence: str, bert: Backbone) -> None:
    with pytest.raises(DataError) as caught:
        multilabel(bert).fit(["one", "two"], lists)
    assert sentence in str(caught.value)


def test_labels_that_training_does_not_know(bert: Backbone) -> None:
    made = multilabel(bert, labels=None)
    with pytest.raises(DataError, match="validation, row 2: unknown label 'music'"):
        made.fit(*TRAINING, (["a", "the"], [[], ["music"]]))
    made.fit(*TRAINING)
    with pytest.raises(DataError, match="test, row 1: unknown label 'music'"):
        made.evaluate(["a"], [["music"]])


def test_a_label_without_training_texts_is_said(
    bert: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ltuning"):
        made = multilabel(bert, "probe", labels=[*LABELS, "music"]).fit(*TRAINING)
    assert caplog.messages == ["no training text has the label 'music'"]
    assert made.predict_proba(["a"]).shape == (1, 4)


def test_texts_are_checked_as_ever(bert: Backbone) -> None:
    with pytest.raises(DataError, match="expected texts with words in them, got 1 empty ones"):
        multilabel(bert).fit(["one", " "], [["food"], []])
    made = multilabel(bert, data__empty_texts="skip")
    made.fit([*TRAINING[0], " "], [*TRAINING[1], ["food"]])
    assert made.figures["training"]["texts"] == 64
    with pytest.raises(DataError, match="expected a list of texts, got one text"):
        made.predict("one")


def test_options_that_the_task_lacks_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        MultilabelClassifier(
            options={
                "method.objective": "pairs", "stopping.metric": "accuracy", "data.shots": 5,
            }
        )  # fmt: skip
    assert sorted(str(problem) for problem in caught.value.problems) == [
        "data.shots: task 'multilabel' has no texts of one class to draw from; leave it out",
        "method.objective: expected 'multilabel' with method 'lt-prefix', got 'pairs'",
        "stopping.metric: expected 'loss', 'micro_f1' or 'macro_f1' with task 'multilabel', got "
        "'accuracy'",
    ]
    MultilabelClassifier(options={"method.labels": "apart", "method.negatives": 3})
    with pytest.raises(ConfigError, match="method.objective: expected 'multilabel' with method"):
        MultilabelClassifier(method="probe", options={"method.objective": "classes"})
    with pytest.raises(ConfigError, match="method.negatives: only the objective 'contrast' draws"):
        MultilabelClassifier(method="prefix", options={"method.negatives": 2})
    for method in ("lt-prefix", "probe", "prefix"):
        with pytest.raises(ConfigError, match="method.objective: expected 'c.*got 'multilabel'"):
            LabelClassifier(method=method, options={"method.objective": "multilabel"})


def test_another_door_is_named(bert: Backbone, tmp_path: Path, toy: Any) -> None:
    multilabel(bert, "probe").fit(*TRAINING).save_pretrained(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="of task 'multilabel'; load it with Multilabel"):
        LabelClassifier.from_pretrained(tmp_path / "saved")
    LabelClassifier(bert, None, "probe", steps=1).fit(toy.texts, toy.labels).save_pretrained(
        tmp_path / "classes"
    )
    with pytest.raises(ArtifactError, match="of task 'classes'; load it with LabelClassifier"):
        MultilabelClassifier.from_pretrained(tmp_path / "classes")


def test_the_sigmoid_of_large_scores_is_finite() -> None:
    found = sigmoid(np.array([[-1000.0, 0.0, 1000.0]], dtype=np.float32))
    assert found.tolist() == [[0.0, 0.5, 1.0]]
