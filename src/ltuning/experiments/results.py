"""The folder of a comparison: one result per cell, written whole or not at all.

::

    DIR/grid.yaml                what is compared
    DIR/cells/NAME.json          a finished cell; written last, so that it stands for the whole
    DIR/cells/NAME.npz           its predictions: probabilities, predicted, truth
    DIR/cells/NAME.failed.json   why a cell failed
    DIR/cells/damaged/           files that could not be read
    DIR/report.md, report.html   see `report`
    DIR/.lock                    held by the run that is at work
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltuning.config.reading import differences
from ltuning.data.files import replace_file
from ltuning.errors import ArtifactError, ConfigError
from ltuning.experiments.grid import Cell, Grid
from ltuning.locks import held

logger = logging.getLogger("ltuning")

GRID = "grid.yaml"
_CELLS = "cells"
_LOCK = ".lock"
_DAMAGED = "damaged"
# What `replace_file` writes until a file of the folder is whole.
_TEMPORARY = re.compile(r"\.(grid\.yaml|report\.md|report\.html)\.[0-9a-f]{8}\.tmp")
_FORMAT = 1
_MOST_NAMED = 5
# What reports read.
_NEEDED = (
    "test", "validation", "history", "seconds", "peak_memory", "trainable_parameters", "labels",
    "texts", "mistakes", "warnings", "versions", "git", "machine", "date",
)  # fmt: skip


@dataclass(frozen=True)
class Predictions:
    """Of one cell.

    Attributes:
        probabilities: `[N, K]`; of tags `[words, 1 + 2K]`, one sentence after the other.
        predicted: `[N]` indices of labels; where several may apply `[N, K]` 0 or 1; of tags
            `[N, W]` indices of tags, and -1 where a sentence has no more words.
        truth: likewise.
    """

    probabilities: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class Result:
    """A finished cell: what was written about it, and its predictions."""

    cell: Cell
    record: dict[str, Any]
    predictions: Predictions

    @property
    def names(self) -> list[str]:
        """The K names of the classes, labels or types."""
        return list(self.record["labels"])


class ResultFolder:
    """The results of a grid.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.cells = folder / _CELLS

    def check(self, grid: Grid) -> None:
        """Refuse a folder that is not of this grid or of a smaller one; writes nothing.

        Raises:
            ArtifactError: it holds something else, or results of another grid.
        """
        path = self.folder / GRID
        try:
            is_other = self.folder.exists() and not path.exists() and not _is_free(self.folder)
        except OSError as error:
            raise ArtifactError(f"{self.folder}: cannot be read ({error.strerror})") from error
        if is_other:
            raise ArtifactError(
                f"expected a new or empty folder or one of a comparison, got {self.folder} without "
                f"a {GRID}; choose another folder"
            )
        if path.exists():
            self._check_same(path, grid)

    def open(self, grid: Grid) -> None:
        """Make the folder, or take up one of this grid or of a smaller one.

        Raises:
            ArtifactError: what `check` refuses, a folder that cannot be written, or a larger grid
                while another run is at work in it.
        """
        self.check(grid)
        path, content = self.folder / GRID, grid.to_yaml().encode()
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                with self.running():
                    # First of all: by it the folder is known for one of a comparison.
                    replace_file(content, path)
            self.cells.mkdir(exist_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full disk and its like into an ArtifactError that says what to do."""
        try:
            yield
        except OSError as error:
            raise ArtifactError(
                f"{self.folder}: cannot be written ({error.strerror}); what is finished is kept. "
                "Make room or rights for it, and the same command goes on"
            ) from error

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep other runs out of an open folder; clears what a killed one left half written.

        Raises:
            ArtifactError: another run is at work in it.
        """
        refusal = (
            f"expected a folder that no other run is at work in, got {self.folder}; wait for it or "
            "end it, or see how far it is with --list"
        )
        with held(self.folder / _LOCK, refusal):
            with self.writing():
                for left in [*self.cells.glob(".*.tmp"), *_half_written(self.folder)]:
                    left.unlink(missing_ok=True)
            yield

    def grid(self) -> Grid:
        """The grid that the folder is of.

        Raises:
            ArtifactError: there is none, or it cannot be read.
        """
        try:
            return Grid.from_yaml(self.folder / GRID)
        except ConfigError as error:
            raise ArtifactError(f"{self.folder / GRID} cannot be read: {error}") from error

    def read(self, cell: Cell) -> Result | None:
        """A finished cell; None where it is not finished. Damaged files are moved aside, named."""
        path = self._path(cell, ".json")
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_bytes())
            return Result(cell, record, self._predictions(cell, _checked(record, cell)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._set_aside(cell, " ".join(str(error).split())[:200])
            return None

    def results(self, cells: Sequence[Cell]) -> list[Result]:
        """Those of the cells that are finished."""
        return [found for cell in cells if (found := self.read(cell)) is not None]

    def failure(self, cell: Cell) -> str | None:
        """Why a cell failed; None where it did not."""
        try:
            return str(json.loads(self._path(cell, ".failed.json").read_bytes())["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return "an error whose file cannot be read"

    def finish(self, cell: Cell, record: Mapping[str, object], predictions: Predictions) -> None:
        """Write a finished cell; its predictions first."""
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            probabilities=predictions.probabilities.astype(np.float32),
            predicted=predictions.predicted.astype(np.int32),
            truth=predictions.truth.astype(np.int32),
        )
        content = packed.getvalue()
        whole = {
            "format": _FORMAT,
            "config": cell.config,
            **record,
            "predictions_sha256": hashlib.sha256(content).hexdigest(),
        }
        with self.writing():
            replace_file(content, self._path(cell, ".npz"))
            replace_file(_json(whole), self._path(cell, ".json"))
            self._path(cell, ".failed.json").unlink(missing_ok=True)

    def fail(self, cell: Cell, error: str, trace: str = "") -> None:
        """Write why a cell failed."""
        record = {"config": cell.config, "error": error, "traceback": trace}
        with self.writing():
            replace_file(_json(record), self._path(cell, ".failed.json"))

    def _path(self, cell: Cell, ending: str) -> Path:
        return self.cells / f"{cell.stem}{ending}"

    def _predictions(self, cell: Cell, record: Mapping[str, object]) -> Predictions:
        content = self._path(cell, ".npz").read_bytes()
        if hashlib.sha256(content).hexdigest() != record["predictions_sha256"]:
            raise ValueError("its predictions are not those that were written")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return Predictions(arrays["probabilities"], arrays["predicted"], arrays["truth"])

    def _set_aside(self, cell: Cell, reason: str) -> None:
        aside = self.cells / _DAMAGED
        with self.writing():
            aside.mkdir(exist_ok=True)
            for ending in (".json", ".npz"):
                path = self._path(cell, ending)
                if path.exists():
                    os.replace(path, aside / path.name)
        logger.warning(
            "%s is damaged (%s): moved to %s, and the cell counts as not run",
            self._path(cell, ".json"),
            reason,
            aside,
        )

    def _check_same(self, path: Path, grid: Grid) -> None:
        """Every cell of the folder's grid must be one of the grid, told the same."""
        before = {cell.stem: cell for cell in self.grid().cells()}
        now = {cell.stem: cell for cell in grid.cells()}
        gone = [str(cell) for stem, cell in before.items() if stem not in now]
        changed = [
            f"{cell}: {', '.join(differences(cell.config, now[stem].config))}"
            for stem, cell in before.items()
            if stem in now and cell.config != now[stem].config
        ]
        if gone or changed:
            lines = [f"not in the grid: {cell}" for cell in gone[:_MOST_NAMED]]
            lines += [f"changed: {cell}" for cell in changed[:_MOST_NAMED]]
            more = max(0, len(gone) - _MOST_NAMED) + max(0, len(changed) - _MOST_NAMED)
            lines += [f"and {more} more"] if more else []
            raise ArtifactError(
                f"expected results of this grid in {self.folder}, got those of another one:\n  "
                + "\n  ".join(lines)
                + "\nchoose another folder; a grid may grow (more seeds, methods, data sets), and "
                "the same folder goes on"
            )


def _is_free(folder: Path) -> bool:
    """Whether a folder holds nothing, or what a run that was killed at its beginning left."""
    if not folder.is_dir():
        return False
    ours = {folder / _LOCK, *_half_written(folder)}
    cells = folder / _CELLS
    if cells.is_dir() and not any(cells.iterdir()):
        ours.add(cells)
    return set(folder.iterdir()) <= ours


def _half_written(folder: Path) -> list[Path]:
    return [path for path in folder.glob(".*.tmp") if _TEMPORARY.fullmatch(path.name)]


def _checked(record: object, cell: Cell) -> dict[str, Any]:
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError("not a result of this version")
    missing = [name for name in _NEEDED if name not in record]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    if record["config"] != cell.config:
        raise ValueError(
            f"of another cell: {', '.join(differences(record['config'], cell.config))}"
        )
    return record


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
