from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback, TrainerControl, TrainerState

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import tokenized
from ltuning.backbones.prefix import RUNNING, TRAINING
from ltuning.config import StoppingOptions
from ltuning.errors import TrainingError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.methods.adapter import Adapter
from ltuning.training.arguments import Chosen, resolved_stopping, training_arguments
from ltuning.training.checkpoints import Tally, TimedCheckpoints
from ltuning.training.datasets import LengthGroupedBatches, TokenDataset
from ltuning.training.trainer import AdapterTrainer
from ltuning.training.validation import Validation

Make = Callable[..., LabelClassifier]
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=120)
APART = {"method__labels": "apart"}


def weights(classifier: LabelClassifier) -> dict[str, torch.Tensor]:
    return classifier._trained().model.adapter.state_dict()


def assert_same(left: LabelClassifier, right: LabelClassifier) -> None:
    for name, weight in weights(left).items():
        assert torch.equal(weight, weights(right)[name]), name


class StopAt(TrainerCallback):
    """Ends a run after some steps, as an interruption after its checkpoint would."""

    def __init__(self, step: int):
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


# --- the order of the texts ---------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 9), epoch=st.integers(0, 3))
def test_every_text_comes_once_in_an_epoch(
    lengths: list[int], size: int, seed: int, epoch: int
) -> None:
    sampler = LengthGroupedBatches(lengths, size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert len(sampler) == len(lengths)
    assert order == list(sampler)


def test_the_order_depends_on_seed_and_epoch() -> None:
    orders = set()
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = LengthGroupedBatches([5] * 64, 4, seed)
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 4


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, size=st.integers(1, 9))
def test_a_batch_has_like_lengths(lengths: list[int], size: int) -> None:
    order = list(LengthGroupedBatches(lengths, size, seed=0))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    spans = sorted(
        (min(map(lengths.__getitem__, b)), max(map(lengths.__getitem__, b))) for b in batches
    )
    # In one group of batches no two lengths overlap but at their ends.
    assert len(lengths) > 50 * size or all(a[1] <= b[0] for a, b in pairwise(spans))


def test_the_padding_share_is_that_of_the_batches() -> None:
    lengths = [2, 9, 3, 9, 2, 3, 9, 1]
    sampler = LengthGroupedBatches(lengths, 4, seed=0)
    order = list(sampler)
    padded = sum(4 * max(lengths[row] for row in order[at : at + 4]) for at in (0, 4))
    assert sampler.padding_share() == pytest.approx(1 - sum(lengths) / padded)
    assert LengthGroupedBatches([5] * 10, 4, seed=0).padding_share() == 0


