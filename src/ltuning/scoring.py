"""Scores of labels for texts and of tags for words, with the label side computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.batch_sizes import at_once, by_length, pieces
from ltuning.backbones.families import Pooling
from ltuning.backbones.frozen_model import TextBatch, Tokens
from ltuning.backbones.long_texts import texts_done, warn_of_cut
from ltuning.backbones.prefix import Prefix
from ltuning.backbones.words import Window, WordBatch, windows_of
from ltuning.config import LongTexts
from ltuning.methods.heads import check_finite, over_windows, pool
from ltuning.methods.model import Branches, Model
from ltuning.sentences import Sentence
from ltuning.texts import Text, num_characters

Progress = Callable[[int], None]

# Columns of all labels together that stand before the texts of a batch, each text its own: what
# they take is bounded however many labels there are. On a CPU more of them spill out of its caches:
# with 150 labels 8,192 score 1.3 times as many texts as 32,768 or 2,048 (MiniLM, one thread).
_COLUMNS_ON_CPU, _COLUMNS = 2**13, 2**15


def columns_at_once(columns: int, device: torch.device) -> int:
    """Texts that run together, each after so many columns of its own."""
    limit = _COLUMNS_ON_CPU if device.type == "cpu" else _COLUMNS
    return max(1, limit // columns)


class Scorer:
    """A classifier of texts, with what it makes of the label texts made once.

    Args:
        model: a trained classifier.
        max_branches: most texts, or (text, label) pairs where labels are read apart, at a time;
            what bounds the memory.

    Attributes:
        side: the model's `label_side`.
        num_branches: branches so far (texts, where one pass reads all labels).
    """

    def __init__(self, model: Model[TextBatch], max_branches: int):
        self.model = model
        self.max_branches = max_branches
        self.num_branches = 0
        with torch.inference_mode():
            self.side = model.label_side()

    @cached_property
    def prefix(self) -> Prefix | None:
        """What stands before a text, where the model shares passes; see `Model.prefix`."""
        return self.model.prefix(self.side)

    def score(
        self,
        texts: Sequence[Text],
        progress: Progress | None = None,
        max_length: int | None = None,
        long_texts: LongTexts = "cut",
    ) -> np.ndarray:
        """Scores of texts; with a warning where some are cut.

        Args:
            texts: N texts, in any order; they are tokenized piece by piece, so that many take no
                more memory than some, and batched by length.
            progress: called with the number of texts just done.
            max_length: most tokens that are read at a time; None = the backbone's own limit.
            long_texts: what becomes of longer ones, see `Backbone.windows`.

        Returns:
            `[N, K]` float32, row for row in the order of the texts.

        Raises:
            ScoresError: a score that is not finite.
        """
        backbone, lengths = self.model.backbone, []
        scores = np.empty((len(texts), self.model.num_labels), dtype=np.float32)
        for rows in pieces([num_characters(text) for text in texts]):
            piece = [texts[row] for row in rows]
            windows = backbone.windows(piece, max_length, long_texts=long_texts)
            found = self.score_tokens(windows.tokens, progress, windows.counts)
            scores[rows.start : rows.stop] = found
            check_finite(found, "texts")
            lengths += windows.lengths
        if long_texts == "cut":
            warn_of_cut(texts, lengths, max_length or backbone.max_length)
        return scores

    def score_tokens(
        self,
        tokens: Sequence[Tokens],
        progress: Progress | None = None,
        counts: Sequence[int] | None = None,
    ) -> np.ndarray:
        """`score` for texts that are tokenized already.

        Args:
            tokens: of N texts, or of all of their windows, one text after the other.
            progress: called with the number of texts just done.
            counts: `[N]` how many windows each text has; None = `tokens` are of texts.
        """
        scores = np.empty((len(tokens), self.model.num_labels), dtype=np.float32)
        sizes = [1] * len(tokens) if counts is None else [*counts]
        owners, left = np.arange(len(sizes)).repeat(sizes), np.array(sizes)
        with torch.inference_mode():
            for rows in self._batches(tokens):
                batch = [tokens[row] for row in rows]
                scores[rows] = self._score_batch(batch).float().cpu().numpy()
                if progress is not None:
                    progress(texts_done(left, owners, rows))
        return scores if counts is None else over_windows(torch.from_numpy(scores), sizes).numpy()

    @property
    def most_texts(self) -> int:
        """The most texts of a batch; on a CPU fewer where they are long."""
        most = max(1, self.max_branches // self.model.passes)
        if columns := self.model.columns(self.side):
            most = min(most, columns_at_once(columns, self.model.backbone.device))
        return most

    def _batches(self, tokens: Sequence[Tokens]) -> list[list[int]]:
        backbone, passes = self.model.backbone, self.model.passes
        return by_length(_lengths(tokens), self.most_texts, backbone.device, passes)

    def _score_batch(self, tokens: list[Tokens]) -> Tensor:
        backbone = self.model.backbone
        batch = backbone.batch(tokens).to(backbone.device)
        self.num_branches += len(batch) * self.model.passes
        if self.model.one_pass:
            return self.model.score(batch, self.side)
        return self.model.of_labels(self._branches(batch))

    def _branches(self, batch: TextBatch) -> Tensor:
        """Scores `[B, V]` of the label texts, each in a branch of its own."""
        number = self.model.passes
        texts = torch.arange(len(batch), device=batch.mask.device).repeat_interleave(number)
        rows = torch.arange(number, device=batch.mask.device).repeat(len(batch))
        scores = torch.empty(len(texts), device=texts.device)
        size = at_once(batch.mask.shape[1], self.max_branches, texts.device)
        for places in torch.arange(len(texts), device=texts.device).split(size):
            used, place = texts[places].unique(return_inverse=True)
            branches = Branches(place, rows[places])
            scores[places] = self.model.score(batch.select(used), self.side, branches)
        return scores.view(len(batch), number)


def mean_states(
    backbone: Backbone,
    tokens: Sequence[Tokens],
    size: int,
    how: Pooling = "mean",
    progress: Progress | None = None,
) -> Tensor:
    """Pooled states `[N, H]` of tokenized texts without virtual tokens, in float32.

    Args:
        backbone: the frozen model.
        tokens: N tokenized texts.
        size: texts at a time.
        how: they are pooled.
        progress: called with the number of texts just done.
    """
    states = torch.empty(len(tokens), backbone.sizes.hidden, device=backbone.device)
    with torch.no_grad():
        for rows in by_length(_lengths(tokens), size, backbone.device):
            batch = backbone.batch([tokens[row] for row in rows]).to(backbone.device)
            states[rows] = pool(backbone.forward(batch), batch.mask, how)
            if progress is not None:
                progress(len(rows))
    return states


def _lengths(tokens: Sequence[Tokens]) -> list[int]:
    return [len(row["input_ids"]) for row in tokens]


class TagScorer:
    """A classifier of words, at work on sentences.

    Args:
        model: a trained tagger.
        max_windows: most windows at a time; what bounds the memory.
    """

    def __init__(self, model: Model[WordBatch], max_windows: int):
        self.model = model
        self.max_windows = max_windows

    def probabilities(
        self, sentences: Sequence[Sentence], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """`[W, 1 + 2K]` for each sentence; a word without a token is outside.

        Raises:
            ScoresError: a score that is not finite.
        """
        tables: list[np.ndarray] = []
        for rows in pieces([len(sentence.text) for sentence in sentences]):
            piece = [sentences[row] for row in rows]
            windows = windows_of(self.model.backbone, piece)
            lengths = [len(sentence.words) for sentence in piece]
            found = self.of_windows(windows, lengths, progress)
            for table in found:
                check_finite(table, "words")
            tables += found
        return tables

    def of_windows(
        self, windows: Sequence[Window], lengths: Sequence[int], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """`probabilities` for windows that are made already, of sentences of these lengths."""
        outputs = self.model.num_labels
        found = [np.zeros((length, outputs), dtype=np.float32) for length in lengths]
        for table in found:
            table[:, 0] = 1.0
        # How often a sentence still comes; a bar counts sentences, not windows.
        left = np.bincount([window.sentence for window in windows], minlength=len(lengths))
        if progress is not None:
            progress(int((left == 0).sum()))
        sizes = [len(window.tokens["input_ids"]) for window in windows]
        for rows in by_length(sizes, self.max_windows, self.model.backbone.device):
            chosen = [windows[row] for row in rows]
            for window, table in zip(chosen, self._of_batch(chosen), strict=True):
                found[window.sentence][window.words] = table
                left[window.sentence] -= 1
                if progress is not None and not left[window.sentence]:
                    progress(1)
        return found

    def _of_batch(self, windows: Sequence[Window]) -> list[np.ndarray]:
        backbone = self.model.backbone
        with torch.inference_mode():
            batch = WordBatch.of(backbone, windows).to(backbone.device)
            scores = self.model.score(batch, self.model.label_side())
            probabilities = scores.softmax(-1).float().cpu().numpy()
        return [
            table[: len(window.words)] for window, table in zip(windows, probabilities, strict=True)
        ]
