"""The demo data set is what its data card says."""

from __future__ import annotations

import dataclasses
import re
import statistics
import subprocess
import sys
from collections import Counter

import pytest

from ltuning.data.demo import Demo, load


@pytest.fixture(scope="module")
def demo() -> Demo:
    return load()


def all_texts(demo: Demo) -> list[str]:
    return [text for rows in (demo.train, demo.test, demo.new) for text, _ in rows]


def normalised(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def test_there_are_eight_labels_and_one_new_one(demo: Demo) -> None:
    assert len(demo.labels) == 8
    assert list(demo.new_label) == ["job_application"]


@pytest.mark.parametrize(("split", "count"), [("train", 60), ("test", 16)])
def test_each_class_has_as_many_rows_as_the_card_says(demo: Demo, split: str, count: int) -> None:
    counts = Counter(label for _, label in getattr(demo, split))
    assert counts == dict.fromkeys(demo.labels, count)


def test_new_rows_are_all_of_the_new_label(demo: Demo) -> None:
    assert Counter(label for _, label in demo.new) == dict.fromkeys(demo.new_label, 25)


def test_new_label_is_not_among_the_labels(demo: Demo) -> None:
    assert not demo.labels.keys() & demo.new_label.keys()


def test_label_texts_are_distinct_and_not_empty(demo: Demo) -> None:
    texts = [*demo.labels.values(), *demo.new_label.values()]
    assert all(isinstance(text, str) and text.strip() == text != "" for text in texts)
    assert len(set(texts)) == len(texts)


def test_label_names_are_snake_case(demo: Demo) -> None:
    assert all(
        re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in {**demo.labels, **demo.new_label}
    )


def test_no_text_occurs_twice_within_or_across_the_files(demo: Demo) -> None:
    counts = Counter(map(normalised, all_texts(demo)))
    assert [text for text, count in counts.items() if count > 1] == []


def test_no_two_texts_share_nearly_all_their_words(demo: Demo) -> None:
    words = [frozenset(normalised(text).split()) for text in all_texts(demo)]
    close = [
        (sorted(first), sorted(second))
        for position, first in enumerate(words)
        for second in words[:position]
        if len(first & second) > 0.6 * len(first | second)
    ]
    assert close == []


def test_texts_are_clean_single_lines(demo: Demo) -> None:
    texts = all_texts(demo)
    assert [text for text in texts if " ".join(text.split()) != text or not text] == []


def test_texts_are_short_and_of_many_lengths(demo: Demo) -> None:
    lengths = [len(text.split()) for text in all_texts(demo)]
    assert 5 <= min(lengths) <= 6
    assert 12 <= statistics.median(lengths) <= 24
    assert 30 <= max(lengths) <= 45


def test_classes_are_interleaved(demo: Demo) -> None:
    """A reader that takes the first rows only still meets every class."""
    assert {label for _, label in demo.train[:60]} == set(demo.labels)
    assert {label for _, label in demo.test[:60]} == set(demo.labels)


def test_no_word_gives_a_class_away(demo: Demo) -> None:
    """No content word stands in more than 60 % of a class's texts (words of many classes aside)."""
    rows = demo.train + demo.test
    in_class: dict[str, Counter[str]] = {name: Counter() for name in demo.labels}
    for text, label in rows:
        in_class[label].update(set(normalised(text).split()))
    overall = sum(in_class.values(), Counter[str]())
    telling = [
        (name, word)
        for name, words in in_class.items()
        for word, count in words.items()
        if count > 0.6 * 76 and overall[word] < 2 * count
    ]
    assert telling == []


def test_demo_is_frozen(demo: Demo) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        demo.train = []  # type: ignore[misc]


def test_importing_the_demo_loads_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "datasets", "pandas", "pyarrow", "sklearn"}
    code = (
        "import sys, ltuning.data.demo as demo; demo.load();"
        f"print(set({sorted(heavy)}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
