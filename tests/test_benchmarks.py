"""The scripts of `benchmarks/` find what they import of ltuning and of one another."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


def names_of(tree: ast.Module) -> set[str]:
    """What a script defines at its top."""
    found = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    return found | {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


TREES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in SCRIPTS}


@pytest.mark.parametrize("script", TREES)
def test_every_import_of_a_benchmark_is_there(script: str) -> None:
    for node in ast.walk(TREES[script]):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        names = {alias.name for alias in node.names}
        if node.module in TREES:
            assert names <= names_of(TREES[node.module]), node.module
        elif node.module.partition(".")[0] == "ltuning":
            module = import_module(node.module)
            for name in sorted(names):
                if not hasattr(module, name):
                    import_module(f"{node.module}.{name}")
