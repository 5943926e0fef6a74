"""`ltuning params`: how many parameters a method trains on a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ltuning.cli.options import user_path
from ltuning.cli.terminal import Terminal, results, show_facts, silence_libraries
from ltuning.errors import BackboneError, ConfigError, Problem
from ltuning.suggestions import listed

if TYPE_CHECKING:
    from torch import nn

    from ltuning.config import Config, MethodOptions
    from ltuning.methods.parameter_counts import Counts

# A label text of a few words, as in the paper's own counts.
_LENGTH = 10
# A sentence, in whose passes the cost of scoring is given.
_TEXT = 32
_NUM_LABELS = 2


def params(
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="builtin:minilm, a hub id, or a folder; its config.json is enough.",
        ),
    ] = "builtin:minilm",
    method: Annotated[
        str, typer.Option(metavar="NAME", help="prefix, prompt, lt-prefix or lt-prompt.")
    ] = "lt-prefix",
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="default, or paper for the published choices.")
    ] = "default",
    label_length: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of the longest label text, or virtual tokens of prefix and prompt; "
            f"{_LENGTH} by default.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="FILE",
            help="YAML file with labels, whose longest text and number are taken.",
            show_default=False,
        ),
    ] = None,
    num_labels: Annotated[
        int | None,
        typer.Option(
            min=2, help=f"Number of labels; {_NUM_LABELS} by default.", show_default=False
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="A.B=C", help="Any option of the configuration, as of train."
        ),
    ] = None,
) -> None:
    """Count trainable parameters on the built method, beside the closed form.

    Nothing but the backbone's configuration is loaded. The exit code is 1 if the two differ.
    """
    from ltuning.cli.configuration import configure, read_labels, unread

    words = "it changes no number of parameters; leave it out"
    problems = unread(set_ or [], ("task", "backbone", "labels", "method"), words)
    for option, value in {"--label-length": label_length, "--num-labels": num_labels}.items():
        if labels is not None and value is not None:
            problems.append(Problem(option, f"expected one of --labels and {option}, got both"))
    given = {
        "backbone.name": backbone,
        "method.name": method,
        "method.recipe": recipe,
        "labels": read_labels(labels, [], problems),
    }
    with Terminal(quiet=False).waiting("counting"):
        config = configure({}, given, set_ or [], problems)
        _check(config, label_length)
        silence_libraries()
        counted = _count(config, label_length, num_labels)
    _show(config.backbone.name, counted)
    if not counted.equal:
        raise typer.Exit(1)


def _check(config: Config, label_length: int | None) -> None:
    from ltuning.methods.catalog import METHODS

    if label_length is not None and config.method.num_tokens is not None:
        message = "expected one of --label-length and method.num_tokens, got both"
        raise ConfigError([Problem("--label-length", message)])

    if config.method.name not in METHODS:
        message = (
            f"expected a method with virtual tokens ({listed(METHODS)}), got "
            f"'{config.method.name}'; `ltuning train --steps 1` says what that one trains"
        )
        raise ConfigError([Problem("method.name", message)])


@dataclass(frozen=True)
class _Counted:
    """Parameters of the built parts beside the closed forms, and what a scored text costs.

    `passes` are those of a text with all its labels; `deeper_from` is the number of training
    texts from which on more layers have a prefix.
    """

    method: MethodOptions
    letters: Mapping[str, int]
    forms: Counts
    tokens: int
    head: int
    backbone: int
    passes: float
    deeper_from: int | None

    @property
    def total(self) -> int:
        return self.tokens + self.head

    @property
    def equal(self) -> bool:
        forms = self.forms
        built = (self.tokens, self.head, self.total)
        return built == (forms.tokens.value, forms.head.value, forms.total.value)


def _count(config: Config, label_length: int | None, num_labels: int | None) -> _Counted:
    import torch

    from ltuning.backbones.families import Sizes
    from ltuning.backbones.loading import meta_backbone
    from ltuning.methods.adapter import Adapter
    from ltuning.methods.catalog import MANY_TEXTS, options_of, resolve
    from ltuning.methods.parameter_counts import closed_forms, letters

    model, family = meta_backbone(config.backbone)
    sizes = Sizes.of(model, family)
    count = num_labels or len(config.labels or ()) or _NUM_LABELS
    options = options_of(config)
    method = resolve(options, family, sizes.layers)
    many = resolve(options, family, sizes.layers, MANY_TEXTS)
    length = label_length or _length(config, method)
    with torch.device("meta"):
        adapter = Adapter(sizes, method, length=length, num_labels=count)
    return _Counted(
        method,
        letters(method, sizes, length, count),
        closed_forms(method, sizes, length, count),
        tokens=_size(adapter.tokens),
        head=_size(adapter.head),
        backbone=_size(model),
        passes=_passes(method, sizes.layers, length, count),
        deeper_from=None if many.first_layer == method.first_layer else MANY_TEXTS,
    )


def _passes(method: MethodOptions, num_layers: int, length: int, num_labels: int) -> float:
    """Passes of a text with all its labels."""
    from ltuning.methods.step_costs import scored_text

    sizes = {"text": _TEXT, "tokens": length, "num_labels": num_labels}
    return scored_text(method, num_layers, **sizes) / (_TEXT * num_layers)


def _length(config: Config, method: MethodOptions) -> int:
    """L of the adapter that training would build."""
    from ltuning.methods.catalog import METHODS

    if METHODS[method.name].source == "free" or config.labels is None:
        return method.num_tokens or _LENGTH
    return max(method.num_tokens or 0, _longest_label(config))


def _longest_label(config: Config) -> int:
    from ltuning.backbones.loading import load_config, load_tokenizer
    from ltuning.labels import Labels

    try:
        tokenizer = load_tokenizer(config.backbone, *load_config(config.backbone))
    except BackboneError as error:
        raise BackboneError(f"{error}; or give --label-length instead of --labels") from error
    texts = Labels.from_any(config.labels or {}).flat_texts
    return max(len(ids) for ids in tokenizer(list(texts))["input_ids"])


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _scoring(counted: _Counted) -> str:
    return (
        f"a text of {_TEXT} tokens, with all its labels, costs {counted.passes:.2f} times one pass "
        "through the backbone"
    )


def _show(backbone: str, counted: _Counted) -> None:
    method, forms = counted.method, counted.forms
    labels = method.labels and f"labels {method.labels}"
    chosen = [labels, method.transform, method.start, method.head, method.objective]
    facts = {
        "backbone": f"{backbone}, {counted.backbone:,} parameters, all frozen",
        "method": f"{method.name} ({', '.join(choice for choice in chosen if choice)})",
        "letters": ", ".join(f"{name} = {value:,}" for name, value in counted.letters.items())
        + ("; of the paper: l = L, m = M, d = H" if forms.published else ""),
        "scoring": _scoring(counted),
    }
    if counted.deeper_from is not None:
        facts["depth"] = f"from {counted.deeper_from:,} training texts on, a prefix in every layer"
    show_facts(facts)
    table = Table(header_style="bold", show_footer=True)
    share = f"{counted.total / counted.backbone:.3%} of the backbone"
    table.add_column("trainable", "total")
    table.add_column("built", f"{counted.total:,}", justify="right", no_wrap=True)
    table.add_column("closed form", f"{forms.total.value:,}", justify="right", no_wrap=True)
    table.add_column("formula", forms.total.formula)
    table.add_row(
        "virtual tokens", f"{counted.tokens:,}", f"{forms.tokens.value:,}", forms.tokens.formula
    )
    table.add_row("head", f"{counted.head:,}", f"{forms.head.value:,}", forms.head.formula)
    results().print(table)
    verdict = "equal" if counted.equal else "they DIFFER"
    results().print(f"built and closed form: {verdict}; {share}")
