"""What two processes are given, and what they came to beside one alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from . import fits


def write_given(folder: Path, toy: fits.Toy, models: dict[str, str]) -> None:
    """Texts and models for the processes, and the texts once more for `ltuning train`."""
    (folder / "given.json").write_text(json.dumps({"toy": toy, "models": models}))
    (folder / "data").mkdir()
    for name in ("", "test_"):
        rows = [("text", "label"), *zip(toy[f"{name}texts"], toy[f"{name}labels"], strict=True)]
        with (folder / "data" / f"{(name and 'validation') or 'train'}.csv").open("w") as file:
            csv.writer(file).writerows(rows)


def assert_as_alone(folder: Path, name: str, alone: Any, path: Path) -> None:
    """The same weights and course in both processes, and those of one alone to 1e-5."""
    fits.record(alone, path)
    tensors = [load_file(folder / f"rank-{rank}" / f"{name}.safetensors") for rank in (0, 1)]
    for key, weight in load_file(f"{path}.safetensors").items():
        assert torch.equal(tensors[0][key], tensors[1][key]), key
        torch.testing.assert_close(tensors[0][key], weight, atol=1e-5, rtol=0, msg=key)
    course = json.loads(path.with_suffix(".json").read_text())
    for rank in (0, 1):
        said = json.loads((folder / f"rank-{rank}" / f"{name}.json").read_text())
        assert said["steps"] == course["steps"]
        assert said["losses"] == pytest.approx(course["losses"], abs=1e-5)
        assert said["best"] == pytest.approx(course["best"], abs=1e-5)