def test_training_takes_the_order_of_each_epoch(
    bert: Backbone, classifier: Make, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    get = TokenDataset.__getitem__

    def record(self: TokenDataset, row: int) -> int:
        taken.append(row)
        return get(self, row)

    monkeypatch.setattr(TokenDataset, "__getitem__", record)
    classifier(bert, "prompt", seed=3, epochs=2, batch=8).fit(toy.texts, toy.labels)
    lengths = [len(row["input_ids"]) for row in bert.tokenize(toy.texts)]
    sampler = LengthGroupedBatches(lengths, 8, seed=3)
    expected = list(sampler)
    sampler.set_epoch(1)
    assert taken == expected + list(sampler)


# --- the same run again -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prefix", "prompt", "lt-prefix", "lt-prompt"])
def test_two_runs_with_one_seed_are_bit_identical(
    backbone: Backbone, classifier: Make, toy: Any, method: str
) -> None:
    torch.manual_seed(11)
    one = classifier(backbone, method, seed=5, steps=4).fit(toy.texts, toy.labels)
    torch.manual_seed(12)
    two = classifier(backbone, method, seed=5, steps=4).fit(toy.texts, toy.labels)
    assert_same(one, two)
    other = classifier(backbone, method, seed=6, steps=4).fit(toy.texts, toy.labels)
    assert any(not torch.equal(w, weights(other)[name]) for name, w in weights(one).items())


def test_steps_and_logging_do_not_change_what_is_learnt(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    one = classifier(bert, steps=4).fit(toy.texts, toy.labels)
    two = classifier(bert, steps=4, training__logging_steps=1).fit(
        toy.texts, toy.labels, validation=None
    )
    assert_same(one, two)


RESUMED = [
    ("lt-prefix", {}),
    ("lt-prefix", {**APART, "objective": "contrast", "negatives": 1}),
    ("lt-prefix", {**APART, "objective": "pairs"}),
    ("lt-prompt", {"objective": "contrast"}),
    ("prefix", {}),
]


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize(("method", "options"), RESUMED)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    bert: Backbone,
    classifier: Make,
    toy: Any,
    tmp_path: Path,
    method: str,
    options: dict[str, Any],
    validated: bool,
) -> None:
    extra = {} if validated else {"training__save_strategy": "epoch"}
    data = (toy.texts, toy.labels, toy.test if validated else None)

    def new() -> LabelClassifier:
        return classifier(bert, method, epochs=4, rate=3e-2, **options, **extra)

    whole = new().fit(*data)
    cut = new().fit(*data, checkpoints=tmp_path / "run", callbacks=[StopAt(6)])
    assert cut.result_.steps == 6
    resumed = new().fit(*data, checkpoints=tmp_path / "run", resume=True)
    assert resumed.result_.steps == whole.result_.steps == 12
    assert_same(resumed, whole)
    assert resumed.result_.best == pytest.approx(whole.result_.best)


def test_a_run_does_not_go_on_with_something_else(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    classifier(bert, "lt-prefix", steps=2).fit(toy.texts, toy.labels, checkpoints=folder)

    def resumed(method: str, texts: Any, truth: Any, **options: Any) -> LabelClassifier:
        made = classifier(bert, method, steps=2, **options)
        return made.fit(texts, truth, checkpoints=folder, resume=True)

    names = {"food": "song", "sport": "ball", "travel": "hotel"}
    for others in (
        ("lt-prefix", toy.texts[::-1], toy.labels),
        ("lt-prefix", toy.texts, toy.labels[::-1]),
        ("prefix", toy.texts, toy.labels),
    ):
        with pytest.raises(TrainingError, match="^expected the texts, labels and method that the"):
            resumed(*others)
    with pytest.raises(TrainingError, match="checkpoints are in '.*run', got others; bring them"):
        resumed("lt-prefix", toy.texts, toy.labels, labels=names)
    assert resumed("lt-prefix", toy.texts, toy.labels).result_.steps == 2
    # Checkpoints of before say nothing of what was trained.
    state = next(folder.glob("checkpoint-*")) / "trainer_state.json"
    kept = json.loads(state.read_text())
    del kept["stateful_callbacks"]["Tally"]["args"]["identity"]
    state.write_text(json.dumps(kept))
    assert resumed("lt-prefix", toy.texts, toy.labels[::-1]).result_.steps == 2


def test_a_run_resumed_within_an_epoch_ends_with_the_same_weights(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    options = {
        "training__save_strategy": "steps",
        "training__save_steps": 4,
        "training__gradient_accumulation_steps": 2,
        "batch": 4,
    }

    def new() -> LabelClassifier:
        return classifier(bert, objective="pairs", epochs=2, **APART, **options)

    whole = new().fit(toy.texts, toy.labels)
    run = tmp_path / "run"
    new().fit(toy.texts, toy.labels, checkpoints=run, callbacks=[StopAt(4)])
    resumed = new().fit(toy.texts, toy.labels, checkpoints=run, resume=True)
    assert resumed.result_.steps == whole.result_.steps == 12
    assert_same(resumed, whole)


def test_a_resumed_run_counts_on_towards_its_patience(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    def new() -> LabelClassifier:
        # Nothing is learnt, so no evaluation after the first is better.
        return classifier(bert, "prompt", epochs=9, rate=0.0, stopping__patience=3)

    data, run = (toy.texts, toy.labels, toy.test), tmp_path / "run"
    whole = new().fit(*data)
    new().fit(*data, checkpoints=run, callbacks=[StopAt(9)])
    resumed = new().fit(*data, checkpoints=run, resume=True)
    assert resumed.result_.steps == whole.result_.steps == 12


def history(classifier: Any) -> list[dict[str, Any]]:
    """What was logged, but for what depends on the machine."""
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")
    rows = classifier.result_.history
    return [{name: row[name] for name in row if name not in timed} for row in rows]


@pytest.mark.parametrize("ending", [{"steps": 4}, {"epochs": 9, "stopping__patience": 1}])
def test_a_run_resumed_at_its_end_does_no_more_steps(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, ending: dict[str, Any]
) -> None:
    """4 steps end within the second epoch, and patience ends a run that has a rate of 0."""
    rate = 3e-2 if "steps" in ending else 0.0
    constant = {"training__lr_scheduler_type": "constant", "rate": rate}

    def new() -> LabelClassifier:
        return classifier(bert, "prefix", **ending, **constant)

    run, data = tmp_path / "run", (toy.texts, toy.labels, toy.test)
    whole = new().fit(*data, checkpoints=run)
    # Nothing depends on where the folder was.
    resumed = new().fit(*data, checkpoints=run.rename(tmp_path / "moved"), resume=True)
    assert resumed.result_.steps == whole.result_.steps
    assert_same(resumed, whole)
    assert resumed.result_.best == whole.result_.best
    losses = [row for row in history(whole) if "train_loss" not in row]
    assert [row for row in history(resumed) if "train_loss" not in row] == losses


def test_losses_and_seconds_are_those_of_the_whole_run(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new() -> LabelClassifier:
        # A checkpoint at step 4, between the losses that are logged at steps 3 and 6.
        options = {"training__logging_steps": 3, "training__save_steps": 4}
        return classifier(bert, "prefix", steps=7, rate=1e-2, **options)

    whole = new().fit(toy.texts, toy.labels)
    run = tmp_path / "run"
    monkeypatch.setattr(Tally, "clock", itertools.count(step=1000).__next__)
    new().fit(toy.texts, toy.labels, checkpoints=run, callbacks=[StopAt(4)])
    resumed = new().fit(toy.texts, toy.labels, checkpoints=run, resume=True)
    assert_same(resumed, whole)
    assert history(resumed)[:-1] == history(whole)[:-1]
    assert history(resumed)[-1] == pytest.approx(history(whole)[-1])
    assert resumed.result_.seconds > 1000 > whole.result_.seconds


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("optimizer.pt", "optimizer.pt is missing"),
        ("scheduler.pt", "scheduler.pt is cut off or damaged"),
        ("model.safetensors", "model.safetensors is cut off or damaged"),
        ("trainer_state.json", "trainer_state.json is cut off or damaged"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, name: str, words: str
) -> None:
    classifier(bert, "prompt", steps=2, training__save_steps=1).fit(
        toy.texts, toy.labels, checkpoints=tmp_path
    )
    path = tmp_path / "checkpoint-2" / name
    if "missing" in words:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20] if name.startswith("model") else b"")
    with pytest.raises(
        TrainingError,
        match=re.escape(
            f"expected a whole checkpoint in '{path.parent}', got one in which {words}; remove "
            "this folder to resume from an earlier one, or train without resume"
        ),
    ):
        classifier(bert, "prompt", steps=3).fit(
            toy.texts, toy.labels, checkpoints=tmp_path, resume=True
        )


def test_checkpoints_are_written_by_the_clock_and_the_best_weights_stay(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    class Interrupt(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            saved.append(state.global_step)
            if state.global_step == 11:
                raise KeyboardInterrupt

    def new() -> LabelClassifier:
        # So high a rate that the loss goes up and down.
        options = {"epochs": 4, "training__eval_strategy": "epoch"}
        return classifier(bert, "prefix", rate=1.0, **options)

    data = (toy.texts, toy.labels, toy.test)
    whole = new().fit(*data)
    # Every look at the clock, at the start, at a step and after a checkpoint, is 250 s later.
    monkeypatch.setattr(TimedCheckpoints, "clock", itertools.count(step=250).__next__)
    with pytest.raises(KeyboardInterrupt):
        new().fit(*data, checkpoints=tmp_path, callbacks=[Interrupt()])
    assert saved == [2, 3, 5, 6, 8, 9, 11]
    resumed = new().fit(*data, checkpoints=tmp_path, resume=True)
    assert resumed.result_.steps == 12
    assert_same(resumed, whole)
    assert history(resumed)[:-1] == history(whole)[:-1]


def test_no_checkpoint_by_the_clock_comes_before_the_evaluation_of_an_epoch() -> None:
    timed, control = TimedCheckpoints(seconds=0), TrainerControl()
    for strategy, epoch, saves in (("epoch", 1.5, True), ("epoch", 2.0, False), ("steps", 2, True)):
        args: Any = SimpleNamespace(eval_strategy=strategy)
        state = TrainerState(epoch=epoch)
        control.should_save = False
        timed.on_train_begin(args, state, control)
        timed.on_step_end(args, state, control)
        assert control.should_save is saves


def test_resuming_without_a_checkpoint_is_an_error_of_ours(
    bert: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="checkpoint"):
        classifier(bert).fit(toy.texts, toy.labels, checkpoints=tmp_path, resume=True)


def test_checkpoints_hold_the_adapter_and_no_weight_of_the_backbone(
    backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    fitted = classifier(backbone, steps=2, training__save_steps=1)
    fitted.fit(toy.texts, toy.labels, checkpoints=tmp_path)
    saved = sorted(tmp_path.glob("checkpoint-*/model.safetensors"))
    assert [path.parent.name for path in saved] == ["checkpoint-1", "checkpoint-2"]
    for path in saved:
        assert set(load_file(path)) == {f"adapter.{name}" for name in weights(fitted)}
        state = torch.load(path.with_name("optimizer.pt"), weights_only=True)["state"]
        sizes = [moment.numel() for entry in state.values() for moment in entry.values()]
        assert sum(sizes) == 2 * fitted.num_parameters + len(state)


# --- what a run costs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "before"),
    [
        # The label texts; then, below a prefix, the texts in 3 batches before the first step; and
        # in 3 more their mean state, which labels that are read together are compared from (of a
        # decoder those that are read apart, too).
        ("lt-prefix", {}, 7),
        ("lt-prefix", {**APART, "objective": "contrast"}, 4),
        ("lt-prefix", {**APART, "objective": "pairs"}, 4),
        ("lt-prompt", {"objective": "contrast"}, 1),
        ("lt-prompt", {"objective": "pairs"}, 1),
    ],
)
def test_the_labels_are_encoded_once_per_fit(
    backbone: Backbone,
    classifier: Make,
    toy: Any,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, Any],
    before: int,
) -> None:
    if backbone.family.causal and options:
        before += 3
    forwards: list[bool] = []
    made: list[int] = []
    hook = backbone.model.register_forward_pre_hook(
        lambda _module, _args: forwards.append(RUNNING.get().recorder is not None)
    )
    asked: list[Any] = []

    def tokenize(tokenizer: Any, texts: Any, *rest: Any, **options: Any) -> Any:
        asked.append(texts)
        return tokenized(tokenizer, texts, *rest, **options)

    monkeypatch.setattr("ltuning.backbones.frozen_model.tokenized", tokenize)
    make = Adapter.virtual_tokens

    def count(self: Adapter, labels: Any, embedding: Any) -> Any:
        made.append(len(labels.ids))
        return make(self, labels, embedding)

    monkeypatch.setattr(Adapter, "virtual_tokens", count)
    try:
        options = {**options, "training__eval_strategy": "epoch"}
        fitted = classifier(backbone, method, epochs=2, **options)
        fitted.fit(toy.texts, toy.labels, toy.test)
        # 2 epochs of 48 texts in batches of 16, and after each the 30 texts of validation at once,
        # which the weights that were kept read once more, for what they say of held-out texts.
        steps, evaluations = 6, 3
        assert fitted.result_.steps == steps
        assert forwards == [True] + [False] * (before - 1 + steps + evaluations)
        # Virtual tokens: those of the 3 labels, once per step or evaluation, never per text.
        assert made == [3] * (steps + evaluations)
        fitted.predict(toy.test_texts)
        fitted.predict_proba(toy.test_texts[:5])
        assert len(made) == steps + evaluations + 1
        assert forwards[before:] == [False] * (steps + evaluations + 2)
        assert asked.count([*toy.label_texts.values()]) == 1
    finally:
        hook.remove()


# --- ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prefix", "lt-prefix"])
def test_a_loss_that_is_not_finite_ends_the_run(
    bert: Backbone, classifier: Make, toy: Any, method: str
) -> None:
    broken = classifier(bert, method, steps=9, rate=1e38, training__warmup_steps=0)
    with pytest.raises(
        TrainingError,
        match="^expected a finite loss, got (nan|inf) at step [1-9]; lower "
        "training.learning_rate or check the data$",
    ):
        broken.fit(toy.texts, toy.labels)


def test_patience_ends_a_run_that_no_longer_improves(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    fitted = classifier(bert, "prompt", epochs=9, rate=0.0, stopping__patience=2)
    fitted.fit(toy.texts, toy.labels, toy.test)
    # 3 steps per epoch: one evaluation that is the best, and two that are not better.
    assert fitted.result_.steps == 9


def test_without_patience_a_run_goes_to_its_end(bert: Backbone, classifier: Make, toy: Any) -> None:
    fitted = classifier(bert, "prompt", epochs=5, rate=0.0).fit(toy.texts, toy.labels, toy.test)
    assert fitted.result_.steps == 15


def test_a_run_of_which_nothing_is_said_ends_after_three_evaluations_that_are_no_better(
    bert: Backbone, toy: Any
) -> None:
    made = LabelClassifier(bert, None, "probe", options={"training.learning_rate": 0.0})
    made.fit(toy.texts, toy.labels, toy.test)
    # Of 150 steps, with an evaluation every 15 of which the first is the best.
    assert made.result_.steps == 60


@pytest.mark.parametrize(
    ("given", "published", "expected"),
    [
        ({"learning_rate"}, False, 3),
        ({"learning_rate"}, True, None),
        ({"max_steps"}, False, None),
        ({"num_train_epochs"}, False, None),
        ({"eval_steps"}, False, None),
        ({"eval_strategy"}, False, None),
    ],
)
def test_the_patience_auto_ends_no_run_whose_length_or_evaluations_are_given(
    given: set[str], published: bool, expected: int | None
) -> None:
    auto, never, five = (StoppingOptions(patience) for patience in ("auto", None, 5))
    assert resolved_stopping(auto, given, published).patience == expected
    assert resolved_stopping(never, given, published) == never
    assert resolved_stopping(five, given, published) == five


def evaluations(classifier: LabelClassifier, metric: str) -> list[float]:
    name = f"eval_{metric}"
    return [row[name] for row in classifier.result_.history if name in row]


def recomputed(classifier: LabelClassifier, toy: Any) -> dict[str, float]:
    fitted = classifier._trained()
    tokens = classifier.backbone.tokenize(toy.test_texts, fitted.max_length)
    targets = [fitted.labels.index(label) for label in toy.test_labels]
    return Validation(tokens, targets, fitted.labels.names).figures(classifier.scorer())


@pytest.mark.parametrize(
    "when",
    [
        {"epochs": 6},
        {"steps": 18, "training__eval_strategy": "steps", "training__eval_steps": 2},
        {"steps": 18, "training__eval_strategy": "steps", "training__logging_steps": 2},
    ],
    ids=["epochs", "eval_steps", "logging_steps"],
)
@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_the_best_weights_are_kept(
    bert: Backbone, classifier: Make, toy: Any, when: dict[str, Any], metric: str
) -> None:
    # A rate so high that the loss goes up and down.
    fitted = classifier(bert, "prefix", rate=1.0, stopping__metric=metric, **when)
    fitted.fit(toy.texts, toy.labels, toy.test)
    found = evaluations(fitted, metric)
    best = min(found) if metric == "loss" else max(found)
    assert found[-1] != best, "choose another rate: this run ends at its best"
    assert fitted.result_.best[metric] == best
    for name, value in recomputed(fitted, toy).items():
        assert fitted.result_.best[name] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prefix", {}),
        ("ls-lora", {"dropout": 0.0}),
        ("lt-prefix", {}),
        ("lt-prefix", {**APART, "objective": "contrast", "negatives": 1}),
        ("lt-prefix", {**APART, "objective": "pairs"}),
    ],
)
def test_accumulated_batches_are_one_of_their_size(
    bert: Backbone,
    classifier: Make,
    toy: Any,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, Any],
) -> None:
    monkeypatch.setattr(
        AdapterTrainer, "_get_train_sampler", lambda *_: SequentialSampler(range(11))
    )
    texts, labels = toy.texts[:11], toy.labels[:11]
    common = {"epochs": 2, "training__optim": "sgd", "rate": 1.0, **options}
    whole = classifier(bert, method, batch=11, **common).fit(texts, labels)
    # Of 4, 4 and 3 texts: an odd number, and a short last one.
    split = classifier(
        bert, method, batch=4, training__gradient_accumulation_steps=3, **common
    ).fit(texts, labels)
    assert split.result_.steps == whole.result_.steps == 2
    start = classifier(bert, method, batch=11, **{**common, "rate": 0.0}).fit(texts, labels)
    assert any(not torch.equal(w, weights(start)[name]) for name, w in weights(whole).items())
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(split)[name], weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("num_texts", "fields", "published", "epochs", "steps"),
    [
        (48, {}, False, 50, -1),  # 3 steps in an epoch, so 50 of them make 150
        (49, {}, False, 38, -1),  # 4 steps
        (48, {"gradient_accumulation_steps": 3}, False, 150, -1),
        (10_000, {}, False, 3, -1),
        (10_001, {}, False, 3, 1_875),  # of 16 texts each, 30,000
        (100_000, {"gradient_accumulation_steps": 4}, False, 3, 469),
        (100_000, {"per_device_train_batch_size": 1_000}, False, 3, 150),
        (100_000, {}, True, 3, -1),
        (48, {"num_train_epochs": 2}, False, 2, -1),
        (100_000, {"num_train_epochs": 2}, False, 2, -1),
        (100_000, {"max_steps": 9_000}, False, 3, 9_000),
    ],
)
def test_a_run_without_a_length_sees_30_000_texts_or_three_epochs_and_takes_150_steps(
    tmp_path: Path,
    num_texts: int,
    fields: dict[str, Any],
    published: bool,
    epochs: int,
    steps: int,
) -> None:
    fields = {"per_device_train_batch_size": 16, **fields}
    chosen = Chosen(fields, StoppingOptions(), False, on_cpu=True, published=published)
    arguments = training_arguments(chosen, tmp_path, seed=0, num_texts=num_texts)
    assert (arguments.num_train_epochs, arguments.max_steps) == (epochs, steps)


@pytest.mark.parametrize(
    ("fields", "published", "when", "steps"),
    [
        ({}, False, "steps", 15),  # ten times in 150 steps
        ({"num_train_epochs": 7}, False, "steps", 3),  # seven times in 21
        ({"max_steps": 3}, False, "steps", 1),
        ({"max_steps": 337}, False, "steps", 42),  # eight times, and one step more
        ({"max_steps": 1_875}, False, "steps", 375),
        ({"eval_steps": 40}, False, "steps", 40),
        ({"eval_strategy": "steps"}, False, "steps", 10),  # those of logging
        ({"eval_strategy": "epoch"}, False, "epoch", None),
        ({"eval_strategy": "no"}, False, "no", None),
        ({}, True, "epoch", None),
    ],
)
def test_a_run_evaluates_five_to_ten_times_whatever_its_length(
    tmp_path: Path, fields: dict[str, Any], published: bool, when: str, steps: int | None
) -> None:
    fields = {"per_device_train_batch_size": 16, **fields}
    chosen = Chosen(fields, StoppingOptions(), True, on_cpu=True, published=published)
    arguments = training_arguments(chosen, tmp_path, seed=0, num_texts=48)
    assert arguments.eval_strategy == arguments.save_strategy == when
    assert arguments.eval_steps == steps
    assert steps is None or arguments.save_steps == steps
    assert arguments.load_best_model_at_end == (when != "no")


def test_a_result_says_what_was_done(bert: Backbone, classifier: Make, toy: Any) -> None:
    fitted = classifier(bert, epochs=2, training__logging_steps=1).fit(
        toy.texts, toy.labels, toy.test
    )
    result = fitted.result_
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert len(losses) == result.steps == 6
    assert all(math.isfinite(loss) for loss in losses)
    assert result.seconds > 0
    assert set(result.best) == {"loss", "accuracy", "macro_f1", "mcc"}
    without = classifier(bert).fit(toy.texts, toy.labels)
    assert without.result_.best == {}


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What layers are given that are computed again in the backward pass."""
    from ltuning.backbones import layers

    found: list[Any] = []
    checkpoint = layers.checkpoint

    def counted(run: Any, *inputs: Any, **rest: Any) -> Any:
        found.append(inputs)
        return checkpoint(run, *inputs, **rest)

    monkeypatch.setattr(layers, "checkpoint", counted)
    return found


def test_gradient_checkpointing_computes_layers_again_and_changes_nothing(
    bert: Backbone, classifier: Make, toy: Any, computed: list[Any]
) -> None:
    without = classifier(bert, "lt-prefix", steps=2).fit(toy.texts, toy.labels)
    assert computed == []
    options = {"training__gradient_checkpointing": True}
    saving = classifier(bert, "lt-prefix", steps=2, **options).fit(toy.texts, toy.labels)
    assert len(computed) == 2 * bert.sizes.layers
    assert_same(without, saving)
    assert TRAINING.get() is None


def test_a_training_within_another_has_layers_of_its_own(
    bert: Backbone, classifier: Make, toy: Any, computed: list[Any]
) -> None:
    class Within(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            before = len(computed)
            classifier(bert, "prefix", steps=1).fit(toy.texts, toy.labels)
            assert len(computed) == before

    outer = classifier(bert, "prefix", steps=2, training__gradient_checkpointing=True)
    outer.fit(toy.texts, toy.labels, callbacks=[Within()])
    assert len(computed) == 2 * bert.sizes.layers


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch hides it where it may
def test_compiled_layers_change_nothing_and_serve_every_batch(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    """`stats` counts what dynamo compiled: texts of other lengths come to the same code."""
    counters = torch._dynamo.utils.counters["stats"]
    counted: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            counted.append(counters["unique_graphs"])

    texts = [" ".join([text] * (1 + row % 5)) for row, text in enumerate(toy.texts)]
    common = {"steps": 8, "method__first_layer": 1, "rate": 1e-2}
    torch._dynamo.reset()
    counters.clear()
    without = classifier(bert, "lt-prefix", **common).fit(texts, toy.labels)
    assert counters["unique_graphs"] == 0
    options = {"training__torch_compile": True, "training__torch_compile_backend": "eager"}
    compiled = classifier(bert, "lt-prefix", **common, **options)
    compiled.fit(texts, toy.labels, callbacks=[Count()])
    assert_same(without, compiled)
    assert counted[0] > 0
    # The second step, where a batch of two texts follows one of four.
    assert counted[-1] == counted[1]
    assert TRAINING.get() is None


def test_weights_that_are_not_finite_end_the_run(
    backbone: Backbone, classifier: Callable[..., LabelClassifier], toy: Any
) -> None:
    class Broken(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            next(rest["model"].parameters()).data.fill_(math.nan)

    with pytest.raises(TrainingError, match="expected finite weights at the end of training"):
        classifier(backbone, steps=1).fit(toy.texts, toy.labels, callbacks=[Broken()])
