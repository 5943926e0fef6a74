"""Artifacts that earlier versions wrote: each one loads, and says what it said then.

`scripts/store_artifacts.py` made them, on backbones of their own.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier
from ltuning.methods.catalog import METHODS
from ltuning.methods.weight_methods import WEIGHT_METHODS

ARCHIVES = {
    path.name.removesuffix(".zip.xz"): zipfile.ZipFile(
        io.BytesIO(lzma.decompress(path.read_bytes()))
    )
    for path in sorted((Path(__file__).parent / "stored").glob("*.zip.xz"))
}
ANSWERS = {version: json.loads(packed.read("answers.json")) for version, packed in ARCHIVES.items()}
TOLERANCE = 1e-5

Load = Callable[[type, str, str], tuple[Any, dict[str, Any]]]


def of_task(task: str) -> pytest.MarkDecorator:
    """Every stored artifact of a task."""
    found = [
        (version, name)
        for version, answers in ANSWERS.items()
        for name in answers
        if name.startswith(f"{task}/")
    ]
    return pytest.mark.parametrize(("version", "name"), found)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each version's artifacts and backbones, unpacked."""
    folders = {version: tmp_path_factory.mktemp("stored") for version in ARCHIVES}
    for version, folder in folders.items():
        ARCHIVES[version].extractall(folder)
    return folders


@pytest.fixture(scope="module")
def reopen(stored: dict[str, Path], load: Callable[..., Any]) -> Load:
    """Loads an artifact on its backbone, which is loaded once; beside it what it said then."""
    backbones: dict[Path, Any] = {}

    def open_stored(door: Any, version: str, name: str) -> tuple[Any, dict[str, Any]]:
        said = ANSWERS[version][name]
        place = stored[version] / said["backbone"]
        if place not in backbones:
            backbones[place] = load(place)
        return door.from_pretrained(stored[version] / name, backbone=backbones[place]), said

    return open_stored


def test_every_method_of_every_task_is_stored() -> None:
    assert ARCHIVES
    for version, packed in ARCHIVES.items():
        methods: dict[str, set[str]] = {}
        for name in ANSWERS[version]:
            config = json.loads(packed.read(f"{name}/ltuning_config.json"))
            methods.setdefault(config["task"], set()).add(config["method"]["name"])
        every = {*METHODS, *WEIGHT_METHODS}
        expected = {"classes": every, "multilabel": every, "tags": {*WEIGHT_METHODS}}
        assert methods == expected, version


def asked(said: dict[str, Any]) -> list[Any]:
    """The texts, pairs as tuples."""
    return [tuple(text) if isinstance(text, list) else text for text in said["texts"]]


@of_task("classes")
def test_a_stored_classifier_says_what_it_said(reopen: Load, version: str, name: str) -> None:
    found, said = reopen(LabelClassifier, version, name)
    texts = asked(said)
    np.testing.assert_allclose(found.scores(texts), said["scores"], atol=TOLERANCE, rtol=TOLERANCE)
    assert found.classes_.tolist() == said["classes"]
    assert found.predict(texts).tolist() == said["predicted"]


@of_task("multilabel")
def test_a_stored_classifier_of_several_labels_says_what_it_said(
    reopen: Load, version: str, name: str
) -> None:
    found, said = reopen(MultilabelClassifier, version, name)
    texts = asked(said)
    np.testing.assert_allclose(found.scores(texts), said["scores"], atol=TOLERANCE, rtol=TOLERANCE)
    assert found.classes_.tolist() == said["classes"]
    assert found.thresholds_.tolist() == said["thresholds"]
    assert found.predict(texts) == said["predicted"]


@of_task("tags")
def test_a_stored_tagger_says_what_it_said(reopen: Load, version: str, name: str) -> None:
    found, said = reopen(TokenClassifier, version, name)
    assert list(found.types_) == said["types"]
    assert found.predict_tags(said["texts"]) == said["tags"]
    entities = found.predict([" ".join(words) for words in said["texts"]])
    for now, then in zip(entities, said["entities"], strict=True):
        expected = [
            {**one, "probability": pytest.approx(one["probability"], rel=TOLERANCE)} for one in then
        ]
        assert [vars(entity) for entity in now] == expected
