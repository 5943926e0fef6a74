"""Run folders of several tasks and methods on one tiny backbone, and an application over them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from ltuning.estimators.label_classifier import LabelClassifier
    from ltuning.serving.registry import Registry

    from ..conftest import Toy

Make = Callable[..., "LabelClassifier"]


@pytest.fixture(scope="session")
def doors(bert: Any, toy: Toy, classifier: Make) -> dict[str, Any]:
    """Trained front doors by the names under which they are served."""
    from ltuning import LabelClassifier, MultilabelClassifier, TokenClassifier

    rows = toy.texts[:12], toy.labels[:12]
    quick: dict[str, Any] = {"steps": 1, "rate": 0.05}
    made: dict[str, Any] = {
        "topics": classifier(bert, **quick).fit(*rows),
        "plain": classifier(bert, "prefix", num_tokens=4, **quick).fit(*rows),
        "lora": classifier(bert, "ls-lora", **quick).fit(*rows),
    }
    pairs = [("bread", text) for text in rows[0]]
    made["pairs"] = classifier(bert, "probe", **quick).fit(pairs, rows[1])
    numbers = [toy.names.index(label) for label in rows[1]]
    made["numbers"] = LabelClassifier(bert, None, "probe", steps=1).fit(rows[0], numbers)
    several = MultilabelClassifier(bert, toy.label_texts, "lt-prefix", steps=1)
    made["several"] = several.fit(rows[0], [[label] for label in rows[1]])
    words = [text.split() for text in rows[0]]
    tags = [["B-thing", *["O"] * (len(row) - 1)] for row in words]
    made["tagger"] = TokenClassifier(bert, ["thing"], "probe", steps=1).fit(words, tags)
    return made


@pytest.fixture(scope="session")
def saved(doors: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with their run folders, and a broken one."""
    place = tmp_path_factory.mktemp("served")
    for name, door in doors.items():
        door.save_pretrained(place / name)
    shutil.copytree(place / "plain", place / "broken")
    (place / "broken" / "adapter_model.safetensors").write_bytes(b"no tensors")
    return place


@pytest.fixture
def serve() -> Iterator[Callable[..., TestClient]]:
    """An application over folders, asked without a network; its threads end with the test."""
    from starlette.testclient import TestClient

    from ltuning.serving.app import create_app
    from ltuning.serving.bounds import Bounds
    from ltuning.serving.measures import Measures
    from ltuning.serving.registry import Registry

    registries: list[Registry] = []

    def client(*folders: Path, bounds: Bounds | None = None, **options: Any) -> TestClient:
        bounds, measures = bounds or Bounds(), Measures()
        registry = Registry(
            {folder.name: folder for folder in folders},
            most_waiting=bounds.waiting,
            observe=measures.ran,
        )
        registries.append(registry)
        registry.load()
        app = create_app(registry, measures, bounds=bounds, **options)
        app.state.registry = registry
        return TestClient(app, base_url="http://localhost")

    yield client
    for registry in registries:
        registry.stop()
