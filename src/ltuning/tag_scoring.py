"""Probabilities of every tag for every word, and the best sequence that is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ltuning.backbones.batches import by_length, pieces
from ltuning.backbones.words import Window, WordBatch, windows_of
from ltuning.methods.heads import check_finite
from ltuning.methods.model import Model
from ltuning.tags import OUTSIDE, Sentence

Progress = Callable[[int], None]


def tag_names(types: Sequence[str]) -> list[str]:
    """`[1 + 2K]` the tags that are scored, of IOB2: `O`, then `B-x` and `I-x` of each type."""
    return [OUTSIDE, *(f"{letter}-{type_}" for type_ in types for letter in "BI")]


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
            ArtifactError: a score that is not finite.
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


def best_tags(probabilities: np.ndarray) -> np.ndarray:
    """`[W, 1 + 2K]` -> `[W]`: the most probable sequence in which `I-x` follows `B-x` or `I-x`.

    Viterbi's algorithm; a word's tag depends on no other word's but by what may follow what.
    """
    size = probabilities.shape[1]
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-30))
    inner = np.arange(2, size, 2)
    allowed = np.ones((size, size), dtype=bool)
    allowed[:, inner] = False
    allowed[inner, inner] = allowed[inner - 1, inner] = True
    penalty = np.where(allowed, 0.0, -np.inf)
    best = logs[:1].copy() if len(logs) else np.zeros((1, size))
    best[0, inner] = -np.inf
    total, back = best[0], []
    for row in logs[1:]:
        through = total[:, None] + penalty
        back.append(through.argmax(0))
        total = through.max(0) + row
    path = [int(total.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return np.array(path[::-1][: len(logs)], dtype=int)
