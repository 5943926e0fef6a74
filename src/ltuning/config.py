"""The options of a classifier: dataclasses <-> YAML <-> ``section.option=value``.

The dataclasses say everything: their names are the options, their type hints what an option
takes, their field metadata its range. Every problem of a configuration is reported at once, each
with its dotted path, before a model loads.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import Enum
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ltuning import trainer_options, yamlfile
from ltuning.errors import ConfigError, Problem
from ltuning.registry import listed, suggest, unknown
from ltuning.yamlfile import YamlError, not_text, shown


@dataclass(frozen=True)
class Range:
    """Which numbers an option takes, in words and as a test."""

    words: str
    accepts: Callable[[Any], bool]


FROM_ZERO = Range("of 0 or more", lambda number: number >= 0)
FROM_ONE = Range("of 1 or more", lambda number: number >= 1)
ABOVE_ZERO = Range("above 0", lambda number: number > 0)
SHARE = Range("from 0 to below 1", lambda number: 0 <= number < 1)
FRACTION = Range("between 0 and 1, both excluded", lambda number: 0 < number < 1)
# NumPy, which `transformers.set_seed` seeds too, takes no more than 32 bits.
SEED = Range("from 0 to 4294967295", lambda number: 0 <= number < 2**32)


def number_option(default: Any, range: Range) -> Any:
    """A field of options that takes numbers of a range."""
    return field(default=default, metadata={"range": range})


TaskName = Literal["classes", "multilabel", "tags"]
# The method of who names a task and no method.
DEFAULT_METHODS = {"classes": "lt-prefix", "multilabel": "lt-prefix", "tags": "ls-lora"}


@dataclass(frozen=True)
class BackboneOptions:
    """The frozen model.

    Attributes:
        name: `builtin:minilm`, a hub id, or a local folder.
        revision: commit, tag or branch of a hub id; None is the hub's default.
        trust_remote_code: whether Python code that comes with the checkpoint may run.
        dtype: what the weights are computed in; `auto` is chosen by device.
        quantize: bits of a weight, which needs a CUDA device; None leaves the weights as they are.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ..., or `split`: over all GPUs (`device_map` of
            transformers).
        attention: how attention is computed, by transformers' names; `auto` is the model's choice.
        max_length: tokens of a text, special tokens included; None is the model's own limit.
        max_branches: most texts, or (text, label) pairs where labels are read apart, scored at a
            time; what bounds the memory.
        cache_size: GiB for what the layers below a prefix make of the training texts, so that they
            run once and not in every epoch; nothing is kept of what takes more. 0 is never.
    """

    name: str = "builtin:minilm"
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["8bit", "4bit"] | None = None
    device: str = "auto"
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    max_length: int | None = number_option(None, FROM_ONE)
    max_branches: int = number_option(256, FROM_ONE)
    cache_size: float = number_option(2.0, FROM_ZERO)


def layer_numbers(words: str, depth: int) -> frozenset[int]:
    """The layers that `all`, `none`, `8-31` or `0,2,4` mean, counted from 0.

    Args:
        words: as given.
        depth: the layers that there are, which `all` means.

    Raises:
        ValueError: other words.
        ConfigError: layers that are not there.
    """
    ranges = _layer_ranges(words, depth)
    # Before there is a set of them: a few signs can name more layers than fit into memory.
    last = max((found[-1] for found in ranges), default=-1)
    if last >= depth:
        message = f"expected layers below {depth}, the backbone's layers, got {last}"
        raise ConfigError([Problem("method.unmask_layers", message)])
    return frozenset(number for found in ranges for number in found)


def _layer_ranges(words: str, depth: int) -> list[range]:
    if words in ("all", "none"):
        return [range(depth)] if words == "all" and depth else []
    ranges = []
    for part in words.split(","):
        first, _, last = part.partition("-")
        found = range(int(first), int(last or first) + 1)
        if not found:
            raise ValueError(part)
        ranges.append(found)
    return ranges


def _read_layers(value: object, path: str, problems: list[Problem]) -> Any:
    if value is None:
        return None
    words = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    words = words.replace(" ", "")
    try:
        _layer_ranges(words, depth=0)
    except ValueError:
        expected = "expected all, none, or layers counted from 0 such as 8-31 or 0,2,4"
        problems.append(Problem(path, f"{expected}, got {shown(value)}"))
    return words


@dataclass(frozen=True)
class MethodOptions:
    """What tuning adds to the backbone, and how it is trained; None is chosen by the recipe.

    Attributes:
        name: where virtual tokens come from and go to, or which weights are trained.
        recipe: what the open options default to: `default`, or `paper` as published.
        labels: how a label method reads them: `together`, all in one pass over the text, or
            `apart`, each in a pass of its own, as published.
        label_tokens: with `together`, what stands for a label in the prefix: `all` of its tokens,
            or their `mean`; None is all of them up to 256 tokens of all labels.
        transform: label states -> virtual tokens, of the label methods.
        start: what the virtual tokens are before the first step.
        head: how a score is read from the text's states.
        objective: what a step minimises.
        pooling: which state stands for a text.
        rank: inner width of the `lowrank` transform, or of LoRA.
        first_layer: the lowest layer that gets a prefix, counted from 0.
        num_tokens: virtual tokens of the plain methods; label methods: room for a label, None
            is the longest label.
        negatives: with labels `apart` and the objective `contrast` or `multilabel`, wrong labels
            per text in a training step; 0 is all others.
        alpha: LoRA's updates are scaled by `alpha / rank`.
        dropout: of LoRA's inputs, while it trains.
        merge: save the weights that LoRA changed instead of LoRA itself.
        unmask_layers: layers whose causal mask `ls-unmask` removes: `all`, `none`, `8-31`, `0,2,4`.
    """

    name: Literal[
        "prefix", "prompt", "lt-prefix", "lt-prompt", "ls-lora", "ls-unmask", "probe", "full"
    ] = "lt-prefix"
    recipe: Literal["default", "paper"] = "default"
    labels: Literal["together", "apart"] | None = None
    label_tokens: Literal["all", "mean"] | None = None
    transform: Literal["pooled", "lowrank", "square"] | None = None
    start: Literal["random", "small", "label-kv", "vocabulary", "text"] | None = None
    head: Literal["binary", "match", "classes"] | None = None
    objective: Literal["pairs", "contrast", "classes", "multilabel"] | None = None
    pooling: Literal["cls", "mean", "max", "last"] | None = None
    rank: int | None = number_option(None, FROM_ONE)
    first_layer: int | None = number_option(None, FROM_ZERO)
    num_tokens: int | None = number_option(None, FROM_ONE)
    negatives: int | None = number_option(None, FROM_ZERO)
    alpha: int | None = number_option(None, FROM_ONE)
    dropout: float | None = number_option(None, SHARE)
    merge: bool | None = None
    unmask_layers: str | None = field(default=None, metadata={"read": _read_layers})


@dataclass(frozen=True)
class DataOptions:
    """Where texts and labels come from.

    Attributes:
        path: a file, a folder with splits, or a hub data set id.
        text_column: column of the text; None is found by its usual names, as the next two.
        text_pair_column: column of the second text of a pair.
        label_column: column of the label.
        shots: training texts per class, drawn at random; None is all.
        validation_fraction: part of the training split held out where there is no validation
            split; 0 trains on every text and keeps the last weights.
        empty_texts: what to do with rows whose text is empty.
        missing_labels: what to do with rows of `path` that have no label.
        delimiter: what stands between the fields of csv and tsv; None is found.
        encoding: of files of text; None is by their byte-order mark, else UTF-8.
    """

    path: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    shots: int | None = number_option(None, FROM_ONE)
    validation_fraction: float = number_option(0.1, SHARE)
    empty_texts: Literal["refuse", "skip"] = "refuse"
    missing_labels: Literal["refuse", "skip"] = "refuse"
    delimiter: str | None = None
    encoding: str | None = None


# What the best weights may be chosen by, for each task.
STOPPING_METRICS = {
    "classes": ("loss", "accuracy", "macro_f1", "mcc"),
    "tags": ("loss", "f1"),
    "multilabel": ("loss", "micro_f1", "macro_f1"),
}
EVERY_METRIC = tuple(dict.fromkeys(name for of in STOPPING_METRICS.values() for name in of))


def _read_patience(value: object, path: str, problems: list[Problem]) -> Any:
    if isinstance(value, str):
        return _read_choice(("auto",), value, path, problems)
    return None if value is None else read_scalar(int, FROM_ONE, value, path, problems)


@dataclass(frozen=True)
class StoppingOptions:
    """When training ends early, and which evaluation counts as the best.

    Attributes:
        patience: evaluations without improvement before stopping; None is never stop early. `auto`
            is three where the default recipe chooses how long to train and when to evaluate, and
            else None.
        metric: what is best, on validation: `loss`; of texts `accuracy`, `macro_f1` or `mcc`; of
            texts with several labels `micro_f1` or `macro_f1`; of tags `f1`, of entities.
    """

    patience: Literal["auto"] | int | None = field(
        default="auto", metadata={"read": _read_patience}
    )
    metric: str = field(default="loss", metadata={"choices": EVERY_METRIC})


def _read_backbone(value: object, path: str, problems: list[Problem]) -> Any:
    options = read_section(BackboneOptions, value, path, problems)
    if options.quantize is not None and options.device == "cpu":
        message = f"expected a CUDA device for {options.quantize}, got 'cpu'; leave one of them out"
        problems.append(Problem(f"{path}.quantize", message))
    return options


def read_labels(value: object, path: str, problems: list[Problem]) -> Any:
    """Label texts as a mapping of names to lists; None where nothing is given."""
    if value is None:
        return None
    texts, sentences = label_texts(value)
    problems.extend(Problem(path, sentence) for sentence in sentences)
    return texts


def _read_training(value: object, path: str, problems: list[Problem]) -> Any:
    if value is not None and not isinstance(value, Mapping):
        problems.append(Problem(path, f"expected a section of options, got {shown(value)}"))
        return {}
    try:
        return _plain({} if value is None else value, path, problems)
    except RecursionError:
        problems.append(Problem(path, "contains itself, or is nested too deeply"))
        return {}


@dataclass(frozen=True)
class Config:
    """Every option of a classifier. A Config is valid: making one checks all of it.

    Attributes:
        task: what is predicted: a class of each text, those of several labels that apply to it, or
            tags of its words.
        backbone: the frozen model.
        labels: name -> texts; None takes the names that the data has. A list of names and a
            single text for a name are accepted and brought to this form.
        method: what tuning adds.
        data: where texts and labels come from.
        stopping: when training ends early.
        seed: of every random choice.
        training: fields of `transformers.TrainingArguments`; see `check_training`.

    Raises:
        ConfigError: with every problem there is.
    """

    task: TaskName = "classes"
    backbone: BackboneOptions = field(
        default_factory=BackboneOptions, metadata={"read": _read_backbone}
    )
    labels: dict[str, list[str]] | None = field(default=None, metadata={"read": read_labels})
    method: MethodOptions = field(default_factory=MethodOptions)
    data: DataOptions = field(default_factory=DataOptions)
    stopping: StoppingOptions = field(default_factory=StoppingOptions)
    seed: int = number_option(0, SEED)
    training: dict[str, Any] = field(default_factory=dict, metadata={"read": _read_training})

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        values = read_options(Config, vars(self), "", problems)
        if problems:
            raise ConfigError(problems)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], settings: Iterable[str] = ()) -> Config:
        """The options of a nested mapping, changed by settings such as `method.rank=64`.

        Where they name no method, it is the default one of the task.

        Raises:
            ConfigError: with every problem of the mapping and of the settings.
        """
        return _build(mapping, settings, "configuration", [])

    @classmethod
    def from_yaml(cls, path: str | Path, settings: Iterable[str] = ()) -> Config:
        """As `from_dict`, of a YAML file.

        Raises:
            ConfigError: with every problem of the file and of the settings.
        """
        try:
            loaded = yamlfile.read(path)
        except YamlError as error:
            return _build({}, settings, str(path), [Problem(str(path), str(error))])
        return _build(loaded, settings, str(path), [])

    def with_set(self, settings: Iterable[str]) -> Config:
        """A copy with some options changed, each `section.option=value`, the value as YAML.

        Raises:
            ConfigError: with every problem of the settings.
        """
        return _build(self.to_dict(), settings, "configuration", [])

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values: `Config.from_dict(c.to_dict()) == c`."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal Config."""
        return yamlfile.dump(self.to_dict())


