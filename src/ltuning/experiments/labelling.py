"""What stands for a label: does its meaning matter, or any text that is its own?

============= ====================================================================================
names         the labels' names
descriptions  the texts that the data set gives
shuffled      the descriptions, each at another label
random-tokens words of the vocabulary drawn at random, as many as the description has tokens
single-token  one word of the vocabulary, drawn at random, for each label
============= ====================================================================================
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ltuning.errors import LabelError
from ltuning.labels import Labels

# Draws per word that is looked for; of most vocabularies every third entry is a whole word.
_DRAWS = 200


def label_texts(
    kind: str | None,
    given: Mapping[str, Sequence[str]] | None,
    names: Sequence[str],
    tokenizer: object,
    seed: int,
) -> dict[str, list[str]]:
    """Name -> texts.

    Args:
        kind: one of the table; None for methods that do not read them.
        given: descriptions; None = the names stand for themselves.
        names: of the labels, where nothing is given.
        tokenizer: of the backbone.
        seed: of the draws.

    Raises:
        LabelError: labels that cannot be told apart, or a vocabulary without words.
    """
    named = names if given is None else dict(given)
    base = Labels.from_any(named, texts_read=kind is not None).to_dict()
    if kind is None or kind == "descriptions":
        return base
    if kind == "names":
        return Labels.from_any(list(base)).to_dict()
    draw = random.Random(f"{seed}:{kind}")
    if kind == "shuffled":
        order = _derangement(len(base), draw)
        texts = list(base.values())
        return {name: texts[order[place]] for place, name in enumerate(base)}
    first = [several[0] for several in base.values()]
    is_single = kind == "single-token"
    lengths = [1 if is_single else _num_tokens(tokenizer, text) for text in first]
    words = _words(tokenizer, sum(lengths), draw)
    drawn = {
        name: [" ".join(words.pop() for _ in range(n))]
        for name, n in zip(base, lengths, strict=True)
    }
    return Labels.from_any(drawn).to_dict()


def _derangement(number: int, draw: random.Random) -> list[int]:
    """A random order in which nothing stays where it was."""
    while True:
        order = draw.sample(range(number), number)
        if all(place != index for index, place in enumerate(order)):
            return order


def _num_tokens(tokenizer: Any, text: str) -> int:
    return max(1, len(tokenizer(text, add_special_tokens=False)["input_ids"]))


def _words(tokenizer: Any, number: int, draw: random.Random) -> list[str]:
    """Different words that the tokenizer reads as one token each."""
    special, size = set(tokenizer.all_special_ids), len(tokenizer)
    found: dict[str, None] = {}
    entries = range(size)
    tried = draw.sample(entries, min(size, _DRAWS * number))
    for entry in tried:
        word = tokenizer.decode([entry]).strip()
        if entry not in special and word.isalpha() and _num_tokens(tokenizer, word) == 1:
            found.setdefault(word)
        if len(found) == number:
            return list(found)
    raise LabelError(
        f"expected {number} words of one token each in the backbone's vocabulary, got "
        f"{len(found)}; use label text names or descriptions"
    )
