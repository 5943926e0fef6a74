from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from ltuning.artifacts.card import render

CONFIG: dict[str, Any] = {
    "backbone": {
        "name": "some-org/some-model",
        "revision": "0a1b2c",
        "fingerprint": "f1f2f3",
        "family": "bert",
    },
    "method": {"name": "lt-prefix", "rank": 16, "num_tokens": None},
    "labels": {"good": ["it is good", "fine"], "bad": ["it is bad"]},
    "versions": {"ltuning": "0.1.0", "torch": "2.13.0"},
    "seed": 7,
    "max_length": 128,
    "config": {"data": {"long_texts": "cut"}},
}
FIGURES: dict[str, Any] = {
    "validation": {"accuracy": 0.91234, "macro_f1": 0.5, "mcc": -0.25, "per_class": [{"f1": 1.0}]},
    "test": {"accuracy": 0.75, "num_examples": 1200},
    "training": {"seconds": 61.24, "steps": 100, "texts": 96, "trainable_parameters": 1234567},
}


def front_matter(card: str) -> dict[str, Any]:
    start, fields, _ = card.split("---\n", 2)
    assert start == ""
    loaded: dict[str, Any] = yaml.safe_load(fields)
    return loaded


def rows(card: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its two header lines."""
    section = card.split(f"## {heading}\n\n")[1].split("\n\n")[0]
    lines = section.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_front_matter_names_library_method_backbone_and_metrics() -> None:
    fields = front_matter(render(CONFIG, FIGURES))
    del fields["model-index"]
    assert fields == {
        "library_name": "ltuning",
        "pipeline_tag": "text-classification",
        "tags": ["ltuning", "text-classification", "lt-prefix"],
        "base_model": "some-org/some-model",
        "base_model_relation": "adapter",
        "metrics": ["accuracy", "f1", "matthews_correlation"],
    }


def test_the_hub_reads_the_figures_each_of_its_own_texts() -> None:
    data = {"long_texts": "cut", "path": "some-org/some-set:plain"}
    card = ModelCard(render({**CONFIG, "config": {"data": data}}, FIGURES))
    assert card.data.datasets == ["some-org/some-set"]
    assert {(result.task_type, result.dataset_type) for result in card.data.eval_results} == {
        ("text-classification", "some-org/some-set")
    }
    assert [
        (result.dataset_name, result.metric_name, result.metric_type, result.metric_value)
        for result in card.data.eval_results
    ] == [
        ("validation texts of some-org/some-set", "accuracy", "accuracy", 0.9123),
        ("validation texts of some-org/some-set", "macro F1", "f1", 0.5),
        (
            "validation texts of some-org/some-set",
            "Matthews correlation",
            "matthews_correlation",
            -0.25,
        ),
        ("test texts of some-org/some-set", "accuracy", "accuracy", 0.75),
    ]


@pytest.mark.parametrize("path", [None, "builtin:demo", "/data/mine", "there"])
def test_data_that_are_not_known_to_be_from_a_hub_are_not_named(
    path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    config = {**CONFIG, "config": {"data": {"long_texts": "cut", "path": path}}}
    fields = front_matter(render(config, FIGURES))
    assert "datasets" not in fields
    assert [result["dataset"] for result in fields["model-index"][0]["results"]] == [
        {"type": "unknown", "name": "validation texts"},
        {"type": "unknown", "name": "test texts"},
    ]


def test_front_matter_leaves_out_a_backbone_that_is_not_from_a_hub(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for name in ("/data/my model", "./mine", "models/mine"):
        config = {**CONFIG, "backbone": {**CONFIG["backbone"], "name": name}}
        card = render(config, {})
        assert "base_model" not in front_matter(card)
        assert "base_model_relation" not in front_matter(card)
        assert f"`{name}`" in card


def test_a_builtin_backbone_is_a_copy_of_a_model_of_the_hub() -> None:
    config = {**CONFIG, "backbone": {**CONFIG["backbone"], "name": "builtin:minilm"}}
    fields = front_matter(render(config, {}))
    assert fields["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("method", [{"name": "full"}, {"name": "ls-lora", "merge": True}])
def test_weights_in_the_place_of_the_backbone_s_are_no_adapter(method: dict[str, Any]) -> None:
    assert front_matter(render({**CONFIG, "method": method}, {}))["base_model_relation"] == (
        "finetune"
    )


def test_labels_table_lists_every_text() -> None:
    assert rows(render(CONFIG, FIGURES), "Labels") == [
        ["good", "it is good; fine"],
        ["bad", "it is bad"],
    ]


def test_label_texts_are_shown_as_they_are() -> None:
    labels = {"card_arrival": ["a|b"], "_x_": ["two\nlines"], "c": ["<b> *d* `e` [f] \\| &amp;"]}
    card = render({**CONFIG, "labels": labels}, {})
    assert "| card_arrival | a\\|b |" in card
    assert "| \\_x\\_ | two lines |" in card
    assert "| c | \\<b> \\*d\\* \\`e\\` \\[f\\] \\\\\\| \\&amp; |" in card


def test_figures_table_has_a_column_per_split_and_single_numbers_only() -> None:
    card = render(CONFIG, FIGURES)
    assert "| figure | validation | test |" in card
    assert rows(card, "Figures") == [
        ["accuracy", "0.9123", "0.7500"],
        ["macro F1", "0.5000", "-"],
        ["Matthews correlation", "-0.2500", "-"],
        ["num examples", "-", "1,200"],
    ]


def test_training_table_gives_costs_options_seed_and_versions() -> None:
    assert dict(rows(render(CONFIG, FIGURES), "Training")) == {
        "seconds": "61.2",
        "steps": "100",
        "texts": "96",
        "trainable parameters": "1,234,567",
        "seed": "7",
        "method": "name lt-prefix, rank 16",
        "backbone": "some-org/some-model, revision 0a1b2c",
        "fingerprint of its weights": "f1f2f3",
        "versions": "ltuning 0.1.0, torch 2.13.0",
    }


def test_a_run_without_figures_has_no_figures_section() -> None:
    card = render(CONFIG, {})
    assert "## Figures" not in card
    assert not {"metrics", "model-index"} & front_matter(card).keys()
    assert dict(rows(card, "Training"))["seed"] == "7"


def test_limits_say_how_much_of_a_text_is_read() -> None:
    assert "Of a text, 128 tokens are read" in render(CONFIG, {})
    assert "tokens are read" not in render({**CONFIG, "max_length": None}, {})
    windows = render({**CONFIG, "config": {"data": {"long_texts": "windows"}}}, {})
    assert "- Longer texts than 128 tokens are read in parts that overlap." in windows


def test_usage_names_the_front_door_and_the_command() -> None:
    card = render(CONFIG, FIGURES)
    block = card.split("```python\n")[1].split("```")[0]
    compile(block, "card", "exec")
    assert "LabelClassifier.from_pretrained(" in block
    assert "\nltuning predict path/to/this/folder" in card
