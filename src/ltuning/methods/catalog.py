"""The methods as a table, and the recipes that fill in what an option leaves open.

========== ==================== ================== ==================
method     virtual tokens       where they go      read by
========== ==================== ================== ==================
prompt     free parameters      embeddings         pooled state -> K
prefix     free parameters      keys and values    pooled state -> K
lt-prompt  label states, mapped embeddings         pooled state -> 1
lt-prefix  label states, mapped keys and values    pooled state -> K
========== ==================== ================== ==================

With labels that are read apart the state of lt-prefix, too, is read as the score of one label.

The methods without virtual tokens have a table of their own (`weight_methods.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ltuning.backbones.families import Family, Pooling
from ltuning.config import TASK_FACTS, Config, MethodOptions
from ltuning.errors import ConfigError, Problem
from ltuning.methods import weight_methods as weights

Source = Literal["free", "labels"]
Site = Literal["embeddings", "key-values"]


@dataclass(frozen=True)
class Method:
    """One row of the table: where virtual tokens come from and go, what each part may be."""

    name: str
    source: Source
    site: Site
    transforms: tuple[str, ...]
    starts: tuple[str, ...]
    labels: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that can read this method's states."""
        return ("classes",) if self.source == "free" else ("match", "binary")

    @property
    def reads_words(self) -> bool:
        """Whether every word has a score, too: a text is read as a whole."""
        return False

    @property
    def objectives(self) -> tuple[str, ...]:
        """Objectives that its head can be trained with."""
        return ("classes",) if self.source == "free" else ("contrast", "pairs")


METHODS = {
    method.name: method
    for method in (
        Method("prompt", "free", "embeddings", (), ("random", "vocabulary", "text")),
        Method("prefix", "free", "key-values", (), ("random", "vocabulary", "text")),
        Method(
            "lt-prompt",
            "labels",
            "embeddings",
            ("square", "lowrank"),
            ("random", "small", "text"),
            ("apart",),
        ),
        Method(
            "lt-prefix",
            "labels",
            "key-values",
            ("lowrank", "pooled"),
            ("small", "random", "label-kv"),
            ("together", "apart"),
        ),
    )
}

# No method, but the choice of one by the data, before training: see `choice.py`.
AUTO = "auto"

ROWS: dict[str, Method | weights.WeightMethod] = {**METHODS, **weights.WEIGHT_METHODS}

# With few training texts, this share of the layers has no prefix by default. With many, every layer
# has one: that was better on two development sets by 1.4 and 2.5 points, for up to twice the time.
_UPPER = 0.5
MANY_TEXTS = 1000

# With more tokens than these, labels that are read together have one each by default, their mean.
# Descriptions of ten labels were read a point better by all of their tokens, on development texts;
# with the names of 60 and of 150 it made no difference, and columns are what attention pays for.
MOST_COLUMNS = 256


@dataclass(frozen=True)
class Recipe:
    """What a recipe chooses for a method; an option that is given wins over it."""

    start: str
    head: str
    objective: str
    learning_rate: float
    transform: str | None = None
    rank: int = 64
    skipped_layers: float = 0.0
    num_tokens: int | None = None
    negatives: int = 7
    pooling: Pooling | None = None
    labels: str = "apart"
    few_texts_rate: float | None = None
    decoder_rate: float | None = None

    def rate(self, num_texts: int, causal: bool) -> float:
        """The learning rate with so many training texts; 0 = unknown, taken for few."""
        if causal and self.decoder_rate is not None:
            return self.decoder_rate
        if self.few_texts_rate is None or num_texts >= MANY_TEXTS:
            return self.learning_rate
        return self.few_texts_rate


RECIPES: dict[tuple[str, str], Recipe] = {
    ("default", "lt-prefix"): Recipe(
        "small",
        "match",
        "contrast",
        6e-3,
        transform="lowrank",
        skipped_layers=_UPPER,
        labels="together",
        # On four development sets of few texts half the rate was .4 to 1.8 points better.
        few_texts_rate=3e-3,
    ),
    ("default", "lt-prompt"): Recipe(
        "text",
        "match",
        "contrast",
        1e-3,
        transform="square",
        # States of decoders are wider, and so are steps of embeddings that are made from them: at
        # the rate of encoders SmolLM2 said one label of everything.
        decoder_rate=1e-4,
    ),
    ("default", "prefix"): Recipe("vocabulary", "classes", "classes", 3e-2, num_tokens=10),
    ("default", "prompt"): Recipe("vocabulary", "classes", "classes", 3e-2, num_tokens=10),
    ("paper", "lt-prefix"): Recipe(
        "random", "binary", "pairs", 6e-3, transform="pooled", pooling="cls"
    ),
    ("paper", "lt-prompt"): Recipe(
        "random", "binary", "pairs", 1e-3, transform="square", pooling="cls"
    ),
    ("paper", "prefix"): Recipe("random", "classes", "classes", 3e-3, num_tokens=10, pooling="cls"),
    ("paper", "prompt"): Recipe("random", "classes", "classes", 3e-3, num_tokens=10, pooling="cls"),
}


