from __future__ import annotations

from typing import Any

import pytest

from ltuning.backbones.families import FAMILIES
from ltuning.config import Config, MethodOptions
from ltuning.errors import ConfigError
from ltuning.methods.catalog import METHODS, RECIPES, problems, resolve, training_defaults


def found(**method: Any) -> list[str]:
    return [str(problem) for problem in problems(Config.from_dict({"method": method}))]


@pytest.mark.parametrize("recipe", ["default", "paper"])
@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_leaves_nothing_open_and_chooses_what_its_method_takes(
    name: str, recipe: str
) -> None:
    method, row = MethodOptions(name=name, recipe=recipe), METHODS[name]  # type: ignore[arg-type]
    for family in FAMILIES.values():
        chosen = resolve(method, family, num_layers=6)
        assert chosen.start in row.starts
        assert chosen.head in row.heads
        assert chosen.objective in row.objectives
        assert (chosen.transform in row.transforms) if row.transforms else chosen.transform is None
        assert chosen.pooling is not None
        assert chosen.first_layer is not None
        assert chosen.num_tokens is not None or row.source == "labels"
        assert problems(Config(method=chosen)) == []


def test_the_paper_recipe_is_what_was_published() -> None:
    chosen = resolve(MethodOptions(recipe="paper"), FAMILIES["bert"], 12)
    assert (chosen.transform, chosen.start, chosen.head) == ("pooled", "random", "binary")
    assert (chosen.objective, chosen.pooling, chosen.first_layer) == ("pairs", "cls", 0)
    prompt = resolve(MethodOptions("lt-prompt", "paper"), FAMILIES["bert"], 12)
    assert (prompt.transform, prompt.head, prompt.objective) == ("square", "binary", "pairs")


def test_a_decoder_is_read_at_its_last_token_as_published_and_otherwise_as_a_mean() -> None:
    for name, recipe in (key[::-1] for key in RECIPES):
        method = MethodOptions(name=name, recipe=recipe)  # type: ignore[arg-type]
        expected = "last" if recipe == "paper" else "mean"
        assert resolve(method, FAMILIES["llama"], 4).pooling == expected


def test_an_option_that_is_given_wins_over_the_recipe() -> None:
    given = MethodOptions(
        labels="apart",
        transform="lowrank",
        start="label-kv",
        head="binary",
        objective="contrast",
        pooling="last",
        rank=3,
        first_layer=1,
        num_tokens=7,
        negatives=0,
    )
    assert resolve(given, FAMILIES["bert"], 4) == given


def test_many_texts_get_a_prefix_in_every_layer() -> None:
    def first_layer(num_texts: int, **options: Any) -> int | None:
        return resolve(MethodOptions(**options), FAMILIES["bert"], 6, num_texts).first_layer

    assert [first_layer(0), first_layer(999), first_layer(1000)] == [3, 3, 0]
    assert first_layer(1000, first_layer=2) == 2
    assert first_layer(999, name="prefix") == 0


def test_a_first_layer_beyond_the_model_is_refused() -> None:
    resolve(MethodOptions(first_layer=3), FAMILIES["bert"], 4)
    with pytest.raises(ConfigError) as caught:
        resolve(MethodOptions(first_layer=4), FAMILIES["bert"], 4)
    assert [str(problem) for problem in caught.value.problems] == [
        "method.first_layer: expected a layer below 4, the backbone's layers, got 4"
    ]


