"""What is asked of every file, what is done already, and the folder that holds it.

::

    OUTPUT/manifest.json              what was asked, of which files; at the end how many rows
    OUTPUT/part-0000003-00000012.parquet    of the fourth file the thirteenth piece

A part is written whole or not at all, under a name that tells its piece, so that whoever comes
later sees what is done, and nothing is there twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date, time
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from ltuning import onnx
from ltuning.artifacts import folders, opened
from ltuning.calibration import Answers, kept
from ltuning.config import Config
from ltuning.data.files import replace_file
from ltuning.data.pieces import Piece, pieces_of, state_of
from ltuning.data.sources import Columns, Dialect
from ltuning.data.tables import Table
from ltuning.errors import ArtifactError, BackboneError, DataError, ScoresError
from ltuning.locks import held
from ltuning.memory import return_memory
from ltuning.predicting import Nobody, Wanted, Writing, predicted
from ltuning.tasks.table import TASKS

MANIFEST = "manifest.json"
FORMAT = 1
# Rows of a piece: some seconds of work to some minutes, which is what a death costs.
ROWS = 8192
# Texts of a piece after which a worker gives freed memory back; that takes a fiftieth of the time.
_TIDY_AFTER = 256
_LOCK = ".lock"
_PART = re.compile(r"part-\d{7,}-\d{8,}\.(parquet|jsonl)")
_SHOWN = 5


@dataclass(frozen=True)
class Job:
    """What is asked of every piece; it can be sent to another process.

    Attributes:
        classifier: absolute folder of a trained or exported classifier.
        sha256: of what describes it, which has checksums of all else.
        output: absolute folder of the parts.
        of_words: whether it is a tagger.
        columns: where the texts are.
        dialect: how files of text are written.
        wanted: beside labels.
        replace_columns: whether columns of an earlier prediction give way.
        backbone: where the backbone is now; None = where it was.
        trust_remote_code: whether code that comes with it may run.
        ltuning_version: of who asks; workers have the same.
    """

    classifier: str
    sha256: str
    output: str
    of_words: bool
    columns: Columns
    dialect: Dialect
    wanted: Wanted
    replace_columns: bool = False
    backbone: str | None = None
    trust_remote_code: bool = False
    ltuning_version: str = field(default_factory=lambda: version("ltuning"))

    @property
    def asked(self) -> dict[str, Any]:
        """What has to be the same for the parts to be the same: not where things are."""
        whole = asdict(self)
        for name in ("classifier", "output", "backbone", "trust_remote_code"):
            del whole[name]
        return whole


def identity(folder: Path) -> str:
    """The checksum of what describes a classifier.

    Raises:
        ArtifactError: there is no such file.
    """
    place = folders.current(folder) or folder
    name = folders.EXPORTED if onnx.is_exported(place) else folders.CONFIG
    content = folders.read_file(place / name)
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Done:
    """What became of a piece.

    Attributes:
        file: number of its file.
        name: of its part.
        rows: that the part has.
        error: why there is none.
    """

    file: int
    name: str
    rows: int
    error: str | None = None


@dataclass(frozen=True)
class Asked:
    """A piece and the number of its file."""

    file: int
    piece: Piece

    def part(self, job: Job) -> str:
        """The name of its part: parquet, but where two parts could differ in their types jsonl."""
        extension = "jsonl" if self.piece.format == "jsonl" or job.of_words else "parquet"
        return f"part-{self.file:07}-{self.piece.number:08}.{extension}"


class Worker:
    """Answers pieces; the classifier is loaded once.

    Args:
        job: what is asked of each.
        threads: that it runs on; None = one for each core.

    Raises:
        LTuningError: the classifier cannot be loaded, or is another one by now.
    """

    def __init__(self, job: Job, threads: int | None = None):
        if job.ltuning_version != version("ltuning"):
            raise ArtifactError(
                f"expected ltuning {job.ltuning_version} on every machine, as where the work was "
                f"begun, got {version('ltuning')} on one; install the same"
            )
        if identity(Path(job.classifier)) != job.sha256:
            raise ArtifactError(
                f"the classifier in {job.classifier} is another one than when the work was begun; "
                "bring it back, or write to a new folder"
            )
        self._job = job
        self._config, self._door = _loaded(job, threads)

    def answer(self, asked: Asked) -> Done:
        """Write the part of a piece; what is wrong with the piece is its answer."""
        done = self._answer(asked)
        return_memory()
        return done

    def _answer(self, asked: Asked) -> Done:
        job, piece = self._job, asked.piece
        name = asked.part(job)
        write = Writing(Path(job.output) / name, False, job.replace_columns)
        place = (lambda: self._door, _Tidy())
        try:
            if piece.format == "jsonl" and job.columns.text is None:
                raise DataError(
                    f"{piece.path}: expected --text-column for JSON lines, whose rows may have "
                    "columns of other names further on, got none"
                )
            table = piece.read()
            if job.of_words and piece.format == "parquet":
                table = _as_json(table)
            table = predicted(place, self._config, table, job.columns, job.wanted, write)
            data = write.encoded(table)
        # The classifier is loaded: what a backbone cannot read is a text.
        except (DataError, ScoresError, BackboneError) as error:
            return Done(asked.file, name, 0, str(error))
        _put(data, Path(job.output) / name)
        return Done(asked.file, name, piece.rows)


class _Tidy(Nobody):
    """Gives freed memory back all along.

    Batches of every length leave holes, each a little elsewhere; what a piece takes at its most
    grows by a third over hundreds of thousands of texts otherwise, though all of it is free.
    """

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Count the texts since memory was last given back."""
        since = 0

        def advance(count: int) -> None:
            nonlocal since
            since += count
            if since >= _TIDY_AFTER:
                since = 0
                return_memory()

        yield advance


