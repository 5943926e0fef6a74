"""YAML files that would stop a machine, or that hold what no option can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltuning.config import Config, apply_settings, yaml
from ltuning.config.yaml import YamlError
from ltuning.errors import ConfigError, LabelError, Problem
from ltuning.experiments.grid import Grid
from ltuning.labels import Labels


def nested_aliases(levels: int) -> str:
    """A mapping whose last value stands for ten to the power of its levels."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{inner}]")
    return "\n".join(lines) + "\n"


def refusal(text: str) -> str:
    with pytest.raises(YamlError) as caught:
        yaml.parse(text)
    return str(caught.value)


def test_aliases_that_grow_are_refused_before_they_stand_for_values():
    found = refusal(nested_aliases(9))
    assert found.startswith("line 1: expected aliases that stand for 100,000 values at most, got ")
    assert found.endswith("; write the values out")


def test_a_file_may_repeat_itself():
    once = yaml.parse(nested_aliases(4))
    assert len(once["a3"]) == 10
    assert once["a3"][9][9][9] == ["x"] * 10


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: *a}", "&a [x, [y, *a]]"])
def test_what_contains_itself_is_refused(text: str):
    assert refusal(text) == "line 1: contains itself, by an alias within what it stands for"


def test_every_reader_of_yaml_refuses_them(tmp_path: Path):
    file = tmp_path / "grown.yaml"
    file.write_text(nested_aliases(9) + "training: *a8\n")
    for read in (Config.from_yaml, Grid.from_yaml):
        with pytest.raises(ConfigError, match="expected aliases that stand for 100,000 values"):
            read(file)
    with pytest.raises(LabelError, match="expected aliases that stand for 100,000 values"):
        Labels.from_yaml(file)
    problems: list[Problem] = []
    apply_settings({}, ["labels=&a [*a]"], problems)
    assert [str(problem) for problem in problems] == [
        "labels: cannot read the value '&a [*a]' (line 1: contains itself, by an alias within what "
        "it stands for): put it in quotes"
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("9223372036854775808", "'9223372036854775808'"),
        ("-9223372036854775809", "'-9223372036854775809'"),
        ("1e999", "'1e999'"),
        ("-1e999", "'-1e999'"),
        ("0x" + "f" * 5000, "'0x" + "f" * 74 + "..."),
        ("1" * 5000, "'" + "1" * 76 + "..."),
    ],
)
def test_numbers_beyond_64_bits_are_refused(text: str, shown: str):
    assert refusal(text) == (
        f"line 1: expected a number of 64 bits at most, got {shown}; put a text of digits in quotes"
    )


def test_the_largest_numbers_are_read():
    found = yaml.parse("[9223372036854775807, -9223372036854775808, 1e308, -.inf, '1e999']")
    assert found == [2**63 - 1, -(2**63), 1e308, float("-inf"), "1e999"]


def test_an_option_is_never_infinite():
    with pytest.raises(ConfigError, match="cache_size: expected a number of 0 or more, got inf"):
        Config.from_dict({"backbone": {"cache_size": float("inf")}})


def test_a_number_that_is_too_long_to_show_is_still_refused():
    with pytest.raises(ConfigError, match="got a value of type int that is too long to show"):
        Config.from_dict({"seed": 10**5000})


def test_characters_in_two_halves_are_one_and_half_of_one_is_refused():
    assert yaml.parse(r'"\ud83d\ude00"') == "\N{GRINNING FACE}"
    assert refusal(r'"\ud800"') == (
        r"line 1: expected characters, got half of one in '\ud800'; write it out"
    )


def test_a_file_without_an_end_is_not_read_to_its_end():
    with pytest.raises(YamlError, match="expected 16 MiB at most, got more"):
        yaml.read("/dev/zero")


def test_a_path_of_set_without_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"--set: expected OPTION=VALUE such as method\.rank=64"):
        Config.from_dict({}, [".".join("a" * 20_000) + "=1"])
