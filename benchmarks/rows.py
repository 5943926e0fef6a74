"""Rows of results files, one JSON object a line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from ltuning.experiments.machine import git_hash, machine, versions

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def add_row(path: Path, row: Row) -> None:
    """Append a row to a results file."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def circumstances(backbone: str) -> Row:
    """Where and with what a row was measured."""
    return {
        "backbone": backbone,
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "git": git_hash(),
    }


def grouped(rows: Sequence[Row], *keys: str) -> dict[Any, list[Row]]:
    """Rows of equal keys together, by seed; of one key its value, of several a tuple."""
    groups: dict[Any, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.get("seed", 0)):
        key = tuple(row[name] for name in keys)
        groups.setdefault(key if len(keys) > 1 else key[0], []).append(row)
    return groups


def mean_and_each(values: Sequence[float]) -> str:
    """Two cells: mean and standard deviation, and every seed's value."""
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{spread} | {' '.join(f'{value:.3f}' for value in values)}"


def median_and_range(values: Sequence[float], digits: int = 1) -> str:
    """One cell: the median, and of several values their range."""
    middle = f"{median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def seeds_of(text: str) -> range:
    """`0-2` -> 0, 1, 2; `4` -> 4. An argparse type."""
    first, _, last = text.partition("-")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST, got {text!r}") from None


def parser_of(script: str | None, output: str) -> argparse.ArgumentParser:
    """What every script that measures over seeds is given.

    Args:
        script: its docstring.
        output: the results file where none is named.
    """
    parser = argparse.ArgumentParser(description=(script or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--seeds", type=seeds_of, default=range(3), help="first-last")
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--report", type=Path)
    return parser


def parsed(
    parser: argparse.ArgumentParser, words: str = "--data", *also: str
) -> argparse.Namespace:
    """The arguments, of which --data and others are needed where there is no --report.

    Args:
        parser: of the script.
        words: all that is needed, for the message.
        also: the names of the others.
    """
    options = parser.parse_args()
    if not options.report and not all(getattr(options, name) for name in ("data", *also)):
        parser.error(f"give {words}, or --report FILE")
    return options
