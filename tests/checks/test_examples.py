"""What is seen of labelled texts without a model."""

from __future__ import annotations

from pathlib import Path

from ltuning.checks.examples import check_examples, label_counts
from ltuning.checks.finding import Finding
from ltuning.data.sources import (
    Examples,
    MultilabelExamples,
    TaggedExamples,
    read_multilabel_splits,
    read_splits,
)
from ltuning.sentences import Sentence


def found_in(folder: Path, train: str, test: str | None = None) -> dict[str, Finding]:
    for split, rows in {"train": train, "test": test}.items():
        if rows is not None:
            (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
    findings = check_examples(read_splits(folder), one_of_each=True)
    assert len({finding.kind for finding in findings}) == len(findings)
    return {finding.kind: finding for finding in findings}


def many(*labels: str) -> str:
    """Eight texts of each label, none of them twice, on two lines each."""
    return "".join(f'"{label} {row}\n",{label}\n' for label in labels for row in range(8))


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert found_in(tmp_path, many("food", "sport"), "a new text,food\nanother one,sport\n") == {}


def test_labels_with_few_texts_the_fewest_first(tmp_path: Path) -> None:
    rows = many("food") + "one,a\n1,b\n2,b\n3,c\n4,c\n5,c\n6,d\n7,d\n8,d\n9,d\n"
    finding = found_in(tmp_path, rows)["few texts"]
    assert finding.sentence == (
        "4 labels with fewer than 8 texts: 'a' (1), 'b' (2), 'c' (3) and 1 more; label more texts "
        "of them, or join them with others"
    )
    assert finding.count == 4 and {"label": "d", "texts": 4} in finding.found


def test_a_text_under_two_labels_and_one_three_times(tmp_path: Path) -> None:
    rows = many("food", "sport") + "a,food\nb,sport\na,sport\nb,sport\n b ,sport\n"
    found = found_in(tmp_path, rows)
    assert found["several labels"].sentence == (
        "1 text under several labels: 'a' is 'food' (line 34) and 'sport' (line 36); keep one "
        "label of each text"
    )
    assert found["several labels"].found == [{"text": "a", "lines": {"food": [34], "sport": [36]}}]
    assert found["repeated"].sentence == (
        "1 text more than once, 2 rows too many: 'b' 3 times (lines 35, 37, 38); keep one of each"
    )
    assert found["repeated"].found == [{"text": "b", "lines": [35, 37, 38]}]


def test_test_texts_that_are_training_texts_too(tmp_path: Path) -> None:
    finding = found_in(tmp_path, many("food") + "a,food\n", "b,food\na,food\n")["in both"]
    assert finding.sentence == (
        "1 of 2 texts are training texts too: 'a' (line 3, of train line 18); figures of test are "
        "too good with them, take them out of train"
    )
    assert (finding.split, finding.count) == ("test", 1)
    assert finding.found == [{"text": "a", "line": 3, "train line": 18}]


def test_lines_are_those_of_the_file_where_rows_were_skipped(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n,x\na,x\nb,\na,y\n")
    examples = read_splits(tmp_path, empty_texts="skip", missing_labels="skip")["train"]
    findings = check_examples({"train": examples.part([1, 0])}, one_of_each=True)
    assert "'a' is 'y' (line 5) and 'x' (line 3)" in findings[1].sentence


def test_pairs_and_examples_without_places() -> None:
    pairs = Examples([("a", "b"), ("a b", ""), ("a ", "b")], ["x"] * 3, "here")
    (_, finding) = check_examples({"train": pairs}, one_of_each=True)
    assert "'a / b' 2 times (rows 1, 3)" in finding.sentence


def test_texts_with_several_labels(tmp_path: Path) -> None:
    """Their label lists may differ: which of them is wrong cannot be told."""
    (tmp_path / "train.csv").write_text("text,labels\na,x|y\nb,\na,x\n")
    splits = read_multilabel_splits(tmp_path)
    assert label_counts(splits["train"]) == {"x": 2, "y": 1}
    findings = check_examples(splits, one_of_each=False)
    assert [finding.kind for finding in findings] == ["few texts", "repeated"]
    part = splits["train"].part([2, 1, 0])
    assert isinstance(part, MultilabelExamples)
    assert "(lines 4, 2)" in check_examples({"train": part}, one_of_each=False)[1].sentence


def test_sentences_with_tags() -> None:
    words = Sentence.of_tokens(["in", "Rome", "and", "Paris"])
    tags = ["O", "B-place", "O", "B-place"]
    examples = TaggedExamples([words, words], [tags, tags], "here")
    assert label_counts(examples) == {"place": 2}
    findings = check_examples({"train": examples.part([0, 1])}, one_of_each=False)
    assert [finding.kind for finding in findings] == ["few texts", "repeated"]
    assert "'in Rome and Paris' 2 times (rows 1, 2)" in findings[1].sentence
