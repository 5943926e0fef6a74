from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltuning.calibration import (
    MOST_KEPT,
    Answers,
    calibration_figures,
    fit_scope,
    fit_temperature,
    prediction_set,
    probabilities_of,
    softmax,
)
from ltuning.errors import DataError


def drawn(number: int, labels: int, temperature: float, seed: int) -> tuple[Any, Any]:
    """Scores, and labels drawn from their probabilities at a temperature."""
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(number, labels)) * 2
    at = probabilities_of(scores, temperature).cumsum(axis=1)
    truth = (draw.random((number, 1)) > at).sum(axis=1).clip(max=labels - 1)
    return scores.astype(np.float32), truth


def answers(confidence: list[float], right: list[bool]) -> Answers:
    return Answers(np.array(confidence), np.array(right), np.array(confidence))


# --- temperature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    scores, truth = drawn(8_000, 5, temperature, seed=1)
    assert fit_temperature(scores, truth) == pytest.approx(temperature, rel=0.06)


def test_figures_are_of_before_and_after() -> None:
    scores, truth = drawn(2_000, 5, 3.0, seed=2)
    found = calibration_figures(scores, truth, fit_temperature(scores, truth))
    assert found["texts"] == 2_000
    for name in ("log_loss", "brier_score", "expected_calibration_error"):
        assert found[name] < found[f"{name}_before"]
    assert found["expected_calibration_error"] < 0.03


def test_answers_that_are_all_right_do_not_make_certainty() -> None:
    scores, truth = drawn(50, 3, 1.0, seed=3)
    scores[np.arange(50), truth] += 20
    assert 0.2 < fit_temperature(scores, truth) < 1
    # One text says next to nothing.
    assert fit_temperature(scores[:1], truth[:1]) == pytest.approx(1, abs=0.01)


def test_probabilities_at_one_are_the_softmax_to_the_last_digit() -> None:
    scores, _ = drawn(20, 4, 1.0, seed=4)
    assert np.array_equal(probabilities_of(scores, 1.0), softmax(scores.astype(np.float64)))
    assert probabilities_of(np.array([[1e5, 0.0]]), 0.05).tolist() == [[1.0, 0.0]]


# --- thresholds -----------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.tuples(st.sampled_from([0.3, 0.4, 0.6, 0.7, 0.9, 1.0]), st.booleans()),
        min_size=1,
        max_size=30,
    ),
    precision=st.sampled_from([0.3, 0.5, 0.8]),
)
def test_a_threshold_leaves_the_most_answers_that_are_right_often_enough(
    rows: list[tuple[float, bool]], precision: float
) -> None:
    reaching = {}
    for threshold in {confidence for confidence, _ in rows}:
        left = [right for confidence, right in rows if confidence >= threshold]
        if sum(left) / (len(left) + 1) >= precision:
            reaching[threshold] = len(left)
    kept = answers(*map(list, zip(*rows, strict=True)))
    if not reaching:
        with pytest.raises(DataError, match="^expected a threshold from which on "):
            kept.threshold_for(precision)
        return
    lowest = min(reaching)
    assert kept.threshold_for(precision) == (lowest, reaching[lowest] / len(rows))


def test_no_threshold_reaches_it() -> None:
    kept = answers([0.9] * 9 + [0.5] * 10, [True] * 9 + [False] * 10)
    assert kept.threshold_for(0.9) == (0.9, 9 / 19)
    with pytest.raises(
        DataError,
        match=r"^expected a threshold from which on 0\.95 of the answers are right, got 0\.9 at "
        r"best, of 9 among 19 held-out texts \(and one more that is wrong\): ask for less, or "
        "calibrate with more texts$",
    ):
        kept.threshold_for(0.95)
    with pytest.raises(DataError, match="^expected a target precision above 0 and below 1, got 1$"):
        kept.threshold_for(1)


# --- prediction sets ------------------------------------------------------------------------------


