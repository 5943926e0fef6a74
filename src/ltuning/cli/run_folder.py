"""The output folder while a run trains, and how an interrupted run is found again.

Until a run is saved, everything of it is in `DIR/checkpoints/`: `config.yaml`, a digest of its data
and the checkpoints. An earlier classifier in DIR stays whole until the new one takes its place.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltuning import yamlfile
from ltuning.artifacts import store
from ltuning.cli.configuration import differences
from ltuning.config import Config
from ltuning.data.sources import Examples, MultilabelExamples, TaggedExamples
from ltuning.errors import ArtifactError
from ltuning.yamlfile import YamlError

_CONFIG = "config.yaml"
_DIGEST = "data.sha256"
_STATE = "trainer_state.json"  # what transformers writes last into a checkpoint


class RunFolder:
    """The output folder of one training run.

    Args:
        folder: where the classifier will be saved.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.checkpoints = folder / store.CHECKPOINTS

    def check(self, overwrite: bool) -> None:
        """Refuse a folder that the run could not be saved to.

        Raises:
            ArtifactError: the folder holds something that may not be replaced.
        """
        store.check_output(self.folder, overwrite)
        foreign = self.checkpoints.exists() and not (self.checkpoints / _CONFIG).is_file()
        if foreign and any(self.checkpoints.iterdir()):
            raise ArtifactError(
                f"{self.checkpoints} is not from an ltuning run (it has no {_CONFIG}), so it is "
                "never overwritten: choose another folder"
            )

    def options(self) -> Mapping[str, Any]:
        """The options of the unfinished run in the folder.

        Raises:
            ArtifactError: there is none, or its configuration cannot be read.
        """
        store.settle(self.folder)
        path = self.checkpoints / _CONFIG
        if not path.is_file():
            held = "a finished one" if (self.folder / store.CONFIG).is_file() else "none"
            raise ArtifactError(
                f"expected an unfinished run in {self.folder} to go on with, got {held}; "
                "leave out --resume to start a run"
            )
        try:
            options = yamlfile.read(path)
        except YamlError as error:
            raise ArtifactError(
                f"{path} cannot be read ({error}): start the run anew with --overwrite"
            ) from error
        return options if isinstance(options, Mapping) else {}

    def check_same(self, config: Config) -> None:
        """Refuse to go on with other options than the run began with.

        Raises:
            ArtifactError: names each option that differs.
        """
        if changed := differences(self.options(), config.to_dict()):
            lines = "\n  ".join(changed)
            raise ArtifactError(
                f"--resume goes on with the options that the run in {self.folder} began with, "
                f"but these changed:\n  {lines}\n"
                "leave them as they were, or start the run anew with --overwrite"
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
        with self.writing():
            if self.checkpoints.exists():
                shutil.rmtree(self.checkpoints)
            self.checkpoints.mkdir(parents=True)
            (self.checkpoints / _DIGEST).write_text(f"{digest}\n")
            (self.checkpoints / _CONFIG).write_text(config.to_yaml(), encoding="utf-8")

    def has_checkpoint(self) -> bool:
        """Whether there is a whole checkpoint; removes what a killed process left half written."""
        whole = False
        for checkpoint in self.checkpoints.glob("checkpoint-*"):
            if _is_whole(checkpoint):
                whole = True
            else:
                shutil.rmtree(checkpoint)
        return whole

    def finish(self) -> None:
        """Remove the checkpoints of a run that is saved."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

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


def digest(parts: Sequence[Examples | MultilabelExamples | TaggedExamples | None]) -> str:
    """SHA-256 of texts and labels."""
    content = [None if part is None else [part.texts, part.labels] for part in parts]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _STATE).read_bytes())
    except (OSError, ValueError):
        return False
    return True
