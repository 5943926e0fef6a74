from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LINES = ["the ball and the team", "", "bread with cheese", "the ball and the team", "a hotel"]


def rows(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))


def test_lines_give_tab_separated_values_row_for_row(
    ltuning: Callable[..., Any], trained: Path
) -> None:
    outcome = ltuning("predict", trained, "-", input="\n".join(LINES) + "\n")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("text\tpredicted_label\tprobability\n")
    found = rows(outcome.stdout, "\t")
    assert [row["text"] for row in found] == LINES
    assert [row["predicted_label"] for row in found][::2] == ["sport", "food", "travel"]
    assert found[0] == found[3]
    assert all(1 / 3 < float(row["probability"]) <= 1 for row in found)


def test_standard_input_needs_no_dash(ltuning: Callable[..., Any], trained: Path) -> None:
    text = "a ball\n"
    assert ltuning("predict", trained, input=text) == ltuning("predict", trained, "-", input=text)


def test_the_prediction_is_the_same_from_python(ltuning: Callable[..., Any], trained: Path) -> None:
    from ltuning import LabelClassifier

    found = rows(ltuning("predict", trained, input="\n".join(LINES)).stdout, "\t")
    classifier = LabelClassifier.from_pretrained(trained)
    assert [row["predicted_label"] for row in found] == list(classifier.predict(LINES))


