"""Folders that are replaced whole, by one process at a time.

A folder is replaced in three steps, so that whatever ends the process leaves the old one or the new
one. What is under way is on record in a lock file, which is gone when the work is done::

    .NAME.ltuning            locked by the process at work, with a line for each of the next two
    .NAME.tmp-1a2b3c4d       the new folder is built and flushed to the disk
    NAME -> .NAME.old-...    the old folder steps aside
    .NAME.tmp-... -> NAME    and what it held besides moves across

The lock of a killed process is free. Who claims the folder next brings what is on record to its
end, and touches nothing else of such a name. A reader claims and renames nothing: where a process
ended between the last two steps, it reads the folder that stepped aside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from ltuning.errors import ArtifactError
from ltuning.locks import followed, held

logger = logging.getLogger("ltuning")

TENSORS = "adapter_model.safetensors"
CONFIG = "ltuning_config.json"
CARD = "README.md"
CHECKPOINTS = "checkpoints"
PARTS = frozenset({"calibration", "lora"})  # sub-folders
ARTIFACT_FILES = frozenset({TENSORS, CONFIG, CARD}) | PARTS
# What an exported classifier says of itself; the file that only its folder has.
EXPORTED = "labels.json"
EXPORT_FILES = frozenset({EXPORTED, "model.onnx", "tokenizer.json"})
RUN_FILES = frozenset({"config.yaml", "metrics.json", "history.jsonl"})

# Bytes of a name on common file systems, and what the names beside a folder add to its own.
_LONGEST_NAME = 255
_ADDED = len("..old-1a2b3c4d")
_RECORD = re.compile(r"(old-[0-9a-f]{8}) (\d+)|(tmp-[0-9a-f]{8})")
_LONGEST_RECORD = 2**16
LONGEST_JSON = 2**26


class Claim:
    """The right to write to a folder; `claim` gives it.

    Attributes:
        folder: it, with links followed.
    """

    def __init__(self, folder: Path, file: IO[str]):
        self.folder = folder
        self._file = file

    def temporary(self) -> Path:
        """A name beside the folder for what goes if this process is killed, or has done with it.

        Raises:
            OSError: it cannot be put on record.
        """
        return self._recorded("tmp")

    def remove(self, path: Path) -> None:
        """Remove a folder below the claimed one: renamed first, so that it is there whole or not.

        Raises:
            OSError: it cannot be renamed or removed.
        """
        rubbish = self.temporary()
        os.rename(path, rubbish)
        shutil.rmtree(rubbish)

    def replace(self, new: Path) -> None:
        """Put the finished folder `new`, of a temporary name, in the place of the claimed one.

        What the folder holds and `new` lacks moves across, except the files of an artifact and its
        run.

        Raises:
            OSError: it cannot be renamed; what was there is there again.
        """
        aside = None
        if self.folder.exists():
            shutil.copymode(self.folder, new)
            aside = self._recorded("old", f" {new.stat().st_ino}")
            os.rename(self.folder, aside)
        try:
            os.rename(new, self.folder)
        except BaseException:
            if aside is not None:
                os.rename(aside, self.folder)
            raise
        sync(self.folder.parent)
        try:
            self.settle()
        except (ArtifactError, OSError) as error:
            # The new folder is in place: nothing that comes after may look like a failed save.
            logger.warning("%s", error)

    def settle(self) -> None:
        """Bring what is on record to its end.

        Raises:
            ArtifactError: it cannot be; says what is where.
        """
        for aside, new in _on_record(self.folder)[0].items():
            if not self.folder.exists():
                self._bring_back(aside)
            elif self.folder.stat().st_ino == new and names_in(self.folder) & {CONFIG, EXPORTED}:
                self._empty(aside)
            else:
                raise ArtifactError(
                    f"a save of {self.folder} was cut off, and what is there now came in since: "
                    f"the folder from before the save is {aside}; move one of the two away"
                )
        self.clear()

    def clear(self) -> None:
        """Remove what has a temporary name, and forget what is no longer there.

        Raises:
            ArtifactError: what is on record cannot be read.
        """
        asides, temporaries = _on_record(self.folder)
        for path in temporaries:
            with suppress(OSError):
                shutil.rmtree(path)
        if not asides and not any(path.exists() for path in temporaries):
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), 0)

    def _bring_back(self, aside: Path) -> None:
        try:
            os.rename(aside, self.folder)
        except OSError as error:
            raise ArtifactError(
                f"a save of {self.folder} was cut off and the folder from before it, whole, is in "
                f"{aside}, but renaming it back failed ({error}): rename it to {self.folder}"
            ) from error
        logger.warning(
            "a save of %s was cut off: the folder from before it is back in place", self.folder
        )

    def _empty(self, aside: Path) -> None:
        try:
            _move_leftovers(aside, self.folder)
            self.remove(aside)
        except OSError as error:
            raise ArtifactError(
                f"{self.folder} is saved, but {aside}, which it replaced, cannot be cleared: "
                f"{error}; move what you need from there and remove it"
            ) from error

    def _recorded(self, kind: str, more: str = "") -> Path:
        name = f"{kind}-{secrets.token_hex(4)}"
        # Where a line before was cut off, this one is whole all the same.
        os.write(self._file.fileno(), f"\n{name}{more}\n".encode())
        os.fsync(self._file.fileno())
        return _beside(self.folder, name)


_claims: ContextVar[Mapping[Path, Claim]] = ContextVar("claims", default={})  # noqa: B039


@contextmanager
def claim(folder: str | Path) -> Iterator[Claim]:
    """Keep other processes from writing to a folder; who has claimed it may claim it again.

    What a killed process left there is brought to its end first.

    Raises:
        ArtifactError: another process is at work there, or it is no place for a folder.
    """
    target = resolve(folder)
    if (mine := _claims.get().get(target)) is not None:
        mine.settle()
        yield mine
        return
    check_place(target)
    refusal = (
        f"expected {target} without another process at work in it, got one; wait for it or end it, "
        "or choose another folder"
    )
    with _parents(target), held(_lock_of(target), refusal) as file:
        mine = Claim(target, file)
        token = _claims.set({**_claims.get(), target: mine})
        try:
            mine.settle()
            yield mine
        finally:
            _claims.reset(token)
            with suppress(OSError, ArtifactError):
                mine.clear()


def settle(folder: str | Path) -> None:
    """Bring what a killed process left of a folder to its end; does nothing where none did.

    Raises:
        ArtifactError: another process is at work there, or it cannot be brought to its end.
    """
    # Not the method of Path, which raises at a name too long.
    if os.path.exists(_lock_of(resolve(folder))):
        with claim(folder):
            pass


def current(folder: Path) -> Path | None:
    """Where a resolved folder is to be read: itself, or what stepped aside for one that never came.

    None where there is neither.

    Raises:
        ArtifactError: it cannot be known.
    """
    # A writer may put the new folder in place between two of these looks, and begin anew.
    for _ in range(10):
        if folder.exists():
            return folder
        asides, _temporaries = _on_record(folder)
        if asides:
            return [*asides][-1]
        if not _lock_of(folder).exists():
            break
    return folder if folder.exists() else None


def resolve(folder: str | Path) -> Path:
    """The absolute path of a folder; a link is followed, so that what it names is replaced.

    Raises:
        ArtifactError: a home folder of nobody, links in a circle, and what else is no path.
    """
    try:
        return followed(Path(folder).expanduser())
    except (RuntimeError, OSError, ValueError) as error:
        raise ArtifactError(f"expected a folder, got '{folder}': {error}") from error


def signed_json(content: Mapping[str, object], key: str) -> str:
    """JSON of a file that has, under a key, a checksum of all else that it says."""
    signed = {**content, key: json_sha(content, key)}
    return json.dumps(signed, indent=2, ensure_ascii=False) + "\n"


def json_sha(content: Mapping[str, object], key: str) -> str:
    """The checksum of what a file of JSON says, but for what stands under its own key."""
    rest = {name: value for name, value in content.items() if name != key}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def names_in(folder: Path) -> set[str]:
    """What a folder holds; nothing where it does not exist.

    Raises:
        ArtifactError: it cannot be listed.
    """
    try:
        return set(os.listdir(folder)) if folder.exists() else set()
    except OSError as error:
        raise ArtifactError(f"cannot read the folder {folder}: {error}; choose another") from error


def own_parts(folder: Path) -> set[str]:
    """The sub-folders that belong to an artifact: another of such a name is a stranger's."""
    try:
        named = json.loads(read_file(folder / CONFIG, LONGEST_JSON))["parts_sha256"]
        return {name.partition("/")[0] for name in named} & PARTS
    except (ArtifactError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def read_file(path: Path, longest: int | None = None) -> bytes:
    """The bytes of a file, read once; neither of a device nor of a pipe, which may have no end.

    Raises:
        ArtifactError: no file, one that is longer than `longest`, or one that cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ArtifactError(
                f"expected a file, got something else in its place: {path}; restore the file or "
                "train again"
            )
        with path.open("rb") as file:
            content = file.read() if longest is None else file.read(longest + 1)
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error}; restore the file or train again"
        ) from error
    if longest is not None and len(content) > longest:
        raise ArtifactError(
            f"expected a file of at most {longest:,} bytes, got a longer one: {path}; restore the "
            "file or train again"
        )
    return content


def check_place(folder: Path) -> None:
    """Refuse a resolved path where no folder can be made or replaced; writes nothing.

    Raises:
        ArtifactError: says why.
    """
    longest, length = _LONGEST_NAME - _ADDED, len(os.fsencode(folder.name))
    if length > longest:
        raise ArtifactError(
            f"expected a folder with a name of at most {longest} bytes, got one of {length}: "
            f"'{folder.name:.20}...'; choose a shorter one"
        )
    try:
        _check_place(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be made: {error}; choose another folder") from error


def sync(folder: Path) -> None:
    """Flush a folder to the disk."""
    # Windows and some file systems cannot flush a folder; the order of renames is theirs to keep.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_place(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"expected a folder to write to, got the file {folder}: choose another")
    if folder.is_mount() or Path.cwd().is_relative_to(folder):
        what = "a mount point" if folder.is_mount() else "the working directory or above it"
        raise ArtifactError(
            f"{folder} is {what}, which cannot be replaced as a whole: choose a folder inside it"
        )
    parent = next(place for place in folder.parents if place.exists())
    if not parent.is_dir():
        raise ArtifactError(f"{folder} cannot be made: {parent} is a file; choose another folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ArtifactError(
            f"{folder} cannot be made: no right to write to {parent}; choose another folder"
        )


@contextmanager
def _parents(folder: Path) -> Iterator[None]:
    """The parents of a folder are there; those that were made for nothing go again."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be made: {error}; choose another folder") from error
    try:
        yield
    finally:
        with suppress(OSError):
            for parent in made:
                parent.rmdir()


