"""Which unlabelled texts are worth labelling next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# The most uncertain texts among which unlike ones are drawn, for each text that is asked for. After
# three rounds of 50 texts a probe has .738 (random .721, smallest margins .727) on Twitter news,
# .779 (.697, .730) on CLINC150 and .328 (.337, .320) on SST-5 (benchmarks/data_checks.py).
CANDIDATES = 10


def worth_labelling(
    margins: np.ndarray,
    states_of: Callable[[Sequence[int]], np.ndarray],
    count: int,
    seed: int = 0,
) -> list[int]:
    """Texts that a classifier is unsure of and that are unlike each other, the unsurest first.

    Of the `CANDIDATES * count` texts with the smallest margins they are drawn as k-means++ draws
    its first centres: each in proportion to its squared distance from the nearest one drawn before,
    times one less its margin (Arthur and Vassilvitskii 2007, "k-means++: The Advantages of Careful
    Seeding", section 2.2; with weights).

    Args:
        margins: `[N]` from 0, where two answers are equally probable, to 1.
        states_of: `[n, H]` states of the texts of these rows.
        count: texts that are asked for; all where there are no more.
        seed: of the draw.
    """
    from sklearn.cluster import kmeans_plusplus
    from sklearn.preprocessing import normalize

    unsure = np.argsort(margins, kind="stable")[: CANDIDATES * count]
    if len(unsure) <= count:
        return unsure.tolist()
    states = normalize(states_of(unsure.tolist()))
    weights = np.maximum(1 - margins[unsure], np.finfo(np.float32).eps)
    _, drawn = kmeans_plusplus(states, count, sample_weight=weights, random_state=seed)
    # Of equal states one is drawn twice where there are no others; the unsurest make up for it.
    places = [*dict.fromkeys([*drawn.tolist(), *range(len(unsure))])][:count]
    return unsure[sorted(places)].tolist()
