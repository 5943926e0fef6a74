"""What the cells say together: intervals over seeds, paired tests, convergence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ltuning.experiments.grid import Grid
from ltuning.experiments.results import Result
from ltuning.methods import catalog
from ltuning.metrics import risk_coverage
from ltuning.tasks.task import Task, right

# Of a 95 % interval.
_TAILS = (0.025, 0.975)
_RESAMPLES = 10_000
# Of seeds and examples at a time, which bounds the memory.
_BLOCK = 500


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its bootstrap interval; without one where there is one seed."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Percentile bootstrap over the values."""
        mean = float(np.mean(values))
        if len(values) < 2:
            return cls(mean, None, None)
        if len(set(values)) == 1:
            return cls(mean, mean, mean)
        random = np.random.default_rng(0)
        draws = random.choice(np.asarray(values, dtype=float), (_RESAMPLES, len(values))).mean(1)
        low, high = np.quantile(draws, _TAILS)
        return cls(mean, float(low), float(high))


@dataclass(frozen=True)
class Row:
    """A method in a setting, over its seeds.

    Attributes:
        method: the name of the grid's entry.
        label_text: what stands for its labels; None where it reads none.
        results: of its seeds, in their order.
        says_text: whether the grid is about label texts, so that titles say them.
    """

    method: str
    label_text: str | None
    results: tuple[Result, ...]
    says_text: bool = False

    @property
    def title(self) -> str:
        """What tables call it."""
        if self.label_text is None or not self.says_text:
            return self.method
        return f"{self.method} ({self.label_text})"

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.results[0].cell.settings.task

    @property
    def method_id(self) -> str:
        """The method's id."""
        return self.results[0].cell.settings.method

    @property
    def recipe(self) -> str:
        """Of the grid's entry."""
        return self.results[0].cell.settings.entry.recipe

    @property
    def is_label_method(self) -> bool:
        """Whether it is drawn dashed and tested against a plain twin."""
        return catalog.is_label_method(self.method_id)

    def figure(self, name: str, part: str = "test") -> Interval:
        """A figure of the test or validation texts."""
        return Interval.of([result.record[part][name] for result in self.results])

    def median(self, name: str) -> float:
        """Of the seeds, of `seconds` or `trainable_parameters`."""
        return float(np.median([result.record[name] for result in self.results]))

    @property
    def peak_memory(self) -> float | None:
        """The median of the seeds in bytes; None where the system does not say."""
        found = [result.record["peak_memory"] for result in self.results]
        known = [peak["bytes"] for peak in found if peak is not None]
        return float(np.median(known)) if known else None

    @property
    def area(self) -> Interval | None:
        """Mean height of the curve of the task's figure on validation, over the steps."""
        main = self.task.main
        areas = [area_under(result.record["history"], main) for result in self.results]
        known = [area for area in areas if area is not None]
        return Interval.of(known) if known else None

    def curve(self, x: str, y: str) -> tuple[np.ndarray, np.ndarray] | None:
        """A figure of the validation texts on the way.

        Args:
            x: `step`, `seconds` or `texts`, as many as the steps so far had.
            y: `loss`, or a figure of the task.

        Returns:
            `[P]` mean of the S seeds at each of P measurements, and `[S, P]` the figure; None where
            there are fewer than two, or not as many with every seed.
        """
        histories = [result.record["history"] for result in self.results]
        if min(map(len, histories)) < 2 or len(set(map(len, histories))) > 1:
            return None
        scale = 1.0
        if x == "texts":
            texts = self.results[0].record["texts"]
            # An epoch's last step has what is left over.
            x, scale = "step", texts["train"] / -(-texts["train"] // texts["in_a_step"])
        places = np.array([[point[x] for point in one] for one in histories])
        return scale * places.mean(0), np.array([[point[y] for point in one] for one in histories])

    def confusion(self) -> np.ndarray | None:
        """`[K, K]` counts over all seeds, rows are the truth; None where there are no classes."""
        if not self.task.one_of_each:
            return None
        return sum(
            (np.array(result.record["test"]["confusion"]["counts"]) for result in self.results),
            start=np.zeros((len(self.results[0].names),) * 2, dtype=int),
        )

    def risks(self, coverage: np.ndarray) -> np.ndarray | None:
        """`[S, P]` share of wrong answers of S seeds where the surest ones alone are given.

        Args:
            coverage: `[P]` shares of the test texts that are answered.

        Returns:
            None where there are no classes.
        """
        if not self.task.one_of_each:
            return None
        curves = [
            risk_coverage(result.predictions.probabilities, result.predictions.truth)[0]
            for result in self.results
        ]
        return np.array([np.interp(coverage, one["coverage"], one["risk"]) for one in curves])

    def mistakes(self, number: int) -> list[dict[str, Any]]:
        """The most confident ones over all seeds, each text once."""
        every = [
            {**mistake, "seed": result.cell.seed}
            for result in self.results
            for mistake in result.record["mistakes"]
        ]
        every.sort(key=lambda mistake: -mistake["probability"])
        first: dict[int, dict[str, Any]] = {}
        for mistake in every:
            first.setdefault(mistake["row"], mistake)
        return list(first.values())[:number]


@dataclass(frozen=True)
class Comparison:
    """A label method beside its plain twin, in one setting, over the seeds that both have.

    Or beside a method that the grid names, or beside itself with other label texts.

    Attributes:
        label: the label method, with what describes its labels if that was compared.
        plain: the other one.
        seeds: pairs of results.
        difference: of the task's figure, with its interval over seeds and examples.
        p_bootstrap: two-sided.
        only_label: answers, over all seeds, that only the label method has right; `only_plain`
            likewise.
        p_mcnemar: exact, two-sided, of these two.
        area_difference: of the mean heights of the validation curves.
        steps: where the label method's curve reached the twin's best figure, by seed; None where
            it did not.
        twin_steps: where the twin's curve did.
    """

    label: Row
    plain: Row
    seeds: int
    difference: Interval
    p_bootstrap: float
    only_label: int
    only_plain: int
    p_mcnemar: float
    area_difference: float | None
    steps: list[int | None]
    twin_steps: list[int]


@dataclass(frozen=True)
class Setting:
    """A backbone, a data set and a number of texts per class."""

    backbone: str
    data: str
    shots: int | None
    rows: list[Row] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What reports call it."""
        return f"{self.texts}, {self.backbone}"

    @property
    def texts(self) -> str:
        """What it is trained on, in words."""
        return self.data if self.shots is None else f"{self.data}, {self.shots} texts per class"

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.rows[0].task

    @property
    def majority(self) -> float | None:
        """The task's figure of the test texts' most frequent class; None where there are none."""
        if not self.task.one_of_each:
            return None
        result = self.rows[0].results[0]
        truth = result.predictions.truth
        most_frequent = np.full_like(truth, np.bincount(truth).argmax())
        return float(self.task.points(most_frequent, truth, result.names).mean())


def settings_of(grid: Grid, results: Iterable[Result]) -> list[Setting]:
    """The results by setting, in the grid's order, with every comparison that can be made."""
    groups: dict[tuple[str, str, int | None], dict[tuple[str, str | None], list[Result]]]
    groups = defaultdict(lambda: defaultdict(list))
    for result in results:
        cell = result.cell
        groups[cell.backbone, cell.data, cell.shots][cell.method, cell.label_text].append(result)
    found = []
    for (backbone, data, shots), methods in sorted(
        groups.items(), key=lambda item: _place(grid, item[0])
    ):
        order = list(grid.methods)
        rows = [
            Row(
                method,
                label_text,
                tuple(sorted(several, key=lambda one: one.cell.seed)),
                says_text=bool(grid.label_texts),
            )
            for (method, label_text), several in sorted(
                methods.items(), key=lambda item: order.index(item[0][0])
            )
        ]
        setting = Setting(backbone, data, shots, rows)
        several = [result for row in rows for result in row.results]
        if _are_of_one_data(several):
            setting.comparisons.extend(_comparisons(rows, grid.beside))
        else:
            setting.problems.append(
                "its cells had different texts: the data changed in between, so methods are not "
                "compared; run it in a new folder"
            )
        mixed = [name for name in ("versions", "git", "machine") if _differs(several, name)]
        if mixed:
            setting.problems.append(
                f"its cells differ in {', '.join(mixed)} (see how it was measured): figures, and "
                "seconds and memory above all, may differ for that alone"
            )
        found.append(setting)
    return found


def area_under(history: Sequence[dict[str, float]], figure: str) -> float | None:
    """Mean height of a validation figure over the steps; None with fewer than two points."""
    if len(history) < 2:
        return None
    steps = np.array([row["step"] for row in history], dtype=float)
    heights = np.array([row[figure] for row in history])
    middles = (heights[1:] + heights[:-1]) / 2
    return float((middles * np.diff(steps)).sum() / (steps[-1] - steps[0]))


def paired_bootstrap(label: np.ndarray, plain: np.ndarray) -> tuple[Interval, float]:
    """The difference of two means over examples, with seeds and examples drawn anew, both.

    Args:
        label: `[S, N]` what each answer of each seed adds; of accuracy, whether it is right.
        plain: the same of the other method.

    Returns:
        The difference with its interval, and the two-sided p-value: twice the smaller part of the
        draws on one side of zero, at least one draw.
    """
    gap = label.astype(float) - plain.astype(float)
    seeds, examples = gap.shape
    draws = [
        ((of_seeds @ gap) * of_examples).sum(1) / (seeds * examples)
        for of_seeds, of_examples in _drawn_anew(seeds, examples)
    ]
    return _interval(float(gap.mean()), np.concatenate(draws))


def paired_bootstrap_of_f1(label: np.ndarray, plain: np.ndarray) -> tuple[Interval, float]:
    """As `paired_bootstrap`, the difference of two F1, each the mean over seeds.

    Args:
        label: `[S, N, 3]`, how many are right, predicted and true in each example of each seed.
        plain: the same of the other method.
    """
    seeds, examples = label.shape[:2]

    sides = [one.astype(float).swapaxes(0, 1).reshape(examples, -1) for one in (label, plain)]

    def difference(weights: np.ndarray) -> np.ndarray:
        """`[D, S]` of D draws of examples, `[D, N]`."""
        ours, theirs = (_f1((weights @ one).reshape(-1, seeds, 3)) for one in sides)
        return ours - theirs

    draws = [
        (of_seeds * difference(of_examples)).sum(1) / seeds
        for of_seeds, of_examples in _drawn_anew(seeds, examples)
    ]
    mean = float(difference(np.ones((1, examples))).mean())
    # Seeds that cancel each other leave a rounding, which is on no side of zero.
    return _interval(mean, np.concatenate(draws).round(12))


def _f1(counts: np.ndarray) -> np.ndarray:
    """`2 right / (predicted + true)`, 0 where there is neither; `[..., 3] -> [...]`."""
    found: np.ndarray = 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)
    return found


