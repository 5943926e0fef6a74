"""Labels that are likely to be wrong."""

from __future__ import annotations

import numpy as np

from ltuning.checks.label_errors import (
    Suspects,
    check_label_errors,
    labelled_enough,
    suspects,
)
from ltuning.data.examples import Examples
from ltuning.data.tables import Places

LABELS = [name for name in ("food", "sport", "travel") for _ in range(30)]
WRONG = {3: "sport", 40: "food", 61: "food"}


def states() -> np.ndarray:
    """Of texts whose three classes are far from one another."""
    near = np.random.default_rng(0).normal(scale=0.1, size=(90, 5))
    return near + np.repeat(np.eye(3, 5), 30, axis=0)


def test_labels_that_were_made_wrong_are_found_and_no_others() -> None:
    given = [WRONG.get(row, label) for row, label in enumerate(LABELS)]
    found = suspects(states(), given)
    assert sorted(found.rows) == sorted(WRONG)
    assert [LABELS[row] for row in found.rows] == found.likelier
    assert found.probabilities == sorted(found.probabilities)
    assert max(found.probabilities) < 0.1
    assert (found.num_texts, found.agreement) == (90, 87 / 90)
    assert suspects(states(), LABELS).rows == []


def test_the_order_of_the_texts_changes_little() -> None:
    given = np.array([WRONG.get(row, label) for row, label in enumerate(LABELS)])
    order = np.random.default_rng(1).permutation(90)
    found = suspects(states()[order], given[order].tolist(), seed=3)
    assert sorted(order[found.rows]) == sorted(WRONG)


def test_labels_with_too_few_texts_for_the_folds_are_left_out() -> None:
    assert labelled_enough(["a"] * 5 + ["b"] * 4 + ["c"] * 6) == [*range(5), *range(9, 15)]
    assert labelled_enough(["a"] * 9 + ["b"] * 4) == []


def test_it_is_told_how_far_to_trust_the_finding() -> None:
    examples = Examples(["one", "two"], ["a", "b"], "t", Places("line", [2, 5]))
    found = Suspects([1], ["a"], [0.0312345], agreement=0.55, num_texts=2)
    (finding,) = check_label_errors(examples, found, "train")
    assert finding.sentence == (
        "1 of 2 labels may be wrong: out of fold, a classifier on the frozen states gives them "
        "less than 10% (it finds 55% of all labels itself, so most of them may be right); the "
        "first is 'b' of 'two', rather 'a'"
    )
    assert finding.found == [
        {"line": 5, "text": "two", "label": "b", "probability": 0.0312, "likelier": "a"}
    ]
    often = Examples(["one", "two"] * 5, ["a", *"bbbbbbbbb"], "t")
    found = Suspects([0], ["b"], [0.01], agreement=0.92, num_texts=10)
    assert "may be right" in check_label_errors(often, found, "train")[0].sentence
    sure = Suspects([1], ["a"], [0.01], agreement=0.9, num_texts=2)
    assert "itself); the" in check_label_errors(examples, sure, "train")[0].sentence
    assert check_label_errors(examples, Suspects([], [], [], 1.0, 2), "train") == []
