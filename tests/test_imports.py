"""The arrows of the design: which part of the package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Container, Iterator
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

BASE = {
    "errors", "suggestions", "config", "sentences", "texts", "stages", "values", "processes",
}  # fmt: skip
BACKBONES = BASE | {"locks", "backbones"}
LABELS = BASE | {"labels"}
METHODS = BACKBONES | LABELS | {"methods"}
SCORING = METHODS | {"scoring"}
TRAINING = SCORING | {"tag_decoding", "training", "metrics", "calibration"}
ONNX = {
    "artifacts", "backbones", "calibration", "config", "errors", "estimators", "onnx", "sentences",
    "suggestions", "tag_decoding", "texts", "values",
}  # fmt: skip
ARTIFACTS = METHODS | {"artifacts", "metrics", "calibration"}
ESTIMATORS = TRAINING | ARTIFACTS | {"checks", "data", "estimators"}
DATA = {"errors", "suggestions", "sentences", "texts", "locks", "values", "data"}
CHECKS = SCORING | DATA | {"checks"}
TASKS = ESTIMATORS | CHECKS | {"reviewing", "tasks"}
# A part of the package, and the parts that it may import.
ALLOWED = {
    "errors": {"errors"},
    "suggestions": {"suggestions"},
    "sentences": {"errors", "suggestions", "sentences"},
    "texts": {"texts"},
    "stages": {"stages"},
    "processes": {"errors", "processes"},
    "values": {"values"},
    "memory": {"memory"},
    "config": {"errors", "suggestions", "texts", "values", "config"},
    "labels": LABELS,
    "data": DATA,
    "metrics": {"errors", "suggestions", "metrics"},
    "calibration": {"errors", "metrics", "calibration"},
    "backbones": BACKBONES,
    "methods": METHODS,
    "tag_decoding": {"errors", "suggestions", "sentences", "tag_decoding"},
    "scoring": SCORING,
    "training": TRAINING,
    "locks": {"errors", "locks"},
    "artifacts": ARTIFACTS,
    "estimators": ESTIMATORS,
    # The package itself imports nothing before it is asked for.
    "__init__": ESTIMATORS,
    "__main__": ESTIMATORS | DATA | {"cli", "__init__"},
    # It imports no torch: a test below holds that.
    "onnx": ONNX,
    "exporting": ESTIMATORS | ONNX | {"exporting"},
    "checks": CHECKS,
    "reviewing": {"reviewing"},
    "tasks": TASKS,
    "predicting": TASKS | {"predicting"},
    "ray_cluster": {"errors"},
    "engines": TASKS | {"engines", "memory", "onnx", "predicting", "ray_cluster"},
    "spark": TASKS | {"engines", "spark"},
    "experiments": TASKS | {"experiments", "memory", "ray_cluster"},
    "serving": TASKS | {"serving"},
    "cli": TASKS
    | {"cli", "engines", "experiments", "exporting", "onnx", "predicting", "ray_cluster", "serving"}
    | {"__init__"},
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


def test_no_modules_import_one_another_in_a_circle() -> None:
    names = {".".join(("ltuning", *module.with_suffix("").parts)): module for module in MODULES}
    arrows = {
        name: {target for found in imported(SOURCE / module) if (target := _module(found, names))}
        for name, module in names.items()
    }
    left = dict(arrows)
    while ends := [name for name, targets in left.items() if not targets & left.keys() - {name}]:
        for name in ends:
            del left[name]
    assert sorted(left) == []


def _module(found: str, names: Container[str]) -> str:
    """The module that an imported name is, or is of."""
    return found if found in names else found.rpartition(".")[0]


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


def test_no_task_is_told_by_its_name() -> None:
    """Of what it gives there are facts, in the schema and in its row."""
    from ltuning.config import TASK_FACTS

    for module in MODULES:
        for node in ast.walk(ast.parse((SOURCE / module).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and _names_a_task(node.left):
                right = [getattr(side, "value", None) for side in node.comparators]
                assert not {*TASK_FACTS} & {word for word in right if isinstance(word, str)}, (
                    f"{module}:{node.lineno}"
                )


def _names_a_task(node: ast.expr) -> bool:
    return getattr(node, "attr", getattr(node, "id", None)) == "task"


@pytest.mark.parametrize(
    "name",
    [
        "ltuning",
        "ltuning.errors",
        "ltuning.config",
        "ltuning.suggestions",
        "ltuning.labels",
        "ltuning.cli.main",
    ],
)
def test_importing_the_light_parts_loads_no_heavy_library(name: str) -> None:
    code = f"import {name}, sys; print(*sorted({HEAVY!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_exported_classifiers_need_onnxruntime_tokenizers_and_numpy_alone() -> None:
    code = (
        "import sys\nbefore = {*sys.modules}\nimport ltuning.onnx\n"
        "print(*{name.partition('.')[0] for name in {*sys.modules} - before}"
        " - {*sys.stdlib_module_names})"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {*ran.stdout.split()} == {"ltuning", "numpy"}


def test_the_front_door_is_found_by_its_name() -> None:
    from ltuning.backbones.backbone import Backbone
    from ltuning.estimators.label_classifier import LabelClassifier
    from ltuning.labels import Labels

    assert ltuning.LabelClassifier is LabelClassifier
    assert ltuning.Backbone is Backbone
    assert ltuning.Labels is Labels
    assert {name for name in ltuning.__all__ if not hasattr(ltuning, name)} == set()
    with pytest.raises(AttributeError, match="module 'ltuning' has no attribute 'Labls'"):
        ltuning.Labls  # noqa: B018
