"""Figures of a classifier: how often it is right, and how far its probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from ltuning.errors import DataError
from ltuning.suggestions import unknown

if TYPE_CHECKING:
    import numpy
    from numpy.typing import ArrayLike

# Figures in words, in the order in which they are told. The first one that a task has is what is
# shown of it while it trains.
WORDS = {
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
    "mcc": "Matthews correlation",
    "f1": "F1 of entities",
    "precision": "precision",
    "recall": "recall",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "loss": "loss",
    "log_loss": "log loss",
    "brier_score": "Brier score",
    "expected_calibration_error": "calibration error",
    "aurc": "risk-coverage area",
}
# With more classes a confusion matrix does not fit a screen; its largest cells say more.
LARGEST_MATRIX = 12
_MOST_CONFUSED = 10
# Points of a curve of risk and coverage.
_MOST_POINTS = 100
_SUM_TOLERANCE = 1e-2  # rows of bfloat16 probabilities add up to 1 no better than this


class Figures(TypedDict):
    """Precision, recall and F1."""

    precision: float
    recall: float
    f1: float


class OfClass(Figures):
    """The figures of a class, a label or a type of entities."""

    label: str
    support: int
    threshold: NotRequired[float]


class Confusion(TypedDict):
    """How often which label was predicted for which: rows are the truth."""

    labels: list[str]
    counts: list[list[int]]


class RiskCoverage(TypedDict):
    """At each threshold the share of texts that reach it, and the share of these that are wrong."""

    threshold: list[float]
    coverage: list[float]
    risk: list[float]


class OutOfScope(TypedDict):
    """How well texts that belong to none of the labels are told from the others."""

    in_domain_accuracy: float
    precision: float
    recall: float
    f1: float
    auroc: float
    support: int


class ProbabilityFigures(TypedDict):
    """How good probabilities are."""

    log_loss: float
    brier_score: float
    expected_calibration_error: float


class Report(TypedDict, total=False):
    """What is measured on labelled texts; which figures there are, the task says."""

    accuracy: float
    exact_match: float
    mcc: float
    micro_f1: float
    micro_precision: float
    micro_recall: float
    macro_f1: float
    macro_precision: float
    macro_recall: float
    precision: float
    recall: float
    f1: float
    loss: float
    log_loss: float
    brier_score: float
    expected_calibration_error: float
    aurc: float
    num_examples: int
    num_entities: int
    per_class: list[OfClass]
    confusion: Confusion
    risk_coverage: RiskCoverage
    out_of_scope: OutOfScope
    temperature: float
    uncalibrated: ProbabilityFigures


def most_confused(counts: ArrayLike) -> list[tuple[int, int, int]]:
    """Row, column and number of the pairs of a confusion matrix `[K, K]` that are confused most.

    The most frequent ten that there are, the first of them first.
    """
    import numpy as np

    wrong = np.array(counts)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    places = [divmod(int(place), len(wrong)) for place in order]
    return [(row, column, int(wrong[row, column])) for row, column in places if wrong[row, column]]


def figures_of(report: Mapping[str, object]) -> dict[str, float]:
    """The figures of a report over all its examples."""
    return {name: of for name, of in report.items() if isinstance(of, int | float)}


def classification_report(
    truth: Sequence[str], predicted: Sequence[str], names: Sequence[str]
) -> Report:
    """Compare predicted with true labels; plain numbers, ready for JSON.

    Args:
        truth: the true label of each example.
        predicted: the predicted label of each example.
        names: every label, in the order of the tables.

    Returns:
        ``accuracy``; ``macro_f1`` over the classes that occur in either sequence; ``mcc``,
        Matthews' correlation, 0 where it is undefined; ``num_examples``; ``per_class``, with a
        figure of 0 where it is undefined; ``confusion``, whose rows are the truth and columns the
        prediction.

    Raises:
        DataError: no examples, sequences of different lengths, or a label that is not in ``names``.
    """
    _check_labels(truth, predicted, names)
    from sklearn import metrics

    order = list(names)
    counts = metrics.confusion_matrix(truth, predicted, labels=order)
    scores = metrics.precision_recall_fscore_support(
        truth, predicted, labels=order, zero_division=0
    )
    occurring = [name for name in order if name in {*truth, *predicted}]
    macro = metrics.f1_score(truth, predicted, labels=occurring, average="macro", zero_division=0)
    return {
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "macro_f1": float(macro),
        # scikit-learn warns where only one class occurs; its answer there is 0.
        "mcc": float(metrics.matthews_corrcoef(truth, predicted)) if len(occurring) > 1 else 0.0,
        "num_examples": len(truth),
        "per_class": [
            {
                "label": name,
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "support": int(support),
            }
            for name, precision, recall, f1, support in zip(order, *scores, strict=True)
        ],
        "confusion": {"labels": order, "counts": counts.tolist()},
    }


def multilabel_report(truth: ArrayLike, predicted: ArrayLike, names: Sequence[str]) -> Report:
    """Compare the labels that apply with those that were predicted; plain numbers.

    Args:
        truth: whether each label applies to each example, ``[n, K]`` of true and false.
        predicted: what was predicted, likewise.
        names: [K] every label.

    Returns:
        ``micro_f1``, ``micro_precision`` and ``micro_recall`` over all pairs of example and label;
        ``macro_f1``, ``macro_precision`` and ``macro_recall``, means over the labels that occur in
        either; ``exact_match``, the part of the examples with no wrong label (scikit-learn's subset
        accuracy); ``num_examples``; ``per_class``. A figure that is undefined is 0.

    Raises:
        DataError: no examples, or wrong shapes.
    """
    import numpy
    from sklearn import metrics

    real, guess = (numpy.asarray(side).astype(int) for side in (truth, predicted))
    if real.shape != guess.shape or real.ndim != 2 or real.shape[1] != len(names) or not len(real):
        raise DataError(
            f"expected truth and prediction [n, {len(names)}] of one example or more, got the "
            f"shapes {list(real.shape)} and {list(guess.shape)}"
        )
    every = metrics.precision_recall_fscore_support(real, guess, zero_division=0)
    micro = metrics.precision_recall_fscore_support(real, guess, average="micro", zero_division=0)
    occurring = (real | guess).any(axis=0)
    macro = [float(of[occurring].mean()) if occurring.any() else 0.0 for of in every[:3]]
    return {
        "micro_f1": float(micro[2]),
        "macro_f1": macro[2],
        "exact_match": float(metrics.accuracy_score(real, guess)),
        "micro_precision": float(micro[0]),
        "micro_recall": float(micro[1]),
        "macro_precision": macro[0],
        "macro_recall": macro[1],
        "num_examples": len(real),
        "per_class": [
            {
                "label": name,
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "support": int(support),
            }
            for name, precision, recall, f1, support in zip(names, *every, strict=True)
        ],
    }


def best_thresholds(probabilities: ArrayLike, truth: ArrayLike) -> numpy.ndarray:
    """For each label the threshold with the best F1: it applies from there on.

    Tried are .5 and, from the lowest probability on, the middle below each one that was seen; of
    those with the same F1 it is the one nearest to .5. A label without a positive example has .5.

    Args:
        probabilities: of every label for every example, ``[n, K]``.
        truth: whether it applies, ``[n, K]``.

    Returns:
        ``[K]`` float64.
    """
    import numpy

    rows, applies = numpy.asarray(probabilities, dtype=numpy.float64), numpy.asarray(truth)
    columns = zip(rows.T, applies.T.astype(bool), strict=True)
    return numpy.array([_best_threshold(*column) for column in columns])


def _best_threshold(chances: numpy.ndarray, applies: numpy.ndarray) -> float:
    import numpy

    if not applies.any():
        return 0.5
    seen = numpy.unique(chances)
    tried = numpy.append((seen + numpy.append(0.0, seen[:-1])) / 2, 0.5)
    # At each threshold: predicted and true, and predicted; F1 = 2 TP / (predicted + positive).
    right, every = numpy.sort(chances[applies]), numpy.sort(chances)
    hits = len(right) - numpy.searchsorted(right, tried)
    predicted = len(every) - numpy.searchsorted(every, tried)
    f1 = 2 * hits / (predicted + len(right))
    best = tried[f1 == f1.max()]
    return float(best[numpy.abs(best - 0.5).argmin()])


def binary_log_loss(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean over examples and labels of ``-log`` (nats) of the probability of what is true.

    A probability of 0 counts as the smallest step of a 64-bit float near 1.

    Args:
        probabilities: that each label applies to each example, ``[n, K]``.
        truth: whether it does, ``[n, K]``.
    """
    import numpy

    rows, applies = numpy.asarray(probabilities, dtype=numpy.float64), numpy.asarray(truth)
    of_truth = numpy.where(applies.astype(bool), rows, 1.0 - rows)
    return float(-numpy.log(numpy.maximum(of_truth, numpy.finfo(numpy.float64).eps)).mean())