def options_of(config: Config) -> MethodOptions:
    """The options of the method, with the objective where the task leaves no choice of it."""
    if TASK_FACTS[config.task].several:
        return replace(config.method, objective="multilabel")
    return config.method


def resolve(
    options: MethodOptions,
    family: Family,
    num_layers: int,
    num_texts: int = 0,
    num_label_tokens: int = 0,
) -> MethodOptions:
    """Fill every open choice from the recipe, the backbone, the texts and the labels.

    Args:
        options: as given.
        family: of the backbone.
        num_layers: its depth.
        num_texts: training texts; 0 = unknown, taken for few.
        num_label_tokens: of all label texts together; 0 = unknown, taken for few.

    Raises:
        ConfigError: `first_layer`, or a layer to un-mask, beyond the model.
        BackboneError: a causal mask to remove where there is none.
    """
    if options.name in weights.WEIGHT_METHODS:
        return weights.resolve(options, family, num_layers)
    recipe = RECIPES[options.recipe, options.name]
    method = METHODS[options.name]
    first_layer = 0
    if method.site == "key-values":
        skipped = recipe.skipped_layers if num_texts < MANY_TEXTS else 0
        first_layer = _or(options.first_layer, int(num_layers * skipped))
    if first_layer >= num_layers:
        message = f"expected a layer below {num_layers}, the backbone's layers, got {first_layer}"
        raise ConfigError([Problem("method.first_layer", message)])
    transform = _or(options.transform, recipe.transform)
    start = "random" if transform == "pooled" else recipe.start
    objective = _or(options.objective, recipe.objective)
    labels = _or(options.labels, recipe.labels) if method.source == "labels" else None
    draws = labels == "apart" and objective in ("contrast", "multilabel")
    negatives = _or(options.negatives, recipe.negatives) if draws else None
    return replace(
        options,
        labels=labels,
        label_tokens=_label_tokens(options, num_label_tokens) if labels == "together" else None,
        transform=transform,
        start=_or(options.start, start),
        head=_or(options.head, recipe.head),
        objective=objective,
        pooling=_or(options.pooling, _pooling(recipe, family)),
        rank=_or(options.rank, recipe.rank) if transform == "lowrank" else None,
        first_layer=first_layer,
        num_tokens=_or(options.num_tokens, recipe.num_tokens),
        negatives=negatives,
    )


def _label_tokens(options: MethodOptions, num_label_tokens: int) -> Literal["all", "mean"]:
    is_many = num_label_tokens > MOST_COLUMNS and options.start != "label-kv"
    return options.label_tokens or ("mean" if is_many else "all")


def training_defaults(
    options: MethodOptions, num_texts: int = 0, *, causal: bool = False
) -> dict[str, Any]:
    """TrainingArguments' fields that the recipe sets, below what the user gives.

    Args:
        options: as given, or resolved; of `auto` those of lt-prefix.
        num_texts: training texts; 0 = unknown, taken for few.
        causal: whether the backbone is a decoder.
    """
    if options.name in weights.WEIGHT_METHODS:
        rate = weights.WEIGHT_METHODS[options.name].learning_rate[options.recipe == "paper"]
    else:
        name = "lt-prefix" if options.name == AUTO else options.name
        recipe = RECIPES[options.recipe, name]
        # Labels that are read apart have the rate of many texts with few, too.
        is_apart = options.name == "lt-prefix" and options.labels == "apart"
        rate = recipe.learning_rate if is_apart else recipe.rate(num_texts, causal)
    return {
        "learning_rate": rate,
        "per_device_train_batch_size": 16,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }


