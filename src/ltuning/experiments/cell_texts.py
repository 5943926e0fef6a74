"""The texts of a cell: what it trains on, what it chooses by, and, once, what it is measured on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from dataclasses import dataclass, replace
from pathlib import Path

from ltuning.data.files import stem_of
from ltuning.data.hub import looks_like_hub_id
from ltuning.data.sources import SPLIT_NAMES, Columns
from ltuning.data.splits import take_shots
from ltuning.errors import ConfigError, DataError, Problem
from ltuning.experiments.entries import DataSet
from ltuning.experiments.grid import Cell, Grid
from ltuning.tasks.task import Labelled

logger = logging.getLogger("ltuning")

# The texts that are measured on are the same for every seed.
_FIXED = 0


@dataclass(frozen=True)
class Texts:
    """Training and validation texts.

    Attributes:
        train: what weights are trained on.
        validation: what weights and rates are chosen by.
        names: of all labels in the training split, or of all types of entities, sorted.
        held_out: whether the validation texts were taken from the training split.
    """

    train: Labelled
    validation: Labelled
    names: list[str]
    held_out: bool


def check_data(grid: Grid, folder: Path | None) -> None:
    """Refuse data sets that are not there or have no split to train or measure on.

    Raises:
        ConfigError: with all of them.
    """
    problems = []
    for name, data in grid.data.items():
        where = Path(data_path(data, folder))
        if os.path.isdir(where):
            try:
                splits = {SPLIT_NAMES.get(stem_of(file) or "") for file in os.listdir(where)}
            except OSError as error:
                message = f"the folder {where} cannot be listed ({error.strerror})"
                problems.append(Problem(f"data.{name}.path", message))
                continue
            for split in ("train", data.measure_on):
                if split not in splits:
                    hint = "" if split == "train" else "; set measure_on: validation or test"
                    message = f"expected a split '{split}' in {where}, got none{hint}"
                    problems.append(Problem(f"data.{name}.path", message))
        elif os.path.exists(where):
            message = f"expected a folder with a file per split, got the file {where}"
            problems.append(Problem(f"data.{name}.path", message))
        elif "/" not in str(data.path) or not looks_like_hub_id(str(data.path)):
            looked = f" in {folder}" if folder is not None else ""
            message = f"expected a folder, got no '{data.path}'{looked}; say with --data where"
            problems.append(Problem(f"data.{name}.path", message))
    if problems:
        raise ConfigError(problems)


def data_path(data: DataSet, folder: Path | None) -> str:
    """Where a data set is: in the data folder, at its own path, or on the hub."""
    assert data.path is not None  # Grid checks it
    # Not the methods of Path: they raise at a home folder of nobody and at a name too long.
    path = Path(os.path.expanduser(data.path))
    if folder is not None and not path.is_absolute():
        path = folder / path
    return str(path) if os.path.exists(path) else data.path


def read_texts(cell: Cell, folder: Path | None) -> Texts:
    """Everything but the texts that are measured on, which are not opened.

    With texts per class, the validation has as many per class as the training: a cell sees no
    more labels than that.

    Raises:
        DataError: texts that cannot be read or held out.
    """
    data, task = cell.settings.data, cell.settings.task
    wanted = ("train",) if data.measure_on == "validation" else ("train", "validation")
    splits = task.read_splits(data_path(data, folder), _columns(data), splits=wanted)
    if "train" not in splits:
        raise DataError(f"{data.path}: expected a split 'train', got none")
    train = splits["train"]
    names = task.names(train)
    held_out = "validation" not in splits
    if held_out:
        whole = train.origin
        train, validation = task.hold_out(train, data.validation_fraction, cell.seed)
        # So that a warning does not seem to count the whole file.
        train = replace(train, origin=f"{whole}, without the part held out")
        validation = replace(validation, origin=f"{whole}, the part held out to choose by")
    else:
        validation = splits["validation"]
        if data.validation_fraction != DataSet.validation_fraction:
            logger.warning(
                "validation_fraction %g has no effect: %s has a validation split",
                data.validation_fraction,
                data.path,
            )
    if cell.shots is not None:
        train = take_shots(train, cell.shots, cell.seed)
        validation = take_shots(validation, cell.shots, cell.seed)
    train = _at_most(train, data.max_train, cell.seed)
    validation = _at_most(validation, data.max_validation, cell.seed)
    if task.one_of_each:
        validation = _known(validation, train)
    return Texts(train, validation, names, held_out)


def read_measured(cell: Cell, folder: Path | None) -> Labelled:
    """The texts that the cell is measured on; for after every choice is made.

    Raises:
        DataError: texts that cannot be read.
    """
    data = cell.settings.data
    path, columns = data_path(data, folder), _columns(data)
    examples = cell.settings.task.read_split(path, data.measure_on, columns)
    return _at_most(examples, data.max_test, _FIXED)


def digest(examples: Labelled) -> str:
    """SHA-256 of texts, or words, and labels."""
    return hashlib.sha256(json.dumps([examples.texts, examples.labels]).encode()).hexdigest()


def _columns(data: DataSet) -> Columns:
    return Columns(data.text_column, data.text_pair_column, data.label_column)


def _known(validation: Labelled, train: Labelled) -> Labelled:
    """Without labels that nothing is trained on, which would say nothing about a method."""
    assert validation.labels is not None and train.labels is not None
    known = set(train.labels)
    kept = [row for row, label in enumerate(validation.labels) if label in known]
    if not kept:
        raise DataError(
            f"{train.origin}: expected a validation text of a label that is trained on, got none; "
            "use more training texts"
        )
    return validation.part(kept)


def _at_most(examples: Labelled, number: int | None, seed: int) -> Labelled:
    if number is None or number >= len(examples):
        return examples
    return examples.part(sorted(random.Random(seed).sample(range(len(examples)), number)))
