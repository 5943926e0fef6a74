"""The table behind the method `auto`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ltuning.config import BackboneOptions, Config, MethodOptions, StoppingOptions
from ltuning.methods import catalog
from ltuning.methods.choice import PASSES, ROWS, TRAINED_WITH, Situation, better, choose

SMALL, LARGE = 22_000_000, 7_000_000_000


def methods_for(situation: Situation) -> tuple[str, ...]:
    return next(row for row in ROWS if row.fits(situation)).methods


def test_every_row_names_methods_that_can_be_forecast() -> None:
    for row in ROWS:
        assert {*row.methods} <= {*catalog.ROWS} & {*PASSES}
        assert row.why and row.source.endswith(".md")
    assert {*TRAINED_WITH} <= {*catalog.ROWS}
    # Whatever is asked, some row answers.
    assert ROWS[-1].fits(Situation(1, 1000, LARGE))


def test_what_is_chosen_is_put_in_the_place_of_auto() -> None:
    given = Config(
        method=MethodOptions(name="auto"), training={"max_steps": 7}, stopping=StoppingOptions()
    )
    timed = replace(given, stopping=StoppingOptions(seconds=60.0))
    for config in (given, timed):
        choice = choose(Situation(24, 6, SMALL))
        made = choice.of(config)
        assert made.method == MethodOptions(name="lt-prefix")
        assert made.training == {"max_steps": 7}
        assert made.stopping == StoppingOptions()


@pytest.mark.parametrize(
    ("situation", "method"),
    [
        (Situation(24, 6, SMALL), "lt-prefix"),
        (Situation(345, 6, SMALL), "lt-prefix"),
        (Situation(345, 6, LARGE), "lt-prefix"),
        (Situation(8_600, 3, SMALL), "full"),
        (Situation(8_600, 3, LARGE), "ls-lora"),
        # Many labels, however many texts.
        (Situation(9_000, 77, SMALL), "lt-prefix"),
        (Situation(8_600, 3, SMALL, adds_labels=True), "lt-prefix"),
    ],
)
def test_the_choice_goes_by_texts_for_each_label(situation: Situation, method: str) -> None:
    choice = choose(situation)
    assert choice.method == method
    assert (choice.seconds, choice.left_out, choice.share) == (None, (), 1.0)


def test_lora_is_trained_at_the_rate_that_was_measured() -> None:
    given = Config(method=MethodOptions(name="auto"))
    choice = choose(Situation(8_600, 3, LARGE))
    assert choice.of(given).training == {"learning_rate": 3e-3}
    own = replace(given, training={"learning_rate": 1e-4})
    assert choice.of(own).training == {"learning_rate": 1e-4}


def test_who_names_no_method_is_told_where_another_is_clearly_ahead() -> None:
    plain = Config()
    found = better(plain, 8_600, 3)
    assert found is not None and found.method == "full"
    assert better(plain, 345, 6) is None
    named = [
        Config(method=MethodOptions(name="prefix")),
        Config(method=MethodOptions(rank=8)),
        Config(backbone=BackboneOptions(name="owner/model")),
        Config(task="multilabel"),
    ]
    assert [better(config, 8_600, 3) for config in named] == [None] * 4


def test_methods_that_take_too_long_are_left_out() -> None:
    situation = Situation(20_000, 4, SMALL)
    best, second, *_ = order = methods_for(situation)
    seconds = {name: 100.0 - row for row, name in enumerate(order)}
    assert choose(situation, seconds.__getitem__, 100.0).method == best
    found = choose(situation, seconds.__getitem__, 99.5)
    assert (found.method, found.left_out, found.share) == (second, (best,), 1.0)
    assert f"; {best} would take longer than the time given" in str(found)
    last = order[-1]
    found = choose(situation, seconds.__getitem__, seconds[last] / 4)
    assert (found.method, found.share) == (last, 0.25)
    assert str(found).endswith("; 25% of the usual steps fit into it")
