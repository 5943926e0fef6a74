"""The quick half of the tests: something of every room, and nothing left out that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import ltuning

from .conftest import LONG

TESTS = Path(__file__).parent
ROOMS = [file.parent.name for file in Path(ltuning.__file__).parent.glob("*/__init__.py")]


def test_what_is_no_part_of_it_is_there() -> None:
    assert [name for name in LONG if not (TESTS / name).exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_part_in_it(room: str) -> None:
    files = [*(TESTS / room).glob("test_*.py"), *TESTS.glob(f"test_{room}*.py")]
    assert [file for file in files if file.relative_to(TESTS).as_posix() not in LONG]
