"""The grid of the paper's table, on tiny random stand-ins of its six families."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ltuning.experiments.cell_texts import check_data
from ltuning.experiments.grid import Grid
from ltuning.experiments.report import write_report
from ltuning.experiments.results import ResultFolder
from ltuning.experiments.runner import run

from ..conformance.tiny import FAMILIES, WORDS
from .conftest import write_split

GRID = Path(__file__).parent.parent.parent / "grids" / "table1.yaml"
STAND_INS = {
    "BERT": "bert",
    "RoBERTa": "roberta",
    "DeBERTa": "deberta-v2",
    "Falcon": "falcon-multi-query",
    "Bloom": "bloom",
    "Llama-2": "llama",
}
CLASSES = {
    "CoLA": ("acceptable", "unacceptable"),
    "RTE": ("entailment", "not_entailment"),
    "SST-2": ("negative", "positive"),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("table1")
    draw, words = random.Random(0), WORDS.split()
    changes = ["seeds=[0]", "budget.steps=2", "budget.batch=8", "budget.evaluations=1"]
    for name, classes in CLASSES.items():
        (folder / name).mkdir()
        for split, number in (("train", 40), ("validation", 12)):
            texts = [" ".join(draw.choices(words, k=5)) for _ in range(number)]
            rows = [(text, "the of") if name == "RTE" else text for text in texts]
            labels = [classes[place % 2] for place in range(number)]
            write_split(folder / name / f"{split}.csv", rows, labels)
        changes.append(f"data.{name}.path={folder / name}")
        # The words of its own label texts are not in the stand-ins' vocabulary.
        changes.append(f"data.{name}.labels={{{classes[0]}: apple, {classes[1]}: the ball}}")
    for name, family in STAND_INS.items():
        changes.append(f"backbones.{name}.name={FAMILIES[family].save(folder / family)}")
    return tuple(changes)


def test_the_stand_ins_are_of_the_tables_families() -> None:
    assert Grid.from_yaml(GRID).backbones.keys() == STAND_INS.keys()


@pytest.mark.slow
def test_every_family_and_every_data_set_of_the_table_runs(
    settings: tuple[str, ...], tmp_path: Path
) -> None:
    grid = Grid.from_yaml(GRID, (*settings, "search.trials=1"))
    check_data(grid, None)
    folder = ResultFolder(tmp_path)
    folder.open(grid)
    every = list(grid.cells())
    assert len(every) == 6 * 3 * 4
    # All families on one data set, all data sets with one family.
    cells = [cell for cell in every if cell.backbone == "BERT" or cell.data == "RTE"]
    errors = [outcome.error for outcome in run(cells, folder, None) if outcome.error]
    assert errors == []
    tables, _ = write_report(grid, folder)
    assert len(cells) == (6 + 2) * 4
    for cell in cells:
        assert f"## {cell.data}, {cell.backbone}\n" in tables
    assert tables.count("| lt-prompt | prompt | 1 |") == 6 + 2
    texts = folder.results(cells)[0].record["texts"]
    assert (texts["train"], texts["validation"], texts["test"]) == (36, 4, 12)
    assert (texts["validation_from"], texts["test_from"]) == ("train", "validation")