def _move_leftovers(aside: Path, folder: Path) -> None:
    own = (ARTIFACT_FILES - PARTS) | own_parts(aside) | RUN_FILES
    if CONFIG not in names_in(aside):
        own = EXPORT_FILES
    gone = own | names_in(folder)
    for name in sorted(names_in(aside) - gone):
        os.rename(aside / name, folder / name)


def _on_record(folder: Path) -> tuple[dict[Path, int], list[Path]]:
    """What stepped aside and is still there, with the number of the new folder; temporary names.

    Raises:
        ArtifactError: the record cannot be read; to take it for empty would be to lose it.
    """
    lock = _lock_of(folder)
    try:
        with lock.open("rb") if lock.is_file() else open(os.devnull, "rb") as file:
            lines = file.read(_LONGEST_RECORD).decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise ArtifactError(
            f"{lock}, which says what is under way in {folder}, cannot be read "
            f"({error.strerror}); make it readable, and try again"
        ) from error
    found = [match for match in map(_RECORD.fullmatch, lines) if match]
    asides = {_beside(folder, match[1]): int(match[2]) for match in found if match[1]}
    temporaries = [_beside(folder, match[3]) for match in found if match[3]]
    return {path: new for path, new in asides.items() if path.exists()}, temporaries


def _lock_of(folder: Path) -> Path:
    return _beside(folder, "ltuning")


def _beside(folder: Path, name: str) -> Path:
    return folder.parent / f".{folder.name}.{name}"
