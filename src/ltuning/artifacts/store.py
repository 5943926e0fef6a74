"""Saved classifiers: a folder that is written whole or not at all, and checked when it is read.

The artifact is three files: the tensors (safetensors, never pickle), the configuration (JSON) and
the model card, and of some methods parts in a sub-folder. The folder of a training run holds more:
its resolved configuration and its figures, and `checkpoints/` while it trains. How a folder is
replaced whole is in `folders`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ltuning.artifacts import folders
from ltuning.artifacts.folders import (
    ARTIFACT_FILES,
    CARD,
    CHECKPOINTS,
    CONFIG,
    EXPORTED,
    PARTS,
    RUN_FILES,
    TENSORS,
    Claim,
    claim,
    names_in,
    own_parts,
    read_file,
)
from ltuning.config.yaml import shown
from ltuning.errors import ArtifactError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

FORMAT = 1
_OWN_SHA = "config_sha256"
RESERVED_KEYS = frozenset({"format", "adapter_sha256", _OWN_SHA, "parts_sha256"})
# Written since parts came; an artifact without parts may lack it.
_OPTIONAL_KEYS = frozenset({"parts_sha256"})
_SHA = re.compile(r"[0-9a-f]{64}")
# A folder that is replaced each time while it is read is read this often.
_MOST_READS = 100
# Lists in lists that a configuration may have.
_DEEPEST = 100

logger = logging.getLogger("ltuning")


@dataclass(frozen=True)
class Artifact:
    """What a folder of an artifact holds, all of one save.

    Attributes:
        folder: where it was read.
        tensors: on the CPU.
        config: what was given to `save`.
        parts: content of its further files, by `FOLDER/NAME`: of JSON the value, of safetensors
            the tensors by name, of others the bytes.
    """

    folder: Path
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    parts: dict[str, Any]


def check_output(
    folder: str | Path, overwrite: bool = False, *, can_overwrite: bool = True
) -> None:
    """Refuse, before any training, an output folder that `save` could not fill or would spoil.

    Free are a folder that does not exist and an empty one; with `overwrite` also an artifact and an
    unfinished run (`checkpoints/`, and what else came in). Writes nothing, except that it first
    brings to its end what a killed process left.

    Args:
        folder: where to.
        overwrite: whether an earlier artifact gives way.
        can_overwrite: whether who asks has a way to say that; else another folder is what to do.

    Raises:
        ArtifactError: the folder cannot be used; says why and what to do.
    """
    target = folders.resolve(folder)
    folders.check_place(target)
    folders.settle(target)
    names = names_in(target)
    unfinished = _is_unfinished(names)
    if not names or (overwrite and (CONFIG in names or unfinished)):
        return
    if not can_overwrite and (CONFIG in names or unfinished):
        what = "a trained classifier" if CONFIG in names else "an unfinished run"
        raise ArtifactError(f"{target} holds {what} already: choose another folder")
    if unfinished:
        raise ArtifactError(
            f"{target} holds an unfinished run (in {CHECKPOINTS}/): "
            "go on with it with --resume, or start anew with --overwrite"
        )
    raise _occupied(target, names)


def save(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, object],
    card: str,
    *,
    overwrite: bool = False,
    files: Mapping[str, str] | None = None,
    parts: Mapping[str, bytes] | None = None,
) -> None:
    """Write an artifact to `folder`, whole or not at all.

    Args:
        folder: made if it does not exist, with its parents. May be empty, or an unfinished run:
            `checkpoints/` and what else came in meanwhile, all of which stays.
        tensors: on any device; stored in their own dtype.
        config: what JSON can carry; the keys in `RESERVED_KEYS` are added.
        card: the text of the model card.
        overwrite: replace an artifact that is there. Its own files and those of its run go;
            whatever else the folder holds stays.
        files: more text files of the run, name to content.
        parts: more files of the artifact itself, such as PEFT's, `FOLDER/NAME` to content.

    Raises:
        ArtifactError: the folder may not be replaced, or holds one of its own where parts go,
            another process is at work in it, or writing failed. What was there is untouched.
    """
    texts = {**_check_files(files or {}), CARD: card}
    content = _plain_json(config)
    with replacing(folder, lambda target: _check_free(target, overwrite, parts or {})) as new:
        for name, text in texts.items():
            write_text(new / name, text)
        shas = _write_parts(new, parts or {})
        sha = _write_tensors(new / TENSORS, tensors)
        # safetensors closes its file to everyone else; the artifact's files are all as open.
        shutil.copymode(new / CARD, new / TENSORS)
        written = {"format": FORMAT, **content, "parts_sha256": shas, "adapter_sha256": sha}
        _write(new / CONFIG, signed(written))


@contextmanager
def replacing(folder: str | Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """An empty folder, which takes the place of another once the block has filled it.

    Args:
        folder: made if it does not exist, with its parents.
        check: refuses what may not be replaced, while nobody else can write there.

    Raises:
        ArtifactError: another process is at work in it, or writing failed. What was there is
            untouched.
    """
    with claim(folder) as mine, _failing_whole(mine), _building(mine) as new:
        check(mine.folder)
        yield new
        folders.sync(new)
        mine.replace(new)


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that is no artifact, whole or not at all.

    Args:
        folder: made if it does not exist, with its parents; else it must be empty.
        files: name to content.

    Raises:
        ArtifactError: the folder holds something, another process is at work in it, or writing
            failed.
    """
    with claim(folder) as mine, _failing_whole(mine), _building(mine) as new:
        if names_in(mine.folder):
            raise ArtifactError(f"{mine.folder} is not empty: choose another folder")
        for name, content in files.items():
            _write(new / name, content)
        folders.sync(new)
        if mine.folder.exists():
            mine.folder.rmdir()
        mine.replace(new)