def _as_json(table: Table) -> Table:
    """The rows of a parquet file with what JSON has not as text, and what is no number as null."""
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.rows]
    return replace(table, rows=rows, kept=None)


def _plain(value: object) -> object:
    if isinstance(value, date | time):  # of which a datetime is one
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Decimal) else value


def _put(data: bytes, path: Path) -> None:
    """Write a part whole or not at all; what a killed process leaves `Output.begin` takes away."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ArtifactError(
            f"{path} cannot be written ({error.strerror}); make room, and give the same command "
            "again: what is done is kept"
        ) from error


def _loaded(job: Job, threads: int | None) -> tuple[Config, Any]:
    """The configuration of a job's classifier, and its front door."""
    folder = Path(job.classifier)
    if onnx.is_exported(folder):
        return onnx.config_of(onnx.Description.read(folder)), onnx.load(folder, threads=threads)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    artifact = opened.read(folder)
    door = (
        TASKS[artifact.config.task]
        .door()
        .from_pretrained(artifact, backbone=job.backbone, trust_remote_code=job.trust_remote_code)
    )
    return artifact.config, door


# --- the work as a whole --------------------------------------------------------------------------


# As `state_of` has it; of None where it could not be told.
State = tuple[int, int] | tuple[None, None]


@dataclass(frozen=True)
class Plan:
    """All pieces of all files.

    Attributes:
        files: absolute paths.
        states: of the files before they were divided.
        pieces: of those that can be read.
        errors: of the others, by their numbers.
    """

    files: Sequence[Path]
    states: Sequence[State]
    pieces: Sequence[Asked]
    errors: Mapping[int, str]

    @property
    def rows(self) -> int:
        """Of all pieces."""
        return sum(asked.piece.rows for asked in self.pieces)


def planned(files: Sequence[Path], dialect: Dialect, rows: int = ROWS) -> Plan:
    """The pieces of files; files of text are read for that once.

    Args:
        files: absolute paths.
        dialect: how files of text are written.
        rows: of a piece.
    """
    states: list[State] = []
    pieces: list[Asked] = []
    errors: dict[int, str] = {}
    for number, path in enumerate(files):
        state: State = (None, None)
        try:
            state = state_of(path)
            pieces += [Asked(number, piece) for piece in pieces_of(path, dialect, rows)]
        except DataError as error:
            errors[number] = str(error)
        states.append(state)
    return Plan(files, states, pieces, errors)


