"""How a tokenizer reads texts: which of them are cut, and which are of words it does not know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltuning.backbones.batch_sizes import alike
from ltuning.backbones.loading import BUILTIN, DECODER, tokenized
from ltuning.checks.finding import Finding
from ltuning.data.tables import Places
from ltuning.stages import Advance
from ltuning.suggestions import listed
from ltuning.texts import Text, columns_of, counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENGLISH = (BUILTIN, DECODER)
# Runs of letters, shorter ones being too often names, codes and the like. Of English ones written
# small MiniLM's vocabulary has 85 to 99 in 100 (ten data sets, tweets among them), of French 23, of
# German 9, of Russian none.
_WORD = re.compile(r"[^\W\d_]{4,}")
# Texts that are looked at; the letters in such words that a text needs for it, and the share of
# them in known words that it has at least; the share of other texts from which on it is said. Of
# twelve texts each 11 German and 12 French ones are found, of English sets up to 3 in 100, of
# tweets with entities 9.
_LOOKED_AT = 1000
_LETTERS = 15
_KNOWN = 0.4
_FROM = 0.1
_NAMED = 3


def token_counts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], progress: Advance | None = None
) -> list[int]:
    """Tokens of each text or pair of texts, special ones included, before anything is cut.

    Args:
        tokenizer: of the backbone.
        texts: N texts.
        progress: called with the number of texts just done.
    """
    counts = [0] * len(texts)
    for rows in alike(texts):
        columns = columns_of([texts[row] for row in rows])
        encoded = tokenized(tokenizer, *columns, return_attention_mask=False, verbose=False)
        for row, ids in zip(rows, encoded["input_ids"], strict=True):
            counts[row] = len(ids)
        if progress is not None:
            progress(len(rows))
    return counts


def check_lengths(counts: Sequence[int], room: int, places: Places, split: str) -> list[Finding]:
    """Texts that are longer than the model reads.

    Args:
        counts: tokens of each text.
        room: the most tokens of a text that the model reads.
        places: where each text stands.
        split: whose texts they are.
    """
    long = [row for row, count in enumerate(counts) if count > room]
    if not long:
        return []
    whole = sum(counts[row] for row in long)
    sentence = (
        f"{len(long):,} of {counted(len(counts), 'text')} are longer than the {room:,} tokens "
        f"that the model reads: {1 - room * len(long) / whole:.0%} of their tokens are cut, the "
        f"longest has {max(counts):,}; train with --long-texts windows to read them whole"
    )
    found = [{places.unit: places.numbers[row], "tokens": counts[row]} for row in long]
    return [Finding("long texts", split, len(long), sentence, found)]


def check_language(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[Text], backbone: str, split: str
) -> list[Finding]:
    """Texts that are mostly of words that the backbone's vocabulary does not have.

    Of the builtin backbones, which know English, a word is known that is one piece; of others,
    which may be made to put words together, one in which no piece stands for anything unknown.

    Args:
        tokenizer: of the backbone.
        texts: up to a thousand of them are looked at.
        backbone: its name.
        split: whose texts they are.
    """
    some = texts[:: -(-len(texts) // _LOOKED_AT)] if texts else texts
    words = [_words(text) for text in some]
    known = _known(tokenizer, sorted({word for of in words for word in of}), backbone in _ENGLISH)
    judged = [of for of in words if sum(map(len, of)) >= _LETTERS]
    foreign = [of for of in judged if _share(of, known) < _KNOWN]
    if len(foreign) <= _FROM * len(judged):
        return []
    examples = list(dict.fromkeys(word for of in foreign for word in of if word not in known))
    trained = " was trained on English and" if backbone in _ENGLISH else ""
    sentence = (
        f"{len(foreign):,} of {len(judged):,} texts looked at are mostly of words that the model"
        f"{trained} does not know, such as {listed(word[:20] for word in examples[:_NAMED])}; give "
        "a model of their language with --backbone"
    )
    return [Finding("language", split, len(foreign), sentence)]


def _words(text: Text) -> list[str]:
    """The words of a text that are not written as names."""
    found = _WORD.findall(text if isinstance(text, str) else " ".join(text))
    return [word for word in found if word == word.lower()]


def _known(tokenizer: PreTrainedTokenizerBase, words: list[str], as_one: bool) -> set[str]:
    if not words:
        return set()
    # A space before a word is part of its piece in many tokenizers.
    spaced = [f" {word}" for word in words]
    encoded = tokenized(tokenizer, spaced, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    return {
        word
        for word, ids in zip(words, encoded, strict=True)
        if unknown not in ids and (len(ids) == 1 or not as_one)
    }


def _share(words: Sequence[str], known: set[str]) -> float:
    """The share of the letters that are in known words."""
    letters = [len(word) for word in words]
    ours = [len(word) for word in words if word in known]
    return sum(ours) / sum(letters)
