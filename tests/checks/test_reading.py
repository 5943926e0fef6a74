"""What a tokenizer says of texts: how long they are, whether it knows their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltuning.checks.reading import check_language, check_lengths, token_counts
from ltuning.data.tables import Places

KNOWN = "never always again today bread cheese"
UNKNOWN = "gestern immer wieder heute brot käse"


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    from ltuning.backbones.loading import load_config, load_tokenizer
    from ltuning.config import BackboneOptions

    options = BackboneOptions(name=str(tiny_bert))
    tokenizer = load_tokenizer(options, *load_config(options))
    return tokenizer


def test_tokens_are_counted_before_anything_is_cut(tokenizer: Any) -> None:
    told: list[int] = []
    texts = ["a ball", ("a ball", "the team"), "", " ".join(["ball"] * 1000)]
    assert token_counts(tokenizer, texts, told.append) == [4, 7, 2, 1002]
    assert sum(told) == 4


def test_texts_that_are_cut_are_told_with_how_much() -> None:
    (finding,) = check_lengths([10, 40, 10, 20], 10, Places("line", [2, 3, 5, 6]), "test")
    assert finding.sentence == (
        "2 of 4 texts are longer than the 10 tokens that the model reads: 67% of their tokens are "
        "cut, the longest has 40; train with --long-texts windows to read them whole"
    )
    assert (finding.split, finding.count) == ("test", 2)
    assert finding.found == [{"line": 3, "tokens": 40}, {"line": 6, "tokens": 20}]
    assert check_lengths([10, 10], 10, Places("row", [1, 2]), "test") == []


@pytest.mark.parametrize("backbone", ["builtin:minilm", "a/model"])
def test_texts_of_words_that_the_model_does_not_know(tokenizer: Any, backbone: str) -> None:
    (finding,) = check_language(tokenizer, [KNOWN] * 7 + [UNKNOWN], backbone, "train")
    english = " was trained on English and" if backbone.startswith("builtin") else ""
    assert finding.sentence == (
        f"1 of 8 texts looked at are mostly of words that the model{english} does not know, such "
        "as 'gestern', 'immer', 'wieder'; give a model of their language with --backbone"
    )
    assert finding.count == 1


def test_a_few_unknown_words_are_no_other_language(tokenizer: Any) -> None:
    names = f"{KNOWN} Gestern Immer Wieder Heute Brot"  # names are written large
    some = f"{KNOWN} gestern immer"
    assert check_language(tokenizer, [names, some, "gestern", "4711", ""], "m", "train") == []
    assert check_language(tokenizer, [KNOWN] * 19 + [UNKNOWN], "m", "train") == []
    assert check_language(tokenizer, [], "m", "train") == []
