"""The options of a classifier, as a user may give them: dataclasses <-> YAML <-> `a.b=value`.

Every problem of a configuration is reported at once, before a model loads.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltuning.config import yaml
from ltuning.config.label_texts import read_labels
from ltuning.config.reading import (
    ABOVE_ZERO,
    FROM_ONE,
    FROM_ZERO,
    SEED,
    SHARE,
    apply_settings,
    hints_of,
    number_option,
    read_choice,
    read_options,
    read_scalar,
    read_section,
)
from ltuning.config.trainer_options import read_training
from ltuning.config.yaml import YamlError, shown
from ltuning.errors import ConfigError, Problem
from ltuning.suggestions import listed
from ltuning.values import label_name, plain_value

TaskName = Literal["classes", "multilabel", "tags"]
LongTexts = Literal["cut", "windows"]
StartToken = Literal["auto", "none"]


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before anything is read or loaded.

    Attributes:
        door: the class that is its front door.
        default_method: the method of who names the task and no method.
        metrics: what the best weights may be chosen by.
        gives: one label of a text, several of them, each asked yes or no, or a tag for each word.
    """

    door: str
    default_method: str
    metrics: tuple[str, ...]
    gives: Literal["one", "several", "tags"] = "one"

    @property
    def one_of_each(self) -> bool:
        """Whether a text has one label: there are texts of a label to draw, a most frequent one."""
        return self.gives == "one"

    @property
    def several(self) -> bool:
        """Whether any number of labels apply to a text, each from its threshold on."""
        return self.gives == "several"

    @property
    def of_words(self) -> bool:
        """Whether words are answered, and not a text or a pair of texts as a whole."""
        return self.gives == "tags"


TASK_FACTS = {
    "classes": TaskFacts("LabelClassifier", "lt-prefix", ("loss", "accuracy", "macro_f1", "mcc")),
    "tags": TaskFacts("TokenClassifier", "ls-lora", ("loss", "f1"), "tags"),
    "multilabel": TaskFacts(
        "MultilabelClassifier", "lt-prefix", ("loss", "micro_f1", "macro_f1"), "several"
    ),
}
EVERY_METRIC = tuple(dict.fromkeys(name for facts in TASK_FACTS.values() for name in facts.metrics))


# The device of a backbone that is divided over processes.
SHARD = "shard"


