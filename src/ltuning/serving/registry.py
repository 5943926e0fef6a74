"""The classifiers of several run folders by their names, loaded anew when a folder is replaced."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ltuning.artifacts import folders, opened
from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.errors import ArtifactError, ConfigError, LTuningError, Problem
from ltuning.serving.batcher import Batcher, TooLate
from ltuning.tasks.table import TASKS

logger = logging.getLogger("ltuning")

# Seconds between two looks at the folders.
_EVERY = 1.0
# A path of two parts or more; what comes before its last part goes.
_PATH = re.compile(r"(?<![\w.:/])~?(?:/[^/\s'\",;:()]+)*/(?=[^/\s'\",;:()]+)")


@dataclass(frozen=True)
class Loaded:
    """A classifier at work.

    Attributes:
        classifier: its front door.
        batcher: of its backbone.
        pairs: whether it reads pairs of texts; None is both.
        trained: as its folder has it.
        added: labels that came since, with their texts.
    """

    classifier: Any
    batcher: Batcher
    pairs: bool | None
    trained: Any
    added: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class Entry:
    """A name, and what it stands for now.

    Attributes:
        name: what it is called.
        folder: of the run.
        loaded: None where it never loaded.
        error: why its folder could not be loaded as it is now, in words without a path.
        state: of the folder when it was last tried.
        lock: held by who changes it.
    """

    name: str
    folder: Path
    loaded: Loaded | None = None
    error: str | None = None
    state: object = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def named(runs: Sequence[str]) -> dict[str, Path]:
    """Folders by their names: the last part of a path, or what stands before it in `NAME=RUN`.

    Raises:
        ConfigError: two of one name, or a name that an address cannot have.
    """
    problems: list[Problem] = []
    found: dict[str, Path] = {}
    for run in runs:
        name, is_named, path = run.partition("=")
        if not is_named or Path(run).expanduser().exists():
            path = run
            name = os.path.basename(os.path.abspath(Path(run).expanduser()))
        if name in ("", ".", "..") or "/" in name or not name.isprintable():
            message = f"expected a name without /, got {name!r}; write NAME=RUN"
            problems.append(Problem("RUN", message))
        elif name in found:
            message = (
                f"expected each name once, got {name!r} for {found[name]} and {path}; write "
                "NAME=RUN to give one of them another name"
            )
            problems.append(Problem("RUN", message))
        found[name] = Path(os.path.abspath(path) if path.startswith("./") else path).expanduser()
    if problems:
        raise ConfigError(problems)
    return found


class Registry:
    """The classifiers that are served.

    Args:
        folders: run folders by the names of their classifiers.
        most_waiting: texts that may wait for one backbone.
        observe: see `Batcher`.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        most_waiting: int = 1024,
        observe: Callable[[int, int], None] = lambda requests, texts: None,
    ):
        self.entries = {name: Entry(name, folder) for name, folder in folders.items()}
        self._most_waiting = most_waiting
        self._observe = observe
        self._backbones: dict[BackboneOptions, tuple[Backbone, Batcher]] = {}
        self._stopped = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="ltuning-watcher", daemon=True)

    @property
    def batchers(self) -> list[Batcher]:
        """One for each backbone."""
        return [batcher for _, batcher in [*self._backbones.values()]]

    def load(self) -> None:
        """Load every classifier; what is wrong with one is kept as its error.

        Raises:
            LTuningError: that of the first one, where none can be loaded.
        """
        errors = [error for entry in self.entries.values() if (error := self._load(entry))]
        if len(errors) == len(self.entries):
            self.stop()
            raise errors[0]

    def watch(self) -> None:
        """Look from now on whether a folder is replaced."""
        self._watcher.start()

    def stop(self) -> None:
        """Finish what waits; nothing is taken any more."""
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for batcher in self.batchers:
            batcher.stop()

    def renew(self) -> None:
        """Load the classifiers whose folders were replaced since they were last tried.

        The one before answers until the new one is there, and goes on where that cannot be loaded.
        """
        for entry in self.entries.values():
            state = _state(entry.folder)
            if state != entry.state and (state is not None or entry.loaded is None):
                self._load(entry)

    def add_labels(self, entry: Entry, labels: Mapping[str, Sequence[str]]) -> None:
        """Add labels in memory, until the server ends or the run folder is replaced.

        Raises:
            LTuningError: as `add_labels` of a classifier.
        """
        with entry.lock:
            assert entry.loaded is not None
            self._change(entry, {**entry.loaded.added}, labels)

    def remove_label(self, entry: Entry, name: str) -> None:
        """Take out a label that was added: the classifier is as if it had not been."""
        with entry.lock:
            assert entry.loaded is not None
            left = {of: texts for of, texts in entry.loaded.added.items() if of != name}
            self._change(entry, left, {})

    def _change(
        self,
        entry: Entry,
        added: Mapping[str, Sequence[str]],
        more: Mapping[str, Sequence[str]],
    ) -> None:
        loaded = entry.loaded
        assert loaded is not None

        def made() -> Any:
            one = loaded.trained.with_labels(added) if added else loaded.trained
            one = one.with_labels(more) if more else one
            one.scorer()  # made by who is to use it
            return one

        classifier = loaded.batcher.call(made)
        entry.loaded = replace(loaded, classifier=classifier, added={**added, **more})

    def _watch(self) -> None:
        while not self._stopped.wait(_EVERY):
            try:
                self.renew()
            except TooLate:
                return

    def _load(self, entry: Entry) -> LTuningError | None:
        with entry.lock:
            entry.state = _state(entry.folder)
            before = entry.loaded
            try:
                entry.loaded = self._opened(entry)
            except TooLate:
                raise
            except Exception as error:
                known = error if isinstance(error, LTuningError) else _in_words(error)
                entry.error = without_paths(str(known), entry.folder)
                kept = "; the one before goes on" if before else ""
                logger.error("classifier %s cannot be loaded: %s%s", entry.name, entry.error, kept)
                return known
            entry.error = None
            if before is not None:
                lost = ", ".join(before.added)
                note = f"; labels that were added are gone: {lost}" if lost else ""
                logger.info("classifier %s was replaced and is loaded anew%s", entry.name, note)
            return None

    def _opened(self, entry: Entry) -> Loaded:
        artifact = opened.read(entry.folder)
        task = TASKS[artifact.config.task]
        backbone, batcher = self._backbone(artifact.config.backbone, task.of_words)

        def load() -> Any:
            classifier = task.door().from_pretrained(artifact, backbone=backbone)
            classifier.scorer()  # made by who is to use it
            return classifier

        classifier = batcher.call(load)
        return Loaded(classifier, batcher, artifact.fields.get("pairs"), classifier)

    def _backbone(self, options: BackboneOptions, of_words: bool) -> tuple[Backbone, Batcher]:
        """The one of these options, loaded for whoever comes first."""
        default = BackboneOptions()
        # What a classifier of texts reads of one is its own; a tagger reads what the backbone does.
        length = options.max_length if of_words else None
        key = replace(
            options,
            max_length=length,
            device=default.device,
            trust_remote_code=False,
            max_branches=default.max_branches,
            cache_size=default.cache_size,
        )
        if key not in self._backbones:
            backbone = Backbone.load(key)
            batcher = Batcher(
                self._most_waiting,
                is_cpu=backbone.device.type == "cpu",
                observe=self._observe,
            )
            self._backbones[key] = backbone, batcher
        return self._backbones[key]


def _state(folder: Path) -> object:
    """Tells whether an artifact was replaced between two looks; None where there is none."""
    try:
        place = folders.current(folders.resolve(folder))
        if place is None:
            return None
        found = [(place / name).stat() for name in (folders.CONFIG, folders.TENSORS)]
    except (OSError, ArtifactError):
        return None
    return [(one.st_ino, one.st_mtime_ns, one.st_size) for one in found]


def _in_words(error: Exception) -> LTuningError:
    words = getattr(error, "strerror", None) or type(error).__name__
    return ArtifactError(f"it cannot be loaded ({words})")


def without_paths(message: str, *known: Path) -> str:
    """A message with the last part of each path in it alone.

    Args:
        message: of an error.
        known: paths that it may name; these may have spaces.
    """
    for path in {place for one in known for place in (one, one.absolute(), one.resolve())}:
        message = message.replace(f"{path}/", "").replace(str(path), path.name)
    return _PATH.sub("", message)
