"""How many parameters a method trains, in closed form.

Letters: L label tokens (or virtual tokens of the plain methods), M layers with a prefix, N key and
value heads, D their width, H hidden size, E width of the word embeddings (given where it is not H),
K labels, r rank. The paper (A.5) writes l, m and d for
L, M and H, of models where H = N D.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ltuning.backbones.families import Sizes
from ltuning.config import MethodOptions
from ltuning.errors import ConfigError, Problem
from ltuning.methods.catalog import METHODS
from ltuning.methods.heads import FULL_MATCH_WIDTH, MATCH_RANK


@dataclass(frozen=True)
class Count:
    """A number of parameters and the formula that gives it."""

    formula: str
    value: int


@dataclass(frozen=True)
class Counts:
    """Closed forms of an adapter's two parts and, where the paper has one, of the whole.

    Attributes:
        tokens: what makes the virtual tokens.
        head: what reads the scores.
        published: the count of the paper's A.5, for the published choices.
    """

    tokens: Count
    head: Count
    published: Count | None

    @property
    def total(self) -> Count:
        """The whole: as published, or the sum of the parts."""
        formula = f"{self.tokens.formula} + {self.head.formula}"
        return self.published or Count(formula, self.tokens.value + self.head.value)


def letters(method: MethodOptions, sizes: Sizes, length: int, num_labels: int) -> Mapping[str, int]:
    """The value of each letter.

    Args:
        method: resolved options (no choice left open).
        sizes: of the backbone.
        length: L.
        num_labels: K.
    """
    values = {
        "L": length,
        "M": sizes.layers - (method.first_layer or 0),
        "N": sizes.kv_heads,
        "D": sizes.head_dim,
        "H": sizes.hidden,
        "K": num_labels,
    }
    if sizes.embedding != sizes.hidden:
        values["E"] = sizes.embedding
    return values if method.rank is None else {**values, "r": method.rank}


def closed_forms(method: MethodOptions, sizes: Sizes, length: int, num_labels: int) -> Counts:
    """What an adapter of these options trains, computed from the letters alone.

    Args:
        method: resolved options (no choice left open).
        sizes: of the backbone.
        length: L, virtual tokens of the plain methods or room for a label text.
        num_labels: K.
    """
    values = letters(method, sizes, length, num_labels)
    tokens = _tokens(method, values)
    head = _head(method, values)
    return Counts(tokens, head, _published(method, sizes, values))


def check_fits(count: Count, on_cpu: bool) -> None:
    """Refuse to build what this machine has no memory for; it would be killed on the way.

    Args:
        count: trainable parameters, which are built on the CPU.
        on_cpu: whether they are trained there too, with a gradient and two moments of each.

    Raises:
        ConfigError: they do not fit.
    """
    needed = count.value * (16 if on_cpu else 4)
    memory = _memory()
    if memory is not None and needed > memory:
        message = (
            f"expected trainable parameters that fit into {memory / 2**30:,.0f} GiB of memory, got "
            f"{count.value:,} ({count.formula}), which take {needed / 2**30:,.0f}; lower "
            "method.rank or method.num_tokens"
        )
        raise ConfigError([Problem("method", message)])


def _memory() -> int | None:
    """Bytes that the machine has; None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _tokens(method: MethodOptions, values: Mapping[str, int]) -> Count:
    length, hidden = values["L"], values["H"]
    is_prefix = METHODS[method.name].site == "key-values"
    width = "E" if "E" in values else "H"
    features = 2 * values["M"] * values["N"] * values["D"] if is_prefix else values[width]
    words = "2·M·N·D" if is_prefix else width
    if METHODS[method.name].source == "free":
        return Count(f"L·{words}", length * features)
    if method.transform == "pooled":
        return Count(f"H + L²·{words}", hidden + length**2 * features)
    if method.transform == "square":
        return Count("H²" if width == "H" else "H·E", hidden * features)
    rank = values["r"]
    return Count(f"r·(H + {words})", rank * (hidden + features))


def _head(method: MethodOptions, values: Mapping[str, int]) -> Count:
    hidden, labels = values["H"], values["K"]
    has_bias = method.objective == "multilabel"
    if method.head == "classes":
        return _plus("H·K", hidden * labels, "K", labels * has_bias)
    if method.head == "binary":
        return _plus("2·H", 2 * hidden, "2", 2 * has_bias)
    map_ = _label_map(hidden)
    if method.labels == "together":
        return _plus(f"{map_.formula} + 1", map_.value + 1, "1", has_bias)
    return _plus(f"{map_.formula} + H + 1", map_.value + hidden + 1, "1", has_bias)


def _plus(formula: str, value: int, words: str, more: int) -> Count:
    return Count(f"{formula} + {words}" if more else formula, value + more)


def _label_map(hidden: int) -> Count:
    if hidden <= FULL_MATCH_WIDTH:
        return Count("H²", hidden**2)
    return Count(f"2·{MATCH_RANK}·H", 2 * MATCH_RANK * hidden)


def _published(method: MethodOptions, sizes: Sizes, values: Mapping[str, int]) -> Count | None:
    if method.objective == "multilabel":
        return None
    # In the paper every layer has a prefix, and each has as many key features as hidden ones.
    plain_sizes = sizes.kv_heads * sizes.head_dim == sizes.hidden and not method.first_layer
    length, layers, hidden, num_labels = (values[letter] for letter in "LMHK")
    choice = (method.transform, method.head)
    if method.name == "lt-prefix" and choice == ("pooled", "binary") and plain_sizes:
        return Count("2·l²·m·d + 3·d", 2 * length**2 * layers * hidden + 3 * hidden)
    if method.name == "lt-prompt" and choice == ("square", "binary") and sizes.embedding == hidden:
        return Count("d·(d + 2)", hidden * (hidden + 2))
    if method.name == "prompt" and sizes.embedding == hidden:
        return Count("d·(l + K)", hidden * (length + num_labels))
    return None