def check_exported(folder: Path, overwrite: bool) -> None:
    """Refuse to put an exported classifier where anything else is.

    Args:
        folder: where to, a resolved path.
        overwrite: whether an earlier one gives way.

    Raises:
        ArtifactError: says why and what to do.
    """
    folders.check_place(folder)
    names = names_in(folder)
    is_earlier = _is_export(folder, names)
    if not names or (is_earlier and overwrite):
        return
    if is_earlier:
        raise ArtifactError(
            f"{folder} holds an exported classifier already: choose another folder, or replace it "
            "with --overwrite (overwrite=True in Python)"
        )
    raise ArtifactError(
        f"{folder} is not empty and holds no exported classifier, so it is never overwritten: "
        "choose another folder"
    )


def _is_export(folder: Path, names: set[str]) -> bool:
    """Whether a folder is an exported classifier, by its files and by what one says of them."""
    if not names >= folders.EXPORT_FILES or CONFIG in names:
        return False
    try:
        said = _parse_json(read_file(folder / EXPORTED, folders.LONGEST_JSON), folder / EXPORTED)
    except ArtifactError:
        return False
    return isinstance(said, dict) and "ltuning_version" in said


def unwritten(
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, object],
    parts: Mapping[str, bytes],
) -> Artifact:
    """What `read` would give of what `save` would write, for a pickle.

    Args:
        tensors: as `save` takes them, and the next two.
        config: what JSON can carry.
        parts: files of the artifact.

    Raises:
        ArtifactError: what JSON cannot carry.
    """
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    decoded = {name: _decoded(content, Path(name)) for name, content in parts.items()}
    return Artifact(Path("the pickle"), copies, _plain_json(config), decoded)


def read_config(folder: str | Path) -> dict[str, Any]:
    """Configuration of an artifact, without a look at its other files; see `read`."""
    return _own(_read_config(_artifact_folder(folders.resolve(folder)) / CONFIG))


def read(folder: str | Path) -> Artifact:
    """Read an artifact, while others may be reading or replacing it. Writes nothing.

    Each file is read once, and what was read is what is checked: the configuration's own checksum,
    and by those in it all others.

    Raises:
        ArtifactError: the folder or a file is missing, the format is unknown, or a file was changed
            since it was saved; says which and what to do.
    """
    return _unreplaced(folder, _read)


def contents(folder: str | Path) -> dict[str, bytes]:
    """The files of an artifact by their path in it, its card among them, checked as `read` does.

    Raises:
        ArtifactError: as `read`.
    """
    return _unreplaced(folder, _contents)


def signed(config: Mapping[str, object]) -> bytes:
    """The file of a configuration as `save` writes it, with its checksum.

    Args:
        config: all that the file holds.
    """
    return folders.signed_json(config, _OWN_SHA).encode()


def part_names(folder: Path) -> list[str]:
    """The files in sub-folders that an artifact has by its configuration, by their path in it.

    Raises:
        ArtifactError: a configuration that cannot be read or was changed.
    """
    return [*_read_config(folder / CONFIG).get("parts_sha256", {})]


def _unreplaced(folder: str | Path, reader: Callable[[Path], T]) -> T:
    """What is read of a folder that was not replaced meanwhile."""
    target = folders.resolve(folder)
    for _ in range(_MOST_READS):
        before = _state(target)
        try:
            return reader(target)
        except ArtifactError:
            # What was replaced in between is no fault of what is there now.
            if _state(target) == before:
                raise
    raise ArtifactError(
        f"{target} was replaced each of the {_MOST_READS} times that it was read: wait for who "
        "writes to it, and load it again"
    )


