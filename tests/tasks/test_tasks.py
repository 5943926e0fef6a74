"""What every task says of itself, and what its figures are made of."""

from __future__ import annotations

import numpy as np
import pytest

from ltuning.config import TASK_FACTS
from ltuning.data.sources import Examples, MultilabelExamples, TaggedExamples
from ltuning.sentences import Sentence
from ltuning.tasks.table import TASKS
from ltuning.tasks.task import right

DRAW = np.random.default_rng(0)
NAMES = ["food", "sport"]
SENTENCES = TaggedExamples(
    [Sentence.of_tokens(words.split()) for words in ("the big apple", "ball", "no team here now")],
    [["O", "B-food", "I-food"], ["B-sport"], ["O", "B-sport", "O", "O"]],
    "a test",
)
TEXTS = MultilabelExamples(list("abcd"), [["food"], [], ["sport", "food"], ["sport"]], "a test")
CLASSES = Examples(list("abcd"), ["food", "sport", "food", "food"], "a test")
EXAMPLES = {"classes": CLASSES, "multilabel": TEXTS, "tags": SENTENCES}


def scored(task: str) -> object:
    if task == "multilabel":
        return DRAW.random((4, 2))
    if task == "classes":
        return DRAW.dirichlet((1, 1), size=4)
    return [DRAW.dirichlet(np.ones(5), size=len(one.words)) for one in SENTENCES.sentences]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_goes_with_its_door_and_with_what_may_choose(name: str) -> None:
    task, facts = TASKS[name], TASK_FACTS[name]
    assert (task.door().task, task.door().__name__) == (name, facts.door)
    assert task.door().default_method == facts.default_method
    assert task.main in facts.metrics
    assert (task.one_of_each, task.of_words) == (facts.gives == "one", facts.gives == "tags")
    assert len(task.figures) == 3  # as many columns in every table of a report


@pytest.mark.parametrize("name", TASKS)
def test_names_and_parts_are_those_of_the_examples(name: str) -> None:
    task, examples = TASKS[name], EXAMPLES[name]
    assert task.names(examples) == NAMES
    part = examples.part([1])
    assert len(part) == 1 and part.inputs == examples.inputs[1:2]
    assert part.labels == (examples.labels or [])[1:2]


def test_margins_are_small_where_another_decision_is_near() -> None:
    answers = np.array([[0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.2, 0.4, 0.4]])
    margins = TASKS["classes"].margins(answers, None)
    assert margins == pytest.approx([0.1, 0.7, 0.0])
    margins = TASKS["multilabel"].margins(answers, np.array([0.5, 0.2, 0.6]))
    assert margins == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("name", ["multilabel", "tags"])
def test_the_f1_of_the_report_is_that_of_the_counts(name: str) -> None:
    task = TASKS[name]
    truth = task.truth(EXAMPLES[name], NAMES)
    for _ in range(20):
        answers = scored(name)
        predicted = task.decide(answers, np.array([0.5, 0.4]))
        report = task.measure(answers, predicted, truth, NAMES)
        counts = task.counts(predicted, truth, NAMES)
        assert counts is not None and counts.shape == (len(truth), 3)
        both, guessed, real = counts.sum(0)
        assert report[task.main] == pytest.approx(2 * both / (guessed + real))
        assert {"loss", "per_class", *task.figures} <= report.keys()
        exact = (counts == counts[:, :1]).all(1)
        assert right(predicted, truth).tolist() == exact.tolist()
        sure = task.surest_mistakes(answers, predicted, truth)
        assert sorted(sure) == np.flatnonzero(~right(predicted, truth)).tolist()
        assert all(0 < chance <= 1 for chance in sure.values())


def test_what_predict_says_of_a_text_fills_its_columns() -> None:
    scores = np.array([[0.25, 0.75], [0.8, 0.6]])
    for name, expected in {
        "classes": [["sport", 0.75], ["food", 0.8]],
        "multilabel": [[["sport"]], [["food", "sport"]]],
    }.items():
        task = TASKS[name]
        decided = task.decide(scores, np.array([0.5, 0.5]))
        said = [task.output_row(one, of, NAMES) for one, of in zip(decided, scores, strict=True)]
        assert said == expected
        assert {len(row) for row in said} == {len(task.output_columns)}


def test_accuracy_is_the_mean_of_what_each_example_adds() -> None:
    task, answers = TASKS["classes"], DRAW.dirichlet((1, 1), size=4)
    truth, predicted = task.truth(CLASSES, NAMES), task.decide(answers, None)
    report = task.measure(answers, predicted, truth, NAMES)
    assert report[task.main] == task.points(predicted, truth, NAMES).mean()


def test_the_loss_of_tags_is_that_of_a_word() -> None:
    task, answers = TASKS["tags"], scored("tags")
    truth = task.truth(SENTENCES, NAMES)
    # Tags are O, B-food, I-food, B-sport, I-sport; a short sentence ends in -1.
    assert truth.tolist() == [[0, 1, 2, -1], [3, -1, -1, -1], [0, 3, 0, 0]]
    report = task.measure(answers, truth, truth, NAMES)
    chances = task.packed(answers)[np.arange(8), [0, 1, 2, 3, 0, 3, 0, 0]]
    assert report["loss"] == pytest.approx(-np.log(chances).mean())
    assert (report["f1"], report["num_entities"]) == (1.0, 3)


def test_entities_labels_and_classes_are_shown_in_words() -> None:
    truth = {name: task.truth(EXAMPLES[name], NAMES) for name, task in TASKS.items()}
    shown = {
        name: [
            TASKS[name].shown(row, given, NAMES)
            for row, given in zip(truth[name], EXAMPLES[name].inputs, strict=True)
        ]
        for name in TASKS
    }
    assert shown == {
        "classes": ["food", "sport", "food", "food"],
        "multilabel": ["food", "-", "food, sport", "sport"],
        "tags": ["big apple (food)", "ball (sport)", "team (sport)"],
    }