# Narrower than what TrainingArguments takes and only fails on later, or takes as "not given".
_TRAINING_RANGES = {
    "learning_rate": FROM_ZERO,
    "num_train_epochs": Range("above 0, up to 1,000,000", lambda number: 0 < number <= 10**6),
    "max_steps": FROM_ONE,
    "per_device_train_batch_size": FROM_ONE,
    "gradient_accumulation_steps": FROM_ONE,
    "warmup_steps": FROM_ZERO,
    "weight_decay": FROM_ZERO,
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    "adam_epsilon": FROM_ZERO,
    "max_grad_norm": FROM_ZERO,
    "logging_steps": ABOVE_ZERO,
    "eval_steps": ABOVE_ZERO,
    "eval_delay": FROM_ZERO,
    "save_steps": ABOVE_ZERO,
    "save_total_limit": FROM_ONE,
    "torch_empty_cache_steps": FROM_ONE,
    "dataloader_num_workers": FROM_ZERO,
    "dataloader_prefetch_factor": FROM_ONE,
}


def check_training(options: Iterable[str]) -> list[Problem]:
    """What is wrong with the options of a `training` section, or with their names alone.

    A name must be a field of the installed transformers' `TrainingArguments` that ltuning honours;
    see `trainer_options`. The values of a mapping must be numbers, booleans and choices where the
    field takes such. Imports transformers' Trainer where there are options.
    """
    if not options:
        return []
    from transformers import TrainingArguments

    known = {item.name for item in dataclasses.fields(TrainingArguments) if item.init}
    problems: list[Problem] = []
    for name in options:
        refusal = _training_refusal(name, known)
        if refusal is not None:
            problems.append(Problem(f"training.{name}", refusal))
        elif isinstance(options, Mapping):
            _check_training_value(name, _hints(TrainingArguments)[name], options[name], problems)
    if isinstance(options, Mapping) and {"num_train_epochs", "max_steps"} <= options.keys():
        message = "expected one of num_train_epochs and max_steps, got both"
        problems.append(Problem("training", message))
    return problems