def _drawn_anew(seeds: int, examples: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each seed, `[D, S]`, and each example, `[D, N]`, comes in D of all draws."""
    random = np.random.default_rng(0)
    for start in range(0, _RESAMPLES, _BLOCK):
        count = min(_BLOCK, _RESAMPLES - start)
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        yield of_seeds, random.multinomial(examples, np.full(examples, 1 / examples), size=count)


def _interval(mean: float, draws: np.ndarray) -> tuple[Interval, float]:
    low, high = np.quantile(draws, _TAILS)
    smaller = min((draws <= 0).sum(), (draws >= 0).sum()) + 1
    p_value = min(1.0, 2 * smaller / (len(draws) + 1))
    return Interval(mean, float(low), float(high)), float(p_value)


def mcnemar(label: np.ndarray, plain: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test on pooled answers: right by one alone, by the other alone, p-value."""
    only_label = int((label & ~plain).sum())
    only_plain = int((plain & ~label).sum())
    if only_label + only_plain == 0:
        return 0, 0, 1.0
    found = stats.binomtest(only_label, only_label + only_plain, 0.5)
    return only_label, only_plain, float(found.pvalue)


def steps_to(history: Sequence[dict[str, float]], height: float, figure: str) -> int | None:
    """The first measured step with at least this height of a validation figure."""
    reached = (int(row["step"]) for row in history if row[figure] >= height)
    return next(reached, None)


def _are_of_one_data(results: Sequence[Result]) -> bool:
    """Whether all were measured on the same texts, and those of a seed trained and chosen by."""
    found: dict[tuple[str, int | None], set[str]] = defaultdict(set)
    for result in results:
        texts, seed = result.record["texts"], result.cell.seed
        found["test_sha256", None].add(texts["test_sha256"])
        for name in ("train_sha256", "validation_sha256"):
            if name in texts:
                found[name, seed].add(texts[name])
    return all(len(shas) == 1 for shas in found.values())


def _differs(results: Sequence[Result], name: str) -> bool:
    return any(result.record[name] != results[0].record[name] for result in results)


def _place(grid: Grid, key: tuple[str, str, int | None]) -> tuple[int, int, int]:
    backbone, data, shots = key
    return (
        list(grid.backbones).index(backbone),
        list(grid.data).index(data),
        grid.shots.index(shots),
    )


def _comparisons(rows: Sequence[Row], beside: Sequence[str]) -> list[Comparison]:
    pairs: list[tuple[Row, Row | None]] = []
    for row in rows:
        named = [one for one in rows if one.method in beside and one.method != row.method]
        if row.is_label_method:
            twin = _twin(row, rows)
            pairs += [(row, twin), *((row, one) for one in named if one is not twin)]
        elif not row.task.reads_labels:
            pairs += [(row, one) for one in named]
    pairs += _with_other_texts(rows)
    made = (_compare(row, other) for row, other in pairs if other is not None)
    return [comparison for comparison in made if comparison is not None]


def _twin(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row whose virtual tokens go to the same place and are free, of the same recipe if any."""
    site = catalog.METHODS[row.method_id].site
    free = [name for name, one in catalog.METHODS.items() if one.source == "free"]
    twins = [
        one for one in rows if one.method_id in free and catalog.METHODS[one.method_id].site == site
    ]
    alike = [one for one in twins if one.recipe == row.recipe]
    return next(iter(alike or twins), None)


def _with_other_texts(rows: Sequence[Row]) -> list[tuple[Row, Row | None]]:
    """Each method with descriptions, or else its first kind of label texts, and with the others."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.label_text == "descriptions" or row.method not in first:
            first[row.method] = row
    return [(first[row.method], row) for row in rows if first[row.method] is not row]


def _compare(label: Row, plain: Row) -> Comparison | None:
    twins = {result.cell.seed: result for result in plain.results}
    pairs = [(one, twins[one.cell.seed]) for one in label.results if one.cell.seed in twins]
    if not pairs:
        return None
    figure = label.task.main
    answers = [np.stack([_right(pair[side]) for pair in pairs]) for side in (0, 1)]
    difference, p_bootstrap = _difference(pairs)
    only_label, only_plain, p_mcnemar = mcnemar(answers[0], answers[1])
    curves = [[one.record["history"] for one in pair] for pair in pairs]
    has_curves = all(len(curve) > 1 for pair in curves for curve in pair)
    steps: list[int | None] = []
    twin_steps: list[int] = []
    areas = []
    for ours, theirs in curves if has_curves else []:
        best = max(row[figure] for row in theirs)
        steps.append(steps_to(ours, best, figure))
        twin_steps.append(steps_to(theirs, best, figure) or 0)
        areas.append((area_under(ours, figure) or 0.0) - (area_under(theirs, figure) or 0.0))
    return Comparison(
        label=label,
        plain=plain,
        seeds=len(pairs),
        difference=difference,
        p_bootstrap=p_bootstrap,
        only_label=only_label,
        only_plain=only_plain,
        p_mcnemar=p_mcnemar,
        area_difference=float(np.mean(areas)) if areas else None,
        steps=steps,
        twin_steps=twin_steps,
    )


def _difference(pairs: Sequence[tuple[Result, Result]]) -> tuple[Interval, float]:
    """Of the figure of the task, which is a mean over examples or an F1."""
    counts = [[found for one in pair if (found := _counts(one)) is not None] for pair in pairs]
    if not counts[0]:
        points = [np.stack([_points(pair[side]) for pair in pairs]) for side in (0, 1)]
        return paired_bootstrap(points[0], points[1])
    label, plain = (np.stack([pair[side] for pair in counts]) for side in (0, 1))
    return paired_bootstrap_of_f1(label, plain)


def _counts(result: Result) -> np.ndarray | None:
    found = result.predictions
    return result.cell.settings.task.counts(found.predicted, found.truth, result.names)


def _points(result: Result) -> np.ndarray:
    found = result.predictions
    return result.cell.settings.task.points(found.predicted, found.truth, result.names)


def _right(result: Result) -> np.ndarray:
    return right(result.predictions.predicted, result.predictions.truth)
