"""The lower layers' output, kept between passes over the same texts.

Layers below the first one with a prefix know no label. Of a frozen backbone their output is a
constant of the text, so that a second pass over the same batch can start above them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Lower:
    """What the layers below `layer` make of a batch of texts; `Backbone.run_lower` makes it.

    Attributes:
        layer: s, the first layer that is not kept.
        output: what layer s - 1 returned, in the form in which this model's layers do.
        shift: positions before the text: a prefix may take places of the position table.
    """

    layer: int
    output: Any
    shift: int = 0

    @property
    def states(self) -> Tensor:
        """`[B, T, H]` output of layer s - 1."""
        return self.output if isinstance(self.output, Tensor) else self.output[0]

    @property
    def is_states(self) -> bool:
        """Whether states are all that it holds: layers of T5 hand on a position bias too."""
        if isinstance(self.output, tuple):
            return all(part is None for part in self.output[1:])
        return True

    def with_states(self, states: Tensor) -> Lower:
        """The same with other states `[B, T, H]`, where states are all that it holds."""
        is_bare = isinstance(self.output, Tensor)
        return replace(self, output=states if is_bare else (states, *self.output[1:]))
