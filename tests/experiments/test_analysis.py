from __future__ import annotations

import dataclasses
from collections.abc import Callable
from math import comb

import numpy as np
import pytest

from ltuning.experiments.analysis import (
    Interval,
    area_under,
    mcnemar,
    paired_bootstrap,
    paired_bootstrap_of_f1,
    settings_of,
    steps_to,
)
from ltuning.experiments.grid import Grid
from ltuning.experiments.results import ResultFolder


def test_an_interval_holds_the_mean_and_stays_within_the_values() -> None:
    found = Interval.of([0.5, 0.6, 0.9])
    assert found.low is not None and found.high is not None
    assert found.mean == pytest.approx(2 / 3)
    assert 0.5 <= found.low < found.mean < found.high <= 0.9


def test_one_seed_has_no_interval_and_equal_seeds_have_none_to_speak_of() -> None:
    assert Interval.of([0.5]) == Interval(0.5, None, None)
    assert Interval.of([0.5, 0.5]) == Interval(0.5, 0.5, 0.5)


def test_with_many_values_the_interval_is_the_one_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.7, 0.1, size=400)
    found = Interval.of(values.tolist())
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.002)
    assert found.high == pytest.approx(values.mean() + half, abs=0.002)


def _answers(accuracy: float, seed: int, shape: tuple[int, int] = (3, 400)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < accuracy


def test_the_paired_bootstrap_finds_a_difference_and_none() -> None:
    difference, p_value = paired_bootstrap(_answers(0.8, 1), _answers(0.6, 2))
    assert difference.low is not None and 0 < difference.low < difference.mean
    assert p_value < 0.001
    same, p_value = paired_bootstrap(_answers(0.7, 3), _answers(0.7, 4))
    assert same.low is not None and same.high is not None and same.low < 0 < same.high
    assert p_value > 0.05


def test_the_paired_bootstrap_turns_its_sign_with_its_arguments() -> None:
    one, other = _answers(0.7, 5), _answers(0.65, 6)
    there, back = paired_bootstrap(one, other)[0], paired_bootstrap(other, one)[0]
    assert there.mean == -back.mean
    assert there.low is not None and back.high is not None
    assert there.low == pytest.approx(-back.high)


def test_seeds_that_disagree_widen_the_interval() -> None:
    """200 examples that one seed has right and another wrong, beside mixed ones."""
    plain = np.zeros((2, 200), dtype=bool)
    apart, mixed = plain.copy(), plain.copy()
    apart[0] = True
    mixed[:, ::2] = True
    widths = []
    for label in (apart, mixed):
        found = paired_bootstrap(label, plain)[0]
        assert found.mean == 0.5 and found.low is not None and found.high is not None
        widths.append(found.high - found.low)
    assert widths[0] > 3 * widths[1]


def test_mcnemar_is_the_binomial_test_of_the_answers_that_differ() -> None:
    label = np.array([[True] * 9 + [False] * 2 + [True] * 5])
    plain = np.array([[False] * 9 + [True] * 2 + [True] * 5])
    expected = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar(label, plain) == (9, 2, pytest.approx(expected))
    assert mcnemar(label, label) == (0, 0, 1.0)


def test_convergence_by_hand() -> None:
    history = [
        {"step": 10, "accuracy": 0.2},
        {"step": 20, "accuracy": 0.6},
        {"step": 40, "accuracy": 0.8},
    ]
    assert area_under(history, "accuracy") == pytest.approx((10 * 0.4 + 20 * 0.7) / 30)
    assert area_under(history[:1], "accuracy") is None
    reached = [steps_to(history, height, "accuracy") for height in (0.1, 0.6, 0.7, 0.9)]
    assert reached == [10, 20, 40, None]


def test_a_label_method_stands_beside_the_twin_of_its_site_and_recipe(
    make: Callable[..., Grid], measured: Callable[..., ResultFolder]
) -> None:
    methods = {
        "prompt": {},
        "prefix": {},
        "prefix as published": {"method": "prefix", "recipe": "paper"},
        "lt-prefix": {},
        "lt-prefix as published": {"method": "lt-prefix", "recipe": "paper"},
        "lt-prompt": {},
        "peft-prefix": {},
    }
    grid = make(methods=methods)
    results = measured(grid).results(list(grid.cells()))
    (setting,) = settings_of(grid, results)
    assert [row.method for row in setting.rows] == list(methods)
    pairs = {pair.label.method: pair.plain.method for pair in setting.comparisons}
    assert pairs == {
        "lt-prefix": "prefix",
        "lt-prefix as published": "prefix as published",
        "lt-prompt": "prompt",
    }
    for pair in setting.comparisons:
        means = [row.figure("accuracy").mean for row in (pair.label, pair.plain)]
        assert pair.difference.mean == pytest.approx(means[0] - means[1])
        assert pair.seeds == len(pair.steps) == len(pair.twin_steps) == 2
        assert pair.only_label - pair.only_plain == pytest.approx(60 * pair.difference.mean)


def test_label_methods_stand_beside_what_the_grid_names_too(
    make: Callable[..., Grid], measured: Callable[..., ResultFolder]
) -> None:
    grid = make(methods=["lt-prefix", "prefix", "logistic", "cosine"])
    results = measured(grid).results(list(grid.cells()))
    beside = dataclasses.replace(grid, beside=["logistic", "prefix", "lt-prefix"])
    (setting,) = settings_of(beside, results)
    pairs = [(pair.label.method, pair.plain.method) for pair in setting.comparisons]
    assert pairs == [("lt-prefix", "prefix"), ("lt-prefix", "logistic")]
    assert setting.comparisons[1].steps == []  # logistic has no curve


def test_a_method_stands_beside_itself_with_other_label_texts(
    make: Callable[..., Grid], measured: Callable[..., ResultFolder]
) -> None:
    grid = make(
        methods=["prefix", "lt-prefix", "cosine"],
        label_texts=["shuffled", "descriptions", "single-token"],
        seeds=[0],
    )
    (setting,) = settings_of(grid, measured(grid).results(list(grid.cells())))
    pairs = [(pair.label.title, pair.plain.title) for pair in setting.comparisons]
    assert pairs == [
        ("lt-prefix (shuffled)", "prefix"),
        ("lt-prefix (descriptions)", "prefix"),
        ("lt-prefix (single-token)", "prefix"),
        ("lt-prefix (descriptions)", "lt-prefix (shuffled)"),
        ("lt-prefix (descriptions)", "lt-prefix (single-token)"),
        ("cosine (descriptions)", "cosine (shuffled)"),
        ("cosine (descriptions)", "cosine (single-token)"),
    ]


def test_only_seeds_that_both_have_are_compared_and_other_texts_never(
    make: Callable[..., Grid], measured: Callable[..., ResultFolder]
) -> None:
    grid = make(methods=["lt-prefix", "prefix"])
    results = measured(grid).results(list(grid.cells()))
    (setting,) = settings_of(grid, results[:-1])  # seed 1 of prefix is missing
    (pair,) = setting.comparisons
    assert pair.seeds == 1
    results[0].record["versions"] = {"torch": "0.1"}
    (setting,) = settings_of(grid, results)
    assert len(setting.comparisons) == 1
    assert "its cells differ in versions (see how" in setting.problems[0]
    for name in ("train_sha256", "validation_sha256", "test_sha256"):
        before = results[0].record["texts"][name]
        results[0].record["texts"][name] = "of other texts"
        (setting,) = settings_of(grid, results)
        assert not setting.comparisons and "the data changed" in setting.problems[0]
        results[0].record["texts"][name] = before


def test_the_bootstrap_of_f1_is_that_of_accuracy_where_each_example_has_one_answer() -> None:
    label, plain = _answers(0.8, 1, (2, 60)), _answers(0.7, 2, (2, 60))
    counts = [np.stack([one, one | True, one | True], axis=-1) for one in (label, plain)]
    found, p_value = paired_bootstrap_of_f1(counts[0], counts[1])
    expected, p_expected = paired_bootstrap(label, plain)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected))
    assert p_value == p_expected


def test_examples_without_an_answer_change_no_f1() -> None:
    draw = np.random.default_rng(0)
    one = draw.integers(0, 3, (2, 30, 1)) + np.array([0, 1, 2])
    other = np.minimum(one, [1, 9, 9])
    empty = np.zeros((2, 1, 3), dtype=int)
    found, _ = paired_bootstrap_of_f1(one, other)
    with_one, _ = paired_bootstrap_of_f1(*(np.concatenate([a, empty], 1) for a in (one, other)))
    assert found.mean == pytest.approx(with_one.mean) and found.mean > 0
    nothing, p_value = paired_bootstrap_of_f1(empty, empty)
    assert (nothing.mean, nothing.low, nothing.high, p_value) == (0.0, 0.0, 0.0, 1.0)
