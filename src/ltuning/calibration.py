"""How far probabilities can be trusted, and what follows, fitted to answers on held-out texts.

A temperature makes them neither too sure nor too unsure; a threshold says when to say nothing; a
prediction set holds the true label as often as is asked for. Letters: n held-out texts, K labels.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ltuning.errors import DataError
from ltuning.metrics import (
    ProbabilityFigures,
    brier_score,
    expected_calibration_error,
    figures_of,
    log_loss,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# With fewer texts a temperature is too often worse than none.
LEAST_TEXTS = 50
# Of more held-out texts so many are kept, drawn at random.
MOST_KEPT = 5_000
# The share of texts with a label that may be taken to have none, and how many texts tell.
_TAKEN_FOR_NONE = 0.05
LEAST_IN_SCOPE = 19
# Where a temperature may lie, and how far its logarithm is from 0 as a rule. Without the second
# the likeliest one is 0 where every answer is right, and where nearly all are it is too low: fitted
# to 50 texts of 100 intents that MiniLM learned from ten texts each, the log loss on others came to
# .30 and .38 for two seeds, to .27 and .29 with it, and to .36 and .37 without a temperature.
TEMPERATURES = (0.05, 20.0)
_SPREAD = 0.5


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the labels: `[n, K] -> [n, K]`."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Probabilities of scores that are log-odds, in float64."""
    return np.exp(-np.logaddexp(0.0, -scores.astype(np.float64)))


