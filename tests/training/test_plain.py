from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ltuning.methods.plain import PlainScorer
from ltuning.training.plain import HeldOutScores, covering, fit_plain, kept_of_fresh

H, K = 64, 12


def clusters(per_label: int, seed: int = 0) -> dict[str, Any]:
    """Texts around their label's state turned by one rotation, which has to be found."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randn(K, H, generator=draw)
    turn = torch.linalg.qr(torch.randn(H, H, generator=draw)).Q
    targets = torch.arange(K).repeat(per_label)
    noise = torch.randn(len(targets), H, generator=draw)
    return {
        "states": labels[targets] @ turn + 0.3 * noise,
        "targets": targets,
        "labels": labels,
        "owners": torch.arange(K),
        "negatives": 4,
        "seed": 0,
    }


@pytest.fixture(scope="module")
def fitted() -> tuple[PlainScorer, HeldOutScores, dict[str, Any]]:
    data = clusters(10)
    plain = PlainScorer(H)
    return plain, fit_plain(plain, **data), data


def test_it_learns_what_the_start_cannot_know(fitted: Any) -> None:
    plain, _, _ = fitted
    fresh = clusters(20)
    right = plain(fresh["states"], fresh["labels"]).argmax(1) == fresh["targets"]
    before = PlainScorer(H)(fresh["states"], fresh["labels"]).argmax(1) == fresh["targets"]
    assert right.float().mean() > 0.8 > 0.5 > before.float().mean()
    assert not any(weight.requires_grad for weight in plain.parameters())


def test_the_true_label_comes_first_and_the_best_wrong_ones_after(fitted: Any) -> None:
    _, held_out, data = fitted
    assert torch.equal(held_out.labels[:, 0], data["targets"])
    assert (held_out.labels[:, 1:] != data["targets"][:, None]).all()
    assert all(len(set(row)) == 5 for row in held_out.labels.tolist())
    wrong = held_out.scores[:, 1:]
    assert (wrong.diff(dim=1) <= 0).all()
    # All scores of the sample say that no better wrong one was left out.
    for place, row in enumerate(held_out.sample.tolist()):
        ranked = held_out.sample_scores[place].clone()
        ranked[data["targets"][row]] = -torch.inf
        torch.testing.assert_close(ranked.topk(4).values, wrong[row])


def test_a_text_s_scores_are_of_a_scorer_that_has_not_seen_it() -> None:
    """With labels drawn by chance, nobody who has not seen a text's label can know it."""
    data = clusters(10)
    mixed = torch.randperm(len(data["targets"]), generator=torch.Generator().manual_seed(1))
    data["targets"] = data["targets"][mixed]
    plain = PlainScorer(H)
    held_out = fit_plain(plain, **data)
    seen = plain(data["states"], data["labels"]).argmax(1) == data["targets"]
    unseen = held_out.scores.argmax(1) == 0
    assert seen.float().mean() > 0.5
    assert unseen.float().mean() < 0.25


def test_the_margin_holds_the_labels_of_fresh_texts(fitted: Any) -> None:
    plain, _, _ = fitted
    fresh = clusters(100)
    inside = plain.shortlist(plain(fresh["states"], fresh["labels"]))
    held = inside.gather(1, fresh["targets"][:, None]).float().mean()
    assert held >= 0.98
    assert inside.sum() < inside.numel()


def test_a_label_that_was_not_fitted_has_its_handicap(fitted: Any) -> None:
    """Fitted without two of the labels, a scorer gives their texts about that much less."""
    _, held_out, data = fitted
    kept = data["targets"] < K - 2
    some = {
        **data,
        "states": data["states"][kept],
        "targets": data["targets"][kept],
        "labels": data["labels"][:-2],
        "owners": data["owners"][:-2],
    }
    without = PlainScorer(H)
    fit_plain(without, **some)
    with torch.no_grad():
        scores = without(data["states"][~kept], data["labels"])
    own = scores.gather(1, data["targets"][~kept, None]).mean()
    lost = float(held_out.scores[:, 0].mean() - own)
    assert float(without.handicap) > 0
    assert float(without.handicap) == pytest.approx(lost, rel=0.5)
    # Half of it is given back, to the added labels alone.
    given = without.score(data["states"], data["labels"], data["owners"])
    added = given - without(data["states"], data["labels"])
    torch.testing.assert_close(added[:, :-2], torch.zeros_like(added[:, :-2]))
    half = (without.handicap / 2).expand_as(added[:, -2:])
    torch.testing.assert_close(added[:, -2:], half, atol=1e-5, rtol=1e-5)


def test_several_texts_of_a_label_count_as_their_mean() -> None:
    data = clusters(5)
    twice = dict(data, labels=data["labels"].repeat_interleave(2, 0))
    twice["owners"] = torch.arange(K).repeat_interleave(2)
    once, doubled = PlainScorer(H), PlainScorer(H)
    left, right = fit_plain(once, **data), fit_plain(doubled, **twice)
    torch.testing.assert_close(left.scores, right.scores, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("number", [1, 3])
def test_a_handful_of_texts_is_enough(number: int) -> None:
    data = clusters(1)
    data["states"], data["targets"] = data["states"][:number], data["targets"][:number]
    held_out = fit_plain(PlainScorer(H), **data)
    assert held_out.scores.shape == (number, 5)
    assert held_out.scores.isfinite().all()


def test_the_same_seed_gives_the_same_scorer(fitted: Any) -> None:
    plain, held_out, data = fitted
    again = PlainScorer(H)
    repeated = fit_plain(again, **data)
    assert torch.equal(held_out.scores, repeated.scores)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name]), name


@given(gaps=st.lists(st.floats(0, 10, width=32), min_size=1, max_size=50), share=st.floats(0.5, 1))
def test_the_margin_covers_its_share(gaps: list[float], share: float) -> None:
    margin = covering(torch.tensor(gaps), share)
    assert margin in torch.tensor(gaps).tolist()
    assert sum(gap <= margin for gap in torch.tensor(gaps).tolist()) >= min(
        share * len(gaps), len(gaps)
    )


def test_the_margin_of_many() -> None:
    assert covering(torch.arange(1000.0), 0.995) == 995  # the 996th smallest of 1,000
    assert covering(torch.arange(100.0), 0.995) == 99


def test_a_shortlist_is_measured_on_texts_that_did_not_choose_it() -> None:
    gaps = torch.arange(200.0)
    assert covering(gaps, 0.995) == 199  # which keeps all that chose it
    # The farthest text is beyond what the others choose.
    assert kept_of_fresh(gaps, 1000.0) == 199 / 200
    # What the wide one does not hold, a narrower one cannot.
    assert kept_of_fresh(gaps, 9.0) == 10 / 200
    assert kept_of_fresh(torch.tensor([3.0]), 5.0) == 1.0
