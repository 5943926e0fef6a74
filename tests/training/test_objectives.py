from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.backbones.backbone import Backbone
from ltuning.errors import TrainingError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.labels import Labels
from ltuning.training.objectives import (
    ClassesObjective,
    ContrastObjective,
    Draw,
    DrawnMultilabelObjective,
    LabelRows,
    MultilabelObjective,
    Objective,
    PairsObjective,
    TagsObjective,
    check_scores,
    choice_loss,
    draw_contrast,
    draw_multilabel,
    draw_pairs,
    multi_hot,
    objective_of,
    pairs_loss,
)

# How many texts each label has: two labels or more.
COUNTS = st.lists(st.integers(1, 3), min_size=2, max_size=6)
SEEDS = st.integers(0, 2**32)


def rows_of(counts: list[int]) -> tuple[LabelRows, torch.Tensor]:
    owners = [label for label, count in enumerate(counts) for _ in range(count)]
    return LabelRows.of(owners), torch.tensor(owners)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_targets(size: int, num_labels: int, seed: int) -> torch.Tensor:
    return torch.randint(num_labels, (size,), generator=generator(seed + 1))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 21), counts=COUNTS, seed=SEEDS)
def test_half_of_the_pairs_are_true(size: int, counts: list[int], seed: int) -> None:
    rows, owners = rows_of(counts)
    targets = some_targets(size, len(counts), seed)
    draw = draw_pairs(targets, rows, generator(seed))
    assert int(draw.truth.sum()) in {size // 2, -(-size // 2)}
    assert draw.branches.texts.tolist() == list(range(size))
    # A pair is called true exactly where its label text belongs to the text's label.
    assert torch.equal(owners[draw.branches.rows] == targets, draw.truth.bool())


def test_an_odd_batch_rounds_either_way() -> None:
    rows, _ = rows_of([1, 1])
    found = {
        int(draw_pairs(torch.zeros(5).long(), rows, generator(s)).truth.sum()) for s in range(50)
    }
    assert found == {2, 3}


def test_every_text_of_a_batch_is_true_sometimes_and_wrong_sometimes() -> None:
    rows, _ = rows_of([1, 1, 1])
    truths = [draw_pairs(torch.arange(3).repeat(2), rows, generator(s)).truth for s in range(60)]
    assert 0.3 < torch.stack(truths).mean(0).min() <= torch.stack(truths).mean(0).max() < 0.7


def test_the_wrong_label_of_a_pair_is_drawn_evenly() -> None:
    rows, _ = rows_of([1] * 5)
    targets = torch.full((2000,), 3)
    draw = draw_pairs(targets, rows, generator(0))
    wrong = torch.bincount(draw.branches.rows[draw.truth == 0], minlength=5)
    assert wrong[3] == 0
    assert wrong.sum() == 1000
    assert all(200 < count < 300 for count in wrong[[0, 1, 2, 4]].tolist())


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 12), counts=COUNTS, negatives=st.integers(0, 7), seed=SEEDS)
def test_contrast_sets_the_true_label_against_different_wrong_ones(
    size: int, counts: list[int], negatives: int, seed: int
) -> None:
    rows, owners = rows_of(counts)
    targets = some_targets(size, len(counts), seed)
    draw = draw_contrast(targets, rows, negatives, generator(seed))
    others = len(counts) - 1
    width = 1 + (min(negatives, others) if negatives else others)
    assert draw.branches.texts.tolist() == [row for row in range(size) for _ in range(width)]
    labels = owners[draw.branches.rows].view(size, width)
    assert torch.equal(labels[:, 0], targets)
    assert draw.truth.tolist() == [0] * size
    for row in labels.tolist():
        assert len(set(row)) == width


def test_every_wrong_label_is_drawn_evenly_for_contrast() -> None:
    rows, _ = rows_of([1] * 5)
    draw = draw_contrast(torch.full((1000,), 1), rows, 2, generator(0))
    wrong = torch.bincount(draw.branches.rows.view(1000, 3)[:, 1:].flatten(), minlength=5)
    assert wrong[1] == 0
    assert all(420 < count < 580 for count in wrong[[0, 2, 3, 4]].tolist())


def test_label_texts_are_drawn_evenly_among_a_labels_own() -> None:
    rows, _ = rows_of([1, 3, 2])
    drawn = rows.draw(torch.tensor([0, 1, 2]).repeat(1000), generator(0))
    counts = torch.bincount(drawn, minlength=6).tolist()
    assert counts[0] == 1000
    assert all(270 < count < 400 for count in counts[1:4])
    assert all(430 < count < 570 for count in counts[4:])


@settings(max_examples=20, deadline=None)
@given(counts=COUNTS, seed=SEEDS)
def test_a_draw_is_a_function_of_its_generator(counts: list[int], seed: int) -> None:
    rows, _ = rows_of(counts)
    targets = some_targets(8, len(counts), seed)
    for draw in (draw_pairs, lambda t, r, g: draw_contrast(t, r, 2, g)):
        one, two = draw(targets, rows, generator(seed)), draw(targets, rows, generator(seed))
        assert torch.equal(one.branches.rows, two.branches.rows)
        assert torch.equal(one.truth, two.truth)


