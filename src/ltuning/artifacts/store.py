"""Saved classifiers: a folder that is written whole or not at all, and checked when it is read.

The artifact is three files: the tensors (safetensors, never pickle), the configuration (JSON) and
the model card. The folder of a training run holds more: its resolved configuration and its figures,
and `checkpoints/` while it trains.

A folder is saved in three steps, so that whatever ends the process leaves the old artifact or the
new one::

    .NAME.tmp-1a2b3c4d   the new folder is built and flushed to the disk
    NAME -> .NAME.old    the old folder steps aside
    .NAME.tmp-... -> NAME

A process that ends between the last two leaves `.NAME.old` and no `NAME`; the next `load`, `save`
or `check_output` puts it back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltuning.errors import ArtifactError

if TYPE_CHECKING:
    import torch

TENSORS = "adapter_model.safetensors"
CONFIG = "ltuning_config.json"
CARD = "README.md"
CHECKPOINTS = "checkpoints"
FORMAT = 1

PARTS = frozenset({"lora"})  # sub-folders
ARTIFACT_FILES = frozenset({TENSORS, CONFIG, CARD}) | PARTS
RUN_FILES = frozenset({"config.yaml", "metrics.json", "history.jsonl"})
RESERVED_KEYS = frozenset({"format", "adapter_sha256", "config_sha256", "parts_sha256"})
# Written since parts came; an artifact without parts may lack it.
_OPTIONAL_KEYS = frozenset({"parts_sha256"})

logger = logging.getLogger("ltuning")


def check_output(folder: str | Path, overwrite: bool = False) -> None:
    """Refuse, before any training, an output folder that `save` could not fill or would spoil.

    Free are a folder that does not exist and an empty one; with `overwrite` also an artifact and an
    unfinished run (a folder with nothing but `checkpoints/`). Writes nothing, except that it first
    brings a save that was cut off to its end (see `settle`).

    Raises:
        ArtifactError: the folder cannot be used; says why and what to do.
    """
    target = _resolve(folder)
    _check_place(target)
    settle(target)
    names = _names(target)
    if not names or (overwrite and (CONFIG in names or names == {CHECKPOINTS})):
        return
    if names == {CHECKPOINTS}:
        raise ArtifactError(
            f"{target} holds an unfinished run (nothing but {CHECKPOINTS}/): "
            "go on with it with --resume, or start anew with --overwrite"
        )
    raise _occupied(target, names)


def save(
    folder: str | Path,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
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
        ArtifactError: the folder may not be replaced, or holds one of its own where parts go, or
            writing failed. What was there is untouched.
    """
    target = _resolve(folder)
    _check_place(target)
    settle(target)
    names = _names(target)
    unfinished = CHECKPOINTS in names and not names & (ARTIFACT_FILES | RUN_FILES)
    if names and not unfinished and not (overwrite and CONFIG in names):
        raise _occupied(target, names)
    texts = {**_check_files(files or {}), CARD: card}
    content = _plain_json(config)
    with _failing_whole(target, existed=CONFIG in names), _building(target) as new:
        _check_parts(target, names, parts or {})
        for name, text in texts.items():
            _write_text(new / name, text)
        shas = _write_parts(new, parts or {})
        sha = _write_tensors(new / TENSORS, tensors)
        # safetensors closes its file to everyone else; the artifact's files are all as open.
        shutil.copymode(new / CARD, new / TENSORS)
        written = {"format": FORMAT, **content, "parts_sha256": shas, "adapter_sha256": sha}
        _write_text(new / CONFIG, _config_text(written))
        _sync_folder(new)
        replace_folder(new, target)


