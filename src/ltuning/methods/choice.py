"""Which method to take, by what this project measured: the table behind the method `auto`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ltuning.config import TASK_FACTS, Config, MethodOptions

# Passes of the frozen backbone that training on a text takes, on a CPU: what forecasts go by.
PASSES = {"lt-prefix": 2.0, "ls-lora": 3.0, "full": 5.5, "probe": 1.2}
# What `auto` trains a method with, where development texts had something better than its default.
TRAINED_WITH: Mapping[str, Mapping[str, Any]] = {"ls-lora": {"learning_rate": 3e-3}}


@dataclass(frozen=True)
class Situation:
    """What a choice goes by.

    Attributes:
        num_texts: training texts.
        num_labels: K.
        parameters: of the backbone.
        adds_labels: whether labels are to be added after training, as `method.head=match` says.
    """

    num_texts: int
    num_labels: int
    parameters: int
    adds_labels: bool = False


@dataclass(frozen=True)
class Row:
    """What to take in some situations.

    Attributes:
        methods: the best one first, then those that take less time.
        why: what was measured, in words.
        source: where the figures stand.
        least_texts: training texts for each label, at least.
        most_labels: K, at most.
        most_parameters: of the backbone.
        adds_labels: whether it is for labels that are added after training alone.
        is_clear: whether the best one is ahead of lt-prefix on every data set measured.
    """

    methods: tuple[str, ...]
    why: str
    source: str
    least_texts: int = 0
    most_labels: float = float("inf")
    most_parameters: float = float("inf")
    adds_labels: bool = False
    is_clear: bool = False

    def fits(self, situation: Situation) -> bool:
        """Whether it is for this situation."""
        return (
            situation.num_texts >= self.least_texts * situation.num_labels
            and situation.num_labels <= self.most_labels
            and situation.parameters <= self.most_parameters
            and situation.adds_labels >= self.adds_labels
        )


# The first row that fits is taken.
ROWS = (
    Row(
        ("lt-prefix", "probe"),
        "labels can be added to it, and it is ahead of the frozen states among those it knows",
        "benchmarks/results/intents.md",
        adds_labels=True,
    ),
    Row(
        ("full", "ls-lora", "lt-prefix", "probe"),
        "with this many texts for each label it is 1 to 4 points ahead of lt-prefix",
        "benchmarks/results/local.md",
        least_texts=250,
        most_labels=20,
        most_parameters=4e8,
        is_clear=True,
    ),
    Row(
        ("ls-lora", "lt-prefix", "probe"),
        "with this many texts for each label it is up to 3 points ahead of lt-prefix",
        "benchmarks/results/local.md",
        least_texts=250,
        most_labels=20,
    ),
    Row(
        ("lt-prefix", "probe"),
        "with few texts for each label, or many labels, it is level with the others or ahead of "
        "them, and takes less time",
        "benchmarks/results/auto.md",
    ),
)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        method: its id.
        why: in words.
        source: where the figures stand.
        seconds: at most, by a forecast; None where no time was given.
        left_out: better methods that would take longer than the time given.
        share: of the training that fits into the time given, where even the quickest takes longer.
    """

    method: str
    why: str
    source: str
    seconds: float | None = None
    left_out: tuple[str, ...] = ()
    share: float = 1.0

    def __str__(self) -> str:
        """A line for whoever asked."""
        words = f"auto took {self.method}: {self.why} ({self.source}, of builtin:minilm)"
        if self.left_out:
            words += f"; {' and '.join(self.left_out)} would take longer than the time given"
        if self.share < 1:
            words += f"; {self.share:.0%} of the usual steps fit into it"
        return words

    def to_dict(self) -> dict[str, object]:
        """What is kept of it with the figures of a run."""
        return {"method": self.method, "why": self.why, "source": self.source}

    def of(self, config: Config) -> Config:
        """The configuration with what was chosen in the place of `auto`."""
        method = MethodOptions(name=self.method, head=config.method.head)  # type: ignore[arg-type]
        training = {**TRAINED_WITH.get(self.method, {}), **config.training}
        stopping = replace(config.stopping, seconds=None)
        return replace(config, method=method, training=training, stopping=stopping)


def _row_for(situation: Situation) -> Row:
    return next(row for row in ROWS if row.fits(situation))


def better(config: Config, num_texts: int, num_labels: int) -> Choice | None:
    """What the table has for a configuration that names no method, where that is another one.

    Args:
        config: what is to be trained.
        num_texts: training texts.
        num_labels: K.
    """
    is_measured = config.backbone.name == "builtin:minilm" and TASK_FACTS[config.task].one_of_each
    if not is_measured or config.method != MethodOptions():
        return None
    situation = Situation(num_texts, num_labels, parameters=0)
    return choose(situation) if _row_for(situation).is_clear else None


def choose(
    situation: Situation,
    seconds: Callable[[str], float] | None = None,
    limit: float | None = None,
) -> Choice:
    """The method that the table has for a situation.

    Args:
        situation: what is to be trained.
        seconds: a forecast for a method by its id; None where no time is given.
        limit: seconds that training may take.
    """
    row = _row_for(situation)
    if seconds is None or limit is None:
        return Choice(row.methods[0], row.why, row.source)
    forecasts = {name: seconds(name) for name in row.methods}
    fitting = [name for name, forecast in forecasts.items() if forecast <= limit]
    name = fitting[0] if fitting else min(forecasts, key=lambda name: forecasts[name])
    left_out = row.methods[: row.methods.index(name)]
    why = row.why if not left_out else "it is the best of those that the time is enough for"
    share = min(1.0, limit / forecasts[name])
    return Choice(name, why, row.source, min(limit, forecasts[name]), left_out, share)