class Output:
    """The folder of a job's parts.

    Args:
        folder: absolute.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Nobody else works in the folder while the block runs; it is made where it is not there.

        Raises:
            ArtifactError: another process does, or it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"{self.folder}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        refusal = f"another process is at work in {self.folder}; wait for it, or choose another"
        with held(self.folder / _LOCK, refusal):
            yield

    def check(self, job: Job, files: Sequence[Path], overwrite: bool) -> None:
        """What can be said before files are looked through, which may take long.

        Args:
            job: what is asked.
            files: of which files.
            overwrite: whether the parts of other work give way.

        Raises:
            ArtifactError: the folder holds something else.
        """
        before = self._manifest()
        others = {name for name in folders.names_in(self.folder) if not name.startswith(".")}
        if before is None and others:
            raise ArtifactError(
                f"expected a new or empty folder, or one of earlier work of this kind, got "
                f"{self.folder}, which holds something else; choose another"
            )
        if before is not None and not overwrite:
            named = [{"path": str(path)} for path in files]
            if changed := _differences(before, job.asked, named):
                self._refuse(changed)

    def begin(self, job: Job, plan: Plan, overwrite: bool) -> set[str]:
        """The parts that are there already, of the same work; see `check`.

        Args:
            job: what is asked.
            plan: of which files.
            overwrite: whether the parts of other work give way.

        Raises:
            ArtifactError: the folder holds something else.
        """
        files, before = _facts(plan), self._manifest()
        if before is not None and (changed := _differences(before, job.asked, files)):
            if not overwrite:
                self._refuse(changed)
            for name in self._parts():
                (self.folder / name).unlink()
        for left in self.folder.glob(".part-*.tmp"):
            left.unlink(missing_ok=True)
        manifest = {"format": FORMAT, "job": job.asked, "files": files}
        self._write({**manifest, "is_finished": False})
        return self._parts()

    def finish(self, plan: Plan, done: Sequence[Done]) -> dict[int, str]:
        """Write down what became of each file; what is wrong with some, by their numbers."""
        manifest = self._manifest()
        if manifest is None:
            raise ArtifactError(
                f"{self.folder / MANIFEST} is gone; give the same command again: what is done is "
                "kept"
            )
        by_file: dict[int, list[Done]] = {}
        for one in sorted(done, key=lambda one: one.name):
            by_file.setdefault(one.file, []).append(one)
        errors = {**plan.errors}
        for number, entry in enumerate(manifest["files"]):
            own = by_file.get(number, [])
            for one in own:
                if one.error is not None:
                    errors.setdefault(number, one.error)
            entry["rows"] = sum(one.rows for one in own)
            entry["parts"] = [one.name for one in own if one.error is None]
            entry |= {"error": errors[number]} if number in errors else {}
        rows = sum(entry["rows"] for entry in manifest["files"])
        self._write({**manifest, "rows": rows, "is_finished": not errors})
        return errors

    def _refuse(self, changed: str) -> NoReturn:
        raise ArtifactError(
            f"{self.folder} holds what was begun with other things: {changed}; choose another "
            "folder, or start anew with --overwrite"
        )

    def _parts(self) -> set[str]:
        return {name for name in folders.names_in(self.folder) if _PART.fullmatch(name)}

    def _manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            found = json.loads(folders.read_file(path))
        except (ValueError, RecursionError):
            found = None
        if _is_manifest(found):
            return found
        raise ArtifactError(
            f"{path} is not one that ltuning wrote, so nothing is written beside it; choose "
            "another folder"
        )

    def _write(self, manifest: Mapping[str, Any]) -> None:
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        replace_file(f"{text}\n".encode(), self.folder / MANIFEST)


def _is_manifest(found: Any) -> bool:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        return False
    job, files = found.get("job"), found.get("files")
    is_list = isinstance(files, list) and all(isinstance(entry, dict) for entry in files)
    return isinstance(job, dict) and is_list


def _facts(plan: Plan) -> list[dict[str, Any]]:
    """The files as they were, so that changed ones are noticed."""
    return [
        {"path": str(path), "bytes": size, "modified_ns": modified}
        for path, (size, modified) in zip(plan.files, plan.states, strict=True)
    ]


def _differences(
    before: Mapping[str, Any], asked: Mapping[str, Any], files: Sequence[Mapping[str, Any]]
) -> str:
    """What is not as it was, in words; nothing where all is."""
    now = json.loads(json.dumps(asked))
    found = [name for name, value in now.items() if before["job"].get(name) != value]
    then = [{name: entry.get(name) for name in files[0]} for entry in before["files"]]
    if then != [*files]:
        changed = [entry["path"] for entry in files if entry not in then]
        changed += [entry["path"] for entry in then if entry not in files]
        shown = ", ".join(map(str, dict.fromkeys(changed[:_SHOWN]))) or "their order"
        found.append(f"files ({shown})")
    return ", ".join(found)


@dataclass(frozen=True)
class Kept:
    """What a classifier said of held-out texts, without its backbone."""

    answers_: Answers


def answers_of(folder: Path) -> Kept:
    """What a classifier said of held-out texts.

    Raises:
        DataError: it keeps none.
    """
    is_exported = onnx.is_exported(folder)
    answers = onnx.Description.read(folder).held_out if is_exported else opened.read(folder).answers
    return Kept(kept(answers, "train with validation texts, or ltuning calibrate it"))
