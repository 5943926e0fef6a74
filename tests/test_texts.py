from __future__ import annotations

import pytest

from ltuning.texts import Text, is_empty


@pytest.mark.parametrize("text", ["", " \t\n", ("", " "), ("a", ""), (" ", "b")])
def test_empty(text: Text) -> None:
    assert is_empty(text)


@pytest.mark.parametrize("text", ["a", " . ", ("a", "b")])
def test_not_empty(text: Text) -> None:
    assert not is_empty(text)
