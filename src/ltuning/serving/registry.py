"""The classifiers of several run folders by their names, loaded anew when a folder is replaced."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ltuning.artifacts import folders, opened
from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.errors import ArtifactError, LabelError, LTuningError
from ltuning.estimators.front import moved
from ltuning.serving.batcher import Batcher, TooLate
from ltuning.serving.bounds import Bounds
from ltuning.tasks.table import TASKS

logger = logging.getLogger("ltuning")

# Seconds between two looks at the folders.
_EVERY = 1.0
# Seconds until what could not be loaded is tried again, though its folder looks the same, and at
# most: a try may load a backbone, so that each waits twice as long as the one before.
_AGAIN, _AT_MOST = 15.0, 600.0
# Texts of labels that may be added to a classifier, and their number times the characters of the
# longest: all are read at once, padded to it, and stay in memory.
_MOST_ADDED, _MOST_CHARACTERS = 1024, 2**16
# A path of two parts or more, in quotes with spaces too; what comes before its last part goes.
_PART = r"[^/\s'\",;:()]+"
_ROOT = rf"(?:file://(?=/))?(?:~\w*|\.{{1,2}}|/(?!/){_PART})"
_PATHS = (
    re.compile(r"(?<=')(?:~\w*|\.{1,2}|/[^/'\n]+)(?:/[^/'\n]+)*/(?=[^/'\n]+')"),
    re.compile(rf"(?<![\w./~-]){_ROOT}(?:/{_PART})*/(?={_PART})"),
)
# Seconds in which a folder that is just being loaded may be done when the server ends.
_ENDING = 2.0


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
        backbone: its name, which may be a path.
        state: of the folder when it was last tried.
        again: when it is tried again if that failed, by the monotonic clock.
        wait: seconds from then on.
        lock: held by who changes it.
    """

    name: str
    folder: Path
    loaded: Loaded | None = None
    error: str | None = None
    backbone: str | None = None
    state: object = None
    again: float = math.inf
    wait: float = _AGAIN
    lock: threading.Lock = field(default_factory=threading.Lock)


