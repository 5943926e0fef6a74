"""What the tests of several processes are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from . import fits

if TYPE_CHECKING:
    from ..conftest import Toy


@pytest.fixture(scope="session")
def plain(toy: Toy) -> dict[str, Any]:
    return {
        "texts": toy.texts[: fits.SIZE],
        "labels": toy.labels[: fits.SIZE],
        "test_texts": toy.test_texts,
        "test_labels": toy.test_labels,
        "label_texts": toy.label_texts,
    }
