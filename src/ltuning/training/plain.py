"""Fitting the plain scorer, and choosing the shortlist that it gives.

A training text's plain scores come from a scorer that has not seen it (stacking, Wolpert 1992):
one that has would be right about nearly all of them, leave the branches nothing to learn, and name
as the hardest wrong labels those of another world.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ltuning.backbones.backbone import Backbone, LabelStates
from ltuning.methods.adapter import Adapter
from ltuning.methods.heads import CentredMatchHead
from ltuning.methods.plain import SLACK, PlainScorer, mean_over_texts
from ltuning.methods.tuned import Tuned
from ltuning.scoring import Scorer, mean_states

# Part of the texts whose label, and later whose answer, the shortlist has to hold.
RECALL = 0.995
# Texts whose answer is looked for when the shortlist is narrowed, at most and at least: fewer
# cannot tell that share.
SAMPLE = 400
LEAST_SAMPLE = 200
# Texts whose mean state is the centre of all.
_CENTERED = 1000
_FOLDS = 10
_LABEL_FOLDS = 5
_BATCH = 256
_LEAST_STEPS = 300
_EPOCHS = 5
_RATE = 2e-3


@dataclass(frozen=True)
class HeldOutScores:
    """Plain scores of the training texts, each from a scorer that has not seen the text.

    Attributes:
        labels: `[N, 1 + n]` the true label of each text, and its best wrong ones.
        scores: `[N, 1 + n]` their scores.
        sample: `[S]` texts drawn at random.
        sample_scores: `[S, K]` all scores of those.
    """

    labels: Tensor
    scores: Tensor
    sample: Tensor
    sample_scores: Tensor


def prepare(
    backbone: Backbone,
    adapter: Adapter | Tuned,
    labels: LabelStates | None,
    owners: Sequence[int],
    tokens: Sequence[dict[str, Any]],
    targets: Sequence[int],
    *,
    batch_size: int,
    seed: int,
) -> HeldOutScores | None:
    """Fit the plain scorer of an adapter, by one pass over each training text; None without one.

    The adapter's head then starts from it.

    Args:
        backbone: the frozen model.
        adapter: on the backbone's device.
        labels: states of the label texts.
        owners: the label of each label text.
        tokens: the training texts.
        targets: the label of each.
        batch_size: texts in a pass at a time; where a training step fits, as many fit here.
        seed: of the folds and the batches.
    """
    if not isinstance(adapter, Adapter) or adapter.plain is None or labels is None:
        return None
    negatives = adapter.method.negatives or max(owners)
    held_out = fit_plain(
        adapter.plain,
        mean_states(backbone, tokens, batch_size),
        torch.tensor(targets, device=backbone.device),
        labels.mean,
        torch.tensor(owners, device=backbone.device),
        min(negatives, max(owners)),
        seed,
    )
    adapter.start_beside_plain()
    return held_out


def center(
    backbone: Backbone,
    adapter: Adapter | Tuned,
    labels: LabelStates | None,
    tokens: Sequence[dict[str, Any]],
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Give a head that has centres those of the training texts and of the label texts.

    Args:
        backbone: the frozen model.
        adapter: on the backbone's device.
        labels: states of the label texts.
        tokens: the training texts.
        batch_size: texts in a pass at a time.
        seed: of the draw of the texts whose mean is taken.
    """
    if labels is None or not isinstance(adapter.head, CentredMatchHead):
        return
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(tokens), generator=generator)[:_CENTERED].tolist()
    chosen = [tokens[row] for row in drawn]
    pooling = adapter.method.pooling
    assert pooling is not None  # resolved
    adapter.head.center(mean_states(backbone, chosen, batch_size, pooling), labels.mean)


def choose_shortlist(
    scorer: Scorer,
    tokens: Sequence[dict[str, Any]],
    targets: Sequence[int],
    plain: Tensor | None = None,
) -> dict[str, float]:
    """Narrow the shortlist to what keeps the answers, if it is `auto`, and say what it holds.

    The margin that holds the labels is wide because of the texts that the plain scorer has all
    wrong, and there the branches seldom help either. What matters is the answer of both stages.

    Args:
        scorer: of the trained adapter.
        tokens: texts that the plain scorer has not seen, at most a few hundred.
        targets: the label of each.
        plain: `[S, K]` their plain scores; None = by the plain scorer, which has not seen them.
    """
    assert scorer.adapter.plain is not None
    if plain is None:
        plain = scorer.plain_scores(tokens)
    most, scorer.most = scorer.most, None
    scores = torch.from_numpy(scorer.score_tokens(tokens, plain=plain)).to(plain.device)
    answers = scores.argmax(1)
    scorer.most = most
    fresh = None
    if scorer.adapter.method.shortlist == "auto":
        gaps = _below_best(plain, answers)
        margin = scorer.adapter.plain.margin
        fresh = kept_of_fresh(gaps, float(margin))
        margin.fill_(min(float(margin), covering(gaps, RECALL)))
    figures = _shortlist_figures(plain, scorer.shortlist(plain), targets, answers)
    # A number of labels that is given is chosen by no text: all of them are fresh.
    kept = figures["recall_of_answer"] if fresh is None else fresh
    return {**figures, "recall_of_fresh_answer": kept}


