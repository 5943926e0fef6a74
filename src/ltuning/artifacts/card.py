"""The model card of a saved classifier: Markdown with the front matter that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ltuning.config import TASK_FACTS, TaskFacts
from ltuning.methods.weight_methods import WEIGHT_METHODS
from ltuning.metrics import WORDS

# Where the card says to load from, until it is pushed to a hub.
PLACE = "path/to/this/folder"
# What our names of figures are called on model hubs.
HUB_METRICS = {
    "accuracy": "accuracy",
    "micro_f1": "f1",
    "macro_f1": "f1",
    "exact_match": "exact_match",
    "mcc": "matthews_correlation",
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
}
# What the builtin backbones are copies of.
_BUILTIN = {
    "builtin:minilm": "sentence-transformers/all-MiniLM-L6-v2",
    "builtin:smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
SPLITS = ("validation", "test")
# Names of figures of calibration before and after end so.
_TIMES = ("_before", "")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Underscores within a word are letters in Markdown; at its ends they mean emphasis.
MARKUP = re.compile(r"[\\`*~\[\]<|&]|\b_|_\b")


def render(config: Mapping[str, Any], figures: Mapping[str, Mapping[str, object]]) -> str:
    """Write the card.

    Args:
        config: what the artifact's JSON holds; read are `backbone` (name, revision, fingerprint,
            family), `method`, `labels` (name to texts), `versions`, `seed`, `max_length`, of
            `config` what becomes of longer texts, where several labels may apply `thresholds`, and
            where one does `temperature`.
        figures: `validation` and `test` (accuracy, macro_f1, mcc and other numbers), `calibration`
            (see `calibration.calibration_figures`) and `training` (seconds, steps, texts,
            trainable_parameters); each may be missing.
    """
    parts = [
        _front_matter(config, figures),
        _summary(config),
        _labels(config),
        _usage(config),
        _figures(figures),
        _calibration(config, figures.get("calibration", {})),
        _training(config, figures.get("training", {})),
        _limits(config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def hub_id(name: str) -> str | None:
    """The model hub's id of a backbone; None of a file or folder of this machine."""
    if name in _BUILTIN:
        return _BUILTIN[name]
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _front_matter(config: Mapping[str, Any], figures: Mapping[str, Mapping[str, object]]) -> str:
    fields: dict[str, object] = {
        "library_name": "ltuning",
        "pipeline_tag": _pipeline(config),
        "tags": ["ltuning", _pipeline(config), config["method"]["name"]],
    }
    # A hub refuses a base model that is not an id of its own.
    if (base := hub_id(config["backbone"]["name"])) is not None:
        fields["base_model"] = base
        fields["base_model_relation"] = "finetune" if _holds_weights(config) else "adapter"
    dataset = _dataset(config)
    if dataset is not None:
        fields["datasets"] = [dataset]
    results = [_result(config, split, figures.get(split, {}), dataset) for split in SPLITS]
    if results := [result for result in results if result["metrics"]]:
        types = [metric["type"] for result in results for metric in result["metrics"]]
        fields["metrics"] = list(dict.fromkeys(types))
        fields["model-index"] = [{"name": _title(config), "results": results}]
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---"


def _holds_weights(config: Mapping[str, Any]) -> bool:
    """Whether the artifact has weights in the place of the backbone's own."""
    method = config["method"]
    weights = WEIGHT_METHODS.get(method["name"])
    return bool(method.get("merge")) or (weights is not None and weights.trains == "everything")


def _dataset(config: Mapping[str, Any]) -> str | None:
    """The hub's id of the data set that was trained on, where it is known to be from there."""
    path = config["config"]["data"].get("path") or ""
    name = path.partition(":")[0]
    # A file or folder stands there by its absolute path; the demo's data come with the package.
    is_id = HUB_ID.fullmatch(name) and not path.startswith("builtin:")
    return name if is_id and not Path(name).exists() else None


def _result(
    config: Mapping[str, Any], split: str, figures: Mapping[str, object], dataset: str | None
) -> dict[str, Any]:
    """An entry of the hub's `model-index`: the figures that it has a name for, and of what."""
    metrics = [
        {"type": HUB_METRICS[name], "value": round(value, 4), "name": WORDS[name]}
        for name in WORDS
        if name in HUB_METRICS and isinstance(value := figures.get(name), int | float)
    ]
    texts = f"{split} texts" if dataset is None else f"{split} texts of {dataset}"
    return {
        "task": {"type": _pipeline(config)},
        "dataset": {"type": dataset or "unknown", "name": texts},
        "metrics": metrics,
    }


def _task(config: Mapping[str, object]) -> TaskFacts:
    return TASK_FACTS[str(config.get("task", "classes"))]


def _pipeline(config: Mapping[str, object]) -> str:
    return "token-classification" if _task(config).of_words else "text-classification"


def _title(config: Mapping[str, Any]) -> str:
    count = len(config["labels"])
    if _task(config).of_words:
        return f"Tagger of {count} types of entities"
    return f"Text classifier with {count} labels"