def load(folder: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read an artifact: its tensors, on the CPU, and the configuration that was given to `save`.

    Raises:
        ArtifactError: the folder or a file is missing, the format is unknown, or a file was changed
            since it was saved; says which and what to do.
    """
    import safetensors
    from safetensors.torch import load_file

    target = _resolve(folder)
    _restore(target)
    _check_artifact(target)
    config = _read_config(target / CONFIG)
    path = target / TENSORS
    try:
        if _file_sha(path) != config["adapter_sha256"]:
            raise _changed(path, "adapter_sha256")
        for name, sha in config.get("parts_sha256", {}).items():
            if _file_sha(target / name) != sha:
                raise _changed(target / name, "parts_sha256")
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(
            f"cannot read {path}: {error}; restore the file or train again"
        ) from error
    return tensors, {key: value for key, value in config.items() if key not in RESERVED_KEYS}


def replace_folder(new: Path, folder: Path) -> None:
    """Put the finished folder `new` in the place of `folder`, both in the same parent.

    What `folder` holds and `new` lacks moves across, except the files of an artifact and its run.
    When the second rename fails, the first is undone.
    """
    aside = _aside(folder)
    existed = folder.exists()
    if existed:
        shutil.copymode(folder, new)
        os.rename(folder, aside)
    try:
        os.rename(new, folder)
    except BaseException:
        if existed:
            os.rename(aside, folder)
        raise
    _sync_folder(folder.parent)
    try:
        settle(folder)
    except ArtifactError as error:
        # The new artifact is in place: nothing that comes after may look like a failed save.
        logger.warning("%s", error)


def settle(folder: str | Path) -> None:
    """Bring a save of `folder` that was cut off to its end.

    That is the old folder back in its place, or what it holds besides the artifact moved to the new
    one. Does nothing where no save was cut off. `save` and `check_output` call it themselves; a run
    that resumes from `checkpoints/` calls it first.
    """
    target = _resolve(folder)
    _restore(target)
    aside = _aside(target)
    if not aside.exists():
        return
    try:
        _move_leftovers(aside, target)
    except OSError as error:
        raise ArtifactError(
            f"{target} is saved, but {aside}, which it replaced, cannot be cleared: {error}; "
            "move what you need from there and remove it"
        ) from error


def _move_leftovers(aside: Path, folder: Path) -> None:
    gone = (ARTIFACT_FILES - PARTS) | _own_parts(aside) | RUN_FILES | _names(folder)
    for name in sorted(_names(aside) - gone):
        os.rename(aside / name, folder / name)
    # Renamed first: a removal that is cut off must never be taken for an old folder that is whole.
    rubbish = _temporary(folder)
    os.rename(aside, rubbish)
    shutil.rmtree(rubbish)


def _own_parts(folder: Path) -> set[str]:
    """The sub-folders that belong to an artifact: another of such a name is a stranger's."""
    try:
        named = json.loads((folder / CONFIG).read_bytes())["parts_sha256"]
        return {name.partition("/")[0] for name in named} & PARTS
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def _restore(folder: Path) -> None:
    aside = _aside(folder)
    if folder.exists() or not aside.exists():
        return
    try:
        os.rename(aside, folder)
    except OSError as error:
        raise ArtifactError(
            f"a save of {folder} was cut off and the earlier artifact, whole, is in {aside}, "
            f"but renaming it back failed ({error}): rename it to {folder}"
        ) from error
    logger.warning("a save of %s was cut off: the folder from before it is back in place", folder)


def _resolve(folder: str | Path) -> Path:
    # A link is followed, so that the folder it names is replaced and not the link.
    return Path(folder).expanduser().resolve()


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder)) if folder.exists() else set()
    except OSError as error:
        raise ArtifactError(f"cannot read the folder {folder}: {error}; choose another") from error


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(4)}")


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


def _check_parts(folder: Path, names: set[str], parts: Mapping[str, bytes]) -> None:
    """Refuses to put parts where a folder of the same name is that is not the artifact's."""
    taken = names & {name.partition("/")[0] for name in parts}
    if CONFIG in names and (strange := sorted(taken - _own_parts(folder))):
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


def _plain_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it will be when read back: string keys, lists for tuples."""
    if reserved := sorted(RESERVED_KEYS & config.keys()):
        raise ArtifactError(
            f"the configuration may not set {', '.join(reserved)}: `save` writes them"
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"the configuration holds what JSON cannot carry: {error}") from error
    return plain


@contextmanager
def _failing_whole(folder: Path, existed: bool) -> Iterator[None]:
    import safetensors

    try:
        yield
    except (OSError, UnicodeError, safetensors.SafetensorError) as error:
        untouched = "the earlier artifact is untouched" if existed else "nothing was left behind"
        raise ArtifactError(
            f"saving to {folder} failed: {error}; {untouched}. "
            "Make room or choose another folder, and save again"
        ) from error


@contextmanager
def _building(folder: Path) -> Iterator[Path]:
    """A new empty folder beside `folder`, removed when what is done with it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = _temporary(folder)
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
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    return {name: _file_sha(folder / name) for name in parts}


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    from safetensors.torch import save_file

    # Copies: safetensors takes neither views with gaps nor two tensors in one memory.
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _file_sha(path)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Windows and some file systems cannot flush a folder; the order of renames is theirs to keep.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_artifact(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ArtifactError(
            f"expected the folder of a saved classifier, but {folder} {what}: check the path"
        )
    names = _names(folder)
    if names == {CHECKPOINTS}:
        raise ArtifactError(
            f"{folder} holds an unfinished run (nothing but {CHECKPOINTS}/): "
            "finish it with --resume first"
        )
    if missing := sorted({CONFIG, TENSORS} - names):
        raise ArtifactError(
            f"{folder} is not a whole saved classifier: {' and '.join(missing)} missing; "
            "copy the whole folder, or train again"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}): restore the file or train again"
        ) from error
    if not isinstance(config, dict) or "format" not in config:
        raise ArtifactError(
            f"{path} is no configuration of ltuning (it has no format): check the path"
        )
    if config["format"] != FORMAT:
        raise ArtifactError(
            f"{path} has format {config['format']!r}, this version of ltuning reads format "
            f"{FORMAT}: install the version that saved it, or train again"
        )
    if missing := sorted(RESERVED_KEYS - _OPTIONAL_KEYS - config.keys()):
        raise ArtifactError(
            f"{path} lacks {' and '.join(missing)}: restore the file or train again"
        )
    if _config_sha(config) != config["config_sha256"]:
        raise _changed(path, "config_sha256")
    return config


def _changed(path: Path, key: str) -> ArtifactError:
    return ArtifactError(
        f"{path} was changed or damaged since it was saved (its content does not match {key}): "
        "restore the file or train again"
    )


def _config_text(config: dict[str, Any]) -> str:
    signed = {**config, "config_sha256": _config_sha(config)}
    return json.dumps(signed, indent=2, ensure_ascii=False) + "\n"


def _config_sha(config: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in config.items() if key != "config_sha256"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _file_sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
