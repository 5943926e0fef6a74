"""The arrows of the design: which part of the package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import ltuning

SOURCE = Path(ltuning.__file__).parent
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "pyarrow",
    "sklearn",
    "numpy",
    "safetensors",
}

BASE = {"errors", "registry", "config", "tags", "texts", "stages", "values"}
BACKBONES = BASE | {"backbones"}
LABELS = BASE | {"labels"}
METHODS = BACKBONES | LABELS | {"locks", "methods"}
CHECKING = METHODS | {"checking"}
SCORING = METHODS | {"scoring", "tag_scoring"}
TRAINING = SCORING | {"training", "metrics"}
INPUTS = LABELS | {"inputs"}
OPENING = CHECKING | {"locks", "artifacts", "opening"}
FRONT = INPUTS | TRAINING | OPENING | {"front"}
CLASSIFIER = FRONT | {"classifier", "multilabel", "tagger"}
DATA = {"errors", "registry", "tags", "texts", "locks", "values", "data"}
TASKS = CLASSIFIER | DATA | {"tasks"}
# A part of the package, and the parts that it may import.
ALLOWED = {
    "errors": {"errors"},
    "registry": {"registry"},
    "tags": {"errors", "registry", "tags"},
    "texts": {"texts"},
    "stages": {"stages"},
    "values": {"values"},
    "config": {"errors", "registry", "texts", "config"},
    "labels": LABELS,
    "data": DATA,
    "metrics": {"errors", "registry", "metrics"},
    "backbones": BACKBONES,
    "methods": METHODS,
    "checking": CHECKING,
    "scoring": SCORING,
    "tag_scoring": METHODS | {"tag_scoring"},
    "training": TRAINING,
    "locks": {"errors", "locks"},
    "artifacts": {"errors", "registry", "config", "locks", "artifacts"},
    "inputs": INPUTS,
    "opening": OPENING,
    "front": FRONT,
    "classifier": FRONT | {"classifier"},
    "multilabel": FRONT | {"classifier", "multilabel"},
    "tagger": FRONT | {"tagger"},
    # The package itself imports nothing before it is asked for.
    "__init__": CLASSIFIER,
    "__main__": CLASSIFIER | DATA | {"cli", "__init__"},
    "tasks": TASKS,
    "experiments": TASKS | {"experiments"},
    "cli": TASKS | {"cli", "experiments", "__init__"},
}
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))


def part_of(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Full names of the package's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_no_import_points_up(module: Path) -> None:
    part = part_of(module)
    assert part in ALLOWED, f"{part} has no row in the table of allowed imports"
    for name in imported(SOURCE / module):
        package, _, rest = name.partition(".")
        if package == "ltuning":
            target = rest.split(".")[0] if (SOURCE / rest.split(".")[0]).exists() else ""
            target = target or (rest.split(".")[0] if _is_module(rest) else "__init__")
            assert target in ALLOWED[part], f"{module} imports {name}"


def _is_module(rest: str) -> bool:
    return (SOURCE / f"{rest.split('.')[0]}.py").exists()


@pytest.mark.parametrize("part", ["data", "metrics"])
def test_data_and_metrics_know_no_model(part: str) -> None:
    files = [SOURCE / module for module in MODULES if part_of(module) == part]
    assert files
    for path in files:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"torch", "transformers"}, path


def test_only_backbones_know_the_model_classes_of_transformers() -> None:
    for module in MODULES:
        names = {name for name in imported(SOURCE / module) if name.startswith("transformers.")}
        if part_of(module) != "backbones":
            assert not any(name.startswith("transformers.Auto") for name in names), module


def test_no_family_is_named_outside_its_table() -> None:
    from ltuning.backbones.families import FAMILIES

    for module in MODULES:
        if module == Path("backbones/families.py"):
            continue
        for node in ast.walk(ast.parse((SOURCE / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant):
                assert node.value not in FAMILIES, f"{module}:{node.lineno}"


@pytest.mark.parametrize(
    "name",
    [
        "ltuning",
        "ltuning.errors",
        "ltuning.config",
        "ltuning.registry",
        "ltuning.labels",
        "ltuning.cli.main",
    ],
)
def test_importing_the_light_parts_loads_no_heavy_library(name: str) -> None:
    assert find_spec("ltuning") is not None
    code = f"import {name}, sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_the_front_door_is_found_by_its_name() -> None:
    from ltuning.backbones.backbone import Backbone
    from ltuning.classifier import LabelClassifier
    from ltuning.labels import Labels

    assert ltuning.LabelClassifier is LabelClassifier
    assert ltuning.Backbone is Backbone
    assert ltuning.Labels is Labels
    assert {name for name in ltuning.__all__ if not hasattr(ltuning, name)} == set()
    with pytest.raises(AttributeError, match="module 'ltuning' has no attribute 'Labls'"):
        ltuning.Labls  # noqa: B018
