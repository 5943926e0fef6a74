"""What `fit` says of labelled texts before it trains on them."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ltuning import LabelClassifier, MultilabelClassifier, TokenClassifier
from ltuning.backbones.backbone import Backbone
from ltuning.errors import DataError
from ltuning.estimators.rows import unsaid


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ltuning.rows"]


def test_texts_under_two_labels_repeats_overlaps_and_rare_labels_are_named(
    bert: Backbone, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # Empty texts are left out, and what is named is named by where it was given.
    texts = ["", *toy.texts, toy.texts[0], toy.texts[1], "one of its own"]
    others = [name for name in toy.names if name != toy.labels[0]]
    labels = ["food", *toy.labels, others[0], toy.labels[1], "rare"]
    end = len(toy.texts)
    made = LabelClassifier(
        bert, method="prefix", steps=1, options={"data.empty_texts": "skip"}, labels=None
    )
    made.fit(texts, labels, (["", *toy.texts[2:3]], ["food", *toy.labels[2:3]]))
    first = sorted([(toy.labels[0], 1), (others[0], end + 1)], key=lambda pair: pair[1])
    both = " and ".join(f"{name!r} (index {index})" for name, index in first)
    assert said(caplog) == [
        "training texts: 1 label with fewer than 8 texts: 'rare' (1); label more texts of it, or "
        "join it with others",
        f"training texts: 1 text under several labels: {toy.texts[0]!r} is {both}; keep one label "
        "of each text",
        f"training texts: 1 text more than once, 1 row too many: {toy.texts[1]!r} 2 times "
        f"(indices 2, {end + 2}); keep one of each",
        f"validation texts: 1 of 1 text are training texts too: {toy.texts[2]!r} (index 1, of "
        "train index 3); figures of validation are too good with them, take them out of train",
    ]


def test_of_several_labels_a_text_may_have_two(
    bert: Backbone, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = MultilabelClassifier(bert, method="prefix", steps=1)
    lists = [[label] for label in toy.labels]
    made.fit([*toy.texts, toy.texts[0]], [*lists, ["food", "sport"]])
    assert said(caplog) == [
        f"training texts: 1 text more than once, 1 row too many: {toy.texts[0]!r} 2 times "
        f"(indices 0, {len(toy.texts)}); keep one of each"
    ]


def test_few_texts_of_every_label_are_a_choice_and_it_can_be_turned_off(
    bert: Backbone, toy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = LabelClassifier(bert, method="prefix", steps=1)
    made.fit(toy.texts, toy.labels)
    few = [toy.labels.index(name) for name in toy.names]
    made.fit([toy.texts[row] for row in few], toy.names)
    with unsaid():
        made.fit([*toy.texts, toy.texts[0]], [*toy.labels, toy.labels[0]])
    with pytest.raises(DataError):
        made.fit([*toy.texts, toy.texts[0]], toy.labels)
    assert said(caplog) == []
    assert not logging.getLogger("ltuning.rows").disabled


def test_of_sentences_repeats_and_rare_types_are_named(
    bert: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    words = [["the", f"team{row}", "plays"] for row in range(9)]
    tags = [["O", "B-club", "O"]] * 9
    made = TokenClassifier(bert, method="probe", steps=1)
    made.fit([*words, words[2], ["rome"]], [*tags, tags[2], ["B-place"]], (words[4:5], tags[4:5]))
    assert said(caplog) == [
        "training sentences: 1 label with fewer than 8 texts: 'place' (1); label more texts of it, "
        "or join it with others",
        "training sentences: 1 text more than once, 1 row too many: 'the team2 plays' 2 times "
        "(indices 2, 9); keep one of each",
        "validation sentences: 1 of 1 text are training texts too: 'the team4 plays' (index 0, of "
        "train index 4); figures of validation are too good with them, take them out of train",
    ]