class Registry:
    """The classifiers that are served.

    Args:
        folders: run folders by the names of their classifiers.
        backbone: where the backbone of all of them is; None = where it was for each.
        most_waiting: texts that may wait for one backbone.
        observe: see `Batcher`.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        backbone: str | None = None,
        most_waiting: int = Bounds.waiting,
        observe: Callable[[int, int], None] = lambda requests, texts: None,
    ):
        self.entries = {name: Entry(name, folder) for name, folder in folders.items()}
        self._place = backbone
        self._most_waiting = most_waiting
        self._observe = observe
        self._backbones: dict[BackboneOptions, tuple[Backbone, Batcher]] = {}
        self._unused: set[BackboneOptions] = set()
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
            self._watcher.join(_ENDING)
        for batcher in self.batchers:
            batcher.stop()

    def renew(self) -> None:
        """Load the classifiers whose folders were replaced since they were last tried.

        The one before answers until the new one is there, and goes on where that cannot be loaded.
        What could not be loaded is tried again after a while though its folder looks the same: the
        backbone, or the hub, may be there by now.
        """
        for entry in self.entries.values():
            state = _state(entry.folder)
            is_new = state != entry.state and (state is not None or entry.loaded is None)
            if is_new:
                entry.wait = _AGAIN
            if is_new or time.monotonic() > entry.again:
                self._load(entry)
        self._let_go()

    def _let_go(self) -> None:
        """End the backbones that no classifier used at this look and at the one before.

        Who found a classifier just before it was replaced has asked it by then.
        """
        used = {id(entry.loaded.batcher) for entry in self.entries.values() if entry.loaded}
        unused = {key for key, (_, batcher) in self._backbones.items() if id(batcher) not in used}
        for key in unused & self._unused:
            _, batcher = self._backbones.pop(key)
            batcher.stop()
        self._unused = unused

    def add_labels(self, entry: Entry, labels: Mapping[str, Sequence[str]], seconds: float) -> None:
        """Add labels in memory, until the server ends or the run folder is replaced.

        Args:
            entry: of the classifier.
            labels: names with their texts.
            seconds: within which the work has to begin.

        Raises:
            LTuningError: as `add_labels` of a classifier, or more texts than may be added.
            TooLate: it was not begun in time, or the server ends.
        """
        with _changing(entry, seconds) as (loaded, left):
            for name in labels:
                if name in loaded.added:
                    raise LabelError(f"there is a label {name!r} already")
            self._change(entry, loaded, {**loaded.added, **labels}, left)

    def remove_label(self, entry: Entry, name: str, seconds: float) -> None:
        """Take out a label that was added: the classifier is as if it had not been.

        Args:
            entry: of the classifier.
            name: of the label.
            seconds: within which the work has to begin.

        Raises:
            TooLate: it was not, or the server ends.
        """
        with _changing(entry, seconds) as (loaded, left):
            others = {of: texts for of, texts in loaded.added.items() if of != name}
            self._change(entry, loaded, others, left)

    @staticmethod
    def _change(
        entry: Entry,
        loaded: Loaded,
        labels: Mapping[str, Sequence[str]],
        seconds: float,
    ) -> None:
        """The classifier as trained, with these labels."""
        _check_size([text for texts in labels.values() for text in texts])

        def made() -> Any:
            one = loaded.trained.with_labels(labels) if labels else loaded.trained
            one.scorer()  # made by who is to use it
            return one

        classifier = loaded.batcher.call(made, seconds)
        entry.loaded = replace(loaded, classifier=classifier, added=labels)

    def _watch(self) -> None:
        while not self._stopped.wait(_EVERY):
            try:
                self.renew()
            except TooLate:
                return

    def _load(self, entry: Entry) -> LTuningError | None:
        if not entry.lock.acquire(blocking=False):
            return None  # its labels are just being changed; the next look finds it as it is
        try:
            entry.state, entry.again = _state(entry.folder), math.inf
            before, said = entry.loaded, entry.error
            try:
                entry.loaded = self._opened(entry)
            except TooLate:
                raise
            except Exception as error:
                entry.again = time.monotonic() + entry.wait
                entry.wait = min(2 * entry.wait, _AT_MOST)
                known = error if isinstance(error, LTuningError) else _in_words(error)
                places = [place for place in (entry.backbone, self._place) if place]
                entry.error = without_paths(str(known), entry.folder, *map(Path, places))
                kept = "; the one before goes on" if before else ""
                if entry.error != said:
                    logger.error(
                        "classifier %s cannot be loaded: %s%s", entry.name, entry.error, kept
                    )
                return known
            entry.error, entry.wait = None, _AGAIN
            if before is not None:
                lost = ", ".join(before.added)
                note = f"; labels that were added are gone: {lost}" if lost else ""
                logger.warning("classifier %s was replaced and is loaded anew%s", entry.name, note)
            elif said is not None:
                logger.warning("classifier %s could be loaded now", entry.name)
            return None
        finally:
            entry.lock.release()

    def _opened(self, entry: Entry) -> Loaded:
        artifact = opened.read(entry.folder)
        task = TASKS[artifact.config.task]
        options = artifact.config.backbone
        entry.backbone = options.name
        if self._place is not None:
            options = moved(options, self._place)
        backbone, batcher = self._backbone(options, task.of_words)

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
        if key in self._backbones:
            return self._backbones[key]
        for known, pair in self._backbones.items():
            is_same = replace(known, start_token=key.start_token) == key
            if is_same and pair[0].starts_texts_as(key.start_token):
                return pair
        backbone = Backbone.load(key)
        batcher = Batcher(
            self._most_waiting,
            is_cpu=backbone.device.type == "cpu",
            observe=self._observe,
        )
        self._backbones[key] = backbone, batcher
        return backbone, batcher


def _check_size(texts: Sequence[str]) -> None:
    """Raises LabelError where added labels would take too much memory."""
    longest = max(map(len, texts), default=0)
    if len(texts) > _MOST_ADDED or len(texts) * longest > _MOST_CHARACTERS:
        raise LabelError(
            f"expected at most {_MOST_ADDED:,} texts of labels that are added in memory, and "
            f"{_MOST_CHARACTERS:,} characters if all were as long as the longest, got "
            f"{len(texts):,} of up to {longest:,} with those before; train with the labels, or "
            "write them to a folder with ltuning add-labels"
        )


@contextmanager
def _changing(entry: Entry, seconds: float) -> Iterator[tuple[Loaded, float]]:
    """The classifier, which nobody else changes meanwhile, and the seconds that are left."""
    deadline = time.monotonic() + seconds
    if not entry.lock.acquire(timeout=seconds):
        raise TooLate
    try:
        assert entry.loaded is not None
        yield entry.loaded, max(0.0, deadline - time.monotonic())
    finally:
        entry.lock.release()


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


def without(message: str, *known: Path) -> str:
    """A message with the last part of paths alone.

    Args:
        message: of an error.
        known: paths that it may name.
    """
    places = {place for one in known for place in (one.expanduser(), one.absolute(), one.resolve())}
    places -= {place for place in places if place == place.parent or not place.is_absolute()}
    whole = sorted(places, key=str, reverse=True)
    # A relative one of one part is a name, and one that is no folder may be an id of the hub.
    whole += [one for one in known if len(one.parts) > 1 and not one.is_absolute() and one.exists()]
    for place in whole:
        found = re.escape(str(place))
        message = re.sub(rf"(?<![\w./-]){found}/(?=[^/\s])", "", message)
        message = re.sub(rf"(?<![\w./-]){found}(?![\w-])", place.name, message)
    return message


def without_paths(message: str, *known: Path) -> str:
    """As `without`, with every other path too; one with spaces where it is in quotes."""
    message = without(message, *known, Path.home(), Path.cwd())
    for pattern in _PATHS:
        message = pattern.sub("", message)
    return message