def _training_refusal(name: str, known: Collection[str]) -> str | None:
    """Why a field cannot be set; None where it can."""
    if name not in known:
        near = suggest(name, sorted(trainer_options.HONOURED & set(known)))
        return f"transformers.TrainingArguments has no field {name!r}{near}"
    reason = trainer_options.OWNED.get(name) or trainer_options.REFUSED.get(name)
    if reason is not None:
        return f"cannot be set here: {reason}"
    if name not in trainer_options.HONOURED:
        return "cannot be set here: ltuning does not know this field yet, leave it out"
    return None


def _check_training_value(name: str, hint: Any, value: object, problems: list[Problem]) -> None:
    path = f"training.{name}"
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    choices = [
        member.value
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, Enum)
        for member in kind
    ]
    if name == "log_level":
        choices = list(trainer_options.LOG_LEVELS)
    if name == "optim":
        choices = [one for one in choices if not one.startswith(trainer_options.REFUSED_OPTIMIZERS)]
    if value is None and type(None) in get_args(hint):
        return
    if choices:
        _read_choice(choices, value, path, problems)
    elif kinds == [bool]:
        _read_boolean(value, path, problems)
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(Problem(path, f"expected a finite number, got {shown(value)}"))
    elif kinds in ([int], [float]):
        read_scalar(kinds[0], _TRAINING_RANGES.get(name), value, path, problems)
    elif kinds == [str]:
        read_scalar(str, None, value, path, problems)
    elif dict in kinds and not isinstance(value, (Mapping, str)):
        problems.append(Problem(path, f"expected a section of options, got {shown(value)}"))
    elif name == "report_to" and not _is_texts(value):
        message = f"expected a name or a list of names, got {shown(value)}"
        problems.append(Problem(path, message))