def _state(folder: Path) -> tuple[Path, int, int] | None:
    """Tells whether a folder was replaced between two looks."""
    try:
        place = folders.current(folder)
        if place is None:
            return None
        found = place.stat()
    except OSError:
        return None
    return place, found.st_ino, found.st_ctime_ns


def _read(target: Path) -> Artifact:
    folder = _artifact_folder(target)
    config, files = _checked_files(folder)
    tensors = _tensors(files.pop(TENSORS), folder / TENSORS)
    parts = {name: _decoded(content, folder / name) for name, content in files.items()}
    return Artifact(target, tensors, _own(config), parts)


def _contents(target: Path) -> dict[str, bytes]:
    folder = _artifact_folder(target)
    config, files = _checked_files(folder)
    card = {CARD: read_file(folder / CARD)} if (folder / CARD).exists() else {}
    return {CONFIG: signed(config), **files, **card}


def _checked_files(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The configuration, and what else is by its path in the folder."""
    config = _read_config(folder / CONFIG)
    files = {TENSORS: _checked(folder / TENSORS, config["adapter_sha256"], "adapter_sha256")}
    for name, sha in config.get("parts_sha256", {}).items():
        files[name] = _checked(folder / name, sha, "parts_sha256")
    return config, files


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """What was given to `save`."""
    return {key: value for key, value in config.items() if key not in RESERVED_KEYS}


def _checked(path: Path, sha: str, key: str) -> bytes:
    content = read_file(path)
    if hashlib.sha256(content).hexdigest() != sha:
        raise _changed(path, key)
    return content


def _decoded(content: bytes, path: Path) -> Any:
    if path.suffix == ".json":
        return _parse_json(content, path)
    return _tensors(content, path) if path.suffix == ".safetensors" else content


def _tensors(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load(content)
    # Of a type that torch has not, safetensors raises KeyError.
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ArtifactError(
            f"cannot read {path}: {error}; restore the file or train again"
        ) from error


def _is_unfinished(names: set[str]) -> bool:
    return CHECKPOINTS in names and not names & (ARTIFACT_FILES | RUN_FILES)


def _occupied(folder: Path, names: set[str]) -> ArtifactError:
    if CONFIG in names:
        return ArtifactError(
            f"{folder} holds a trained classifier already: choose another folder, "
            "or replace it with --overwrite (overwrite=True in Python)"
        )
    return ArtifactError(
        f"{folder} is not empty and is not an ltuning folder (it has no {CONFIG}), so it is never "
        "overwritten: choose another folder"
    )


def _check_free(folder: Path, overwrite: bool, parts: Mapping[str, bytes]) -> None:
    """Refuses to replace what is not an artifact or an unfinished run.

    And to put parts where a folder of the same name is that is not the artifact's.
    """
    names = names_in(folder)
    if names and not _is_unfinished(names) and not (overwrite and CONFIG in names):
        raise _occupied(folder, names)
    taken = names & {name.partition("/")[0] for name in parts}
    if CONFIG in names and (strange := sorted(taken - own_parts(folder))):
        raise ArtifactError(
            f"expected {folder} without a folder {strange[0]}/, where a part of the artifact goes, "
            "got one that the artifact there does not name; rename it, or choose another folder, "
            "and save again"
        )


def _check_files(files: Mapping[str, str]) -> Mapping[str, str]:
    for name in files:
        taken = name in ARTIFACT_FILES or name == CHECKPOINTS
        if taken or name in ("", ".", "..") or Path(name).name != name:
            raise ArtifactError(
                "expected the bare name of a file that is not one of the artifact's own, "
                f"got {name!r}"
            )
    return files


def _plain_json(config: Mapping[str, object]) -> dict[str, Any]:
    """The configuration as it will be when read back: string keys, lists for tuples."""
    if reserved := sorted(RESERVED_KEYS & config.keys()):
        raise ArtifactError(
            f"the configuration may not set {', '.join(reserved)}: `save` writes them"
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(config), allow_nan=False))
        _check_depth(plain, _DEEPEST)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the configuration holds what JSON cannot carry: {error}") from error
    return plain


@contextmanager
def _failing_whole(mine: Claim) -> Iterator[None]:
    import safetensors

    existed = bool(names_in(mine.folder) & {CONFIG, EXPORTED})
    try:
        yield
    except (OSError, UnicodeError, safetensors.SafetensorError) as error:
        untouched = "the earlier artifact is untouched" if existed else "nothing was left behind"
        raise ArtifactError(
            f"saving to {mine.folder} failed: {error}; {untouched}. "
            "Make room or choose another folder, and save again"
        ) from error


@contextmanager
def _building(mine: Claim) -> Iterator[Path]:
    """A new empty folder beside the claimed one, removed when what is done with it fails."""
    new = mine.temporary()
    # Not tempfile.mkdtemp, whose folders are closed to everyone else.
    new.mkdir()
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _write_parts(folder: Path, parts: Mapping[str, bytes]) -> dict[str, str]:
    """Writes files into sub-folders; their checksums by path."""
    for name, content in parts.items():
        path = folder / name
        assert path.parent.name in PARTS, name
        path.parent.mkdir(exist_ok=True)
        _write(path, content)
        folders.sync(path.parent)
    return {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    from safetensors.torch import save_file

    # Copies: safetensors takes neither views with gaps nor two tensors in one memory.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file and flush it to the disk."""
    _write(path, text.encode())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _artifact_folder(target: Path) -> Path:
    """Where the files of an artifact are now."""
    try:
        folder = folders.current(target)
        if folder is not None and not folder.is_dir():
            raise _no_artifact(target, "is a file")
    except OSError as error:
        raise _no_artifact(target, f"cannot be looked at ({error.strerror})") from error
    if folder is None:
        raise _no_artifact(target, "does not exist")
    if folder != target:
        logger.warning(
            "a save of %s is under way or was cut off: what is read is %s, the folder from before "
            "it; the next save or training puts it back",
            target,
            folder,
        )
    names = names_in(folder)
    if names == {CHECKPOINTS}:
        raise ArtifactError(
            f"{target} holds an unfinished run (nothing but {CHECKPOINTS}/): "
            "finish it with --resume first"
        )
    if EXPORTED in names and CONFIG not in names:
        raise ArtifactError(
            f"expected the folder of a trained classifier, got an exported one, {target}, which "
            "`ltuning predict` alone takes; give the folder that it was exported from"
        )
    if missing := sorted({CONFIG, TENSORS} - names):
        raise ArtifactError(
            f"{target} is not a whole saved classifier: {' and '.join(missing)} missing; "
            "copy the whole folder, or train again"
        )
    return folder


def _no_artifact(folder: Path, what: str) -> ArtifactError:
    earlier = folder.parent / f".{folder.name}.old"
    hint = ""
    if what == "does not exist" and (earlier / CONFIG).is_file():
        hint = f", and rename {earlier} to it if an earlier version left that in a save cut off"
    return ArtifactError(
        f"expected the folder of a saved classifier, but {folder} {what}: check the path{hint}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = _parse_json(read_file(path, folders.LONGEST_JSON), path)
    if not isinstance(config, dict) or "format" not in config:
        raise ArtifactError(
            f"{path} is no configuration of ltuning (it has no format): check the path"
        )
    if config["format"] != FORMAT:
        raise ArtifactError(
            f"{path} has format {shown(config['format'])}, this version of ltuning reads format "
            f"{FORMAT}: install the version that saved it, or train again"
        )
    if missing := sorted(RESERVED_KEYS - _OPTIONAL_KEYS - config.keys()):
        raise ArtifactError(
            f"{path} lacks {' and '.join(missing)}: restore the file or train again"
        )
    if folders.json_sha(config, _OWN_SHA) != config[_OWN_SHA]:
        raise _changed(path, _OWN_SHA)
    _check_shas(config, path)
    return config


def _parse_json(content: bytes, path: Path) -> Any:
    """What a JSON file holds; `save` writes neither NaN nor a hundred lists in lists."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"the number {constant}")

    try:
        parsed = json.loads(content, parse_constant=refuse)
        _check_depth(parsed, _DEEPEST)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}): restore the file or train again"
        ) from error
    return parsed


def _check_depth(value: object, left: int) -> None:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if inner and not left:
        raise ValueError("nested too deeply")
    for one in inner:
        _check_depth(one, left - 1)


def _check_shas(config: Mapping[str, object], path: Path) -> None:
    """Only files of the artifact are looked at, whatever else the configuration names."""
    shas = config.get("parts_sha256", {})
    parts = [*shas] if isinstance(shas, dict) else []
    found = [config["adapter_sha256"], *(shas.values() if isinstance(shas, dict) else [None])]
    if not all(isinstance(sha, str) and _SHA.fullmatch(sha) for sha in found):
        raise ArtifactError(
            f"expected checksums of 64 hexadecimal digits in {path}, got others; restore the file "
            "or train again"
        )
    places = " or ".join(f"{part}/" for part in sorted(PARTS))
    if strange := [name for name in parts if not _is_part(name)]:
        raise ArtifactError(
            f"expected files of the artifact in {places} with parts_sha256 in {path}, got "
            f"{shown(strange[0])}; restore the file or train again"
        )


def _is_part(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder in PARTS and file not in ("", ".", "..") and Path(file).name == file


def _changed(path: Path, key: str) -> ArtifactError:
    return ArtifactError(
        f"{path} was changed or damaged since it was saved (its content does not match {key}): "
        "restore the file or train again"
    )
