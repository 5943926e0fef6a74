"""Tagged sentences out of a table: words with tags, or texts with spans."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from ltuning.data.examples import BY_CONVENTION, Columns
from ltuning.data.splits import needed
from ltuning.data.tables import Places, Table, each_row
from ltuning.errors import DataError
from ltuning.sentences import Sentence, Span, scheme_of, spans_of, tags_of
from ltuning.suggestions import unknown

TEXT_COLUMNS = ("tokens", "words", "text", "sentence")
_SPAN_COLUMNS = ("spans", "entities")
TAG_COLUMNS = ("tags", "ner_tags", *_SPAN_COLUMNS)
_FORMS = (
    'rows such as {"tokens": ["in", "Rome"], "tags": ["O", "B-place"]} or {"text": "in Rome", '
    '"spans": [{"start": 3, "end": 7, "type": "place"}]}'
)
_log = logging.getLogger("ltuning")


@dataclass(frozen=True)
class TaggedExamples:
    """Sentences with their tags.

    Attributes:
        sentences: in the order of the source.
        tags: for each one, a tag per word; None where the source has none.
        origin: where they came from, for messages.
        places: where each sentence stands there; None where that is not known.
    """

    sentences: list[Sentence]
    tags: list[list[str]] | None
    origin: str
    places: Places | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def inputs(self) -> list[Sentence]:
        """What a tagger is given."""
        return self.sentences

    @property
    def texts(self) -> list[list[str]]:
        """The words of each sentence."""
        return [sentence.tokens for sentence in self.sentences]

    @property
    def labels(self) -> list[list[str]] | None:
        """Another name of the tags."""
        return self.tags

    @property
    def names(self) -> list[list[str]]:
        """The types of the entities of each sentence, each once."""
        lists = self.tags or []
        scheme = scheme_of(lists)
        return [sorted({span.type for span in spans_of(tags, scheme)}) for tags in lists]

    def part(self, rows: Sequence[int]) -> Self:
        """Some of the examples."""
        tags = None if self.tags is None else [self.tags[row] for row in rows]
        sentences = [self.sentences[row] for row in rows]
        return replace(
            self, sentences=sentences, tags=tags, places=self.places and self.places.part(rows)
        )


def tagged_from_table(
    table: Table, columns: Columns = BY_CONVENTION, need_tags: bool = True
) -> TaggedExamples:
    """Take sentences and tags out of a table.

    Args:
        table: the rows.
        columns: `text`: the column of words or texts; `label`: of tags or spans. None in it means
            by convention.
        need_tags: whether every row must have tags; otherwise none are taken, and a sentence may
            have no words.

    Raises:
        DataError: no such column, words and tags of different number, no words, spans that overlap
            or leave their text.
    """
    text = text_column_of(table, columns.text)
    every, rows = range(len(table.rows)), table.rows
    sentences = each_row(
        table, every, lambda row: _sentence(rows[row].get(text), text, table.where(row), need_tags)
    )
    if not need_tags:
        return TaggedExamples(sentences, None, table.origin, table.places)
    tag = _column(table, columns.label, TAG_COLUMNS, "tags or spans", "label")
    inexact: list[str] = []
    has_spans = _has_spans(table, tag)

    def tags_of_row(row: int) -> list[str]:
        value, sentence, where = rows[row].get(tag), sentences[row], table.where(row)
        if value == [] and isinstance(rows[row].get(text), list) and not has_spans:
            raise _different_lengths(where, sentence, 0)
        return _tags(value, tag, sentence, where, inexact)

    tags = each_row(table, every, tags_of_row)
    if inexact:
        _log.warning(
            "%s: %d spans begin or end inside a word, the first %s; the whole word is taken",
            table.origin,
            len(inexact),
            inexact[0],
        )
    return TaggedExamples(sentences, tags, table.origin, table.places)


def refuse_skipping(empty_texts: str, missing_labels: str) -> None:
    """Raises DataError where rows of tagged sentences are to be skipped: a sentence is refused."""
    if "skip" in (empty_texts, missing_labels):
        raise DataError(
            "expected empty texts and missing labels to be skipped of texts with labels, got "
            "sentences with tags; mend the rows and leave --empty-texts and --missing-labels out"
        )


def text_column_of(table: Table, name: str | None) -> str:
    """The column of words or texts, by its name or by convention.

    Raises:
        DataError: there is none.
    """
    return _column(table, name, TEXT_COLUMNS, "words or texts", "text")


def hold_out_sentences(
    examples: TaggedExamples, fraction: float, seed: int
) -> tuple[TaggedExamples, TaggedExamples]:
    """Split into training and validation sentences, at least one each; equal seeds, equal parts.

    A sentence stays for training if a type would be in validation only.

    Raises:
        DataError: fewer than two sentences, or none that training can do without.
    """
    if len(examples) < 2:
        raise DataError(
            f"{examples.origin}: expected two sentences or more, of which one is held out for "
            f"validation, got {len(examples)}; add sentences, give a validation split, or set "
            "data.validation_fraction=0"
        )
    count = min(max(round(fraction * len(examples)), 1), len(examples) - 1)
    held = set(random.Random(seed).sample(range(len(examples)), count))
    held -= needed(examples.names, held)
    if not held:
        raise DataError(
            f"{examples.origin}: expected a sentence whose types others have too, to hold out for "
            f"validation, got {count} with a type of their own; add sentences, give a validation "
            "split, or set data.validation_fraction=0"
        )
    rest = [index for index in range(len(examples)) if index not in held]
    return examples.part(rest), examples.part(sorted(held))


def _column(
    table: Table, name: str | None, conventional: Sequence[str], what: str, option: str
) -> str:
    if name is not None:
        if name not in table.columns:
            raise DataError(f"{table.origin}: {unknown('column', name, table.columns)}")
        return name
    found = next((known for known in conventional if known in table.columns), None)
    if found is None:
        raise DataError(
            f"{table.origin}: expected a column of {what} ({', '.join(conventional)}), got the "
            f"columns {', '.join(map(repr, table.columns))}; name it with --{option}-column "
            f"(data.{option}_column), or write "
            f"{_FORMS}"
        )
    return found


def _sentence(value: object, column: str, where: str, need_words: bool) -> Sentence:
    if isinstance(value, str):
        sentence = Sentence.of_text(value)
    elif isinstance(value, list) and all(isinstance(word, str) for word in value):
        if any(not word.strip() for word in value):
            place = next(place for place, word in enumerate(value, 1) if not word.strip())
            raise DataError(f"{where}: word {place} of {len(value)} is empty; remove it or fill it")
        sentence = Sentence.of_tokens(value)
    else:
        raise DataError(
            f"{where}: expected a list of words or a text in column {column!r}, got "
            f"{value!r:.80}; write {_FORMS}"
        )
    if need_words and not sentence.words:
        raise DataError(f"{where}: expected a sentence of one word or more, got none; remove it")
    return sentence


def _has_spans(table: Table, column: str) -> bool:
    """Whether an empty list in the column is one of spans; it may be one of tags."""
    if column in _SPAN_COLUMNS:
        return True
    values = (row.get(column) for row in table.rows)
    return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values)


def _different_lengths(where: str, sentence: Sentence, number: int) -> DataError:
    return DataError(
        f"{where}: expected a tag for each word, got {len(sentence.words)} words and {number} "
        "tags; give every word one tag, O outside of entities"
    )


def _tags(
    value: object, column: str, sentence: Sentence, where: str, inexact: list[str]
) -> list[str]:
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value) and value:
        if len(value) != len(sentence.words):
            raise _different_lengths(where, sentence, len(value))
        return value
    if isinstance(value, list) and all(isinstance(span, dict) for span in value):
        spans = sorted(_characters(span, sentence, where) for span in value)
        return _tags_of_spans(spans, sentence, where, inexact)
    raise DataError(
        f"{where}: expected a list of tags or of spans in column {column!r}, got {value!r:.80}; "
        f"write {_FORMS}"
    )


def _characters(span: Mapping[str, object], sentence: Sentence, where: str) -> tuple[int, int, str]:
    start, end, type_ = span.get("start"), span.get("end"), span.get("type", span.get("label"))
    are_numbers = all(
        isinstance(place, int) and not isinstance(place, bool) for place in (start, end)
    )
    if not are_numbers or not isinstance(type_, str) or not type_.strip():
        raise DataError(
            f"{where}: expected spans with the numbers start and end and a type, got {span!r:.80}"
        )
    assert isinstance(start, int) and isinstance(end, int)
    length = len(sentence.text)
    if not 0 <= start < end <= length:
        raise DataError(
            f"{where}: expected a span within the text, of characters 0 to {length}, got {start} "
            f"to {end}; count characters from 0, the end being the character after the last"
        )
    return start, end, type_


def _tags_of_spans(
    spans: Sequence[tuple[int, int, str]], sentence: Sentence, where: str, inexact: list[str]
) -> list[str]:
    found: list[Span] = []
    end_before = 0
    for start, end, type_ in spans:
        shown = f"{sentence.text[start:end]!r} ({start} to {end})"
        words = [
            place for place, word in enumerate(sentence.words) if word[0] < end and start < word[1]
        ]
        if start < end_before or (found and words and words[0] < found[-1].end):
            raise DataError(
                f"{where}: expected spans that do not overlap or share a word, got {shown} after "
                f"one that ends at {end_before}; keep one of them"
            )
        if not words:
            raise DataError(f"{where}: expected a span with a word in it, got {shown}; remove it")
        exact = (sentence.words[words[0]][0], sentence.words[words[-1]][1])
        if exact[0] < start or exact[1] > end:
            inexact.append(f"{shown} in {where.rpartition(', ')[2]}")
        found.append(Span(words[0], words[-1] + 1, type_))
        end_before = end
    return tags_of(found, len(sentence.words))
