"""Metrics against what they are by definition, worked out here by hand or in plain Python."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.errors import DataError
from ltuning.metrics import (
    best_thresholds,
    binary_log_loss,
    brier_score,
    classification_report,
    expected_calibration_error,
    log_loss,
    multilabel_report,
    out_of_scope_report,
    risk_coverage,
)

NAMES = ["a", "b", "c"]
labels = st.sampled_from(NAMES)


def test_report_by_hand() -> None:
    report = classification_report(list("aabbb"), list("abbbc"), NAMES)
    assert report["accuracy"] == 3 / 5
    assert report["num_examples"] == 5
    assert report["confusion"] == {"labels": NAMES, "counts": [[1, 1, 0], [0, 2, 1], [0, 0, 0]]}
    assert report["per_class"] == [
        {"label": "a", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        {
            "label": "b",
            "precision": pytest.approx(2 / 3),
            "recall": pytest.approx(2 / 3),
            "f1": pytest.approx(2 / 3),
            "support": 3,
        },
        {"label": "c", "precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    ]
    assert report["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_mcc_of_two_classes_by_hand() -> None:
    truth, predicted = ["p"] * 5 + ["n"] * 5, ["p"] * 4 + ["n"] * 4 + ["p"] * 2
    tp, fn, tn, fp = 4, 1, 3, 2
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert classification_report(truth, predicted, ["n", "p"])["mcc"] == pytest.approx(expected)


def test_a_class_that_does_not_occur_leaves_macro_f1_alone() -> None:
    with_it = classification_report(list("ab"), list("ab"), NAMES)
    assert with_it["macro_f1"] == 1.0
    assert with_it["per_class"][2] == {
        "label": "c",
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
    }


def test_one_class_only() -> None:
    report = classification_report(["a", "a"], ["a", "a"], NAMES)
    assert (report["accuracy"], report["macro_f1"], report["mcc"]) == (1.0, 1.0, 0.0)


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.tuples(labels, labels), min_size=1, max_size=20))
def test_report_of_any_labels(rows: list[tuple[str, str]]) -> None:
    truth, predicted = [row[0] for row in rows], [row[1] for row in rows]
    report = classification_report(truth, predicted, NAMES)
    counts = report["confusion"]["counts"]
    assert counts == [[rows.count((t, p)) for p in NAMES] for t in NAMES]
    assert report["accuracy"] == pytest.approx(sum(t == p for t, p in rows) / len(rows))
    assert [entry["support"] for entry in report["per_class"]] == [sum(row) for row in counts]
    assert json.loads(json.dumps(report)) == report
    reversed_names = classification_report(truth, predicted, NAMES[::-1])
    assert reversed_names["per_class"] == report["per_class"][::-1]
    for figure in ("accuracy", "macro_f1", "mcc"):
        assert reversed_names[figure] == pytest.approx(report[figure])


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"^expected one prediction per true label, got 1 for 2$"):
        classification_report(["a", "b"], ["a"], NAMES)
    with pytest.raises(DataError, match=r"^expected at least one example to evaluate, got none$"):
        classification_report([], [], NAMES)
    with pytest.raises(DataError, match=r"^unknown true label 'd': expected one of 'a', 'b', 'c'"):
        classification_report(["d"], ["a"], NAMES)
    with pytest.raises(DataError, match=r"^unknown predicted label 'd': expected one of 'a', 'b'"):
        classification_report(["a"], ["d"], ["a", "b"])


# --- probabilities --------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    # Two bins of (0, 0.5] and (0.5, 1]: confidence 0.5 with accuracy 1, and 0.8 with accuracy 0.5.
    probabilities = [[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.05, 0.9, 0.05]]
    error = expected_calibration_error(probabilities, [0, 0, 2], bins=2)
    assert error == pytest.approx(abs(1 - 0.5) * 1 / 3 + abs(0.5 - 0.8) * 2 / 3)


def test_calibration_of_certainty() -> None:
    sure = [[1.0, 0.0], [0.0, 1.0]]
    assert expected_calibration_error(sure, [0, 1]) == 0.0
    assert expected_calibration_error(sure, [1, 0]) == 1.0


weights = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)
examples = st.lists(st.tuples(weights, st.integers(0, 2)), min_size=1, max_size=20)


@given(rows=examples, bins=st.integers(1, 20))
def test_calibration_error_by_its_definition(
    rows: list[tuple[list[float], int]], bins: int
) -> None:
    probabilities = [[weight / sum(row) for weight in row] for row, _ in rows]
    truth = [index for _, index in rows]
    members: dict[int, list[tuple[float, bool]]] = {}
    for row, index in zip(probabilities, truth, strict=True):
        confidence = max(row)
        member = min(math.ceil(confidence * bins), bins)
        members.setdefault(member, []).append((confidence, row.index(confidence) == index))
    expected = sum(
        abs(sum(confidence for confidence, _ in found) - sum(right for _, right in found))
        for found in members.values()
    ) / len(rows)
    error = expected_calibration_error(probabilities, truth, bins)
    assert error == pytest.approx(expected)
    assert 0 <= error <= 1


@given(rows=examples)
def test_log_loss_by_its_definition(rows: list[tuple[list[float], int]]) -> None:
    probabilities = [[weight / sum(row) for weight in row] for row, _ in rows]
    truth = [index for _, index in rows]
    expected = -sum(math.log(row[i]) for row, i in zip(probabilities, truth, strict=True))
    assert log_loss(probabilities, truth) == pytest.approx(expected / len(rows))


def test_log_loss_of_certainty() -> None:
    assert log_loss([[1.0, 0.0]], [0]) == 0.0
    assert log_loss([[1.0, 0.0]], [1]) == pytest.approx(-math.log(2.0**-52))


@given(rows=examples)
def test_brier_score_by_its_definition(rows: list[tuple[list[float], int]]) -> None:
    probabilities = [[weight / sum(row) for weight in row] for row, _ in rows]
    expected = sum(
        (value - (place == index)) ** 2
        for row, (_, index) in zip(probabilities, rows, strict=True)
        for place, value in enumerate(row)
    ) / len(rows)
    assert brier_score(probabilities, [index for _, index in rows]) == pytest.approx(expected)


def test_risk_and_coverage_by_hand() -> None:
    # Right, wrong and right of equal confidence, wrong.
    chances = [[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]]
    curve, area = risk_coverage(chances, [0, 1, 0, 1])
    assert curve == {
        "threshold": [0.9, 0.8, 0.6],
        "coverage": [0.25, 0.75, 1.0],
        "risk": [0.0, pytest.approx(1 / 3), 0.5],
    }
    # The two of equal confidence are wrong by half each.
    assert area == pytest.approx((0 + 0.5 / 2 + 1 / 3 + 2 / 4) / 4)


def test_a_curve_has_a_hundred_points_at_most() -> None:
    chances = [[0.5 + row / 1000, 0.5 - row / 1000] for row in range(250)]
    curve, _ = risk_coverage(chances, [0] * 100 + [1] * 150)
    assert [len(points) for points in curve.values()] == [100, 100, 100]
    assert (curve["coverage"][0], curve["coverage"][-1]) == (1 / 250, 1.0)
    assert curve["risk"][-1] == 150 / 250


def test_out_of_scope_by_hand() -> None:
    outside = [True, True, False, False, False]
    said = [True, False, True, False, False]
    right = [True, False, False, True, False]
    report = out_of_scope_report(outside, said, right, [5, 2, 3, 1, 0])
    assert report == {
        "in_domain_accuracy": pytest.approx(1 / 3),
        "precision": 0.5,
        "recall": 0.5,
        "f1": 0.5,
        # Of the six pairs of one outside and one inside, one is in the wrong order.
        "auroc": pytest.approx(5 / 6),
        "support": 2,
    }
    with pytest.raises(
        DataError,
        match="^expected texts that belong to a label and texts that belong to none, got 0 and 2$",
    ):
        out_of_scope_report([True, True], [True, True], [True, True], [0, 1])


@pytest.mark.parametrize(
    "figure", [brier_score, expected_calibration_error, log_loss, risk_coverage]
)
@pytest.mark.parametrize(
    ("probabilities", "truth", "message"),
    [
        (
            [],
            [],
            "expected probabilities [n, K] and n indices of true classes, "
            "got the shapes [0] and [0]",
        ),
        (
            [[0.5, 0.5]],
            [0, 1],
            "expected probabilities [n, K] and n indices of true classes, "
            "got the shapes [1, 2] and [2]",
        ),
        ([[0.5, 0.5]], [0.0], "expected indices of true classes, got float64"),
        (
            [[0.5, 0.5], [2.0, 3.0]],
            [0, 1],
            "expected rows of probabilities that add up to 1, got [2.0, 3.0] in row 1",
        ),
        (
            [[1.5, -0.5]],
            [0],
            "expected rows of probabilities that add up to 1, got [1.5, -0.5] in row 0",
        ),
        (
            [[math.nan, 1.0]],
            [0],
            "expected rows of probabilities that add up to 1, got [nan, 1.0] in row 0",
        ),
        ([[0.5, 0.5]], [2], "expected indices of true classes from 0 to 1, got 2 to 2"),
        ([[0.5, 0.5]], [-1], "expected indices of true classes from 0 to 1, got -1 to -1"),
    ],
)
def test_probabilities_that_do_not_fit(figure, probabilities, truth, message) -> None:
    with pytest.raises(DataError) as caught:
        figure(probabilities, truth)
    assert str(caught.value) == message


def test_no_bins() -> None:
    with pytest.raises(DataError, match=r"^expected 1 or more bins, got 0$"):
        expected_calibration_error([[0.5, 0.5]], [0], bins=0)


# --- several labels -------------------------------------------------------------------------------


def test_multilabel_report_by_hand() -> None:
    truth = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]
    predicted = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    report = multilabel_report(truth, predicted, NAMES)
    # Right 2, wrong 1, missed 2.
    assert report["micro_precision"] == pytest.approx(2 / 3)
    assert report["micro_recall"] == pytest.approx(2 / 4)
    assert report["micro_f1"] == pytest.approx(4 / 7)
    assert report["exact_match"] == 2 / 4
    assert report["num_examples"] == 4
    # `c` occurs in neither and does not count.
    assert report["macro_precision"] == pytest.approx((1 / 2 + 1) / 2)
    assert report["macro_recall"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert report["macro_f1"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert report["per_class"][1] == {
        "label": "b", "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2,
    }  # fmt: skip
    assert report["per_class"][2]["f1"] == 0.0
    json.dumps(report)


def test_no_label_anywhere_is_an_exact_match_and_no_more() -> None:
    report = multilabel_report([[0, 0, 0]], [[0, 0, 0]], NAMES)
    assert (report["exact_match"], report["micro_f1"], report["macro_f1"]) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("predicted", [[[1, 0]], [[1, 0, 0]] * 2, []])
def test_a_multilabel_report_of_other_shapes(predicted: list[list[int]]) -> None:
    with pytest.raises(DataError, match="expected truth and prediction"):
        multilabel_report([[1, 0, 0]] if predicted else [], predicted, NAMES)


@pytest.mark.parametrize(
    ("chances", "truth", "threshold"),
    [
        # From .3 on: 2 right of 3, F1 .8; from .6 on: 1 of 1, F1 .67.
        ([0.1, 0.3, 0.4, 0.6], [0, 1, 0, 1], 0.2),
        # Every threshold above .2 and up to .9 is as good: the one nearest to .5 is .5.
        ([0.1, 0.2, 0.9], [0, 0, 1], 0.5),
        # Above .7 and up to .9: the middle.
        ([0.6, 0.7, 0.9], [0, 0, 1], 0.8),
        # All are positive: half of the lowest.
        ([0.2, 0.4], [1, 1], 0.1),
        # Equal probabilities fall on one side.
        ([0.2, 0.4, 0.4], [0, 1, 0], 0.3),
        ([0.2, 0.9], [0, 0], 0.5),
    ],
)
def test_the_best_threshold_by_hand(
    chances: list[float], truth: list[int], threshold: float
) -> None:
    columns = [[chance] for chance in chances], [[applies] for applies in truth]
    assert best_thresholds(*columns).tolist() == [pytest.approx(threshold)]


def test_of_thresholds_that_are_as_good_the_one_nearest_to_half() -> None:
    # All four have F1 2 * 2 / (4 + 2), the last alone 2 * 1 / (1 + 2); between them it is lower.
    chances, truth = [[0.05], [0.15], [0.8], [0.95]], [[1], [0], [0], [1]]
    assert best_thresholds(chances, truth).tolist() == [pytest.approx(0.875)]


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=30))
def test_no_threshold_is_better_than_the_best(rows: list[tuple[int, bool]]) -> None:
    chances, truth = [[number / 12] for number, _ in rows], [[applies] for _, applies in rows]

    def f1(at: float) -> float:
        pairs = [(chance >= at, real) for (chance,), (real,) in zip(chances, truth, strict=True)]
        right = sum(said and real for said, real in pairs)
        return 2 * right / max(1, sum(said for said, _ in pairs) + sum(real for _, real in pairs))

    (found,) = best_thresholds(chances, truth)
    assert f1(found) == max(f1(at / 24) for at in range(25))


def test_binary_log_loss_by_hand() -> None:
    found = binary_log_loss([[0.8, 0.1], [0.5, 1.0]], [[1, 0], [0, 1]])
    assert found == pytest.approx(-(math.log(0.8) + math.log(0.9) + math.log(0.5)) / 4)
    assert binary_log_loss([[0.0]], [[1]]) == pytest.approx(-math.log(2.0**-52))
