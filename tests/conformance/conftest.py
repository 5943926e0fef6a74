"""The tiny models of the battery, loaded once, and a report of which property holds where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .tiny import FAMILIES, FILES

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone

_OPTION = "--conformance-report"
_RECORDS = pytest.StashKey[list[dict[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        _OPTION, metavar="FILE", help="write what each property of the battery came to, as JSON"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RECORDS] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    callspec = getattr(item, "callspec", None)
    # A test is one record: what its call came to, or the setup that kept it from being called.
    if callspec and "place" in callspec.params and (report.when == "call" or report.failed):
        family, attention = callspec.params["place"]
        item.config.stash[_RECORDS].append(
            {
                "family": family,
                "method": callspec.params.get("method", "backbone"),
                "attention": attention,
                "property": item.originalname.removeprefix("test_").replace("_", " "),
                "outcome": report.outcome,
                "reason": _reason(report),
            }
        )
    return report


def _reason(report: Any) -> str:
    """The first line of what went wrong, the same on every machine."""
    if report.passed:
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    line = re.sub(r"/[^\s']*/", "", line)
    return re.sub(r"^(\w+\.)+(?=\w+:)", "", line).removeprefix("AssertionError: ")


def pytest_sessionfinish(session: pytest.Session) -> None:
    # Unknown where the whole test suite runs: only named folders may bring options.
    file = session.config.getoption(_OPTION, default=None)
    if file:
        records = session.config.stash[_RECORDS]
        Path(file).write_text(json.dumps(records, indent=1), encoding="utf-8")


@pytest.fixture(scope="session")
def folder_of(
    tmp_path_factory: pytest.TempPathFactory, _quiet_models: None
) -> Callable[[str], Path]:
    """Saves a family's tiny model when it is first asked for."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            path = tmp_path_factory.mktemp("tiny") / family
            folders[family] = {**FAMILIES, **FILES}[family].save(path)
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The id of the tiny model and the implementation of attention of a test."""
    return request.param


@pytest.fixture(scope="session")
def family(place: tuple[str, str]) -> str:
    """The id of the test's tiny model."""
    return place[0]


@pytest.fixture(scope="session")
def backbone(
    place: tuple[str, str], folder_of: Callable[[str], Path], load: Callable[..., Backbone]
) -> Backbone:
    """The tiny model of the test. Frozen, so its tests share it."""
    family, attention = place
    return load(folder_of(family), attention=attention)


@pytest.fixture(scope="session")
def plain(place: tuple[str, str], folder_of: Callable[[str], Path]) -> Any:
    """The same model, loaded by transformers alone; its encoder, where there is a decoder too."""
    from transformers import AutoModel
    from transformers.utils import logging

    family, attention = place
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # a head that is left out is what is meant here
    try:
        path, options = folder_of(family), {}
        if path.is_file():
            path, options = path.parent, {"gguf_file": path.name}
        model = AutoModel.from_pretrained(path, attn_implementation=attention, **options)
    finally:
        logging.set_verbosity(before)
    return (model.get_encoder() if model.config.is_encoder_decoder else model).eval()