@dataclass(frozen=True)
class BackboneOptions:
    """The frozen model.

    Attributes:
        name: `builtin:minilm`, `builtin:smollm2`, a hub id, a local folder, or a GGUF file.
        gguf_file: the GGUF file in that folder or on that page of the hub that holds the model;
            None where its files are transformers' own.
        revision: commit, tag or branch of a hub id; None is the hub's default.
        trust_remote_code: whether Python code that comes with the checkpoint may run.
        dtype: what the weights are computed in; `auto` is chosen by device.
        quantize: bits of a weight, which needs a CUDA device; None leaves the weights as they are.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...; `split`: over all GPUs (`device_map` of
            transformers); `shard`: over all processes that train together (torch's FSDP2).
        attention: how attention is computed, by transformers' names; `auto` is the model's choice.
        start_token: `auto`: a decoder whose tokenizer puts nothing around a text reads it after the
            token that stood between documents when it was trained, or its begin token; `none`:
            the text alone.
        max_length: tokens that are read at a time, of a text or of a window of it, special tokens
            included; None is the model's own limit.
        max_branches: most texts, or (text, label) pairs where labels are read apart, scored at a
            time; what bounds the memory.
        cache_size: GiB for what the layers below a prefix make of the training texts, so that they
            run once and not in every epoch; nothing is kept of what takes more. 0 is never.
    """

    name: str = "builtin:minilm"
    gguf_file: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["8bit", "4bit"] | None = None
    device: str = "auto"
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    start_token: StartToken = "auto"
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
        name: where virtual tokens come from and go to, or which weights are trained; `auto`
            chooses by the number of texts and labels, for task `classes`.
        recipe: what the open options default to: `default`, or `paper` as published.
        labels: how a label method reads them: `together`, all in one pass over the text, or
            `apart`, each in a pass of its own, as published.
        label_tokens: with `together`, what stands for a label in the prefix: `all` of its tokens,
            or their `mean`; None is all of them up to 256 tokens of all labels.
        transform: what makes virtual tokens of the states of a label text: `lowrank`, a map of
            each token through a narrow middle; `square`, one matrix for each token, of prompts;
            `pooled`, as published, of prefixes.
        start: what the virtual tokens are before the first step. Label methods: `random`, as
            published; `small`, near zero; `label-kv`, what the backbone itself makes of the label
            text in a prefix; `text`, its words in a prompt. Plain ones: `random`, words drawn from
            the `vocabulary`, or the `text` of the labels.
        head: what makes a score of a text's state: `match` compares it with those of the label
            texts, `classes` has an output for each label, `binary` says whether one label is true,
            as published.
        objective: what a step minimises: `contrast`, a text's label against wrong ones; `pairs`,
            as published, whether a text and a label belong together; `classes`, of the head
            `classes`; `multilabel`, whether each label applies.
        pooling: which state stands for a text: of its first token (`cls`), of its `last`, or the
            `mean` or `max` of all.
        rank: inner width of the `lowrank` transform, or of LoRA.
        first_layer: the lowest layer that gets a prefix, counted from 0.
        num_tokens: virtual tokens of the plain methods; label methods: room for a label, None
            is the longest label.
        negatives: with labels `apart` and the objective `contrast` or `multilabel`, wrong labels
            per text in a training step; 0 is all others.
        alpha: LoRA's updates are scaled by `alpha / rank`.
        dropout: of LoRA's inputs, while it trains.
        merge: whether the weights that LoRA changed are saved instead of LoRA itself.
        bias: whether the classifier on a text's state has a bias, of methods without virtual tokens
            and the objective `classes`; None is yes. PEFT can hold one without, of `pooling=last`.
        unmask_layers: layers whose causal mask `ls-unmask` removes: `all`, `none`, `8-31`, `0,2,4`.
    """

    name: Literal[
        "prefix", "prompt", "lt-prefix", "lt-prompt", "ls-lora", "ls-unmask", "probe", "full",
        "auto",
    ] = "lt-prefix"  # fmt: skip
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
    bias: bool | None = None
    unmask_layers: str | None = field(default=None, metadata={"read": _read_layers})


def _read_class_weight(value: object, path: str, problems: list[Problem]) -> Any:
    if value is None or isinstance(value, str):
        return value if value is None else read_choice(("balanced",), value, path, problems)
    if not isinstance(value, Mapping) or not value:
        message = f"expected balanced, or weights by the names of labels, got {shown(value)}"
        problems.append(Problem(path, message))
        return None
    weights = {label_name(plain_value(name)): plain_value(of) for name, of in value.items()}
    return {
        name: read_scalar(float, FROM_ZERO, weight, f"{path}.{name}", problems)
        for name, weight in weights.items()
    }


@dataclass(frozen=True)
class DataOptions:
    """Where texts and labels come from.

    Attributes:
        path: a file, a folder with splits, or a hub data set id.
        text_column: column of the text; None is found by its usual names, as the next two.
        text_pair_column: column of the second text of a pair.
        label_column: column of the label.
        oos_label: what is predicted of texts that look like those of no label, of task `classes`;
            None where every text gets a label.
        shots: training texts per class, drawn at random; None is all.
        validation_fraction: part of the training split held out where there is no validation
            split; 0 trains on every text and keeps the last weights.
        empty_texts: whether rows whose text is empty are refused or left out.
        missing_labels: whether rows of `path` that have no label are refused or left out.
        class_weight: what the texts of each label count in training: `balanced`, so that all labels
            count the same in sum (scikit-learn's n / (K * count)), or weights by label, 1 where a
            label is left out. They are scaled to the mean one over the training texts. Validation
            is not weighted.
        long_texts: whether a text that is longer than the model reads is `cut`, or read whole in
            `windows` that overlap, in training and at prediction, as tagging does in any case.
        delimiter: what stands between the fields of csv and tsv; None is found.
        encoding: of files of text; None is by their byte-order mark, else UTF-8.
    """

    path: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    label_column: str | None = None
    oos_label: str | None = None
    shots: int | None = number_option(None, FROM_ONE)
    validation_fraction: float = number_option(0.1, SHARE)
    empty_texts: Literal["refuse", "skip"] = "refuse"
    missing_labels: Literal["refuse", "skip"] = "refuse"
    class_weight: Literal["balanced"] | dict[str, float] | None = field(
        default=None, metadata={"read": _read_class_weight}
    )
    long_texts: LongTexts = "cut"
    delimiter: str | None = None
    encoding: str | None = None


def _read_patience(value: object, path: str, problems: list[Problem]) -> Any:
    if isinstance(value, str):
        return read_choice(("auto",), value, path, problems)
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
        seconds: with method `auto`, how long training may take by a forecast: methods that would
            take longer are left out. None is as long as it takes.
    """

    patience: Literal["auto"] | int | None = field(
        default="auto", metadata={"read": _read_patience}
    )
    metric: str = field(default="loss", metadata={"choices": EVERY_METRIC})
    seconds: float | None = number_option(None, ABOVE_ZERO)


def _read_backbone(value: object, path: str, problems: list[Problem]) -> Any:
    options = read_section(BackboneOptions, value, path, problems)
    if options.quantize is not None and options.device == "cpu":
        message = f"expected a CUDA device for {options.quantize}, got 'cpu'; leave one of them out"
        problems.append(Problem(f"{path}.quantize", message))
    if options.quantize is not None and options.device == SHARD:
        message = (
            f"expected weights in floats with device '{SHARD}', got {options.quantize}; leave one "
            "of them out"
        )
        problems.append(Problem(f"{path}.quantize", message))
    return options


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
        calibrate: whether a temperature of the probabilities is fitted on the validation texts,
            where they are 50 or more; of task `classes`.
        seed: of every random choice.
        training: fields of `transformers.TrainingArguments`.

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
    calibrate: bool = True
    seed: int = number_option(0, SEED)
    training: dict[str, Any] = field(default_factory=dict, metadata={"read": read_training})

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        values = read_options(Config, vars(self), "", problems)
        if problems:
            raise ConfigError(problems)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, mapping: Mapping[str, object], settings: Iterable[str] = ()) -> Config:
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
            loaded = yaml.read(path)
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
        return yaml.dump(self.to_dict())


def _build(given: object, settings: Iterable[str], origin: str, problems: list[Problem]) -> Config:
    if not isinstance(given, Mapping):
        expected = f"expected a mapping of options ({listed(hints_of(Config))})"
        problems.append(Problem(origin, f"{expected}, got {shown(given)}"))
        given = {}
    options = _with_method(apply_settings(given, settings, problems))
    values = read_options(Config, options, "", problems)
    if problems:
        raise ConfigError(problems)
    return Config(**values)


def _with_method(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the default method of the task where a task is named and no method is."""
    task, method = options.get("task"), options.get("method")
    is_open = method is None or (isinstance(method, Mapping) and "name" not in method)
    if not is_open or not isinstance(task, str) or task not in TASK_FACTS:
        return options  # what is wrong with it is said where it is read
    return {**options, "method": {**(method or {}), "name": TASK_FACTS[task].default_method}}


def absolute_path(name: str) -> str:
    """The absolute path of a file or folder that is there; other names, as of a hub, stay."""
    # Not the methods of Path: they raise at a home folder of nobody and at a name too long.
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name.strip() and os.path.exists(path) else name
