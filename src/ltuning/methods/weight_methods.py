"""The methods without virtual tokens: what of the backbone's weights they change, as a table.

========== ============================== ==================
method     weights                        causal mask
========== ============================== ==================
ls-lora    LoRA beside queries and values kept
ls-unmask  LoRA beside queries and values removed
probe      none                           kept
full       all, of a copy                 kept
========== ============================== ==================

`ls-lora` and `ls-unmask` are LS-LLaMA and LS-unLLaMA (Li et al., 2023, "Label Supervised LLaMA
Finetuning"), `probe` and `full` what they are compared with. All read a text by a linear
classifier on its pooled state, or on each word's state; with the head `match` they compare a text's
state with that of every label text instead, and labels may come after training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from ltuning.backbones.families import Family
from ltuning.config import TASK_FACTS, Config, MethodOptions, layer_numbers
from ltuning.errors import BackboneError, Problem


@dataclass(frozen=True)
class WeightMethod:
    """One row of the table.

    Attributes:
        name: its id.
        trains: the weights that are trained beside the classifier's.
        removes_mask: whether tokens see what comes after them.
        learning_rate: what the default recipe trains with, and the paper's.
    """

    name: str
    trains: Literal["lora", "nothing", "everything"]
    removes_mask: bool = False
    learning_rate: tuple[float, float] = (1e-3, 1e-4)

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that can read a text's state."""
        return ("classes", "match")

    @property
    def reads_words(self) -> bool:
        """Whether every word has a score, too."""
        return True


WEIGHT_METHODS = {
    method.name: method
    for method in (
        WeightMethod("ls-lora", "lora"),
        WeightMethod("ls-unmask", "lora", removes_mask=True),
        WeightMethod("probe", "nothing", learning_rate=(1e-2, 1e-2)),
        WeightMethod("full", "everything", learning_rate=(2e-4, 2e-5)),
    )
}

# The paper's, of queries and values.
_RANK, _ALPHA, _DROPOUT = 12, 32, 0.1

_OF_LORA = ("rank", "alpha", "dropout", "merge")
_OF_VIRTUAL_TOKENS = (
    "labels", "label_tokens", "transform", "start", "first_layer", "num_tokens", "negatives",
)  # fmt: skip


def resolve(options: MethodOptions, family: Family, num_layers: int) -> MethodOptions:
    """Fill every open choice.

    Args:
        options: as given.
        family: of the backbone.
        num_layers: its depth.

    Raises:
        ConfigError: a layer to un-mask beyond the model.
        BackboneError: `ls-unmask` on an encoder.
    """
    method = WEIGHT_METHODS[options.name]
    objective = options.objective or "classes"
    filled: dict[str, Any] = {"head": options.head or "classes", "objective": objective}
    is_last = options.recipe == "paper" and family.causal and not method.removes_mask
    filled["pooling"] = options.pooling or ("last" if is_last else "mean")
    if method.trains == "lora":
        filled["rank"] = _RANK if options.rank is None else options.rank
        filled["alpha"] = _ALPHA if options.alpha is None else options.alpha
        filled["dropout"] = _DROPOUT if options.dropout is None else options.dropout
        filled["merge"] = bool(options.merge)
    if method.removes_mask:
        if not family.causal:
            raise BackboneError(
                f"expected a decoder for method '{method.name}', got the encoder family "
                f"'{family.name}', which has no causal mask to remove; use method ls-lora"
            )
        filled["unmask_layers"] = options.unmask_layers or "all"
        layer_numbers(filled["unmask_layers"], num_layers)
    return replace(options, **filled)


def problems(config: Config) -> list[Problem]:
    """Options that the method has not."""
    method = WEIGHT_METHODS[config.method.name]
    refused = list(_OF_VIRTUAL_TOKENS)
    if method.trains != "lora":
        refused += _OF_LORA
    if not method.removes_mask:
        refused.append("unmask_layers")
    found = [_no_such_option(config.method, name) for name in refused]
    task = TASK_FACTS[config.task]
    objective = "multilabel" if task.several else "classes"
    heads = ("classes",) if task.of_words else method.heads
    for name, fitting in {"head": heads, "objective": (objective,)}.items():
        if getattr(config.method, name) not in (None, *fitting):
            message = (
                f"expected {' or '.join(map(repr, fitting))} with method '{method.name}', got "
            )
            message += f"'{getattr(config.method, name)}'"
            found.append(Problem(f"method.{name}", message))
    if config.method.bias is not None and (task.gives != "one" or config.method.head == "match"):
        message = (
            "expected with the head 'classes' and task 'classes' alone, got "
            f"{config.method.bias!r}; leave it out"
        )
        found.append(Problem("method.bias", message))
    quantize = config.backbone.quantize
    if quantize and (method.trains == "everything" or config.method.merge):
        what = "method.merge" if config.method.merge else f"method '{method.name}'"
        message = f"expected weights in floats for {what}, got {quantize}; leave one of them out"
        found.append(Problem("backbone.quantize", message))
    return [problem for problem in found if problem is not None]


def not_of_virtual_tokens(config: Config) -> list[Problem]:
    """Options of these methods that were given to another one."""
    names = (name for name in (*_OF_LORA, "bias", "unmask_layers") if name != "rank")
    found = (_no_such_option(config.method, name) for name in names)
    return [problem for problem in found if problem is not None]


def _no_such_option(options: MethodOptions, name: str) -> Problem | None:
    value = getattr(options, name)
    if value is None:
        return None
    message = f"expected no such option with method '{options.name}', got {value!r}; leave it out"
    return Problem(f"method.{name}", message)