def _is_texts(value: object) -> bool:
    several = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(one, str) and one for one in several)


def label_texts(value: object) -> tuple[dict[str, list[str]], list[str]]:
    """Label names with their texts, from a list of names or a mapping, and what is wrong in them.

    A name from a list has itself as its text, `_` and `-` turned into spaces. Only the form is
    checked here, so that a configuration needs no label code; `ltuning.labels.Labels` checks
    whether labels can be told apart.
    """
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        pairs = [(name, name_as_text(name)) for name in value]
    else:
        expected = "expected a list of names or a mapping of names to texts"
        return {}, [f"{expected}, got {shown(value)}"]
    texts: dict[str, list[str]] = {}
    problems: list[str] = []
    for name, given in pairs:
        if not isinstance(name, str):
            problems.append(f"expected a text as the name of a label, got {not_text(name)}")
        elif (found := lone_surrogate(name)) is not None:
            problems.append(f"the label {name!a} has {found}: decode it with the right encoding")
        elif name in texts:
            problems.append(f"the label {name!r} stands twice")
        else:
            texts[_plain_text(name)] = _texts_of(name, given, problems)
    return texts, problems


def lone_surrogate(text: str) -> str | None:
    """Half a character and its place, in words; None where every character is whole."""
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"half a character ({text[error.start]!a} at {error.start})"
    return None