def fit_plain(
    plain: PlainScorer,
    states: Tensor,
    targets: Tensor,
    labels: Tensor,
    owners: Tensor,
    negatives: int,
    seed: int,
) -> HeldOutScores:
    """Fit a plain scorer in place and freeze it; its margin is what holds `RECALL` of the labels.

    Args:
        plain: as built.
        states: `[N, H]` mean states of the training texts without virtual tokens.
        targets: `[N]` their labels.
        labels: `[V, H]` mean states of the label texts.
        owners: `[V]` the label of each label text.
        negatives: n, wrong labels that are kept of each text.
        seed: of the folds and the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    plain.center(states, labels)
    start = {name: weight.clone() for name, weight in plain.state_dict().items()}
    folds = torch.randperm(len(states), generator=generator).to(states.device) % _FOLDS
    scores = states.new_empty(len(states), int(owners.max()) + 1)
    for fold in folds.unique():
        plain.load_state_dict(start)
        seen = folds != fold
        _fit(plain, states[seen], targets[seen], labels, owners, generator)
        with torch.no_grad():
            scores[~seen] = mean_over_texts(plain(states[~seen], labels), owners)
    own = scores.gather(1, targets[:, None]).squeeze(1)
    unseen = _score_of_unseen(plain, start, states, targets, labels, owners, seed)
    plain.load_state_dict(start)
    _fit(plain, states, targets, labels, owners, generator)
    plain.requires_grad_(False)
    plain.num_labels.fill_(int(owners.max()) + 1)
    plain.handicap.copy_((own.mean() - unseen).clamp(min=0))
    plain.margin.fill_(covering(_below_best(scores, targets), RECALL))
    wrong = scores.scatter(1, targets[:, None], -math.inf).topk(negatives, dim=1).indices
    kept = torch.cat([targets[:, None], wrong], dim=1)
    sample = torch.randperm(len(states), generator=generator)[:SAMPLE]
    drawn = scores[sample.to(scores.device)]
    return HeldOutScores(kept.cpu(), scores.gather(1, kept).cpu(), sample, drawn)


def covering(gaps: Tensor, share: float) -> float:
    """The smallest margin that holds this share of fresh gaps, from as many that were seen.

    With n seen, the next one lies below the `ceil((n + 1) share)`-th smallest of them with at least
    that probability (split conformal prediction); with few seen, below the largest at best.
    """
    rank = min(math.ceil((len(gaps) + 1) * share), len(gaps))
    return float(gaps.sort().values[rank - 1])


def kept_of_fresh(gaps: Tensor, widest: float) -> float:
    """Share of the answers that a narrowed shortlist keeps of texts that did not narrow it.

    Each tenth of the texts is measured by the margin that the other nine choose.

    Args:
        gaps: `[S]` how far each answer's plain score lies below the best one.
        widest: the margin before.
    """
    folds = torch.arange(len(gaps), device=gaps.device) % _FOLDS
    kept = 0
    for fold in folds.unique():
        others = gaps[folds != fold]
        margin = min(widest, covering(others, RECALL)) if len(others) else widest
        kept += int((gaps[folds == fold] <= margin + SLACK).sum())
    return kept / len(gaps)


def _score_of_unseen(
    plain: PlainScorer,
    start: Mapping[str, Tensor],
    states: Tensor,
    targets: Tensor,
    labels: Tensor,
    owners: Tensor,
    seed: int,
) -> Tensor:
    """Mean plain score of the texts' own labels from scorers that have seen neither."""
    generator = torch.Generator().manual_seed(seed)
    number = int(owners.max()) + 1
    folds = torch.randperm(number, generator=generator).to(states.device) % _LABEL_FOLDS
    total = states.new_zeros(())
    for fold in folds.unique():
        plain.load_state_dict(start)
        kept = (folds != fold).nonzero().squeeze(1)
        place = torch.zeros_like(folds).index_copy(0, kept, torch.arange(len(kept)).to(kept))
        texts, rows = folds[targets] != fold, folds[owners] != fold
        kept_owners = place[owners[rows]]
        _fit(plain, states[texts], place[targets[texts]], labels[rows], kept_owners, generator)
        with torch.no_grad():
            scores = mean_over_texts(plain(states[~texts], labels), owners)
        total += scores.gather(1, targets[~texts, None]).sum()
    return total / len(states)


def _shortlist_figures(
    plain_scores: Tensor, inside: Tensor, targets: Sequence[int], answers: Tensor
) -> dict[str, float]:
    truth = torch.tensor(targets, device=inside.device)

    def share(labels: Tensor) -> float:
        return float(inside.gather(1, labels[:, None]).float().mean())

    return {
        "labels_per_text": float(inside.float().sum(1).mean()),
        "most_labels": int(inside.sum(1).max()),
        "recall_of_label": share(truth),
        "recall_of_answer": share(answers),
        "accuracy_without_branches": float((plain_scores.argmax(1) == truth).float().mean()),
    }


def _below_best(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.amax(1) - scores.gather(1, labels[:, None]).squeeze(1)


def _fit(
    plain: PlainScorer,
    states: Tensor,
    targets: Tensor,
    labels: Tensor,
    owners: Tensor,
    generator: torch.Generator,
) -> None:
    if not len(states):
        return
    steps = max(_LEAST_STEPS, math.ceil(_EPOCHS * len(states) / _BATCH))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        rows = torch.randint(len(states), (_BATCH,), generator=generator).to(states.device)
        scores = mean_over_texts(plain(states[rows], labels), owners)
        loss = functional.cross_entropy(scores, targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
