"""A label for texts that belong to none of the others, on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .conftest import write_csv

if TYPE_CHECKING:
    from ..conftest import Toy


def test_texts_of_no_label_are_told(
    ltuning: Callable[..., Any], run: Callable[..., Any], toy: Toy, tmp_path: Path
) -> None:
    data, folder = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    strange = ["song drum piano", "the choir and a tune", "violin chord now"]
    write_csv(data / "train.csv", toy.texts, toy.labels)
    for name in ("validation", "test"):
        texts = [*toy.texts, *toy.test_texts, *strange]
        write_csv(data / f"{name}.csv", texts, [*toy.labels, *toy.test_labels, *["none"] * 3])
    words = ("--data", data, "--oos-label", "none", "--steps", 20)
    meanings = [word for name in toy.names for word in ("--label", f"{name}=of {name}")]
    outcome = run("--output", folder, *words, *meanings)
    assert outcome.code == 0, outcome.stderr
    outcome = ltuning("evaluate", folder, "--data", data, "--output", tmp_path / "m.json")
    assert outcome.code == 0, outcome.stderr
    found = json.loads((tmp_path / "m.json").read_text())["out_of_scope"]
    for words, name in (("in-domain accuracy", "in_domain_accuracy"), ("its AUROC", "auroc")):
        assert f"{words:<20}  {found[name]:.4f}\n" in outcome.stdout
    arguments = ("--data", data, "--oos-label", "none", "--output", tmp_path / "again.json")
    assert ltuning("evaluate", folder, *arguments).code == 0
    assert json.loads((tmp_path / "again.json").read_text())["out_of_scope"] == found
    outcome = ltuning("evaluate", folder, *arguments[:3], "other")
    assert outcome.code == 1
    assert "expected oos_label 'none', as the classifier was trained with it" in outcome.stderr
    given = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    outcome = ltuning("predict", folder, "--format", "jsonl", input=given)
    said = [json.loads(line)["predicted_label"] for line in outcome.stdout.splitlines()]
    from ltuning import LabelClassifier

    classifier = LabelClassifier.from_pretrained(folder)
    assert said == classifier.predict(texts).tolist()
    assert "none" in said
    none = said.count("none")
    # Those to label next are of the same opinion, and a labeller can be, too.
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    words = ("--count", len(texts), "--format", "label-studio")
    outcome = ltuning("review", folder, tmp_path / "texts.txt", *words)
    tasks = json.loads(outcome.stdout)
    predicted = dict(zip(texts, said, strict=True))
    assert {task["data"]["text"] for task in tasks} == {*texts}
    for task in tasks:
        (result,) = task["predictions"][0]["result"]
        assert result["value"]["choices"] == [predicted[task["data"]["text"]]]
    assert outcome.stderr.count('<Choice value="none"/>') == 1
    outcome = ltuning("predict", folder, "--format", "jsonl", "--abstain", ".9999", input=given)
    said = [json.loads(line)["predicted_label"] for line in outcome.stdout.splitlines()]
    assert said.count("none") == none
    outcome = ltuning("predict", folder, "--format", "jsonl", "--coverage", ".9", input=given)
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["prediction_set"] for row in rows] == classifier.predict_sets(texts, 0.9)
    assert all(
        row["prediction_set"][0] == "none" for row in rows if row["predicted_label"] == "none"
    )
