from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

APART = ("--set", "method.labels=apart")
BERT = {"model_type": "bert"}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a config.json and nothing else."""
    from transformers import AutoConfig

    folders = {}
    for name, fields in (("bert-base", BERT), ("llama-2-7b", LLAMA)):
        folders[name] = tmp_path_factory.mktemp("configs") / name
        fields = dict(fields)
        AutoConfig.for_model(fields.pop("model_type"), **fields).save_pretrained(folders[name])
    return folders


def total(output: str) -> tuple[int, int, str]:
    """Built, closed form and formula of the table's last line."""
    (line,) = re.findall(r"^│ total .*$", output, flags=re.MULTILINE)
    built, closed, formula = (cell.strip() for cell in line.strip("│").split("│")[1:])
    return int(built.replace(",", "")), int(closed.replace(",", "")), formula


# With l = 10 and K = 2: l and d of the paper, m = 12, d = 768 and m = 32, d = 4096.
PAPER = [
    ("bert-base", "lt-prefix", 2 * 10**2 * 12 * 768 + 3 * 768, "2·l²·m·d + 3·d"),
    ("bert-base", "lt-prompt", 768 * 770, "d·(d + 2)"),
    ("bert-base", "prefix", 2 * 10 * 12 * 768 + 768 * 2, "L·2·M·N·D + H·K"),
    ("bert-base", "prompt", 768 * 12, "d·(l + K)"),
    ("llama-2-7b", "lt-prefix", 2 * 10**2 * 32 * 4096 + 3 * 4096, "2·l²·m·d + 3·d"),
    ("llama-2-7b", "lt-prompt", 4096 * 4098, "d·(d + 2)"),
    ("llama-2-7b", "prefix", 2 * 10 * 32 * 4096 + 4096 * 2, "L·2·M·N·D + H·K"),
    ("llama-2-7b", "prompt", 4096 * 12, "d·(l + K)"),
]


@pytest.mark.parametrize(("name", "method", "expected", "formula"), PAPER)
def test_the_published_recipe_has_the_published_count(
    ltuning: Callable[..., Any],
    configs: dict[str, Path],
    name: str,
    method: str,
    expected: int,
    formula: str,
) -> None:
    outcome = ltuning("params", "--backbone", configs[name], "--method", method, "--recipe=paper")
    assert outcome.code == 0
    assert total(outcome.stdout) == (expected, expected, formula)
    assert "built and closed form: equal" in outcome.stdout


def test_the_default_recipe(ltuning: Callable[..., Any], configs: dict[str, Path]) -> None:
    options = ("--set", "method.rank=8", "--set", "method.first_layer=6")
    outcome = ltuning("params", "--backbone", configs["bert-base"], *options)
    expected = 8 * (768 + 2 * 6 * 768) + 768**2 + 1
    assert total(outcome.stdout)[:2] == (expected, expected)
    assert "lt-prefix (labels together, lowrank, small, match, contrast)" in outcome.stdout
    apart = ltuning("params", "--backbone", configs["bert-base"], *options, *APART)
    assert total(apart.stdout)[:2] == (expected + 768, expected + 768)


@pytest.mark.parametrize(
    ("method", "biases", "formula"),
    [("lt-prefix", 1, "r·(H + 2·M·N·D) + H² + 1 + 1"), ("prefix", 2, "L·2·M·N·D + H·K + K")],
)
def test_where_several_labels_apply_heads_have_a_bias(
    ltuning: Callable[..., Any], configs: dict[str, Path], method: str, biases: int, formula: str
) -> None:
    options = ("params", "--backbone", configs["bert-base"], "--method", method)
    of_classes, several = ltuning(*options), ltuning(*options, "--set", "task=multilabel")
    assert several.code == 0
    built = total(of_classes.stdout)[0] + biases
    assert total(several.stdout) == (built, built, formula)


