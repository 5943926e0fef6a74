"""What each training text counts: its own weight times that of its label, in the mean one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ltuning.errors import DataError, LabelError
from ltuning.labels import Labels
from ltuning.suggestions import unknown


def with_class_weight(
    weights: Sequence[float],
    class_weight: Mapping[str, float] | str | None,
    labels: Sequence[str],
    known: Labels,
) -> Sequence[float]:
    """Weights of texts times those of their labels.

    Args:
        weights: `[N]` of the texts alone.
        class_weight: `balanced` (n / (K * count), of the K labels that texts have), or by name;
            None = all count the same.
        labels: `[N]` the name of each text's label.
        known: all labels.

    Raises:
        LabelError: the weight of a label that there is not.
    """
    if class_weight is None:
        return weights
    from sklearn.utils.class_weight import compute_sample_weight

    # By their places: scikit-learn takes names such as "3" for integers.
    places = [known.index(label) for label in labels]
    by_place: str | dict[int, float]
    if isinstance(class_weight, str):
        by_place = class_weight
    else:
        for name in class_weight:
            if name not in known:
                raise LabelError(f"class_weight: {unknown('label', name, known.names)}")
        of_known = {known.index(name): weight for name, weight in class_weight.items()}
        # It refuses weights of classes without an example.
        by_place = {place: of_known.get(place, 1.0) for place in set(places)}
    of_labels: np.ndarray = compute_sample_weight(by_place, places)
    return [float(weight) for weight in np.array(weights) * of_labels]


def scaled(weights: Sequence[float]) -> list[float] | None:
    """Weights of which the mean is one; None where all texts count the same.

    Raises:
        DataError: all of them are 0.
    """
    found = _not_all_zero(weights)
    if (found == found[0]).all():
        return None
    # First by the largest: a sum of very large ones is infinite.
    found /= found.max()
    return [float(weight) for weight in found / found.mean()]


def weighted_share(right: Sequence[bool], weights: Sequence[float]) -> float:
    """The share of texts that are right, each by its weight.

    Raises:
        DataError: all weights are 0.
    """
    return float(np.average(right, weights=_not_all_zero(weights)))


def _not_all_zero(weights: Sequence[float]) -> np.ndarray:
    found = np.array(weights, dtype=np.float64)
    if not found.any():
        raise DataError(
            f"expected a weight above zero for one text or more, got zero for all {len(found)}; "
            "give some texts a weight, or leave the weights out"
        )
    return found