def probabilities_of(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities `[n, K]`, float64: the softmax of scores that are divided by a temperature."""
    return softmax(scores.astype(np.float64) / temperature)


def fit_temperature(scores: np.ndarray, truth: Sequence[int] | np.ndarray) -> float:
    """The temperature under which the true labels are likeliest, held near 1 where texts are few.

    It is the most probable one where its logarithm is normal before a text is seen, with mean 0 and
    standard deviation .5.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2, which has no
    such prior.

    Args:
        scores: `[n, K]`.
        truth: `[n]` index of each text's label.
    """
    from scipy.optimize import minimize_scalar

    wide = scores.astype(np.float64)
    margins = wide - wide[np.arange(len(wide)), np.asarray(truth)][:, None]  # [n, K]

    def loss(log_temperature: float) -> float:
        scaled = margins / math.exp(log_temperature)
        highest = scaled.max(axis=1)  # 0 or more: that of the true label is 0
        losses = highest + np.log(np.exp(scaled - highest[:, None]).sum(axis=1))
        return float(losses.sum()) + (log_temperature / _SPREAD) ** 2 / 2

    bounds = tuple(map(math.log, TEMPERATURES))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def probability_figures(
    scores: np.ndarray, truth: Sequence[int] | np.ndarray, temperature: float
) -> ProbabilityFigures:
    """Log loss, Brier score and calibration error of scores `[n, K]` at a temperature.

    Args:
        scores: of n texts.
        truth: `[n]` index of each text's label.
        temperature: by which they are divided.
    """
    probabilities = probabilities_of(scores, temperature)
    return {
        "log_loss": log_loss(probabilities, truth),
        "brier_score": brier_score(probabilities, truth),
        "expected_calibration_error": expected_calibration_error(probabilities, truth),
    }


def calibration_figures(
    scores: np.ndarray, truth: Sequence[int] | np.ndarray, temperature: float
) -> dict[str, float]:
    """`temperature`, `texts`, and `probability_figures` at it, and at 1 as `..._before`."""
    after, before = (
        figures_of(probability_figures(scores, truth, at)) for at in (temperature, 1.0)
    )
    of_before = {f"{name}_before": value for name, value in before.items()}
    return {"temperature": temperature, "texts": len(scores), **after, **of_before}


class Threshold(NamedTuple):
    """From which probability on a prediction counts.

    Attributes:
        threshold: that probability.
        coverage: the share of the held-out texts that reach it.
    """

    threshold: float
    coverage: float


@dataclass(frozen=True)
class Answers:
    """What a classifier said of n held-out texts.

    Attributes:
        confidence: `[n]` the highest probability, 1 where a text is said to belong to no label.
        right: `[n]` whether what is said is true.
        true: `[n]` the true label's probability.
    """

    confidence: np.ndarray
    right: np.ndarray
    true: np.ndarray

    @classmethod
    def of(
        cls,
        probabilities: np.ndarray,
        truth: Sequence[int] | np.ndarray,
        seed: int,
        outside: np.ndarray | None = None,
        none: int | None = None,
    ) -> Self:
        """Those that are kept of all.

        Args:
            probabilities: `[n, K]`.
            truth: `[n]` the index of each text's label.
            seed: of the draw of those that are kept, where there are more.
            outside: `[n]` the texts that are said to belong to no label, which is never withheld.
            none: the index of the label that stands for none, where it is one of the K.
        """
        said, labels = probabilities.argmax(axis=1), np.asarray(truth)
        confidence = probabilities.max(axis=1)
        if outside is not None:
            said = np.where(outside, -1 if none is None else none, said)
            confidence = np.where(outside, 1.0, confidence)
        rows = np.arange(len(labels))
        true = probabilities[rows, labels]
        if len(rows) > MOST_KEPT:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_KEPT])
        return cls(confidence[rows], (said == labels)[rows], true[rows])

    @classmethod
    def from_plain(cls, value: Any) -> Self:
        """What `to_json` wrote, as JSON gives it.

        Raises:
            ValueError: anything else.
        """
        names = {"confidence": float, "right": bool, "true": float}
        if not isinstance(value, dict) or value.keys() != names.keys():
            raise ValueError(f"expected {', '.join(names)}")
        columns = {name: value[name] for name in names}
        lengths = {len(column) if isinstance(column, list) else 0 for column in columns.values()}
        if len(lengths) != 1 or not lengths <= {*range(1, MOST_KEPT + 1)}:
            raise ValueError(f"expected lists of one length, from 1 to {MOST_KEPT}")
        for name, kind in names.items():
            fits = (type(one) is kind and 0 <= one <= 1 for one in columns[name])
            if not all(fits):
                raise ValueError(f"expected {name} of type {kind.__name__}, from 0 to 1")
        return cls(*(np.array(columns[name], dtype=kind) for name, kind in names.items()))

    def to_json(self) -> bytes:
        """The file of an artifact."""
        columns = {name: getattr(self, name).tolist() for name in ("confidence", "right", "true")}
        return json.dumps(columns).encode() + b"\n"

    def threshold_for(self, precision: float) -> Threshold:
        """The threshold that leaves the most answers, so many of which are right.

        One more answer, a wrong one, is counted with those that are left: of few that happen to be
        right nothing follows.

        Args:
            precision: the share of right answers among those that are left, above 0 and below 1.

        Raises:
            DataError: no such share, or no threshold reaches it.
        """
        _check_share(precision, "a target precision")
        order = np.argsort(-self.confidence)
        descending, hits = self.confidence[order], np.cumsum(self.right[order])
        # How many are left at each threshold that was seen: a confidence with all that equal it.
        kept = np.append(np.flatnonzero(np.diff(descending)) + 1, len(order))
        reached = hits[kept - 1] / (kept + 1)
        good = np.flatnonzero(reached >= precision)
        if not len(good):
            best = int(reached.argmax())
            raise DataError(
                f"expected a threshold from which on {precision:.4g} of the answers are right, got "
                f"{reached[best]:.4g} at best, of {kept[best]:,} among {len(order):,} held-out "
                "texts (and one more that is wrong): ask for less, or calibrate with more texts"
            )
        most = int(kept[good[-1]])
        return Threshold(float(descending[most - 1]), most / len(order))

    def least_probability(self, coverage: float) -> float:
        """The probability from which on labels belong to a prediction set.

        Source: split conformal prediction with the score 1 - p of the true label (Sadinle et al.
        2019, "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels"): the true label of
        a new text, exchangeable with the n held-out ones, is in its set with the probability
        `coverage` or more, and less than 1 / (n + 1) more where no two scores are equal.

        Args:
            coverage: above 0 and below 1.

        Raises:
            DataError: no such share, or too few held-out texts for it.
        """
        _check_share(coverage, "a coverage")
        # As a fraction: in floats 0.55 * 100 is more than 55.
        share, number = Fraction(str(coverage)), len(self.true)
        rank = math.ceil((number + 1) * share)
        if rank > number:
            least = math.ceil(share / (1 - share))
            raise DataError(
                f"expected {least:,} or more held-out texts for a coverage of {coverage:.4g}, got "
                f"{number:,}: ask for less, or calibrate with more texts"
            )
        return float(np.sort(self.true)[number - rank])


def prediction_set(probabilities: np.ndarray, least: float) -> list[int]:
    """The labels whose probability, of `[K]`, reaches the least; the most probable one first."""
    return [int(one) for one in np.argsort(-probabilities) if probabilities[one] >= least]


def fit_scope(highest: np.ndarray) -> float:
    """The score below which a text is taken to belong to none of the labels.

    Of texts like the held-out ones 95 % or more reach it, on average over draws of both.

    Source: Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings":
    the highest score, before any softmax.

    Args:
        highest: `[n]` the highest score of each held-out text, all of which belong to a label; 19
            or more.
    """
    rank = int((len(highest) + 1) * _TAKEN_FOR_NONE)
    return float(np.sort(highest)[rank - 1])


def _check_share(value: float, what: str) -> None:
    if not 0 < value < 1:
        raise DataError(f"expected {what} above 0 and below 1, got {value:.4g}")


def kept(answers: Answers | None, otherwise: str) -> Answers:
    """What a classifier said of held-out texts.

    Args:
        answers: None where it keeps none.
        otherwise: what to do then.

    Raises:
        DataError: it keeps none.
    """
    if answers is None:
        raise DataError(
            "expected a classifier that keeps its answers on held-out texts, got one without: "
            f"{otherwise}"
        )
    return answers
