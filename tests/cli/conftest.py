"""The command line as a user calls it, and a classifier that it trained."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

if TYPE_CHECKING:
    from ..conftest import Toy


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def ltuning() -> Command:
    """Runs `ltuning` with arguments, such as `ltuning("predict", folder, input="a text")`."""

    def call(*arguments: Any, input: str | bytes | None = None) -> Outcome:
        from ltuning.cli.main import app

        result = CliRunner().invoke(app, [str(word) for word in arguments], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call


def write_csv(path: Path, texts: Sequence[str], labels: Sequence[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return path


@pytest.fixture(scope="session")
def data(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv and test.csv."""
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder / "train.csv", toy.texts, toy.labels)
    write_csv(folder / "test.csv", toy.test_texts, toy.test_labels)
    return folder


@pytest.fixture(scope="session")
def run(tiny_bert: Path, data: Path, ltuning: Command) -> Command:
    """Trains on the toy's folder: `run("--output", folder)`; words given win over its own."""

    def call(*arguments: Any) -> Outcome:
        own = {"--backbone": tiny_bert, "--data": data}
        words = [word for pair in own.items() if pair[0] not in arguments for word in pair]
        length = [] if {"--steps", "--epochs", "--config"} & {*arguments} else ["--steps", 4]
        return ltuning("train", *words, *length, *arguments)

    return call


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a backbone is an error."""

    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("ltuning.backbones.backbone.Backbone.load", load)


@pytest.fixture(scope="session")
def trained(run: Command, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that tells the toy's classes apart; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    labels = [word for pair in toy.label_texts.items() for word in ("--label", "=".join(pair))]
    outcome = run("--output", folder, "--steps", 60, *labels)
    assert outcome.code == 0, outcome.stderr
    return folder
