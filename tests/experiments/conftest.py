"""A small grid on the toy's texts, and what runs it."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ltuning.experiments.grid import Grid
    from ltuning.experiments.results import ResultFolder

    from ..conftest import Toy


def write_split(path: Path, texts: Sequence[Any], labels: Sequence[str]) -> None:
    is_pair = isinstance(texts[0], tuple)
    head = ("text", "text_pair", "label") if is_pair else ("text", "label")
    rows = [
        (*(text if is_pair else (text,)), label) for text, label in zip(texts, labels, strict=True)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="session")
def data(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets: `toy` with train and test, `pairs` with train and validation."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "toy").mkdir()
    write_split(folder / "toy" / "train.csv", toy.texts, toy.labels)
    write_split(folder / "toy" / "test.csv", toy.test_texts, toy.test_labels)
    (folder / "pairs").mkdir()
    pairs = [(text, "the and of") for text in toy.texts]
    write_split(folder / "pairs" / "train.csv", pairs, toy.labels)
    pairs = [(text, "the and of") for text in toy.test_texts]
    write_split(folder / "pairs" / "validation.csv", pairs, toy.test_labels)
    return folder


@pytest.fixture
def mapping(toy: Toy, tiny_bert: Path) -> dict[str, Any]:
    """A grid of one backbone, one data set, three methods and two seeds."""
    return {
        "name": "tiny",
        "backbones": {"bert": {"name": str(tiny_bert)}},
        "data": {"toy": {"path": "toy", "labels": toy.label_texts}},
        "methods": ["lt-prefix", "prefix", "logistic"],
        "seeds": [0, 1],
        "budget": {"steps": 4, "batch": 12, "evaluations": 2},
    }


@pytest.fixture
def make(mapping: dict[str, Any]) -> Callable[..., Grid]:
    """Makes the grid with some options changed: `make(seeds=[0])`."""

    def changed(**options: Any) -> Grid:
        from ltuning.experiments.grid import Grid

        return Grid.from_dict({**mapping, **options})

    return changed


@pytest.fixture(scope="session")
def finished() -> dict[str, Path]:
    """Folders of the grids that were run, by their YAML."""
    return {}


@pytest.fixture
def measured(
    data: Path,
    finished: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Grid], ResultFolder]:
    """Runs a grid, every cell, and gives a folder of its results; equal grids are run once."""

    def run_grid(grid: Grid) -> ResultFolder:
        from ltuning.experiments.results import ResultFolder
        from ltuning.experiments.runner import run

        key = grid.to_yaml()
        if key not in finished:
            results = ResultFolder(tmp_path_factory.mktemp("finished"))
            results.open(grid)
            for outcome in run(list(grid.cells()), results, data):
                assert outcome.error is None, outcome.error
            finished[key] = results.folder
        return ResultFolder(Path(shutil.copytree(finished[key], tmp_path / "results")))

    return run_grid
