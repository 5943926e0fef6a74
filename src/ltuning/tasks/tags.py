"""Entities in sentences, by a tag for every word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltuning.data.sources import Columns, read_tagged_split, read_tagged_splits
from ltuning.data.tagged import TaggedExamples, hold_out_sentences, refuse_skipping
from ltuning.metrics import Report, span_report
from ltuning.sentences import Sentence, Span, scheme_of, spans_of, tags_of
from ltuning.tasks.task import Labelled, Task

if TYPE_CHECKING:
    from ltuning.estimators.token_classifier import TokenClassifier

# In a table of sentences, where a sentence has no more words.
_NO_WORD = -1


class Tags(Task["TokenClassifier", TaggedExamples, Sequence[np.ndarray]]):
    """Scores are probabilities `[W, 1 + 2K]` of each sentence; names are types of entities.

    What is true and what is predicted is `[N, W]`, of the longest sentence: the place of each
    word's tag among `tag_names`, and -1 where a sentence has no more words.
    """

    name = "tags"
    output_columns = ("predicted_spans", "predicted_tags")
    lines = "jsonl"
    held_out = ""
    figures = ("f1", "precision", "recall")
    each = "type"
    answers = "sentences (all their tags)"
    legend = "of the test sentences; an entity is right where its words and its type are"

    def door(self) -> type[TokenClassifier]:
        """`TokenClassifier`."""
        from ltuning.estimators.token_classifier import TokenClassifier

        return TokenClassifier

    def read_splits(
        self, source: str | Path, columns: Columns, **how: Any
    ) -> Mapping[str, TaggedExamples]:
        """Sentences with a tag for each word."""
        return read_tagged_splits(source, columns, **_without_skipping(how))

    def read_split(
        self, source: str | Path, split: str, columns: Columns, **how: Any
    ) -> TaggedExamples:
        """Sentences with a tag for each word."""
        return read_tagged_split(source, split, columns, **_without_skipping(how))

    def hold_out(
        self, examples: TaggedExamples, fraction: float, seed: int
    ) -> tuple[TaggedExamples, TaggedExamples]:
        """Training and validation sentences."""
        return hold_out_sentences(examples, fraction, seed)

    def names(self, examples: Labelled) -> list[str]:
        """The types of entities."""
        return sorted({span.type for spans in _spans(examples) for span in spans})

    def truth(self, examples: Labelled, names: Sequence[str]) -> np.ndarray:
        """`[N, W]` places of tags."""
        from ltuning.tag_decoding import tag_names

        place = {tag: index for index, tag in enumerate(tag_names(names))}
        lengths = [len(tags) for tags in examples.labels or ()]
        return _padded(
            [
                [place[tag] for tag in tags_of(spans, length)]
                for spans, length in zip(_spans(examples), lengths, strict=True)
            ]
        )

    def scored(self, door: TokenClassifier, inputs: Sequence[Sentence]) -> list[np.ndarray]:
        """`[W, 1 + 2K]` probabilities for each sentence."""
        return door.scorer().probabilities(inputs)

    def decide(self, scored: Sequence[np.ndarray], thresholds: np.ndarray | None) -> np.ndarray:
        """`[N, W]` places of tags, of the best sequences."""
        from ltuning.tag_decoding import best_tags

        return _padded([best_tags(table).tolist() for table in scored])

    def packed(self, scored: Sequence[np.ndarray]) -> np.ndarray:
        """The words of all sentences, one after the other."""
        return np.concatenate(scored)

    def measure(
        self,
        scored: Sequence[np.ndarray],
        predicted: np.ndarray,
        truth: np.ndarray,
        names: Sequence[str],
    ) -> Report:
        """`span_report`, and the log loss of a word as `loss`."""
        of_truth = self.packed(scored)[np.arange((truth != _NO_WORD).sum()), _words(truth)]
        loss = -np.log(np.maximum(of_truth, np.finfo(np.float32).tiny)).mean()
        report = span_report(_tags(truth, names), _tags(predicted, names))
        return report | {"loss": float(loss)}

    def counts(self, predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """`[N, 3]` entities."""
        sides = [
            [{*spans_of(tags, "IOB2")} for tags in _tags(side, names)]
            for side in (predicted, truth)
        ]
        pairs = zip(*sides, strict=True)
        return np.array([[len(ours & real), len(ours), len(real)] for ours, real in pairs])

    def surest_mistakes(
        self, scored: Sequence[np.ndarray], predicted: np.ndarray, truth: np.ndarray
    ) -> dict[int, float]:
        """The highest probability of a wrong tag that was predicted."""
        found = {}
        for row in np.flatnonzero((predicted != truth).any(1)).tolist():
            words = np.flatnonzero(predicted[row] != truth[row])
            found[row] = float(scored[row][words, predicted[row][words]].max())
        return found

    def said(
        self, door: Any, inputs: Sequence[Any], progress: Callable[[int], None]
    ) -> list[object]:
        """The entities of each sentence."""
        lists = door.predict_tags(inputs, progress)
        return [{*spans_of(tags, scheme_of([tags]))} for tags in lists]

    def true(self, examples: Labelled) -> list[object]:
        """The entities of each sentence."""
        return [{*spans} for spans in _spans(examples)]

    def shown(self, decided: np.ndarray, example: Sentence, names: Sequence[str]) -> str:
        """The entities with their types, or a dash."""
        (tags,), tokens = _tags(decided[None], names), example.tokens
        entities = [
            f"{' '.join(tokens[span.start : span.end])} ({span.type})"
            for span in spans_of(tags, "IOB2")
        ]
        return ", ".join(entities) or "-"


def _without_skipping(how: Mapping[str, Any]) -> dict[str, Any]:
    """Options of reading less those that sentences do not have."""
    rows = {name: how.get(name, "refuse") for name in ("empty_texts", "missing_labels")}
    refuse_skipping(**rows)
    return {name: value for name, value in how.items() if name not in rows}


def _spans(examples: Labelled) -> list[list[Span]]:
    lists = examples.labels or []
    scheme = scheme_of(lists)
    return [
        spans_of(tags, scheme, f"{examples.origin}, row {row}")
        for row, tags in enumerate(lists, start=1)
    ]


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    table = np.full((len(rows), max(map(len, rows))), _NO_WORD)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table


def _words(table: np.ndarray) -> np.ndarray:
    """All words of the sentences of a table."""
    words: np.ndarray = table[table != _NO_WORD]
    return words


def _tags(table: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """The tags of each sentence of a table."""
    from ltuning.tag_decoding import tag_names

    tags = tag_names(names)
    return [[tags[place] for place in _words(row)] for row in table]
