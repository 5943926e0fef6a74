"""What tells a living process from a dead one: locks that end with the process that holds them.

::

    FILE                    locked while someone is at work; gone when the work is done
    TMP/ltuning-1a2b3c4d/   a folder of temporary files, whose `.lock` is held while it is in use
    .NAME.1a2b3c4d.tmp      what a file will be, locked while it is written
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ltuning.errors import ArtifactError

logger = logging.getLogger("ltuning")

_PREFIX = "ltuning-"
_LOCK = ".lock"
# A name may have 255 bytes; a sign has four at most.
_NAME_KEPT = 50
_TEMPORARY = re.compile(r"[0-9a-f]{8}\.tmp")


@contextmanager
def held(path: Path, refusal: str) -> Iterator[IO[str]]:
    """Hold a lock file, which is made where it is not there; at the end an empty one is removed.

    Args:
        path: of the lock file.
        refusal: what to say where another process holds it.

    Raises:
        ArtifactError: `refusal`, or that the file cannot be made.
    """
    try:
        file = _acquired(path)
    except OSError as error:
        raise ArtifactError(
            f"{path}, which keeps two processes apart, cannot be written ({error.strerror}); "
            "make room or rights for it, or choose another folder"
        ) from error
    if file is None:
        raise ArtifactError(refusal)
    with file:
        try:
            yield file
        finally:
            # While it is held: who opened it meanwhile sees that it is gone, and makes a new one.
            if not os.fstat(file.fileno()).st_size:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder for temporary files, removed at the end; if this process is killed, by a later one.

    Only folders whose process is gone are removed: its lock went with it.

    Args:
        parent: where it is made; None = where the system keeps such files.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    _clear_dead(parent)
    with tempfile.TemporaryDirectory(
        prefix=_PREFIX, dir=parent, ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        with (folder / f"{_LOCK}.new").open("w") as file:
            _locked(file, folder)
            # Under its name it is locked from the first moment on. Windows, which renames no open
            # file, has no such locks.
            if os.name != "nt":
                os.rename(file.name, folder / _LOCK)
            (folder / "files").mkdir()
            yield folder / "files"


@contextmanager
def temporary_file(target: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file beside another, `.NAME.1a2b3c4d.tmp`, and its path, from where it may be renamed.

    It is removed at the end; if this process is killed, by the next that asks for one there.

    Raises:
        OSError: it cannot be made.
    """
    stem = f".{target.name[:_NAME_KEPT]}."
    with suppress(OSError):
        for left in target.parent.iterdir():
            if left.name.startswith(stem) and _TEMPORARY.fullmatch(left.name[len(stem) :]):
                _remove_dead(left)
    file = None
    while file is None:  # another process may take it for a dead one's before it is locked
        path = target.with_name(f"{stem}{secrets.token_hex(4)}.tmp")
        file = _acquired(path)
    try:
        with file:
            yield path, file.buffer  # type: ignore[attr-defined]
    finally:
        path.unlink(missing_ok=True)


def end_with_parent() -> None:
    """Let a process end when the one that began it with `multiprocessing` is gone.

    It would wait for work for ever, or write beside the next one.
    """
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def followed(path: Path) -> Path:
    """The absolute path that a path leads to, links followed.

    Raises:
        RuntimeError: links in a circle; `Path.resolve` of Python 3.13 leaves them as they are.
        OSError, ValueError: what `Path.resolve` refuses.
    """
    found = path.resolve()
    if any(map(os.path.islink, (found, *found.parents))):
        raise RuntimeError(f"Symlink loop from {str(path)!r}")
    return found


def _remove_dead(path: Path) -> None:
    """Remove a file of this user unless a process has it locked."""
    with suppress(OSError):
        is_ours = hasattr(os, "getuid") and path.lstat().st_uid == os.getuid()
        if is_ours and path.is_file() and not path.is_symlink():
            with path.open("r+") as file:
                if _locked(file, path):
                    path.unlink()


def _locked(file: IO[str], path: Path) -> bool:
    """Lock a file until it is closed; False where another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): see to it that no other process writes there",
            path,
            error.strerror,
        )
    return True


def _acquired(path: Path) -> IO[str] | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    # Windows has no links to refuse, and would write a line end of its own for each one.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        file = os.fdopen(os.open(path, flags, 0o666), "r+", encoding="utf-8")
        if not _locked(file, path):
            file.close()
            return None
        if _is_still_at(file, path):
            return file
        file.close()


def _is_still_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _clear_dead(parent: Path) -> None:
    """Remove what killed processes of this user left."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if _is_ours(folder):
                with (folder / _LOCK).open("r+") as file:
                    if _locked(file, folder):
                        shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    if not hasattr(os, "getuid") or folder.is_symlink():
        return False
    lock = folder / _LOCK
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    return (
        names <= {_LOCK, "files"}
        and lock.is_file()
        and not lock.is_symlink()
        and folder.stat().st_uid == os.getuid()
    )
