from __future__ import annotations

from ltuning.suggestions import listed, suggest, unknown

METHODS = ["prefix", "prompt", "lt-prefix", "lt-prompt"]


def test_suggest_names_the_nearest_choice():
    assert suggest("lt-prefx", METHODS) == "; did you mean 'lt-prefix'?"


def test_suggest_overlooks_case():
    assert suggest("ABBREVIATION", ["Abbreviation", "Entity"]) == "; did you mean 'Abbreviation'?"


def test_suggest_says_nothing_where_nothing_is_near():
    assert suggest("zebra", METHODS) == ""
    assert suggest("prefix", []) == ""


def test_unknown_lists_the_choices_and_suggests():
    assert unknown("method", "lt-prefx", METHODS) == (
        "unknown method 'lt-prefx': expected one of 'prefix', 'prompt', 'lt-prefix', 'lt-prompt'"
        "; did you mean 'lt-prefix'?"
    )


def test_unknown_without_a_near_choice():
    assert unknown("split", "zebra", ["train", "test"]) == (
        "unknown split 'zebra': expected one of 'train', 'test'"
    )


def test_unknown_without_choices():
    assert unknown("split", "test", []) == "unknown split 'test': there are none"


def test_unknown_takes_any_iterable():
    assert unknown("split", "tset", iter(["train", "test"])).endswith("did you mean 'test'?")


def test_a_long_list_is_cut_with_a_count():
    names = [f"n{number}" for number in range(151)]
    assert listed(names[:20]).endswith("'n18', 'n19'")
    assert listed(names).endswith("'n18', 'n19' and 131 more")
