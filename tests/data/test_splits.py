"""Splits: what is held out and what is drawn, whatever the classes look like."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltuning.data.examples import Examples
from ltuning.data.splits import hold_out, take_shots
from ltuning.errors import DataError

labels_of_examples = st.lists(st.sampled_from("abcd"), min_size=1, max_size=40)
seeds = st.integers(0, 5)


def examples(labels: list[str] | str) -> Examples:
    """Examples whose texts are all different and sort in their order."""
    return Examples([f"text {index:03}" for index in range(len(labels))], list(labels), "source")


def classes(part: Examples) -> Counter[str]:
    return Counter(part.labels or [])


def pairs(part: Examples) -> list[tuple[object, str]]:
    return list(zip(part.texts, part.labels or [], strict=True))


# --- hold_out -------------------------------------------------------------------------------------


@given(labels=labels_of_examples, fraction=st.floats(0.01, 0.99), seed=seeds)
def test_hold_out_parts_the_examples(labels: list[str], fraction: float, seed: int) -> None:
    source = examples(labels)
    if max(classes(source).values()) < 2:
        return
    train, validation = hold_out(source, fraction, seed)
    assert sorted(pairs(train) + pairs(validation)) == pairs(source)
    assert train.texts == sorted(train.texts)
    assert validation.texts == sorted(validation.texts)
    for label, count in classes(source).items():
        held = classes(validation)[label]
        if count == 1:
            assert held == 0
        else:
            assert 1 <= held <= count - 1
            assert abs(held - fraction * count) <= 1 or held in (1, count - 1)
    assert hold_out(source, fraction, seed) == (train, validation)


def test_hold_out_keeps_the_proportions() -> None:
    train, validation = hold_out(examples("a" * 80 + "b" * 20), 0.1, seed=0)
    assert classes(validation) == {"a": 8, "b": 2}
    assert classes(train) == {"a": 72, "b": 18}
    assert (train.origin, validation.origin) == ("source", "source")


def test_hold_out_depends_on_the_seed() -> None:
    source = examples("a" * 50)
    drawn = {tuple(hold_out(source, 0.2, seed)[1].texts) for seed in range(5)}
    assert len(drawn) == 5


def test_another_class_does_not_change_what_is_held_out_of_the_first() -> None:
    one, two = examples("a" * 20), examples("a" * 20 + "b" * 20)
    of_first = [text for text, label in pairs(hold_out(two, 0.3, 0)[1]) if label == "a"]
    assert hold_out(one, 0.3, 0)[1].texts == of_first


def test_hold_out_keeps_pairs() -> None:
    source = Examples([("a", "b"), ("c", "d")], ["x", "x"], "source")
    train, validation = hold_out(source, 0.5, seed=0)
    assert sorted(train.texts + validation.texts) == source.texts


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError) as caught:
        hold_out(examples("aabb"), fraction, seed=0)
    assert str(caught.value) == (
        f"expected a validation fraction between 0 and 1, got {fraction!r}"
    )


@pytest.mark.parametrize("labels", ["", "abc"])
def test_nothing_to_hold_out(labels: str) -> None:
    with pytest.raises(DataError) as caught:
        hold_out(examples(labels), 0.1, seed=0)
    assert str(caught.value) == (
        "source: no class has two examples, so none can be held out for validation; "
        "add examples, give a validation split, or set data.validation_fraction=0"
    )


# --- take_shots -----------------------------------------------------------------------------------


@given(labels=labels_of_examples, shots=st.integers(1, 12), seed=seeds)
def test_shots_per_class(labels: list[str], shots: int, seed: int) -> None:
    source = examples(labels)
    taken = take_shots(source, shots, seed)
    assert classes(taken) == {label: min(shots, count) for label, count in classes(source).items()}
    assert set(pairs(taken)) <= set(pairs(source))
    assert len(set(taken.texts)) == len(taken)
    assert taken.texts == sorted(taken.texts)
    assert take_shots(source, shots, seed) == taken


def test_shots_depend_on_the_seed() -> None:
    drawn = {tuple(take_shots(examples("a" * 50), 5, seed).texts) for seed in range(5)}
    assert len(drawn) == 5


def test_every_example_is_drawn_by_some_seed() -> None:
    source = examples("a" * 10)
    drawn = {text for seed in range(60) for text in take_shots(source, 2, seed).texts}
    assert drawn == set(source.texts)


def test_too_few_examples_are_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ltuning"):
        taken = take_shots(examples("abbcc" + "c"), 3, seed=0)
    assert classes(taken) == {"a": 1, "b": 2, "c": 3}
    assert caplog.messages == [
        "source: fewer than 3 examples of 'a' (1), 'b' (2); all of them are taken"
    ]


def test_enough_examples_are_taken_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    take_shots(examples("aabb"), 2, seed=0)
    assert caplog.messages == []


def test_no_shots() -> None:
    with pytest.raises(DataError, match=r"^expected 1 or more shots, got 0$"):
        take_shots(examples("ab"), 0, seed=0)


def test_examples_without_labels() -> None:
    unlabelled = Examples(["a", "b"], None, "source")
    expected = "^source: expected examples with labels, got texts only$"
    with pytest.raises(DataError, match=expected):
        take_shots(unlabelled, 1, seed=0)
    with pytest.raises(DataError, match=expected):
        hold_out(unlabelled, 0.5, seed=0)