def problems(config: Config) -> list[Problem]:
    """Choices that are each valid and do not go together."""
    if config.method.name == AUTO:
        return _beside_auto(config)
    if config.method.name in weights.WEIGHT_METHODS:
        return weights.problems(config)
    method = METHODS[config.method.name]
    is_multilabel = TASK_FACTS[config.task].several
    chosen = {
        "labels": method.labels,
        "transform": method.transforms,
        "start": method.starts,
        "head": method.heads,
        "objective": ("multilabel",) if is_multilabel else method.objectives,
    }
    found = weights.not_of_virtual_tokens(config)
    for name, allowed in chosen.items():
        value = getattr(config.method, name)
        if value is not None and value not in allowed:
            choices = " or ".join(f"'{choice}'" for choice in allowed) or "no such option"
            message = f"expected {choices} with method '{method.name}', got '{value}'"
            found.append(Problem(f"method.{name}", message))
    if method.site == "embeddings" and config.method.first_layer:
        message = f"method '{method.name}' has virtual tokens at the embeddings; leave it out"
        found.append(Problem("method.first_layer", message))
    recipe = RECIPES[config.method.recipe, method.name]
    transform = _or(config.method.transform, recipe.transform)
    if config.method.rank is not None and transform != "lowrank":
        message = f"only the transform 'lowrank' has a rank, not '{transform}'; leave it out"
        found.append(Problem("method.rank", message))
    objective = _or(config.method.objective, recipe.objective)
    labels = _or(config.method.labels, recipe.labels) if method.source == "labels" else None
    if labels == "together" and labels in method.labels:
        named = {problem.path for problem in found}
        others = _together_problems(config.method, recipe, is_multilabel)
        return found + [problem for problem in others if problem.path not in named]
    if config.method.label_tokens is not None:
        message = "only `labels: together` has a choice of them; leave it out"
        found.append(Problem("method.label_tokens", message))
    if not is_multilabel or method.source != "labels":
        found += _contrast_problems(config.method, objective)
    if transform == "pooled" and config.method.start not in (None, "random"):
        message = f"the pooled transform starts 'random', got '{config.method.start}'"
        found.append(Problem("method.start", message))
    return found


def _beside_auto(config: Config) -> list[Problem]:
    """Options that the method which is chosen may not have."""
    if TASK_FACTS[config.task].gives != "one":
        message = (
            f"expected the name of a method with task '{config.task}', got '{AUTO}', which knows "
            "texts of one label"
        )
        return [Problem("method.name", message)]
    default = MethodOptions()
    given = [item.name for item in fields(MethodOptions) if item.name != "name"]
    message = f"expected no option of a method with method '{AUTO}', got {{!r}}; leave it out"
    return [
        Problem(f"method.{name}", message.format(value))
        for name in given
        if (value := getattr(config.method, name)) != getattr(default, name)
        if (name, value) != ("head", "match")
    ]


def _together_problems(
    options: MethodOptions, recipe: Recipe, is_multilabel: bool
) -> list[Problem]:
    """Options of labels that are read apart, where they are read together."""
    found = []
    fitting = {"transform": "lowrank", "head": "match"}
    if not is_multilabel:
        fitting["objective"] = "contrast"
    for name, expected in fitting.items():
        value = _or(getattr(options, name), getattr(recipe, name))
        if value != expected:
            message = (
                f"expected '{expected}' with labels 'together', got '{value}'; set it, or "
                "method.labels=apart"
            )
            found.append(Problem(f"method.{name}", message))
    if options.negatives is not None:
        message = (
            "labels 'together' are all read and none is drawn; leave it out, or set "
            "method.labels=apart"
        )
        found.append(Problem("method.negatives", message))
    if options.num_tokens is not None and options.label_tokens == "mean":
        message = "the mean of a label's tokens takes no more room than one; leave it out"
        found.append(Problem("method.num_tokens", message))
    if options.start == "label-kv" and options.label_tokens == "mean":
        message = "the mean of a label's tokens has no keys and values to start from, take 'all'"
        found.append(Problem("method.label_tokens", message))
    return found


def _contrast_problems(options: MethodOptions, objective: str) -> list[Problem]:
    """Options of the objective `contrast` that were given to another one."""
    if objective == "contrast" or options.negatives is None:
        return []
    message = f"only the objective 'contrast' draws them, not '{objective}'; leave it out"
    return [Problem("method.negatives", message)]


def is_label_method(name: str) -> bool:
    """Whether the virtual tokens of a method are made of label texts."""
    return name in METHODS and METHODS[name].source == "labels"


def uses_labels(options: MethodOptions) -> bool:
    """Whether a method reads the label texts, so that labels may come after training.

    That which `auto` will choose may.
    """
    is_matched = options.name not in METHODS and options.head == "match"
    return is_matched or is_label_method(options.name) or options.name == AUTO


def one_pass(options: MethodOptions) -> bool:
    """Whether one pass over a text gives the scores of all labels; of resolved options."""
    return not is_label_method(options.name) or options.labels == "together"


def site_of(options: MethodOptions) -> Site | None:
    """Where virtual tokens go; None where there are none."""
    return METHODS[options.name].site if options.name in METHODS else None


def reads_texts(options: MethodOptions) -> bool:
    """Whether a method reads the label texts at all, be it for a start."""
    return uses_labels(options) or options.start == "text"


def _pooling(recipe: Recipe, family: Family) -> Pooling:
    if recipe.pooling is None:
        return "mean"
    # A causal model's first token has seen nothing, so the paper's pooled state is its last one.
    return "last" if family.causal else recipe.pooling


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