def span_report(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Report:
    """Compare entities: one counts where its words and its type are all right (seqeval, strict).

    Args:
        truth: the IOB2 tags of each sentence.
        predicted: as many, each as long.

    Returns:
        ``precision``, ``recall`` and ``f1`` over all entities, 0 where undefined; ``num_examples``
        (sentences), ``num_entities``, and ``per_class``, one row per type, with its ``support``.

    Raises:
        DataError: no sentences, or sequences of different lengths.
    """
    lengths = [[len(tags) for tags in lists] for lists in (truth, predicted)]
    if lengths[0] != lengths[1] or not lengths[0]:
        raise DataError(
            "expected one predicted tag per true tag in one sentence or more, got "
            f"{len(predicted)} sentences for {len(truth)}, or other lengths"
        )
    from seqeval.metrics import classification_report as seqeval_report
    from seqeval.scheme import IOB2

    lists = [[list(tags) for tags in side] for side in (truth, predicted)]
    if not any(tag != "O" for side in lists for tags in side for tag in tags):
        report: dict[str, dict[str, float]] = {}
    else:
        report = seqeval_report(
            *lists, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
        )
    rows = {name: row for name, row in report.items() if not name.endswith(" avg")}
    overall = report.get("micro avg", {"precision": 0.0, "recall": 0.0, "f1-score": 0.0})
    return {
        **_named(overall),
        "num_examples": len(truth),
        "num_entities": sum(int(row["support"]) for row in rows.values()),
        "per_class": [
            {"label": name, **_named(row), "support": int(row["support"])}
            for name, row in sorted(rows.items())
        ],
    }


def _named(row: Mapping[str, float]) -> Figures:
    return {
        "precision": float(row["precision"]),
        "recall": float(row["recall"]),
        "f1": float(row["f1-score"]),
    }


def expected_calibration_error(probabilities: ArrayLike, truth: ArrayLike, bins: int = 15) -> float:
    """Mean gap of confidence and accuracy, over bins of equal width, weighted by their examples.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.

    Args:
        probabilities: of every class for every example, ``[n, K]``.
        truth: the index of the true class of each example, ``[n]``.
        bins: number of bins of confidence.

    Raises:
        DataError: no examples, wrong shapes, rows that are no probabilities, or a wrong index.
    """
    import numpy

    if bins < 1:
        raise DataError(f"expected 1 or more bins, got {bins!r}")
    rows, indices = _checked_probabilities(probabilities, truth)
    confidence = rows.max(axis=1)
    correct = rows.argmax(axis=1) == indices
    # Bin m holds confidences in ((m-1)/bins, m/bins].
    member = numpy.clip(numpy.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = numpy.bincount(member, weights=correct - confidence, minlength=bins)
    return float(numpy.abs(gaps).sum() / len(rows))


def log_loss(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean of ``-log p`` (nats) of the true class; a probability of 0 counts as the smallest step
    of a 64-bit float near 1.

    Args:
        probabilities: of every class for every example, ``[n, K]``.
        truth: the index of the true class of each example, ``[n]``.

    Raises:
        DataError: no examples, wrong shapes, rows that are no probabilities, or a wrong index.
    """
    import numpy

    rows, indices = _checked_probabilities(probabilities, truth)
    smallest = numpy.finfo(numpy.float64).eps
    of_truth = numpy.clip(rows[numpy.arange(len(rows)), indices], smallest, 1.0)
    return float(-numpy.log(of_truth).mean())


def brier_score(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean squared distance of the probabilities from the truth, from 0 to 2 (Brier 1950).

    Of two classes it is twice the figure that only looks at one of them.

    Args:
        probabilities: of every class for every example, ``[n, K]``.
        truth: the index of the true class of each example, ``[n]``.

    Raises:
        DataError: no examples, wrong shapes, rows that are no probabilities, or a wrong index.
    """
    import numpy

    rows, indices = _checked_probabilities(probabilities, truth)
    distances = rows.copy()
    distances[numpy.arange(len(rows)), indices] -= 1.0
    return float((distances**2).sum(axis=1).mean())


def risk_coverage(probabilities: ArrayLike, truth: ArrayLike) -> tuple[RiskCoverage, float]:
    """What is wrong among the answers that are left where the least probable are withheld.

    Source: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks".

    Args:
        probabilities: of every class for every example, ``[n, K]``.
        truth: the index of the true class of each example, ``[n]``.

    Returns:
        At most 100 points, from few answers to all, and the area under the curve of all: the mean
        risk over 1 to n answers. Examples of equal probability are left or withheld together; to
        the area they add what all their orders add in the mean.

    Raises:
        DataError: no examples, wrong shapes, rows that are no probabilities, or a wrong index.
    """
    import numpy

    rows, indices = _checked_probabilities(probabilities, truth)
    confidence, number = rows.max(axis=1), len(rows)
    order = numpy.argsort(-confidence)
    wrong = (rows.argmax(axis=1) != indices)[order].astype(float)
    # How many are left at each threshold that occurs.
    kept = numpy.append(numpy.flatnonzero(numpy.diff(confidence[order])) + 1, number)
    sizes = numpy.diff(kept, prepend=0)
    of_equals = numpy.add.reduceat(wrong, kept - sizes) / sizes
    left = numpy.arange(1, number + 1)
    area = (numpy.cumsum(numpy.repeat(of_equals, sizes)) / left).mean()
    chosen = numpy.linspace(0, len(kept) - 1, min(_MOST_POINTS, len(kept))).round().astype(int)
    points = kept[chosen]
    curve: RiskCoverage = {
        "threshold": confidence[order][points - 1].tolist(),
        "coverage": (points / number).tolist(),
        "risk": (numpy.cumsum(wrong)[points - 1] / points).tolist(),
    }
    return curve, float(area)


def out_of_scope_report(
    truth: ArrayLike, predicted: ArrayLike, right: ArrayLike, scores: ArrayLike
) -> OutOfScope:
    """Figures of telling texts that belong to none of the labels, as Larson et al. 2019 have them.

    Args:
        truth: ``[n]`` whether a text belongs to none.
        predicted: ``[n]`` whether that was said of it.
        right: ``[n]`` whether what was said of it is right.
        scores: ``[n]`` higher where a text looks more as if it belonged to none.

    Returns:
        ``in_domain_accuracy``, the share of right answers for texts that belong to a label;
        ``precision``, ``recall`` and ``f1`` of those that belong to none, 0 where undefined;
        ``auroc`` of the scores; ``support``, how many belong to none.

    Raises:
        DataError: no text of one of the two kinds.
    """
    import numpy
    from sklearn import metrics

    outside, said = numpy.asarray(truth, dtype=bool), numpy.asarray(predicted, dtype=bool)
    if outside.all() or not outside.any():
        raise DataError(
            "expected texts that belong to a label and texts that belong to none, got "
            f"{int((~outside).sum())} and {int(outside.sum())}"
        )
    found = metrics.precision_recall_fscore_support(
        outside, said, average="binary", zero_division=0
    )
    precision, recall, f1 = map(float, found[:3])
    return {
        "in_domain_accuracy": float(numpy.asarray(right, dtype=bool)[~outside].mean()),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "auroc": float(metrics.roc_auc_score(outside, scores)),
        "support": int(outside.sum()),
    }


def _check_labels(truth: Sequence[str], predicted: Sequence[str], names: Sequence[str]) -> None:
    if len(truth) != len(predicted):
        raise DataError(
            f"expected one prediction per true label, got {len(predicted)} for {len(truth)}"
        )
    if len(truth) == 0:  # sequences may be arrays
        raise DataError("expected at least one example to evaluate, got none")
    for kind, labels in (("true label", truth), ("predicted label", predicted)):
        for label in set(labels) - set(names):
            raise DataError(unknown(kind, label, names))


def _checked_probabilities(
    probabilities: ArrayLike, truth: ArrayLike
) -> tuple[numpy.ndarray, numpy.ndarray]:
    import numpy

    rows, indices = numpy.asarray(probabilities, dtype=numpy.float64), numpy.asarray(truth)
    if rows.ndim != 2 or indices.shape != rows.shape[:1] or rows.size == 0:
        raise DataError(
            "expected probabilities [n, K] and n indices of true classes, "
            f"got the shapes {list(rows.shape)} and {list(indices.shape)}"
        )
    if not numpy.issubdtype(indices.dtype, numpy.integer):
        raise DataError(f"expected indices of true classes, got {indices.dtype}")
    sums_to_one = numpy.abs(rows.sum(axis=1) - 1) <= _SUM_TOLERANCE
    is_probability = sums_to_one & (rows >= 0).all(axis=1)
    if not is_probability.all():
        bad = int(numpy.flatnonzero(~is_probability)[0])
        raise DataError(
            f"expected rows of probabilities that add up to 1, "
            f"got {rows[bad].tolist()} in row {bad}"
        )
    if indices.min() < 0 or indices.max() >= rows.shape[1]:
        raise DataError(
            f"expected indices of true classes from 0 to {rows.shape[1] - 1}, "
            f"got {int(indices.min())} to {int(indices.max())}"
        )
    return rows, indices