def _summary(config: Mapping[str, Any]) -> str:
    method, backbone, count = config["method"], config["backbone"], len(config["labels"])
    if _task(config).of_words:
        return (
            f"# {_title(config)}\n\n"
            f"A tagger that ltuning trained with the method `{method['name']}` on the language "
            f"model `{backbone['name']}` (family `{backbone['family']}`). It finds entities in a "
            "text. The folder holds what was trained; the language model is loaded from its own "
            "place."
        )
    sorts = (
        f"It gives a text those of {count} labels that apply to it, which may be several or none."
        if _task(config).several
        else f"It sorts a text into one of {count} labels."
    )
    return (
        f"# {_title(config)}\n\n"
        f"An adapter that ltuning trained with the method `{method['name']}` on the frozen "
        f"language model `{backbone['name']}` (family `{backbone['family']}`). {sorts} The folder "
        "holds the adapter only; the language model is loaded from its own place."
    )


def _labels(config: Mapping[str, Any]) -> str:
    labels: Mapping[str, Sequence[str]] = config["labels"]
    if _task(config).of_words:
        return "## Types\n\n" + _table(("type",), [(_escape(name),) for name in labels])
    rows = [(_escape(name), "; ".join(map(_escape, texts))) for name, texts in labels.items()]
    header: tuple[str, ...] = ("label", "texts that stand for it")
    if not _task(config).several:
        return "## Labels\n\n" + _table(header, rows)
    thresholds = (f"{threshold:.4f}" for threshold in config["thresholds"])
    with_thresholds = [(*row, of) for row, of in zip(rows, thresholds, strict=True)]
    return "## Labels\n\nA label applies where its probability reaches its threshold.\n\n" + _table(
        (*header, "threshold"), with_thresholds
    )


def _usage(config: Mapping[str, object]) -> str:
    door = _task(config).door
    asked = "A text to read." if _task(config).of_words else "A text to sort."
    return f"""## Use

```python
from ltuning import {door}

classifier = {door}.from_pretrained("{PLACE}")
classifier.predict(["{asked}"])
```

```bash
ltuning predict {PLACE} texts.txt
```"""


def _figures(figures: Mapping[str, Mapping[str, object]]) -> str:
    splits = [split for split in SPLITS if figures.get(split)]
    numbers = {split: _numbers(figures[split]) for split in splits}
    names = list(dict.fromkeys(name for split in splits for name in numbers[split]))
    if not names:
        return ""
    rows = [
        (
            WORDS.get(name) or name.replace("_", " "),
            *(numbers[split].get(name, "-") for split in splits),
        )
        for name in names
    ]
    return "## Figures\n\n" + _table(("figure", *splits), rows)


def _calibration(config: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    temperature = config.get("temperature")
    if temperature in (None, 1):
        return ""
    parts = [
        "## Calibration",
        f"Scores are divided by {temperature:.4f}, the temperature, before they are probabilities.",
    ]
    if found:
        names = [name for name in WORDS if f"{name}_before" in found]
        rows = [(WORDS[name], *(f"{found[name + of]:.4f}" for of in _TIMES)) for name in names]
        parts += [
            f"It was fitted on {found['texts']:,} texts, which the figures are of, and which may "
            "have chosen the weights too.",
            _table(("figure", "at temperature 1", "at this one"), rows),
        ]
    else:
        parts.append("It was fitted before labels were added.")
    return "\n\n".join(parts)


def _training(config: Mapping[str, Any], training: Mapping[str, object]) -> str:
    backbone = config["backbone"]
    facts = {name.replace("_", " "): text for name, text in _numbers(training).items()}
    facts["seed"] = str(config["seed"])
    options = {name: value for name, value in config["method"].items() if value is not None}
    facts["method"] = ", ".join(f"{name} {value}" for name, value in options.items())
    facts["backbone"] = f"{backbone['name']}, revision {backbone['revision'] or 'not given'}"
    facts["fingerprint of its weights"] = str(backbone["fingerprint"])
    facts["versions"] = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    rows = [(name, _escape(value)) for name, value in facts.items()]
    return "## Training\n\n" + _table(("fact", "value"), rows)


def _limits(config: Mapping[str, Any]) -> str:
    limits = [
        "The figures are those of one run; another seed or other training texts give others.",
        "What the language model has learned, its languages and its biases, is still in it.",
        "It works on the weights with the fingerprint above and refuses others.",
    ]
    length = config.get("max_length")
    if _task(config).of_words:
        limits.insert(0, f"Longer texts than {length} tokens are read in parts that overlap.")
    else:
        of_all = (
            "Every text gets one of the labels above, also a text that belongs to none of them."
        )
        fitted = (
            "A threshold is the one with the best F1 on validation texts, .5 without any, or the "
            "others' median for a label added later; figures of validation are of the same texts "
            "and flatter."
        )
        if config.get("oos_threshold") is not None:
            name = _escape(config["config"]["data"]["oos_label"])
            of_all = (
                f"A text whose highest score is below {config['oos_threshold']:.4f} gets {name}, "
                "which stands for none of the labels; 5 % of the texts with a label may, too."
            )
        limits.insert(0, fitted if _task(config).several else of_all)
        if length:
            cut = f"Of a text, {length} tokens are read; the rest is left out."
            windows = f"Longer texts than {length} tokens are read in parts that overlap."
            is_cut = config["config"]["data"]["long_texts"] == "cut"
            limits.insert(1, cut if is_cut else windows)
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _numbers(figures: Mapping[str, object]) -> dict[str, str]:
    """The figures that are single numbers, as text."""
    return {
        name: _number(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4f}"


def _escape(text: str) -> str:
    """The text as one Markdown table cell that shows it as it is."""
    return MARKUP.sub(lambda found: "\\" + found.group(), " ".join(text.split()))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
