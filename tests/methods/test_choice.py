"""The table behind the method `auto`."""

from __future__ import annotations

from dataclasses import replace

from ltuning.config import Config, MethodOptions, StoppingOptions
from ltuning.methods import catalog
from ltuning.methods.choice import PASSES, ROWS, TRAINED_WITH, Situation, choose

SMALL, LARGE = 22_000_000, 7_000_000_000
LT = Config(method=MethodOptions())


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
