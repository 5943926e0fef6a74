"""Labels that are likely to be wrong, by what a classifier says that has not seen the text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltuning.checks.examples import places_of
from ltuning.checks.finding import Finding, quoted
from ltuning.data.examples import Examples

FOLDS = 5
# A label that has less than this is told of. With 5 % of the labels of 3,000 training texts made
# wrong, .46 of those told of are wrong in place of .21 (Twitter news), .16 in place of .07 (SST-5)
# and .85 in place of .59 (CLINC150), and .45, .40 and .61 of the wrong ones are told of in place of
# .67, .80 and .61 (benchmarks/data_checks.py).
UNLIKELY = 0.1
# A classifier that finds less than this of the labels beyond those of the most frequent one knows
# them so badly that most of what it tells of may be right: of SST-5 it finds .2, of CoLA none.
_KNOWS = 0.3


@dataclass(frozen=True)
class Suspects:
    """Labels that may be wrong.

    Attributes:
        rows: of the texts, the least likely label first.
        likelier: `[len(rows)]` the label that each text may have.
        probabilities: `[len(rows)]` of the labels that they have.
        agreement: the share of all labels that the classifier finds itself.
        num_texts: the texts that were looked at.
    """

    rows: list[int]
    likelier: list[str]
    probabilities: list[float]
    agreement: float
    num_texts: int


def labelled_enough(labels: Sequence[str]) -> list[int]:
    """Rows of labels of which every fold has one; none where that is one label alone."""
    counts = Counter(labels)
    frequent = {label for label, count in counts.items() if count >= FOLDS}
    return [row for row, label in enumerate(labels) if label in frequent and len(frequent) > 1]


def suspects(
    states: np.ndarray, labels: Sequence[str], seed: int = 0, below: float = UNLIKELY
) -> Suspects:
    """Labels that confident learning counts as wrong and that have little probability.

    A text counts as one of another label where that is the most probable one of those whose
    probability reaches the mean that it has among its own texts (Northcutt, Jiang and Chuang 2021,
    "Confident Learning: Estimating Uncertainty in Dataset Labels", equations 1 and 2); ranked by
    the probability of the label that it has (their self-confidence).

    Args:
        states: `[N, H]` pooled states of the texts.
        labels: of each, `FOLDS` or more texts of every one.
        seed: of the folds.
        below: the probability that a label has less than; 1 leaves what confident learning counts.
    """
    names, given = np.unique(np.array(labels), return_inverse=True)
    probabilities = _out_of_fold(states, given, seed)
    own = probabilities[np.arange(len(given)), given]
    means = np.bincount(given, own) / np.bincount(given)
    reached = np.where(probabilities >= means, probabilities, 0.0)
    counts_as = reached.argmax(1)
    is_other = (reached.max(1) > 0) & (counts_as != given) & (own < below)
    rows = sorted(np.flatnonzero(is_other).tolist(), key=lambda row: float(own[row]))
    return Suspects(
        rows,
        [str(names[counts_as[row]]) for row in rows],
        [float(own[row]) for row in rows],
        agreement=float((probabilities.argmax(1) == given).mean()),
        num_texts=len(given),
    )


def _out_of_fold(states: np.ndarray, given: np.ndarray, seed: int) -> np.ndarray:
    """`[N, K]` probabilities by logistic regression on the other folds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.preprocessing import normalize

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = LogisticRegression(C=3.0, max_iter=1000)
    found: np.ndarray = cross_val_predict(
        classifier, normalize(states), given, cv=folds, method="predict_proba"
    )
    return found


def check_label_errors(examples: Examples, found: Suspects, split: str) -> list[Finding]:
    """Labels that may be wrong, in words.

    Args:
        examples: those that were looked at.
        found: in them.
        split: whose texts they are.
    """
    if not found.rows:
        return []
    assert examples.labels is not None  # they were looked at
    places = places_of(examples)
    told = [
        {
            places.unit: places.numbers[row],
            "text": examples.texts[row],
            "label": examples.labels[row],
            "probability": round(probability, 4),
            "likelier": likelier,
        }
        for row, likelier, probability in zip(
            found.rows, found.likelier, found.probabilities, strict=True
        )
    ]
    first = told[0]
    trivial = max(Counter(examples.labels).values()) / len(examples)
    knows = found.agreement - trivial >= _KNOWS * (1 - trivial)
    badly = "" if knows else ", so most of them may be right"
    sentence = (
        f"{len(told):,} of {found.num_texts:,} labels may be wrong: out of fold, a classifier on "
        f"the frozen states gives them less than {UNLIKELY:.0%} (it finds {found.agreement:.0%} "
        f"of all labels itself{badly}); the first is {first['label']!r} of "
        f"{quoted(examples.texts[found.rows[0]])}, rather {first['likelier']!r}"
    )
    return [Finding("label errors", split, len(told), sentence, told)]