def test_choices_that_do_not_go_together_are_all_named() -> None:
    assert found(
        name="prefix", transform="lowrank", start="label-kv", head="match", objective="pairs"
    ) == [
        "method.transform: expected no such option with method 'prefix', got 'lowrank'",
        "method.start: expected 'random' or 'vocabulary' or 'text' with method 'prefix', "
        "got 'label-kv'",
        "method.head: expected 'classes' with method 'prefix', got 'match'",
        "method.objective: expected 'classes' with method 'prefix', got 'pairs'",
    ]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (
            {"name": "lt-prompt", "start": "label-kv"},
            "method.start: expected 'random' or 'small' or 'text' with method 'lt-prompt', "
            "got 'label-kv'",
        ),
        (
            {"name": "lt-prompt", "transform": "pooled"},
            "method.transform: expected 'square' or 'lowrank' with method 'lt-prompt', "
            "got 'pooled'",
        ),
        (
            {"name": "lt-prefix", "transform": "square"},
            "method.transform: expected 'lowrank' or 'pooled' with method 'lt-prefix', "
            "got 'square'",
        ),
        (
            {"name": "lt-prefix", "objective": "classes"},
            "method.objective: expected 'contrast' or 'pairs' with method 'lt-prefix', "
            "got 'classes'",
        ),
        (
            {"name": "prompt", "first_layer": 2},
            "method.first_layer: method 'prompt' has virtual tokens at the embeddings; "
            "leave it out",
        ),
        (
            {"recipe": "paper", "rank": 8},
            "method.rank: only the transform 'lowrank' has a rank, not 'pooled'; leave it out",
        ),
        (
            {"labels": "apart", "objective": "pairs", "negatives": 3},
            "method.negatives: only the objective 'contrast' draws them, not 'pairs'; leave it out",
        ),
        (
            {"labels": "apart", "transform": "pooled", "start": "label-kv"},
            "method.start: the pooled transform starts 'random', got 'label-kv'",
        ),
    ],
)
def test_a_choice_that_does_not_fit_is_named(method: dict[str, Any], sentence: str) -> None:
    assert found(**method) == [sentence]


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (
            {"name": "prefix", "labels": "together"},
            "method.labels: expected no such option with method 'prefix', got 'together'",
        ),
        (
            {"name": "lt-prompt", "labels": "together"},
            "method.labels: expected 'apart' with method 'lt-prompt', got 'together'",
        ),
        (
            {"labels": "apart", "label_tokens": "mean"},
            "method.label_tokens: only `labels: together` has a choice of them; leave it out",
        ),
        (
            {"head": "binary"},
            "method.head: expected 'match' with labels 'together', got 'binary'; set it, or "
            "method.labels=apart",
        ),
        (
            {"objective": "pairs"},
            "method.objective: expected 'contrast' with labels 'together', got 'pairs'; set it, or "
            "method.labels=apart",
        ),
        (
            {"labels": "together", "transform": "pooled"},
            "method.transform: expected 'lowrank' with labels 'together', got 'pooled'; set it, or "
            "method.labels=apart",
        ),
        (
            {"negatives": 3},
            "method.negatives: labels 'together' are all read and none is drawn; leave it out, or "
            "set method.labels=apart",
        ),
        (
            {"labels": "together", "start": "label-kv", "label_tokens": "mean"},
            "method.label_tokens: the mean of a label's tokens has no keys and values to start "
            "from, take 'all'",
        ),
    ],
)
def test_what_does_not_go_with_labels_together_is_named(
    method: dict[str, Any], sentence: str
) -> None:
    assert found(**method) == [sentence]


def test_labels_are_read_together_and_by_the_paper_recipe_apart() -> None:
    chosen = resolve(MethodOptions(), FAMILIES["bert"], 6)
    assert (chosen.labels, chosen.label_tokens) == ("together", "all")
    assert chosen.negatives is None
    assert problems(Config(method=chosen)) == []
    apart = resolve(MethodOptions(labels="apart"), FAMILIES["bert"], 6)
    assert (apart.labels, apart.label_tokens, apart.negatives) == ("apart", None, 7)
    assert resolve(MethodOptions(recipe="paper"), FAMILIES["bert"], 6).labels == "apart"
    assert resolve(MethodOptions("lt-prompt"), FAMILIES["bert"], 6).labels == "apart"
    assert resolve(MethodOptions("prefix"), FAMILIES["bert"], 6).labels is None


def test_what_the_paper_recipe_chooses_does_not_go_with_labels_together() -> None:
    sentence = "expected '{}' with labels 'together', got '{}'; set it, or method.labels=apart"
    assert found(recipe="paper", labels="together") == [
        "method.transform: " + sentence.format("lowrank", "pooled"),
        "method.head: " + sentence.format("match", "binary"),
        "method.objective: " + sentence.format("contrast", "pairs"),
    ]
    given = {"transform": "lowrank", "head": "match", "objective": "contrast"}
    assert found(recipe="paper", labels="together", **given) == []


def test_the_pooled_transform_of_the_paper_recipe_starts_random_too() -> None:
    assert found(recipe="paper", start="label-kv") == [
        "method.start: the pooled transform starts 'random', got 'label-kv'"
    ]


def test_what_a_pooled_transform_resolves_to_starts_random() -> None:
    chosen = resolve(MethodOptions(labels="apart", transform="pooled"), FAMILIES["bert"], 4)
    assert chosen.start == "random"


def test_few_texts_that_are_read_with_all_labels_have_half_the_rate() -> None:
    def rate(num_texts: int, **options: Any) -> float:
        return training_defaults(MethodOptions(**options), num_texts)["learning_rate"]

    assert (rate(0), rate(999), rate(1000)) == (3e-3, 3e-3, 6e-3)
    assert rate(999, labels="apart") == rate(999, recipe="paper") == 6e-3
    assert rate(999, name="prefix") == rate(1000, name="prefix")


def test_the_rate_of_label_prompts_is_lower_on_a_decoder() -> None:
    rates = [
        training_defaults(
            MethodOptions(name="lt-prompt", labels=labels, recipe=recipe), causal=causal
        )
        for labels in (None, "apart")
        for recipe in ("default", "paper")
        for causal in (False, True)
    ]
    assert [of["learning_rate"] for of in rates] == [1e-3, 1e-4, 1e-3, 1e-3] * 2


def test_training_defaults_are_fields_of_training_arguments() -> None:
    from ltuning.config import check_training

    for name, recipe in (key[::-1] for key in RECIPES):
        defaults = training_defaults(MethodOptions(name=name, recipe=recipe))  # type: ignore[arg-type]
        assert check_training(defaults) == []
