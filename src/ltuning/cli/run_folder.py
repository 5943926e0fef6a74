"""The output folder while a run trains, and how an interrupted run is found again.

Until a run is saved, everything of it is in `DIR/checkpoints/`: `config.yaml`, a digest of its data
and the checkpoints. An earlier classifier in DIR stays whole until the new one takes its place.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltuning.artifacts import folders, store
from ltuning.config import SHARD, TASK_FACTS, Config, yaml
from ltuning.config.reading import differences
from ltuning.config.yaml import YamlError
from ltuning.errors import ArtifactError

if TYPE_CHECKING:
    from ltuning.tasks.task import Labelled

_CONFIG = "config.yaml"
_DIGEST = "data.sha256"
# Of a file that goes with its process, unless the process is killed.
_SCRATCH = "lower-layers-*"

logger = logging.getLogger("ltuning")


class RunFolder:
    """The output folder of one training run.

    Args:
        folder: where the classifier will be saved.

    Raises:
        ArtifactError: what is no path.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folders.resolve(folder) / folders.CHECKPOINTS

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out of the folder; what a killed one left is brought to its end.

        Raises:
            ArtifactError: another process is at work in it, or it is no place for a folder.
        """
        with folders.claim(self.folder):
            yield

    def check(self, overwrite: bool) -> None:
        """Refuse a folder that the run could not be saved to.

        Raises:
            ArtifactError: the folder holds something that may not be replaced.
        """
        # Not the method of Path, which raises at a name too long.
        is_there = os.path.isdir(self.checkpoints)
        names = folders.names_in(self.checkpoints) if is_there else set()
        is_left = is_there and names <= {_DIGEST}
        # Nothing has begun there that could be gone on with, and nothing is lost.
        is_nothing = is_left and folders.names_in(self.checkpoints.parent) == {
            self.checkpoints.name
        }
        store.check_output(self.folder, overwrite or is_nothing)
        if self.checkpoints.exists() and not is_left and _CONFIG not in names:
            raise ArtifactError(
                f"{self.checkpoints} is not from an ltuning run (it has no {_CONFIG}), so it is "
                "never overwritten: choose another folder"
            )

    def options(self) -> Mapping[str, Any]:
        """The options of the unfinished run in the folder.

        Raises:
            ArtifactError: there is none, its configuration cannot be read, or another process is at
                work in the folder.
        """
        folders.settle(self.folder)
        path = self.checkpoints / _CONFIG
        if not os.path.isfile(path):
            is_finished = os.path.isfile(self.checkpoints.parent / folders.CONFIG)
            held = (
                "a finished one; choose another folder, or replace it with --overwrite"
                if is_finished
                else "none; leave out --resume to start a run"
            )
            raise ArtifactError(
                f"expected an unfinished run in {self.folder} to go on with, got {held}"
            )
        try:
            options = yaml.read(path)
        except YamlError as error:
            raise ArtifactError(
                f"{path} cannot be read ({error}): start the run anew with --overwrite"
            ) from error
        if not isinstance(options, Mapping):
            raise ArtifactError(
                f"{path} cannot be read (it holds no options): start the run anew with --overwrite"
            )
        return _with_old_defaults(options)

    def check_same(self, config: Config) -> None:
        """Refuse to go on with other options than the run began with.

        Raises:
            ArtifactError: names each option that differs.
        """
        # With the defaults of options that were not there yet when the run began.
        began = Config.from_dict(self.options())
        if SHARD in (began.backbone.device, config.backbone.device):
            # What one process computes, and several, whether they divide the backbone or not.
            began = replace(began, backbone=replace(began.backbone, device=config.backbone.device))
        if changed := differences(began.to_dict(), config.to_dict()):
            lines = "\n  ".join(changed)
            raise ArtifactError(
                f"--resume goes on with the options that the run in {self.folder} began with, "
                f"but these changed:\n  {lines}\n"
                "leave them as they were (without options it goes on with its own), or start the "
                "run anew with --overwrite"
            )

    def check_same_data(self, digest: str) -> None:
        """Refuse to go on with other texts or labels than the run began with."""
        path = self.checkpoints / _DIGEST
        if path.is_file() and path.read_text().strip() != digest:
            raise ArtifactError(
                f"--resume goes on with the data that the run in {self.folder} began with, but its "
                "texts or labels changed; bring them back, or start the run anew with --overwrite"
            )

    def begin(self, config: Config, digest: str) -> None:
        """Make the folder of an unfinished run, in the place of an earlier one.

        Raises:
            ArtifactError: it cannot be written.
        """
        with self.writing(), folders.claim(self.folder) as claim:
            new = claim.temporary()
            new.mkdir()
            (new / _DIGEST).write_text(f"{digest}\n")
            (new / _CONFIG).write_text(config.to_yaml(), encoding="utf-8")
            if self.checkpoints.exists():
                claim.remove(self.checkpoints)
            self.checkpoints.parent.mkdir(exist_ok=True)
            # Whole from the first moment on.
            os.rename(new, self.checkpoints)

    def newest_step(self) -> int | None:
        """The step of the newest checkpoint, None without one; half-written ones are removed.

        Raises:
            ArtifactError: another process is at work in the folder.
        """
        # It loads torch, which no other question here needs.
        from ltuning.training.checkpoints import fault, has_lost_its_best

        with folders.claim(self.folder) as claim:
            for left in self.checkpoints.glob(_SCRATCH):
                left.unlink()
            for is_useless in (fault, has_lost_its_best):
                for checkpoint in filter(is_useless, self._checkpoints()):
                    claim.remove(checkpoint)
            steps = [int(path.name.split("-")[1]) for path in self._checkpoints()]
            return max(steps, default=None)

    def finish(self) -> None:
        """Remove the checkpoints of a run that is saved, all at once."""
        try:
            with folders.claim(self.folder) as claim:
                claim.remove(self.checkpoints)
        except OSError as error:
            logger.warning(
                "%s is saved, but its checkpoints cannot be removed: %s", self.folder, error
            )

    def _checkpoints(self) -> list[Path]:
        return [*self.checkpoints.glob("checkpoint-*")]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full disk and its like into an ArtifactError that says what is still there."""
        import safetensors

        try:
            yield
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            # torch.save tells of a full disk in a RuntimeError of its zip writer.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            raise ArtifactError(
                f"writing to {self.folder} failed: {error}; what it held before, and the "
                "checkpoints written so far, are still there. Make room and go on with --resume"
            ) from error


def _with_old_defaults(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what was so of decoders until it became an option: texts alone, and their last token."""
    backbone = options.get("backbone")
    if not isinstance(backbone, Mapping) or "start_token" in backbone:
        return options
    # It loads transformers, which no other question here needs.
    from ltuning.backbones.loading import load_config

    config = Config.from_dict(options)
    if not load_config(config.backbone)[1].causal:
        return options
    made = {**options, "backbone": {**backbone, "start_token": "none"}}
    # Where tokens see what comes after them the mean was read.
    reads_last = not TASK_FACTS[config.task].of_words and config.method.name != "ls-unmask"
    if reads_last and config.method.pooling is None:
        made["method"] = {**options.get("method", {}), "pooling": "last"}
    return made


def digest(parts: Sequence[Labelled | None]) -> str:
    """SHA-256 of texts and labels."""
    content = [None if part is None else [part.texts, part.labels] for part in parts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
