"""The Dockerfile, as far as it can be held against the package without a builder."""

from __future__ import annotations

import json
import re
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ltuning.cli.main import app

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def words_of(instruction: str) -> list[str]:
    """The words of an instruction in its JSON form."""
    found = re.search(rf"^\s*(?:HEALTHCHECK .*\\\n\s*)?{instruction} (\[.*\])$", DOCKERFILE, re.M)
    assert found is not None
    words: list[str] = json.loads(found[1])
    return words


def test_it_starts_the_verb_with_options_that_it_has() -> None:
    command, verb, *rest = words_of("ENTRYPOINT")
    assert command in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    known = get_command(app).commands[verb].params  # type: ignore[attr-defined]
    assert options.keys() <= {option for parameter in known for option in parameter.opts}
    assert f"EXPOSE {options['--port']}\n" in DOCKERFILE
    assert f"127.0.0.1:{options['--port']}/healthz" in words_of("CMD")[-1]


def test_it_installs_extras_that_there_are() -> None:
    extras = re.search(r"/tmp/ltuning\[(.+)\]", DOCKERFILE)
    assert extras is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {*extras[1].split(",")} <= project["optional-dependencies"].keys()


def test_what_the_package_is_built_of_is_sent_to_the_builder() -> None:
    sent = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"src", "pyproject.toml", project["readme"], *project["license-files"]} <= sent
    assert all((ROOT / name).exists() for name in sent)
    mounted = re.findall(r"source=(\S+?),", DOCKERFILE)
    assert {*mounted} <= sent


def test_a_server_that_does_not_answer_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    python, flag, code = words_of("CMD")
    assert (python, flag) == ("python", "-c")
    asked: list[str] = []

    def answer(url: str, timeout: float) -> None:
        asked.append(url)
        if len(asked) > 1:
            raise urllib.error.URLError("refused")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    names: dict[str, Any] = {}
    exec(code, names)
    with pytest.raises(urllib.error.URLError):
        exec(code, names)
