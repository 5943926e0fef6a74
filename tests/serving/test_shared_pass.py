"""Answers are those of `predict`, whoever shares the pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.scoring import Scorer
from ltuning.serving import shared_pass
from ltuning.serving.shared_pass import Asked, score_together

MORE = {"food": "bread", "sport": ["ball and team", "race"], "travel": "hotel", "music": "the song"}
# Several of each kind: other columns, other layers, other ways to pool.
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("prefix", {"num_tokens": 3, "first_layer": 2}),
    ("prefix", {"num_tokens": 9, "first_layer": 1}),
    ("lt-prefix", {"first_layer": 2}),
    ("lt-prefix", {"labels": MORE, "first_layer": 2}),
    ("lt-prefix", {"method.labels": "apart", "first_layer": 2}),
    (
        "lt-prefix",
        {"labels": MORE, "method.labels": "apart", "pooling": "max", "first_layer": 2},
    ),
    ("probe", {}),
    ("probe", {"labels": MORE, "head": "match"}),
    ("ls-lora", {}),
    ("full", {}),
    ("prompt", {"num_tokens": 3}),
]
Make = Callable[..., LabelClassifier]


@pytest.fixture(scope="module", params=["bert", "llama"])
def classifiers(
    request: pytest.FixtureRequest, backbones: dict[str, Backbone], toy: Any, classifier: Make
) -> list[LabelClassifier]:
    """Trained for a step at a high rate, so that prefixes change what is said."""
    made = []
    for number, (method, options) in enumerate(ASKED):
        given = {"labels": toy.label_texts, "rate": 0.05, "steps": 1, "seed": number, **options}
        one = classifier(backbones[request.param], method, **given)
        one.fit(toy.texts[:12], toy.labels[:12], progress=False)
        made.append(one)
    return made


@pytest.fixture(scope="module")
def texts(toy: Any) -> list[str]:
    return [*toy.test_texts[:5], "bread", " ".join(toy.test_texts[5:9])]


def asked(one: LabelClassifier, texts: list[str]) -> Asked:
    return Asked(one.scorer(), one.windows(texts).tokens)


def together(every: list[Asked]) -> list[np.ndarray]:
    found = dict(score_together(every))
    assert sorted(found) == [*range(len(every))]
    return [found[number] for number in range(len(every))]  # type: ignore[misc]


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_every_classifier_says_what_it_says_alone(
    classifiers: list[LabelClassifier], texts: list[str]
) -> None:
    found = together([asked(one, texts) for one in classifiers])
    for one, scores in zip(classifiers, found, strict=True):
        close(scores, one.scores(texts))
    # They do say different things, or nothing would be shown.
    alike = [np.abs(scores[:, :3] - found[0][:, :3]).max() < 1e-3 for scores in found[1:]]
    assert not any(alike)


def test_order_and_company_change_nothing(
    classifiers: list[LabelClassifier], texts: list[str]
) -> None:
    one, other = classifiers[2], classifiers[0]
    close(together([asked(one, texts[:1])])[0], one.scores(texts[:1]))
    other_first = together([asked(other, texts[3:]), asked(one, texts[::-1])])
    close(other_first[1], one.scores(texts)[::-1])
    close(other_first[0], other.scores(texts[3:]))
    twice = together([asked(one, texts), asked(other, []), asked(one, texts[2:])])
    close(twice[2], one.scores(texts)[2:])
    assert twice[1].shape == (0, 3)


def test_those_that_share_run_in_few_passes(
    classifiers: list[LabelClassifier], texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sharing = [classifiers[0], *classifiers[2:8]]
    every = [asked(one, texts[:1]) for one in sharing]
    backbone, rows = sharing[0].backbone, []

    def counted(batch: Any, **rest: Any) -> torch.Tensor:
        found = type(backbone).forward(backbone, batch, **rest)
        rows.append(len(found))
        return found

    monkeypatch.setattr(backbone, "forward", counted)
    together(every)
    # Five classifiers with one row, and two with a row for each of 3 and 5 label texts.
    assert rows == [13]


def test_wide_prefixes_run_apart_from_narrow_ones(
    bert: Backbone, toy: Any, classifier: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_pass, "_FEW_COLUMNS", 4)
    widths = (3, 5, 8, 9)
    several = [classifier(bert, "prefix", num_tokens=width, steps=1) for width in widths]
    for one in several:
        one.fit(toy.texts[:6], toy.labels[:6], progress=False)
    expected = [one.scores(toy.test_texts[:2]) for one in several]
    every = [asked(one, toy.test_texts[:2]) for one in several]
    seen = []

    def counted(batch: Any, prefix: Any) -> torch.Tensor:
        seen.append((len(batch), prefix.length))
        return type(bert).forward(bert, batch, prefix=prefix)

    monkeypatch.setattr(bert, "forward", counted)
    for found, alone in zip(together(every), expected, strict=True):
        close(found, alone)
    assert sorted(seen) == [(2, 3), (2, 9), (4, 8)]


def test_scores_that_are_no_numbers_stay_with_their_classifier(
    bert: Backbone, toy: Any, classifier: Make
) -> None:
    good, bad = (classifier(bert, "prefix", num_tokens=size, steps=1) for size in (5, 2))
    for one in (good, bad):
        one.fit(toy.texts[:6], toy.labels[:6], progress=False)
    bad.scorer().model.adapter.tokens.tokens.data.fill_(float("nan"))
    bad._trained().scorer = None
    alone = good.scores(toy.test_texts[:3])
    found = together([asked(bad, toy.test_texts[:3]), asked(good, toy.test_texts[:3])])
    assert np.isnan(found[0]).all()
    close(found[1], alone)


def test_what_goes_wrong_with_one_is_its_own_answer(
    classifiers: list[LabelClassifier], texts: list[str]
) -> None:
    shares, alone = (Scorer(classifiers[number].scorer().model, 256) for number in (0, 8))
    shares.side = shares.side[:, :1]  # of one layer
    alone.max_branches = "many"  # type: ignore[assignment]
    good = [asked(classifiers[number], texts) for number in (2, 9)]
    bad = [Asked(scorer, good[0].tokens) for scorer in (shares, alone)]
    found = dict(score_together([*bad, *good]))
    assert [isinstance(found[number], Exception) for number in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    for number, one in ((2, classifiers[2]), (3, classifiers[9])):
        close(found[number], one.scores(texts))  # type: ignore[arg-type]
