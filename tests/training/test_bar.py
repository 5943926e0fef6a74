"""What a training says of its stages, its length and its steps; no clock is a real one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from ltuning.backbones.backbone import Backbone
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier
from ltuning.metrics import WORDS
from ltuning.stages import Advance, shown_on
from ltuning.tasks.table import TASKS
from ltuning.training.bar import Lines, Steps
from ltuning.training.forecast import Forecast, in_words

Make = Callable[..., LabelClassifier]


class Told:
    """A display that keeps the stages and how far they came."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: dict[str, list[int]] = {}

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def loading(self, name: str) -> Iterator[None]:
        yield

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Advance]:
        left = [total]

        def advance(count: int) -> None:
            left[0] -= count

        yield advance
        self.stages.setdefault(what, []).extend(left)


@pytest.mark.parametrize("task", ["classes", "multilabel", "tags"])
def test_every_pass_over_texts_is_a_stage_and_comes_to_its_end(
    bert: Backbone, toy: Any, task: str
) -> None:
    told, options = Told(), {"training.eval_steps": 2, "method.first_layer": 2}
    texts, labels = toy.texts[:20], toy.labels[:20]
    if task == "classes":
        made: Any = LabelClassifier(bert, steps=3, options=options)
    elif task == "multilabel":
        made, labels = MultilabelClassifier(bert, steps=3, options=options), [[x] for x in labels]
    else:
        made = TokenClassifier(bert, steps=3, options={"training.eval_steps": 2})
        texts = [text.split() for text in texts]
        labels = [
            [f"B-{label}", *["O"] * (len(text) - 1)]
            for text, label in zip(texts, labels, strict=True)
        ]
    with shown_on(told):
        made.fit(texts, labels, (texts, labels))
    stages = [
        "reading the label texts",
        "tokenizing",
        "averaging training texts",
        "keeping what layers below 2 make",
    ]
    if task == "tags":
        stages = ["finding the words"]
    ends = {"classes": ["calibrating"], "multilabel": ["fitting the thresholds"], "tags": []}
    assert [*told.stages] == [*stages, "validating", *ends[task]]
    assert not any(left for stage in told.stages.values() for left in stage)
    assert told.notes == [
        "20 training texts, 3 steps of 16 texts: each seen 2.4 times; 1 evaluation on 20 "
        "validation texts"
    ]


def test_a_log_gets_few_lines(
    bert: Backbone,
    classifier: Make,
    toy: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for timed in (Steps, Forecast):
        monkeypatch.setattr(timed, "clock", itertools.count(step=2).__next__)
    made = classifier(bert, "prefix", None, steps=20, rate=0.0, training__logging_steps=1)
    made.fit(toy.texts, toy.labels, toy.test, progress=True)
    lines = capsys.readouterr().err.splitlines()
    loss = [f"{row['loss']:.2f}" for row in made.result_.history if "loss" in row]
    accuracy = made.result_.best["accuracy"]
    rate = "8 texts/s"
    steps = [
        f"step {step} of 20: {rate}, loss {loss[step - 1]}, accuracy {accuracy:.2f}"
        for step in range(2, 22, 2)
    ]
    # 20 steps of 2 s, and 300 texts that are scored in half the time of the 320 of the steps.
    steps.insert(1, "about 1 min on this machine")
    assert lines == [
        "48 training texts, 20 steps of 16 texts: each seen 6.7 times; 10 evaluations on 30 "
        "validation texts",
        *steps,
    ]


@pytest.mark.parametrize("task", TASKS)
def test_the_figure_that_is_shown_is_the_tasks_own(task: str) -> None:
    steps = Steps(None)
    steps.on_log(None, None, None, {"loss": 0.25})
    for height in (0.5, 0.75):
        figures = dict.fromkeys(("loss", *reversed(TASKS[task].figures)), height)
        logs = {f"eval_{name}": value for name, value in figures.items()}
        steps.on_log(None, None, None, logs)
        shown = f"{WORDS[TASKS[task].main]} {height:.2f}"
        assert [*steps._figures.values()] == ["loss 0.25", shown]


def test_a_log_tells_of_passes_over_many_texts_before_the_training_and_not_within_it() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    with lines.counting("tokenizing", 999):
        pass
    with lines.counting("tokenizing", 30_000) as advance:
        advance(30_000)
    with lines.steps(5, 100) as update, lines.counting("validating", 2_000):
        update(5, "resumed")
        update(25, "a quarter")
        update(25, "again")
    assert said == ["tokenizing: 30,000 texts", "step 25 of 100: a quarter"]


@pytest.mark.parametrize(
    ("num_texts", "steps", "words"),
    [
        (60_000, 1_875, "60,000 training texts, 1,875 steps of 16 texts: 30,000 of them are seen"),
        (16, 1, "16 training texts, 1 step of 16 texts: each seen once"),
        (9, 150, "9 training texts, 150 steps of 9 texts: each seen 150 times"),
    ],
)
def test_the_length_of_a_run_in_words(num_texts: int, steps: int, words: str) -> None:
    told = Told()
    arguments = SimpleNamespace(
        train_batch_size=16, gradient_accumulation_steps=1, eval_strategy="no"
    )
    with shown_on(told):
        Forecast(num_texts, 0).on_train_begin(arguments, SimpleNamespace(max_steps=steps), None)
    assert told.notes == [words]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (2, "10 s"),
        (38, "40 s"),
        (54, "50 s"),
        (58, "1 min"),
        (240, "4 min"),
        (5_399, "90 min"),
        (9_000, "2.5 h"),
    ],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
