"""The short half of `benchmarks/faults.py`: nothing is lost, wrong in silence, or a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"


@pytest.mark.parametrize(
    "words",
    [
        ("kill", "--number", "21", "--only", "save", "train --overwrite"),
        ("mutate", "--number", "300", "--seed", "1"),
    ],
    ids=["kill", "mutate"],
)
def test_faults_are_borne(words: tuple[str, ...], tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, str(SCRIPT), *words, "--output", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert found.pop()["summary"]
    # A kill between two instructions may leave an empty folder that cannot be known for dead.
    borne = ("refused", "leftover")
    assert [row for row in found if row["outcome"] not in borne] == []