def absolute_path(name: str) -> str:
    """The absolute path of a file or folder that is there; other names, as of a hub, stay."""
    # Not the methods of Path: they raise at a home folder of nobody and at a name too long.
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name.strip() and os.path.exists(path) else name


def name_as_text(name: object) -> object:
    """What a label stands for that has nothing but its name."""
    if not isinstance(name, str):
        return name
    return name.replace("_", " ").replace("-", " ").strip()


def _texts_of(name: str, given: object, problems: list[str]) -> list[str]:
    several = list(given) if isinstance(given, (list, tuple)) else [given]
    if not several:
        problems.append(f"the label {name!r} has an empty list of texts: give it one or more")
    for text in several:
        if not isinstance(text, str):
            expected = f"expected a text or a list of texts for the label {name!r}"
            problems.append(f"{expected}, got {not_text(text)}")
        elif (found := lone_surrogate(text)) is not None:
            decode = "decode it with the right encoding"
            problems.append(f"the label {name!r} has {found} in its text: {decode}")
    return [_plain_text(text) for text in several if isinstance(text, str)]


def _plain_text(text: str) -> str:
    """The same characters as a `str` itself: NumPy's texts are of a class that YAML refuses."""
    return str.__str__(text)


def _build(given: object, settings: Iterable[str], origin: str, problems: list[Problem]) -> Config:
    if not isinstance(given, Mapping):
        expected = f"expected a mapping of options ({listed(_hints(Config))})"
        problems.append(Problem(origin, f"{expected}, got {shown(given)}"))
        given = {}
    options = _with_method(apply_settings(given, settings, problems))
    values = read_options(Config, options, "", problems)
    if problems:
        raise ConfigError(problems)
    return Config(**values)


