"""What verbs read of a trained classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VERBS: dict[str, list[Any]] = {
    "predict": ["--text", "bread and cheese"],
    "evaluate": ["--data", "DATA"],
    "add-labels": ["--label", "music=a song", "--output", "OUTPUT"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_reads_each_file_of_a_classifier_once(
    verb: str,
    ltuning: Callable[..., Any],
    trained: Path,
    data: Path,
    tmp_path: Path,
    reads: Callable[[Path], dict[str, int]],
) -> None:
    places = {"DATA": data, "OUTPUT": tmp_path / "more"}
    outcome = ltuning(verb, trained, *(places.get(word, word) for word in VERBS[verb]))
    assert outcome.code == 0, outcome.stderr
    # The card is for people, and nothing beside the folder is opened: what is read is not locked.
    assert reads(trained.parent) == {
        f"{trained.name}/adapter_model.safetensors": 1,
        f"{trained.name}/calibration/answers.json": 1,
        f"{trained.name}/ltuning_config.json": 1,
    }
