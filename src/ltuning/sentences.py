"""Words with tags: sentences, entities as spans of words, and tags of two schemes.

====== ============================================ =========================
scheme an entity of one word, of several            e.g. three words, one word
====== ============================================ =========================
IOB2   `B-x`, then `I-x`                            `B-x I-x I-x`, `B-x`
BIOES  `S-x`, or `B-x`, then `I-x`, at last `E-x`   `B-x I-x E-x`, `S-x`
====== ============================================ =========================

Words outside are `O`. A sequence is read strictly: one that is of neither scheme is an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from ltuning.errors import DataError

Scheme = Literal["IOB2", "BIOES"]
OUTSIDE = "O"

# Scripts that are read sign by sign.
_WITHOUT_SPACES = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
# Planes 0 and 1, and the selectors of variants: no other character is a mark.
_MAY_BE_MARKS = (range(0x300, 0x20000), range(0xE0100, 0xE01F0))
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Sentence:
    """A text and where its words are.

    Attributes:
        text: the text.
        words: `[W]` first character of each word, and the one after its last.
    """

    text: str
    words: tuple[tuple[int, int], ...]

    @classmethod
    def of_tokens(cls, tokens: Sequence[str]) -> Sentence:
        """Words that are given, with one space between them."""
        words, place = [], 0
        for token in tokens:
            words.append((place, place + len(token)))
            place += len(token) + 1
        return cls(" ".join(tokens), tuple(words))

    @classmethod
    def of_text(cls, text: str) -> Sentence:
        """Words found in a text: runs of letters and digits, and each other sign by itself.

        Addresses, names and topics of messages are whole. Marks, such as accents and the vowels of
        Indic scripts, belong to what they stand on.
        """
        return cls(text, tuple(found.span() for found in _word().finditer(text)))

    @property
    def tokens(self) -> list[str]:
        """`[W]` the words themselves."""
        return [self.text[start:end] for start, end in self.words]


@cache
def _word() -> re.Pattern[str]:
    # Python's \w has letters and digits, and no marks.
    marks = _marks()
    return re.compile(
        rf"https?://\S*[\w/{marks}]|[@#]\w[\w{marks}]*"
        # 's and its like, after a word alone: elsewhere an apostrophe opens a quotation.
        rf"|(?<=[\w{marks}])['\u2019][^\W\d_][^\W\d_{marks}]?(?![\w{marks}])"
        rf"|[{_WITHOUT_SPACES}][{marks}]*"
        rf"|[^\W{_WITHOUT_SPACES}](?:[^\W{_WITHOUT_SPACES}]|[{marks}])*|[^\w\s][{marks}]*"
    )


def _marks() -> str:
    """Combining characters and joiners, as what stands between brackets of an expression."""
    found: list[list[int]] = []
    for number in (number for numbers in _MAY_BE_MARKS for number in numbers):
        if unicodedata.category(chr(number))[0] == "M":
            if found and found[-1][1] == number - 1:
                found[-1][1] = number
            else:
                found.append([number, number])
    return _JOINERS + "".join(f"{chr(first)}-{chr(last)}" for first, last in found)


@dataclass(frozen=True)
class Span:
    """An entity: some words of a sentence.

    Attributes:
        start: its first word, counted from 0.
        end: the word after its last.
        type: of which kind it is.
    """

    start: int
    end: int
    type: str


def scheme_of(tag_lists: Iterable[Sequence[str]]) -> Scheme:
    """BIOES where a tag begins with `E-` or `S-`, which IOB2 has not."""
    of_bioes = any(tag.startswith(("E-", "S-")) for tags in tag_lists for tag in tags)
    return "BIOES" if of_bioes else "IOB2"


def spans_of(tags: Sequence[str], scheme: Scheme, where: str = "the tags") -> list[Span]:
    """The entities of a sentence's tags, in order.

    Args:
        tags: `[W]`.
        scheme: what they are.
        where: which sentence it is, for messages.

    Raises:
        DataError: a tag that is none, or that may not stand where it stands.
    """
    spans: list[Span] = []
    inside: tuple[int, str] | None = None  # where the open entity began, and its type
    for place, tag in enumerate([*tags, OUTSIDE]):
        before = tags[place - 1] if place else None
        letter, type_ = _parts(tag, scheme, f"{where}, word {place + 1}")
        goes_on = letter in "IE" and inside is not None and inside[1] == type_
        if (letter in "IE" and not goes_on) or (scheme == "BIOES" and inside and not goes_on):
            raise _misplaced(tag, before, scheme, f"{where}, word {place + 1}", place == len(tags))
        if inside is not None and not goes_on:
            spans.append(Span(inside[0], place, inside[1]))
            inside = None
        if letter == "B":
            inside = (place, type_)
        elif letter == "S":
            spans.append(Span(place, place + 1, type_))
        elif letter == "E" and inside is not None:
            spans.append(Span(inside[0], place + 1, type_))
            inside = None
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: Scheme = "IOB2") -> list[str]:
    """`[W]` tags of entities that do not overlap; `spans_of` reads the same entities back."""
    tags = [OUTSIDE] * length
    for span in spans:
        tags[span.start : span.end] = [f"I-{span.type}"] * (span.end - span.start)
        tags[span.start] = f"B-{span.type}"
        if scheme == "BIOES":
            tags[span.end - 1] = f"E-{span.type}"
            if span.end - span.start == 1:
                tags[span.start] = f"S-{span.type}"
    return tags


def _parts(tag: str, scheme: Scheme, where: str) -> tuple[str, str]:
    """Letter and type of a tag."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    letter, dash, type_ = tag.partition("-")
    if letter in ("B", "I", "E", "S") and dash and type_:
        return letter, type_
    raise DataError(
        f"{where}: expected a tag of {_forms(scheme)}, got {tag!r}; write entities as B-TYPE at "
        "their first word and I-TYPE at the others"
    )


def _misplaced(tag: str, before: str | None, scheme: Scheme, where: str, at_end: bool) -> DataError:
    after = "at the beginning" if before is None else f"after {before!r}"
    if tag[0] in "IE":
        began = f"B-{tag[2:]}"
        return DataError(
            f"{where}: expected an entity to begin with {began!r} ({scheme}), got {tag!r} {after}; "
            "write B- at the first word of every entity"
        )
    got = "the end of the sentence" if at_end else repr(tag)
    return DataError(
        f"{where}: expected an entity to end with E- (BIOES), got {got} {after}; write E- at its "
        "last word, S- at an only one"
    )


def _forms(scheme: Scheme) -> str:
    letters = "B-TYPE, I-TYPE" if scheme == "IOB2" else "B-TYPE, I-TYPE, E-TYPE, S-TYPE"
    return f"{scheme} (O, {letters})"