def test_the_least_probability_by_hand() -> None:
    true = np.arange(1, 100) / 100
    kept = Answers(true, true > 0, true)
    # The 55th of 99 scores 1 - p; in floats 0.55 * 100 is more than 55.
    assert kept.least_probability(0.55) == 0.45
    assert kept.least_probability(0.99) == 0.01
    assert prediction_set(np.array([0.2, 0.5, 0.3]), 0.3) == [1, 2]
    assert prediction_set(np.array([0.2, 0.5, 0.3]), 0.6) == []


@pytest.mark.parametrize(("coverage", "least"), [(0.8, 4), (0.9, 9), (0.95, 19)])
def test_too_few_texts_for_a_coverage(coverage: float, least: int) -> None:
    answers([0.5] * least, [True] * least).least_probability(coverage)
    with pytest.raises(DataError) as caught:
        answers([0.5] * (least - 1), [True] * (least - 1)).least_probability(coverage)
    assert str(caught.value) == (
        f"expected {least} or more held-out texts for a coverage of {coverage:g}, got {least - 1}: "
        "ask for less, or calibrate with more texts"
    )


@pytest.mark.parametrize(("coverage", "number"), [(0.8, 30), (0.9, 30), (0.95, 50)])
def test_the_marginal_coverage_is_the_one_asked_for(coverage: float, number: int) -> None:
    """Over draws of held-out and of new texts, from probabilities that are far from right."""
    scores, truth = drawn(2_000 * (number + 20), 6, 2.5, seed=number)
    true = probabilities_of(scores, 1.0)[np.arange(len(truth)), truth].reshape(2_000, -1)
    covered = [
        (row[number:] >= answers(row[:number], []).least_probability(coverage)).mean()
        for row in true
    ]
    rank = np.ceil((number + 1) * coverage - 1e-9)
    assert np.mean(covered) == pytest.approx(rank / (number + 1), abs=0.006)
    assert coverage - 0.006 < np.mean(covered) < coverage + 1 / (number + 1) + 0.006


def test_a_temperature_of_the_same_texts_costs_little_coverage() -> None:
    scores, truth = drawn(150 * 250, 6, 2.5, seed=5)
    covered = []
    for part, labels in zip(scores.reshape(150, 250, 6), truth.reshape(150, 250), strict=True):
        temperature = fit_temperature(part[:50], labels[:50])
        said = probabilities_of(part, temperature)[np.arange(250), labels]
        covered.append((said[50:] >= answers(said[:50], []).least_probability(0.9)).mean())
    assert np.mean(covered) > 0.89


# --- out of scope ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [19, 78, 200])
def test_few_texts_of_labels_are_below_the_threshold(number: int) -> None:
    rows = np.random.default_rng(number).gumbel(size=(2_000, number + 20))
    below = [(row[number:] < fit_scope(row[:number])).mean() for row in rows]
    assert np.mean(below) == pytest.approx(int((number + 1) / 20) / (number + 1), abs=0.004)


# --- what is kept ---------------------------------------------------------------------------------


def test_answers_are_kept_whole_up_to_a_number() -> None:
    scores, truth = drawn(MOST_KEPT + 10, 3, 1.0, seed=6)
    said = probabilities_of(scores, 1.0)
    some, same, other = (Answers.of(said, truth, seed) for seed in (0, 0, 1))
    assert len(some.true) == MOST_KEPT
    assert np.array_equal(some.true, same.true)
    assert not np.array_equal(some.true, other.true)
    few = Answers.of(said[:7], truth[:7], 0)
    assert few.confidence.tolist() == said[:7].max(axis=1).tolist()
    assert few.right.tolist() == (said[:7].argmax(axis=1) == truth[:7]).tolist()
    assert few.true.tolist() == [row[label] for row, label in zip(said, truth[:7], strict=False)]
    again = Answers.from_plain(json.loads(few.to_json()))
    assert vars(again).keys() == vars(few).keys()
    assert all(np.array_equal(vars(again)[name], vars(few)[name]) for name in vars(few))