def test_wide_models_match_with_identity_plus_low_rank(
    ltuning: Callable[..., Any], configs: dict[str, Path]
) -> None:
    options = ("--method", "lt-prompt", "--set", "method.transform=square")
    outcome = ltuning("params", "--backbone", configs["llama-2-7b"], *options)
    expected = 4096**2 + 2 * 64 * 4096 + 4096 + 1
    assert total(outcome.stdout)[:2] == (expected, expected)


def test_the_length_of_labels_is_measured(
    ltuning: Callable[..., Any], tiny_bert: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("food: bread\nsport: the ball and the team\n")
    options = ("--backbone", tiny_bert, "--recipe", "paper")
    outcome = ltuning("params", *options, "--labels", labels)
    assert "L = 7," in outcome.stdout  # five words between [CLS] and [SEP]
    assert total(outcome.stdout)[0] == 2 * 7**2 * 4 * 32 + 3 * 32
    given = ltuning("params", *options, "--label-length", 7)
    assert total(given.stdout) == total(outcome.stdout)


def test_measuring_needs_a_tokenizer(
    ltuning: Callable[..., Any], configs: dict[str, Path], tmp_path: Path
) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("[a, b]")
    outcome = ltuning("params", "--backbone", configs["bert-base"], "--labels", labels)
    assert outcome.code == 1
    assert "or give --label-length instead of --labels" in outcome.stderr


def test_a_difference_ends_with_1(
    ltuning: Callable[..., Any], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.methods import parameter_counts as counts

    monkeypatch.setattr(counts, "_head", lambda *_: counts.Count("2·H", 1))
    outcome = ltuning("params", "--backbone", tiny_bert)
    assert outcome.code == 1
    assert "they DIFFER" in outcome.stdout


def test_every_problem_at_once(ltuning: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ("--method", "lt-prefx", "--label-length", 3, "--labels", tmp_path / "no.yaml")
    outcome = ltuning("params", *arguments)
    assert outcome.code == 1
    assert "3 problems in the configuration" in outcome.stderr
    assert "did you mean 'lt-prefix'?" in outcome.stderr
    assert "expected one of --labels and --label-length, got both" in outcome.stderr
    assert "no.yaml: no such file" in outcome.stderr


def test_an_unknown_family_names_the_known_ones(
    ltuning: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    outcome = ltuning("params", "--backbone", tmp_path)
    assert outcome.code == 1
    assert "got model type 'whisper'" in outcome.stderr
    assert "bert, roberta" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        (("--method", "lt-prefix", "--num-labels", 77), "1.00"),
        # Of 4 layers the lower 2 run once, the upper 2 once for each of 6 labels.
        (("--method", "lt-prefix", *APART, "--num-labels", 6), "3.50"),
        (("--method", "prefix", "--num-labels", 6), "1.00"),
        (("--method", "lt-prompt", "--num-labels", 6, "--label-length", 8), "7.50"),
    ],
)
def test_the_cost_of_scoring_is_shown(
    ltuning: Callable[..., Any], tiny_bert: Path, options: tuple[Any, ...], passes: str
) -> None:
    outcome = ltuning("params", "--backbone", tiny_bert, *options)
    assert f"a text of 32 tokens, with all its labels, costs {passes} times" in outcome.stdout


def test_options_that_change_no_number_are_refused(
    ltuning: Callable[..., Any], tiny_bert: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.yaml").write_text("[a, b]")
    words = ("--backbone", tiny_bert, "--labels", tmp_path / "labels.yaml", "--num-labels", 3)
    outcome = ltuning("params", *words, "--set", "training.max_steps=3", "--set", "seed=1")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        "error: 3 problems in the configuration:\n"
        "  seed: it changes no number of parameters; leave it out\n"
        "  training: it changes no number of parameters; leave it out\n"
        "  --num-labels: expected one of --labels and --num-labels, got both\n"
    )
    words = ("--method", "prefix", "--label-length", 5, "--set", "method.num_tokens=8")
    outcome = ltuning("params", "--backbone", tiny_bert, *words)
    assert outcome.code == 1
    assert "expected one of --label-length and method.num_tokens, got both" in outcome.stderr