def test_csv_keeps_its_columns_and_rows(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text('id,text,label\n7,"a ball, and\na team",x\n3,,y\n5,"say ""bread""",z\n')
    outcome = ltuning("predict", trained, file, "--output", output)
    assert (outcome.code, outcome.stdout) == (0, "")
    found = rows(output.read_text())
    assert list(found[0]) == ["id", "text", "label", "predicted_label", "probability"]
    assert [row["id"] for row in found] == ["7", "3", "5"]
    assert [row["label"] for row in found] == ["x", "y", "z"]
    assert found[0]["text"] == "a ball, and\na team"
    assert rows(ltuning("predict", trained, file).stdout) == found


def test_jsonl_keeps_its_values(ltuning: Callable[..., Any], trained: Path, tmp_path: Path) -> None:
    given = [{"id": 1, "text": "a ball", "tags": ["x"]}, {"text": "café bread", "id": None}]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    outcome = ltuning("predict", trained, file, "--probabilities")
    found = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [
        {name: row[name] for name in old} for row, old in zip(found, given, strict=True)
    ] == given
    names = [f"probability_{label}" for label in ("food", "sport", "travel")]
    for row in found:
        assert sum(row[name] for name in names) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == row[f"probability_{row['predicted_label']}"]
        assert row["probability"] == max(row[name] for name in names)


@pytest.mark.parametrize("name", ["x.tsv", "x.parquet", "x.csv.gz", "x.jsonl.gz"])
def test_every_format_and_another_for_the_output(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path, name: str
) -> None:
    from ltuning.data.sources import Table, read_table, write_table

    given = Table(["text"], [{"text": line} for line in LINES], "csv", "test")
    write_table(given, tmp_path / name)
    for output in (tmp_path / f"out-{name}", tmp_path / "out.jsonl"):
        assert ltuning("predict", trained, tmp_path / name, "--output", output).code == 0
        table = read_table(output)
        assert table.columns == ["text", "predicted_label", "probability"]
        assert [row["text"] for row in table.rows] == LINES


def test_the_format_of_standard_input(ltuning: Callable[..., Any], trained: Path) -> None:
    outcome = ltuning("predict", trained, "--format", "csv", input="id,text\n1,a ball\n")
    assert rows(outcome.stdout)[0]["id"] == "1"
    packed = gzip.compress(b"a ball\n")
    outcome = ltuning("predict", trained, "--format", "txt.gz", input=packed)
    assert rows(outcome.stdout, "\t")[0]["text"] == "a ball"


def test_a_text_of_the_command_line(ltuning: Callable[..., Any], trained: Path) -> None:
    outcome = ltuning("predict", trained, "--text", "a ball", "--text", "bread,\nbread")
    found = rows(outcome.stdout, "\t")
    assert [row["text"] for row in found] == ["a ball", "bread,\nbread"]
    assert found[0] == rows(ltuning("predict", trained, input="a ball\n").stdout, "\t")[0]


def test_parquet_keeps_its_types(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    import pyarrow
    import pyarrow.parquet

    given = pyarrow.table(
        {
            "text": pyarrow.array(["a ball", "bread"]).dictionary_encode(),
            "when": pyarrow.array([1, 2], pyarrow.timestamp("ns", tz="UTC")),
            "big": pyarrow.array([2**64 - 1, None], pyarrow.uint64()),
        }
    )
    pyarrow.parquet.write_table(given, tmp_path / "in.parquet")
    output = tmp_path / "out.parquet"
    outcome = ltuning("predict", trained, tmp_path / "in.parquet", "--output", output)
    assert outcome.code == 0
    found = pyarrow.parquet.read_table(output)
    assert found.drop_columns(["predicted_label", "probability"]).equals(given)
    assert found["predicted_label"].to_pylist() == ["sport", "food"]


def test_an_earlier_prediction_gives_way_where_that_is_said(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("text,predicted_labels\na ball,x|y\nbread,\n")
    assert ltuning("predict", trained, first, "--output", second, "--probabilities").code == 0
    assert [row["predicted_labels"] for row in rows(second.read_text())] == ["x|y", ""]
    outcome = ltuning("predict", trained, second)
    assert outcome.code == 1
    assert "a column 'predicted_label' already; rename it or take it out, or replace it with " in (
        outcome.stderr
    )
    outcome = ltuning("predict", trained, second, "--replace-columns")
    assert list(rows(outcome.stdout)[0]) == [
        *("text", "predicted_labels", "predicted_label", "probability")
    ]
    outcome = ltuning("predict", trained, second, "--replace-columns", "--probabilities")
    assert outcome.stdout == second.read_text()
    second.write_text("prediction_set,text\nx|y,a ball\n")
    outcome = ltuning("predict", trained, second, "--replace-columns")
    assert list(rows(outcome.stdout)[0]) == ["text", "predicted_label", "probability"]


def test_formulas_are_escaped_where_that_is_said(
    ltuning: Callable[..., Any], trained: Path
) -> None:
    given = ("predict", trained, "--format", "csv")
    input = "id,text\n-1,=SUM(A1)\n@x,a ball\n"
    assert rows(ltuning(*given, input=input).stdout)[0]["text"] == "=SUM(A1)"
    found = rows(ltuning(*given, "--escape-formulas", input=input).stdout)
    assert [row["id"] for row in found] == ["-1", "'@x"]
    assert [row["text"] for row in found] == ["'=SUM(A1)", "a ball"]


def test_what_cannot_be_written_is_said_before_predicting(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.estimators.label_classifier import LabelClassifier

    monkeypatch.setattr(LabelClassifier, "predict_proba", None)
    file, output = tmp_path / "x.jsonl", tmp_path / "x.parquet"
    file.write_text('{"text": "a", "id": 1}\n{"text": "b", "id": "c"}\n')
    outcome = ltuning("predict", trained, file, "--output", output)
    assert outcome.code == 1
    assert "column 'id': parquet holds one type per column" in outcome.stderr
    assert not output.exists()


def test_the_label_for_none_is_among_what_must_be_writable(
    ltuning: Callable[..., Any],
    tiny_bert: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ltuning.estimators.label_classifier import LabelClassifier

    words = ("--backbone", tiny_bert, "--method", "prefix", "--steps", 1, "--quiet")
    parts = ("--set", "data.validation_fraction=0.5", "--set", "data.oos_label=☃")
    train = ("train", data, "--output", tmp_path / "run", *words, *parts)
    assert ltuning(*train).code == 0
    monkeypatch.setattr(LabelClassifier, "scores", None)
    file, output = tmp_path / "x.csv", tmp_path / "y.csv"
    file.write_bytes("text\nein Bällchen\n".encode("cp1252"))
    given = (file, "--encoding", "cp1252", "--output", output)
    outcome = ltuning("predict", tmp_path / "run", *given)
    assert outcome.code == 1
    assert "☃" in outcome.stderr and "cp1252" in outcome.stderr
    assert not output.exists()


def test_an_output_that_exists_needs_overwrite(
    ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.tsv"
    output.write_text("precious")
    outcome = ltuning("predict", trained, "--output", output, input="a ball\n")
    assert outcome.code == 1
    assert "exists already: choose another file, or add --overwrite" in outcome.stderr
    assert output.read_text() == "precious"
    outcome = ltuning("predict", trained, "--output", output, "--overwrite", input="a ball\n")
    assert outcome.code == 0
    assert len(rows(output.read_text(), "\t")) == 1


@pytest.mark.parametrize(
    ("arguments", "input", "message"),
    [
        ([], "", "<stdin>: expected at least one row, got an empty file"),
        (["--format", "cvs"], "a", "unknown format 'cvs': expected one of"),
        (["--format", "csv"], "id,words\n1,a\n", "expected a text column"),
        (["--format", "csv"], "text,predicted_label\na,b\n", "a column 'predicted_label' already"),
        (["--format", "jsonl"], '{"text": "a"}\n{"te\n', "line 2: expected one JSON object"),
        (["--format", "csv", "--text-column", "txt"], "text\na\n", "unknown column 'txt'"),
        (["--output", "out.txt"], "a", "out.txt: expected a file ending of .csv, .tsv, .jsonl"),
        (["--output", "out"], "a", "out: expected a file ending of .csv, .tsv, .jsonl"),
        (["--output", "no/out.csv"], "a", "there is no folder no to write it to"),
        (["missing.csv"], "", "missing.csv: no such file"),
        (["a ball"], "", "if these words are what is to be labelled, say --text 'a ball'"),
        (["--text", "a", "-", "--format", "csv"], "", "place of a file, got FILE, --format too"),
        (["--text", "a\udcff"], "", "--text: a text holds half of a surrogate pair"),
        (["--escape-formulas", "--format", "jsonl"], '{"text": "a"}', "csv or tsv for --escape-fo"),
        (
            ["--text-column", "body"],
            "a",
            "expected csv, tsv, jsonl or parquet for the column 'body', got lines of text; leave "
            "it out, or say --format",
        ),
        (["--delimiter", ";"], "a", "expected csv or tsv for the delimiter ';', got txt"),
        (["--output", "a" * 300 + ".csv"], "a", "cannot be written (File name too long)"),
        (["file.doc"], "", "file.doc: no such file"),
    ],
)
def test_bad_input_leaves_no_file(
    ltuning: Callable[..., Any],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    input: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ltuning("predict", trained, *arguments, input=input)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert message in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_not_utf8(ltuning: Callable[..., Any], trained: Path) -> None:
    outcome = ltuning("predict", trained, input=b"a ball\ncaf\xe9\n")
    assert outcome.code == 1
    assert "<stdin>, line 2: expected UTF-8, got the byte 0xe9" in outcome.stderr
