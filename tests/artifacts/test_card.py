from __future__ import annotations

from typing import Any

import yaml

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
    assert front_matter(render(CONFIG, FIGURES)) == {
        "library_name": "ltuning",
        "pipeline_tag": "text-classification",
        "tags": ["ltuning", "text-classification", "lt-prefix"],
        "base_model": "some-org/some-model",
        "metrics": ["accuracy", "f1", "matthews_correlation"],
    }


def test_front_matter_leaves_out_a_backbone_that_is_not_from_a_hub(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for name in ("builtin:minilm", "/data/my model", "./mine", "models/mine"):
        config = {**CONFIG, "backbone": {**CONFIG["backbone"], "name": name}}
        card = render(config, {})
        assert "base_model" not in front_matter(card)
        assert f"`{name}`" in card


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
    assert "metrics" not in front_matter(card)
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
