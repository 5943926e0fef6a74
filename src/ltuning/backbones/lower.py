"""The lower layers' output, kept between passes over the same texts.

Layers below the first one with a prefix know no label. Of a frozen backbone their output is a
constant of the text, so that a second pass over the same batch can start above them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Lower:
    """What the layers below `layer` make of a batch of texts.

    Empty at first. The pass that it is given to fills it; a later pass over the same batch that is
    given it does not run these layers.

    Args:
        layer: s, the first layer that is not kept; with 0 there is nothing to keep.
    """

    def __init__(self, layer: int):
        self.layer = layer
        # What layer s - 1 returned, in the form in which this model's layers do.
        self.output: Any = None
        # Positions before the text: a prefix may take places of the position table.
        self.shift = 0

    @property
    def filled(self) -> bool:
        """Whether a pass has filled it."""
        return self.output is not None

    @property
    def states(self) -> Tensor:
        """`[B, T, H]` output of layer s - 1; of a filled one."""
        return self.output if isinstance(self.output, Tensor) else self.output[0]

    @property
    def is_states(self) -> bool:
        """Whether states are all that it holds: layers of T5 hand on a position bias too."""
        if isinstance(self.output, tuple):
            return all(part is None for part in self.output[1:])
        return self.filled

    def with_states(self, states: Tensor) -> Lower:
        """The same with other states `[B, T, H]`, where states are all that it holds."""
        made = Lower(self.layer)
        made.shift = self.shift
        made.output = states if isinstance(self.output, Tensor) else (states, *self.output[1:])
        return made
