"""What the layers below the prefix make of the training texts, computed once for all epochs.

It is a constant of the frozen backbone. It is kept for one run and under no name: a file of another
run, backbone or data cannot be taken for it, and nothing is left of it when the process ends. A run
that is resumed computes it again, in the same batches, so that it goes on with the same numbers.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ltuning import processes
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import TextBatch, Tokens
from ltuning.backbones.lower import Lower
from ltuning.stages import counting

logger = logging.getLogger("ltuning")

GIB = 2**30
# Up to here it is kept in memory, above in a file.
_IN_MEMORY = GIB
_CHUNK = 2**20


class LowerStore:
    """Output of the layers below the first one with a prefix, for every training text.

    Args:
        like: what these layers make of some batch; every other is put into its form.
        states: `[sum of T_i, H]` room for the output.
        lengths: T_i, tokens of each text.
    """

    def __init__(self, like: Lower, states: Tensor, lengths: Sequence[int]):
        self._like = like.with_states(states[:0])
        self._states = states
        ends = list(accumulate(lengths))
        self._places = [slice(end - size, end) for end, size in zip(ends, lengths, strict=True)]

    @classmethod
    def fill(
        cls,
        backbone: Backbone,
        tokens: Sequence[Tokens],
        layer: int,
        *,
        room: int,
        limit: float,
        batch_size: int,
        folder: Path,
    ) -> LowerStore | None:
        """Run the lower layers over all texts, and no layer above them.

        Args:
            backbone: the frozen model.
            tokens: tokenized texts.
            layer: s, the first layer with a prefix.
            room: the `room` of the prefix.
            limit: most GiB.
            batch_size: texts at a time.
            folder: where a file may be, if memory is not to hold it.

        Returns:
            None where it takes more than the limit, where a layer hands on more than states (T5),
            and, with a warning, where there is no room for it in some process.
        """
        lengths = [len(row["input_ids"]) for row in tokens]
        order = sorted(range(len(tokens)), key=lengths.__getitem__, reverse=True)
        store = None
        with counting(f"keeping what layers below {layer} make", len(tokens)) as advance:
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                batch = backbone.batch([tokens[row] for row in rows]).to(backbone.device)
                lower = backbone.run_lower(batch, layer, room)
                if store is None:
                    store = cls._empty(lower, lengths, limit, folder)
                    if backbone.is_sharded:
                        store = cls._of_all(store, layer)
                if store is None:
                    return None
                store._put(rows, lower.states[batch.mask.to(lower.states.device)])
                advance(len(rows))
        return store

    @classmethod
    def _of_all(cls, store: LowerStore | None, layer: int) -> LowerStore | None:
        """None where some process has none: every pass is one of all of them."""
        without = [
            rank for rank, has in enumerate(processes.gathered(store is not None)) if not has
        ]
        if without and store is not None:
            logger.warning(
                "no room in process %s: the output of the layers below %d is computed in every "
                "epoch",
                ", ".join(map(str, without)),
                layer,
            )
            return None
        return store

    @classmethod
    def _empty(
        cls, like: Lower, lengths: Sequence[int], limit: float, folder: Path
    ) -> LowerStore | None:
        if not like.is_states:
            return None
        shape, dtype = (sum(lengths), like.states.shape[2]), like.states.dtype
        size = shape[0] * shape[1] * dtype.itemsize
        if size > limit * GIB:
            logger.info(
                "the output of the layers below %d takes %.1f GiB, so it is computed in every "
                "epoch; backbone.cache_size is %g",
                like.layer,
                size / GIB,
                limit,
            )
            return None
        try:
            return cls(like, _allocate(shape, dtype, size, folder), lengths)
        except (OSError, RuntimeError) as error:
            logger.warning(
                "no room of %.1f GiB in %s (%s): the output of the layers below %d is computed in "
                "every epoch",
                size / GIB,
                "memory" if size <= _IN_MEMORY else folder,
                error,
                like.layer,
            )
            return None

    def lower(self, rows: Sequence[int], batch: TextBatch) -> Lower:
        """What the lower layers make of a batch, on its device; zero at padding.

        Args:
            rows: the places of its texts among the training texts.
            batch: the texts.
        """
        kept = torch.cat([self._states[self._places[row]] for row in rows]).to(batch.mask.device)
        padded = kept.new_zeros(*batch.ids.shape, kept.shape[1])
        padded[batch.mask] = kept
        return self._like.with_states(padded)

    def _put(self, rows: Sequence[int], states: Tensor) -> None:
        places = [self._places[row] for row in rows]
        sizes = [place.stop - place.start for place in places]
        for place, part in zip(places, states.cpu().split(sizes), strict=True):
            self._states[place] = part


def _allocate(shape: tuple[int, int], dtype: torch.dtype, size: int, folder: Path) -> Tensor:
    """Room in memory, or in a mapped file that goes with the last look at it."""
    if size <= _IN_MEMORY:
        return torch.empty(shape, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="lower-layers-") as file:
        _reserve(file, size)
        number = shape[0] * shape[1]
        return torch.from_file(file.name, shared=True, size=number, dtype=dtype).view(shape)


def _reserve(file: IO[bytes], size: int) -> None:
    # Writing to a hole of a mapped file kills the process where the disk is full.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, _CHUNK):
        file.write(bytes(min(_CHUNK, size - start)))
    file.flush()
