"""Every error that ltuning raises on purpose.

::

    LTuningError
    ├── ConfigError        options: every problem of a configuration at once
    ├── DataError          a data source, a split, a row
    ├── LabelError         label names and label texts
    │   └── NotFittedError a classifier that is asked before it is trained
    ├── BackboneError      a model or tokenizer that cannot serve as a backbone
    ├── ArtifactError      a saved classifier, an output folder
    ├── TrainingError      a run that cannot go on
    ├── ScoresError        what a classifier says of a text is no number
    └── MissingExtraError  an optional library that is not installed

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LTuningError(Exception):
    """Base of every error that ltuning raises on purpose."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration: the option's dotted path and what to do about it."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class ConfigError(LTuningError, ValueError):
    """A configuration with one or more problems, all of them listed.

    Attributes:
        problems: what is wrong, in the order of the options.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count != 1 else ''} in the configuration:"]
        super().__init__("\n".join(lines + [f"  {problem}" for problem in self.problems]))


class DataError(LTuningError, ValueError):
    """A data source, split or row that cannot be read or used."""


class LabelError(LTuningError, ValueError):
    """Label names or label texts that cannot be used."""


class NotFittedError(LabelError, AttributeError):
    """A classifier that is asked for what only training gives.

    In a program that imports scikit-learn it is scikit-learn's error of this name, too.
    """


class BackboneError(LTuningError):
    """A model or tokenizer that cannot serve as a backbone."""


class ArtifactError(LTuningError):
    """A saved classifier or an output folder that cannot be read or written."""


class TrainingError(LTuningError, RuntimeError):
    """A training run that cannot go on."""


class ScoresError(LTuningError):
    """Scores of texts that are NaN or infinite."""


class MissingExtraError(LTuningError, ImportError):
    """An optional library that is not installed.

    Args:
        feature: what needs it.
        extra: the extra of this package that brings it.
    """

    def __init__(self, feature: str, extra: str):
        super().__init__(f"{feature} needs an optional library: pip install 'ltuning[{extra}]'")
