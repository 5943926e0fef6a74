from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ltuning.errors import LabelError
from ltuning.experiments.grid import LABEL_TEXTS, Grid
from ltuning.experiments.labelling import label_texts

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone
    from ltuning.experiments.results import ResultFolder

GIVEN = {"food": ["bread cheese soup"], "sport": ["ball"], "travel": ["the hotel"]}


@pytest.fixture
def texts(bert: Backbone) -> Callable[..., dict[str, list[str]]]:
    def made(kind: str | None, given: Any = GIVEN, seed: int = 0) -> dict[str, list[str]]:
        return label_texts(kind, given, ["food", "sport", "travel"], bert.tokenizer, seed)

    return made


def test_descriptions_and_names(texts: Callable[..., Any]) -> None:
    assert texts("descriptions") == texts(None) == GIVEN
    assert texts("names") == {"food": ["food"], "sport": ["sport"], "travel": ["travel"]}
    assert texts("names", None) == texts("names")


@pytest.mark.parametrize("seed", range(10))
def test_no_shuffled_text_stays_at_its_label(texts: Callable[..., Any], seed: int) -> None:
    shuffled = texts("shuffled", seed=seed)
    assert list(shuffled) == list(GIVEN)
    assert sorted(shuffled.values()) == sorted(GIVEN.values())
    assert not any(shuffled[name] == GIVEN[name] for name in GIVEN)


def test_random_tokens_are_as_many_as_the_descriptions_have(
    texts: Callable[..., Any], bert: Backbone
) -> None:
    def lengths(made: dict[str, list[str]]) -> list[int]:
        encode = bert.tokenizer
        return [len(encode(t, add_special_tokens=False)["input_ids"]) for (t,) in made.values()]

    assert lengths(texts("random-tokens")) == [3, 1, 2]
    assert lengths(texts("single-token")) == [1, 1, 1]


@pytest.mark.parametrize("kind", ["random-tokens", "single-token", "shuffled"])
def test_draws_are_those_of_the_seed(texts: Callable[..., Any], kind: str) -> None:
    assert texts(kind) == texts(kind)
    assert any(texts(kind, seed=seed) != texts(kind) for seed in range(1, 5))


def test_a_vocabulary_without_enough_words_is_refused(bert: Backbone) -> None:
    names = [f"label {number}" for number in range(500)]
    with pytest.raises(LabelError, match="expected 500 words of one token each"):
        label_texts("single-token", None, names, bert.tokenizer, 0)


def test_every_kind_runs_and_is_a_row_of_its_own(
    make: Callable[..., Grid], measured: Callable[..., ResultFolder]
) -> None:
    grid = make(methods=["lt-prefix"], seeds=[0], label_texts=list(LABEL_TEXTS))
    found = measured(grid).results(list(grid.cells()))
    labels = [result.record["labels"] for result in found]
    assert len(labels) == 5
    assert all(one != other for i, one in enumerate(labels) for other in labels[:i])