def test_the_pairs_loss_is_the_cross_entropy_of_two_logits() -> None:
    logits = torch.randn(9, 2, generator=generator(0))
    truth = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1])
    scores = logits[:, 1] - logits[:, 0]
    chosen = logits.softmax(1)[torch.arange(9), truth]
    torch.testing.assert_close(pairs_loss(scores, truth.float()), -chosen.log().mean())


def test_the_choice_loss_is_the_negative_log_probability_of_the_true_place() -> None:
    scores, truth = torch.randn(9, 4, generator=generator(0)), torch.arange(9) % 4
    chosen = scores.softmax(1)[torch.arange(9), truth]
    torch.testing.assert_close(choice_loss(scores, truth), -chosen.log().mean())


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 9), counts=COUNTS, negatives=st.integers(0, 6), seed=SEEDS)
def test_every_true_label_is_drawn_and_so_many_wrong_ones(
    size: int, counts: list[int], negatives: int, seed: int
) -> None:
    rows, owners = rows_of(counts)
    truth = torch.rand(size, len(counts), generator=generator(seed)) < 0.4
    draw = draw_multilabel(truth, rows, negatives, generator(seed))
    drawn = torch.zeros_like(truth, dtype=torch.long)
    labels = owners[draw.branches.rows]
    drawn.index_put_((draw.branches.texts, labels), torch.tensor(1), accumulate=True)
    assert int(drawn.max()) == 1
    assert bool((drawn.bool() | ~truth).all())
    wrong = (~truth).sum(1)
    is_whole = negatives == 0 or len(counts) <= 1 + negatives
    wanted = wrong if is_whole else wrong.clamp(max=negatives)
    assert torch.equal((drawn * ~truth).sum(1), wanted)
    assert torch.equal(draw.truth.bool(), truth[draw.branches.texts, labels])
    assert draw.shift is not None
    # Wrong labels there are, or would be if this one were wrong, and how many of them are seen.
    seen = len(counts) if is_whole else negatives
    at_most = wrong[draw.branches.texts] + draw.truth.long()
    torch.testing.assert_close(draw.shift.exp(), at_most / at_most.clamp(max=seen))


def test_the_wrong_labels_of_a_text_are_drawn_evenly() -> None:
    rows, _ = rows_of([1] * 5)
    truth = torch.tensor([[True, False, False, False, True]])
    draws = [draw_multilabel(truth, rows, 2, generator(seed)) for seed in range(300)]
    found = torch.bincount(torch.cat([draw.branches.rows for draw in draws]), minlength=5)
    assert found[[0, 4]].tolist() == [300, 300]
    assert all(160 < count < 240 for count in found[1:4].tolist())