def _with_method(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the default method of the task where a task is named and no method is."""
    task, method = options.get("task"), options.get("method") or {}
    names_one = not isinstance(method, Mapping) or "name" in method
    if names_one or not isinstance(task, str) or task not in DEFAULT_METHODS:
        return options  # what is wrong with it is said where it is read
    return {**options, "method": {**method, "name": DEFAULT_METHODS[task]}}


_MOST_KEYS = 20  # of a dotted path; options lie four deep at most


def apply_settings(
    options: Mapping[str, Any], settings: Iterable[str], problems: list[Problem]
) -> Mapping[str, Any]:
    """The options with every `a.b=value` put in place; what cannot be is a problem."""
    for setting in settings:
        dotted, equals, text = setting.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys) or len(keys) > _MOST_KEYS:
            message = f"expected OPTION=VALUE such as method.rank=64, got {shown(setting)}"
            problems.append(Problem("--set", message))
            continue
        try:
            options = _put(options, keys, yamlfile.parse(text))
        except YamlError as error:
            message = f"cannot read the value {text!r} ({error}): put it in quotes"
            problems.append(Problem(".".join(keys), message))
        except _NoSection as error:
            problems.append(Problem(".".join(keys), str(error)))
    return options


class _NoSection(Exception):
    """A dotted path that leads through something without options."""


def _put(options: Mapping[str, Any], keys: Sequence[str], value: object) -> dict[str, Any]:
    key, *rest = keys
    if not rest:
        return {**options, key: value}
    inner = options.get(key)
    if dataclasses.is_dataclass(inner):
        inner = vars(inner)
    if inner is not None and not isinstance(inner, Mapping):
        raise _NoSection(f"{key!r} is not a section of options but {shown(inner)}")
    return {**options, key: _put(inner or {}, rest, value)}


@cache
def _hints(options: type) -> dict[str, Any]:
    return get_type_hints(options)


def read_options(
    kind: type, given: Mapping[Any, Any], prefix: str, problems: list[Problem]
) -> dict[str, Any]:
    """Checked values by field name, of the fields that are given; the problems are appended."""
    hints = _hints(kind)
    values = {}
    for item in dataclasses.fields(kind):
        if item.name in given:
            path = prefix + item.name
            values[item.name] = _read(item, hints[item.name], given[item.name], path, problems)
    for key in given:
        if key not in hints:
            problems.append(Problem(f"{prefix}{key}", unknown("option", key, hints)))
    return values


def _read(
    item: dataclasses.Field[Any], hint: Any, value: object, path: str, problems: list[Problem]
) -> Any:
    if "read" in item.metadata:
        return item.metadata["read"](value, path, problems)
    if dataclasses.is_dataclass(hint):
        return read_section(hint, value, path, problems)
    if type(None) in get_args(hint):
        if value is None:
            return None
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    choices = get_args(hint) if get_origin(hint) is Literal else item.metadata.get("choices")
    if choices:
        return _read_choice(choices, value, path, problems)
    if hint is bool:
        return _read_boolean(value, path, problems)
    return read_scalar(hint, item.metadata.get("range"), value, path, problems)


def read_section(kind: Any, value: object, path: str, problems: list[Problem]) -> Any:
    """The dataclass `kind` of a mapping; of nothing, and where there are problems, its defaults."""
    if value is None:
        return kind()
    if isinstance(value, kind):
        value = vars(value)
    if not isinstance(value, Mapping):
        example = f"{path}.{dataclasses.fields(kind)[0].name}"
        message = f"expected a section of options such as {example}, got {shown(value)}"
        problems.append(Problem(path, message))
        return kind()
    return kind(**read_options(kind, value, f"{path}.", problems))


def _read_choice(choices: Sequence[str], value: object, path: str, problems: list[Problem]) -> Any:
    if isinstance(value, str) and value in choices:
        return _plain_text(value)
    near = suggest(value, choices) if isinstance(value, str) else ""
    came = not_text(value) if isinstance(value, bool) else shown(value)
    problems.append(Problem(path, f"expected one of {listed(choices)}, got {came}{near}"))
    return None


def _read_boolean(value: object, path: str, problems: list[Problem]) -> Any:
    if not isinstance(value, bool):
        problems.append(Problem(path, f"expected true or false, got {shown(value)}"))
    return value


# What a hint takes: what a value must be an instance of, in words, and the plain value it becomes.
_SCALARS: dict[Any, tuple[type, str, Callable[[Any], Any]]] = {
    int: (Integral, "an integer", int),
    float: (Real, "a number", float),
    str: (str, "a text that is not empty", _plain_text),
}


def read_scalar(
    hint: Any, range: Range | None, value: object, path: str, problems: list[Problem]
) -> Any:
    """A plain integer, number or text, as `hint` says; None where it is a problem."""
    instance_of, words, convert = _SCALARS[hint]
    fits = isinstance(value, instance_of) and not isinstance(value, bool) and value != ""
    if isinstance(value, float) and math.isinf(value):
        fits = False  # no option means "without end" by it
    if fits and isinstance(value, Integral) and not -(2**63) <= int(value) < 2**63:
        problems.append(Problem(path, f"expected {words} of 64 bits at most, got {shown(value)}"))
        return None
    if fits and (range is None or range.accepts(value)):
        return convert(value)
    expected = f"{words} {range.words}" if range else words
    came = not_text(value) if hint is str else shown(value)
    problems.append(Problem(path, f"expected {expected}, got {came}"))
    return None


def _plain(value: object, path: str, problems: list[Problem]) -> Any:
    """A copy in the plain values that YAML and JSON have; anything else is a problem."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                message = f"expected texts as names of options, got {not_text(key)}"
                problems.append(Problem(path, message))
        return {key: _plain(inner, f"{path}.{key}", problems) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, path, problems) for inner in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    came = not_text(value) if isinstance(value, date) else shown(value)
    message = f"expected a text, a number, a boolean, a list or a mapping, got {came}"
    problems.append(Problem(path, message))
    return None
