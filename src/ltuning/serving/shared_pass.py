"""Texts for several classifiers of one backbone, in one pass where their methods allow it.

A prefix belongs to a row of the pass, so that each text is read after that of its own classifier,
as the branches of a text are. What a prefix lacks in columns beside the longest one is masked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ltuning.backbones.batch_sizes import at_once
from ltuning.backbones.frozen_model import Tokens
from ltuning.backbones.prefix import Prefix
from ltuning.methods.heads import pool
from ltuning.scoring import Scorer, columns_at_once

# Prefixes of up to so many columns share passes, and of more those of up to twice as many.
_FEW_COLUMNS = 64
# Texts of up to so many tokens share passes, and longer ones with those of half their length.
_SHORT = 32


@dataclass(frozen=True)
class Asked:
    """Tokenized texts that one classifier is asked about.

    Args:
        scorer: of the classifier.
        tokens: of N texts, or windows of them.
    """

    scorer: Scorer
    tokens: Sequence[Tokens]


class _Row(NamedTuple):
    """A text, after one entry of the prefix of its classifier."""

    asked: int
    text: int
    entry: int


# The lowest layer with a prefix, the positions before a text, and columns up to which it goes.
_Kind = tuple[int, int | None, int]


def score_together(asked: Sequence[Asked]) -> Iterator[tuple[int, np.ndarray | Exception]]:
    """Scores `[N, K]` float32 for each that asks, by its number, as soon as they are all there.

    What goes wrong with one classifier is its answer, and the others have theirs.

    Args:
        asked: of classifiers on one backbone; one may come several times.
    """
    by_scorer: dict[Scorer, list[int]] = {}
    for number, one in enumerate(asked):
        by_scorer.setdefault(one.scorer, []).append(number)
    shared = {scorer: numbers for scorer, numbers in by_scorer.items() if _shares(scorer)}
    yield from _Shared(asked, shared).scores()
    for scorer, numbers in by_scorer.items():
        if scorer not in shared:
            yield from _alone(scorer, asked, numbers)


def _shares(scorer: Scorer) -> bool:
    model = scorer.model
    # A cache has one order of columns for all rows, which some of these models count distances by.
    return model.shares_passes and model.backbone.family.attention != "cache"


def _alone(
    scorer: Scorer, asked: Sequence[Asked], numbers: Sequence[int]
) -> Iterator[tuple[int, np.ndarray | Exception]]:
    """What a classifier says that shares no pass, to all who ask it."""
    tokens = [row for number in numbers for row in asked[number].tokens]
    try:
        scores = scorer.score_tokens(tokens)
    except Exception as error:
        yield from ((number, error) for number in numbers)
        return
    ends = np.cumsum([len(asked[number].tokens) for number in numbers])
    yield from zip(numbers, np.split(scores, ends[:-1]), strict=True)


class _Shared:
    """Passes that classifiers share.

    Args:
        asked: all of them.
        numbers: of those who ask each classifier that shares passes.
    """

    def __init__(self, asked: Sequence[Asked], numbers: dict[Scorer, list[int]]):
        self._asked = asked
        self._numbers = numbers
        prefixes = {scorer: scorer.prefix for scorer in numbers}
        self._prefixes = {of: one for of, one in prefixes.items() if one is not None and one.length}
        open_ = [number for several in numbers.values() for number in several]
        self._outputs = {number: _room(asked[number]) for number in open_}
        # Rows that have not run, of those who have no answer.
        self._left = {
            number: len(asked[number].tokens) * asked[number].scorer.model.passes
            for number in open_
        }

    def scores(self) -> Iterator[tuple[int, np.ndarray | Exception]]:
        """See `score_together`."""
        yield from self._done()
        for kind, rows in self._passes():
            rows = [row for row in rows if row.asked in self._left]
            try:
                self._run(kind, rows)
            except Exception:
                # One of them may be at fault: each is asked by itself.
                for number in dict.fromkeys(row.asked for row in rows):
                    del self._left[number]
                    yield from _alone(self._asked[number].scorer, self._asked, [number])
            else:
                for row in rows:
                    self._left[row.asked] -= 1
                yield from self._done()

    def _done(self) -> Iterator[tuple[int, np.ndarray | Exception]]:
        """Those all of whose rows have run."""
        for number in [number for number, left in self._left.items() if not left]:
            del self._left[number]
            scores, model = self._outputs[number], self._asked[number].scorer.model
            yield number, (scores if model.one_pass else model.of_labels(scores)).cpu().numpy()

    def _passes(self) -> list[tuple[_Kind | None, list[_Row]]]:
        """The rows of each pass, the shortest texts first."""
        groups: dict[_Kind | None, list[_Row]] = {}
        for scorer, numbers in self._numbers.items():
            rows = [
                _Row(number, text, entry)
                for number in numbers
                for text in range(len(self._asked[number].tokens))
                for entry in range(scorer.model.passes)
            ]
            if rows:
                groups.setdefault(self._kind(scorer), []).extend(rows)
        # A text without a prefix goes with those of few columns, all masked for it, unless a prefix
        # moves the positions of the text.
        few = [kind for kind in groups if kind is not None and kind[1:] == (None, _FEW_COLUMNS)]
        if None in groups and few:
            groups[few[0]] += groups.pop(None)
        found = [(kind, rows) for kind in groups for rows in self._batches(groups[kind])]
        return sorted(found, key=lambda of_pass: self._length(of_pass[1][-1]))

    def _kind(self, scorer: Scorer) -> _Kind | None:
        """What the prefixes of one pass have in common."""
        if scorer not in self._prefixes:
            return None
        prefix, family = self._prefixes[scorer], scorer.model.backbone.family
        most = _FEW_COLUMNS
        while most < prefix.length:
            most *= 2
        return prefix.first_layer, prefix.room if family.prefix_spends_positions else None, most

    def _length(self, row: _Row) -> int:
        return len(self._asked[row.asked].tokens[row.text]["input_ids"])

    def _batches(self, rows: Sequence[_Row]) -> list[list[_Row]]:
        """Rows of like lengths, as many as run at a time."""
        scorers = {self._asked[row.asked].scorer for row in rows}
        device = next(iter(scorers)).model.backbone.device
        most = min(scorer.max_branches for scorer in scorers)
        if columns := [self._prefixes[one].length for one in scorers if one in self._prefixes]:
            most = min(most, columns_at_once(max(columns), device))
        batches: list[list[_Row]] = []
        for row in sorted(rows, key=self._length):
            length = self._length(row)
            is_long = batches and length > max(_SHORT, 2 * self._length(batches[-1][0]))
            if not batches or is_long or len(batches[-1]) >= at_once(length, most, device):
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.inference_mode()
    def _run(self, kind: _Kind | None, rows: Sequence[_Row]) -> None:
        """One pass; fills in the outputs of its rows."""
        backbone = self._asked[rows[0].asked].scorer.model.backbone
        place: dict[tuple[int, int], int] = {}
        owners = [place.setdefault((row.asked, row.text), len(place)) for row in rows]
        tokens = [self._asked[number].tokens[text] for number, text in place]
        batch = backbone.batch(tokens).to(backbone.device)
        texts = torch.tensor(owners, device=backbone.device)
        prefix = None
        if kind is not None:
            prefix = self._joined(rows, texts if len(place) < len(rows) else None)
        hidden = backbone.forward(batch, prefix=prefix)
        mask = batch.mask.index_select(0, texts)
        by_scorer: dict[Scorer, list[int]] = {}
        for number, row in enumerate(rows):
            by_scorer.setdefault(self._asked[row.asked].scorer, []).append(number)
        for scorer, own in by_scorer.items():
            here = torch.tensor(own, device=hidden.device)
            self._read(scorer, [rows[number] for number in own], hidden[here], mask[here])

    def _joined(self, rows: Sequence[_Row], texts: Tensor | None) -> Prefix:
        """The prefixes of all rows as one: each row has the entry of its own.

        Args:
            rows: of the pass.
            texts: `[R]` the text of each row; None where row r is text r.
        """
        place: dict[tuple[Scorer, int], int] = {}
        of_rows = [
            place.setdefault((self._asked[row.asked].scorer, row.entry), len(place)) for row in rows
        ]
        own = [self._prefixes[scorer] for scorer, _ in place if scorer in self._prefixes]
        length = max(prefix.length for prefix in own)
        nothing = replace(own[0], states=own[0].states[..., :0, :], mask=own[0].mask[:, :0])
        states, masks = [], []
        for scorer, entry in place:
            prefix = self._prefixes.get(scorer, nothing)
            missing = length - prefix.length
            states.append(pad(prefix.states[entry], (0, 0, 0, missing)))
            masks.append(pad(prefix.mask[entry], (0, missing)))
        entries = torch.tensor(of_rows, device=own[0].states.device)
        return Prefix(
            torch.stack(states),
            torch.stack(masks),
            own[0].first_layer,
            entries,
            texts,
            room=own[0].room,
        )

    def _read(self, scorer: Scorer, rows: Sequence[_Row], hidden: Tensor, mask: Tensor) -> None:
        """Scores of states `[R, T, H]` of one classifier, into the outputs of their texts."""
        model = scorer.model
        assert model.method.pooling is not None  # resolved
        states = pool(hidden, mask, model.method.pooling)
        entries = None
        if not model.one_pass:
            entries = torch.tensor([row.entry for row in rows], device=states.device)
        scores = model.read(states, scorer.side, entries).float()
        for row, found in zip(rows, scores, strict=True):
            if entries is None:
                self._outputs[row.asked][row.text] = found
            else:
                self._outputs[row.asked][row.text, row.entry] = found


def _room(asked: Asked) -> Tensor:
    """For scores `[N, K]`, or `[N, V]` where each label text has a branch."""
    model = asked.scorer.model
    width = model.num_labels if model.one_pass else model.passes
    return torch.empty(len(asked.tokens), width, device=model.backbone.device)