def test_the_shift_of_drawn_labels_gives_back_the_odds_among_all() -> None:
    """The best constant score of drawn branches, the shift left out, is that of all labels."""
    rows, _ = rows_of([1] * 6)
    truth = torch.rand(40_000, 6, generator=generator(0)) < 0.3
    draw = draw_multilabel(truth, rows, 2, generator(1))
    assert draw.shift is not None
    score = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([score], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = pairs_loss(score + draw.shift, draw.truth)
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    assert float(score.detach()) == pytest.approx(float(truth.float().mean().logit()), abs=0.02)


LABELS = Labels.from_any({"food": ["bread", "the soup"], "sport": "ball", "travel": "hotel"})
ROWS = LabelRows.of(LABELS.owners)


@pytest.mark.parametrize(
    ("front", "method", "options", "expected"),
    [
        (LabelClassifier, "prefix", {}, ClassesObjective()),
        (LabelClassifier, "lt-prefix", {}, ClassesObjective()),
        (LabelClassifier, "probe", {"head": "match"}, ClassesObjective()),
        (LabelClassifier, "lt-prefix", {"labels": "apart"}, ContrastObjective(ROWS, 7)),
        (LabelClassifier, "lt-prompt", {"objective": "pairs"}, PairsObjective(ROWS)),
        (MultilabelClassifier, "prefix", {}, MultilabelObjective(3)),
        (MultilabelClassifier, "lt-prefix", {}, MultilabelObjective(3)),
        (MultilabelClassifier, "lt-prompt", {"negatives": 1}, DrawnMultilabelObjective(ROWS, 1)),
    ],
)
def test_the_objective_is_that_of_task_and_method(
    bert: Backbone,
    front: type[LabelClassifier],
    method: str,
    options: dict[str, Any],
    expected: Objective,
) -> None:
    paths = {f"method.{name}": value for name, value in options.items()}
    found = objective_of(front(bert, None, method, options=paths)._build(LABELS, 9).model)
    assert type(found) is type(expected)
    for name, value in vars(expected).items():
        if isinstance(value, LabelRows):
            assert torch.equal(getattr(found, name).first, value.first)
            assert torch.equal(getattr(found, name).count, value.count)
        else:
            assert getattr(found, name) == value


def one_label(size: int) -> list[int]:
    return some_targets(size, 3, seed=0).tolist()


def some_labels(size: int) -> list[list[int]]:
    return [[0, 2], [], [1], [0, 1, 2], [2]][:size]


def words(size: int) -> list[list[int]]:
    return [[0, 1, 2, 0], [2], [1, 1, 0], [0], [2, 1]][:size]


WEIGHTED: list[tuple[Objective, Callable[[int], list[Any]]]] = [
    (ClassesObjective(), one_label),
    (PairsObjective(ROWS), one_label),
    (ContrastObjective(ROWS, 1), one_label),
    (MultilabelObjective(3), some_labels),
    (DrawnMultilabelObjective(ROWS, 1), some_labels),
]


@pytest.mark.parametrize("weights", [None, [0.0, 0.5, 2.0, 1.0, 1.5]])
@pytest.mark.parametrize(("objective", "targets"), [*WEIGHTED, (TagsObjective(), words)])
def test_parts_of_a_step_have_its_loss_by_their_shares(
    objective: Objective, targets: Callable[[int], list[Any]], weights: list[float] | None
) -> None:
    draw = objective.draw(targets(5), generator(0))
    if weights is not None and not isinstance(objective, TagsObjective):
        draw = draw.weighted(torch.tensor(weights))

    def loss(part: Draw, start: int, stop: int) -> torch.Tensor:
        """Of scores that are the same for a text, however the step is cut."""
        if part.branches is not None:
            rows = part.branches.rows
            return objective.loss(every[part.branches.texts + start, rows, 0], part)
        return objective.loss(tables(start, stop), part)

    def tables(start: int, stop: int) -> torch.Tensor:
        if not isinstance(objective, TagsObjective):
            return every[start:stop, :3, 0]
        # A part is padded to its own longest window.
        return every[start:stop, : max(map(len, targets(5)[start:stop])), :3]

    every = torch.randn(5, 4, 3, generator=generator(1))
    cuts = [(0, 2), (2, 5)]
    parts = [(draw.part(*cut), *cut) for cut in cuts]
    shares = [objective.share(part) for part, *_ in parts]
    assert sum(shares) == objective.share(draw)
    pieces = [share * loss(*part) for share, part in zip(shares, parts, strict=True)]
    torch.testing.assert_close(sum(pieces) / sum(shares), loss(draw, 0, 5))


@pytest.mark.parametrize(("objective", "targets"), WEIGHTED)
def test_weights_are_those_of_the_texts(
    objective: Objective, targets: Callable[[int], list[Any]]
) -> None:
    """Weights of one change nothing, 0 gives no gradient, and 2 is the text given twice."""
    draw = objective.draw(targets(3), generator(0))
    every = torch.randn(3, 4, generator=generator(1), requires_grad=True)

    def loss(draw: Draw, *chosen: int) -> torch.Tensor:
        scores = every[list(chosen)]
        if draw.branches is None:
            return objective.loss(scores[:, :3], draw)
        return objective.loss(scores[draw.branches.texts, draw.branches.rows], draw)

    torch.testing.assert_close(loss(draw.weighted(torch.ones(3)), 0, 1, 2), loss(draw, 0, 1, 2))
    loss(draw.weighted(torch.tensor([1.0, 0.0, 2.0])), 0, 1, 2).backward()
    assert every.grad is not None
    assert every.grad.any(1).tolist() == [True, False, True]
    # The sum of the losses of rows, with the last text twice; its weights have the mean one.
    parts = [draw.part(place, place + 1) for place in range(3)]
    sums = [objective.share(part) * loss(part, place) for place, part in enumerate(parts)]
    weighted = draw.weighted(torch.tensor([1.0, 1.0, 2.0]) * 3 / 4)
    expected = (sums[0] + sums[1] + 2 * sums[2]) * 3 / 4
    torch.testing.assert_close(objective.share(draw) * loss(weighted, 0, 1, 2), expected)


def test_a_tag_of_a_word_that_is_not_there_counts_for_nothing() -> None:
    draw = TagsObjective().draw([[1, 0], [2]], generator(0))
    scores = torch.randn(2, 2, 3, generator=generator(1))
    assert TagsObjective().share(draw) == 3
    logs = scores.log_softmax(-1)
    expected = -(logs[0, 0, 1] + logs[0, 1, 0] + logs[1, 0, 2]) / 3
    torch.testing.assert_close(TagsObjective().loss(scores, draw), expected)


def test_targets_as_a_table() -> None:
    assert multi_hot([[2, 0], [], [1]], 3).tolist() == [
        [True, False, True],
        [False, False, False],
        [False, True, False],
    ]


@pytest.mark.parametrize("what", ["texts", "sentences"])
def test_scores_that_are_no_numbers_end_a_validation(what: str) -> None:
    tables = [np.zeros((2, 3)), np.ones((1, 3))]
    check_scores(tables, what)
    tables[1][0, 1] = np.inf
    message = (
        f"^expected finite scores on the validation {what}, got NaN or infinity; lower "
        "training.learning_rate$"
    )
    with pytest.raises(TrainingError, match=message):
        check_scores(tables, what)
