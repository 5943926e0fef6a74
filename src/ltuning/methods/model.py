"""A classifier on its backbone: what training, scoring and saving know of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import LabelStates, TextBatch
from ltuning.backbones.lower import Lower
from ltuning.backbones.prefix import Prefix
from ltuning.config import MethodOptions
from ltuning.labels import Labels
from ltuning.methods.catalog import one_pass, uses_labels
from ltuning.methods.heads import mean_over_texts
from ltuning.methods.saved_tensors import Saved

# Who asks a model for no scores takes any of them, as `Model[Never]`.
Batch = TypeVar("Batch", contravariant=True)


@dataclass(frozen=True)
class Branches:
    """The (text, label) pairs of a batch.

    Attributes:
        texts: `[R]` index of each branch's text in the batch.
        rows: `[R]` index of each branch's label text.
    """

    texts: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> Branches:
        """The same branches on another device."""
        return Branches(self.texts.to(device), self.rows.to(device))


class Trainable(nn.Module, ABC):
    """Every trainable parameter of a method.

    Attributes:
        method: resolved options (no choice left open).
        head: what reads the scores.
    """

    method: MethodOptions
    head: nn.Module

    @property
    def num_parameters(self) -> int:
        """Trainable parameters."""
        return sum(weight.numel() for weight in self.parameters())

    @abstractmethod
    def shift(self, by: Tensor) -> None:
        """Add to the scores, for the objective `multilabel`: `[K]`, or one number for all labels.

        Who reads the label texts takes the one number, the head's being that of every label.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of it."""
        return dict(self.state_dict())

    def files(self) -> dict[str, bytes]:
        """Further files of its artifact, by their path there."""
        return {}


@dataclass(frozen=True, eq=False)
class Model(ABC, Generic[Batch]):
    """A classifier on its backbone, trained or to be trained.

    Attributes:
        backbone: the frozen model.
        adapter: what is trained.
        labels: states of the V label texts; None where they are not read.
        owners: the label of each label text; where these are not read, of each output.
    """

    backbone: Backbone
    adapter: Trainable
    labels: LabelStates | None
    owners: Sequence[int]

    @property
    def method(self) -> MethodOptions:
        """Resolved options (no choice left open)."""
        return self.adapter.method

    @property
    def length(self) -> int:
        """L, virtual tokens of the plain methods or room for a label text; 0 where none are."""
        return 0

    @property
    def lower_layers(self) -> int:
        """Layers below a prefix: what they make of a text no step changes. 0 where none is."""
        return 0

    @property
    def takes_new_labels(self) -> bool:
        """Whether labels may come after training, by their texts."""
        return uses_labels(self.method)

    @property
    def one_pass(self) -> bool:
        """Whether one pass over a text gives the scores of all labels."""
        return one_pass(self.method)

    @property
    def passes(self) -> int:
        """Passes of a text that is scored against every label."""
        return 1 if self.one_pass else len(self.owners)

    @property
    def num_labels(self) -> int:
        """K."""
        return max(self.owners) + 1

    def label_side(self) -> Tensor | None:
        """What is made of the label texts alone, once per step or once per prediction.

        None where nothing is.
        """
        return None

    def columns(self, side: Tensor | None) -> int:
        """Columns of all labels together that stand before a text; 0 where none do."""
        return 0

    @abstractmethod
    def score(
        self,
        batch: Batch,
        side: Tensor | None,
        branches: Branches | None = None,
        lower: Lower | None = None,
    ) -> Tensor:
        """Scores: `[R]` of the branches, or where one pass reads all `[B, K]` of the labels.

        Args:
            batch: B texts, on the backbone's device.
            side: `label_side`.
            branches: the pairs that are scored, unless `one_pass`.
            lower: what the `lower_layers` make of the batch, where it is known.
        """

    @property
    def shares_passes(self) -> bool:
        """Whether it reads states of the backbone itself, after a prefix or after nothing.

        Texts of several such classifiers may run in one pass, each after the `prefix` of its own;
        `read` makes scores of their states.
        """
        return False

    def prefix(self, side: Tensor | None) -> Prefix | None:
        """Keys and values before a text, where it shares passes: an entry for each of its branches.

        None where there are none.
        """
        return None

    def read(self, states: Tensor, side: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """Scores of states `[R, H]`, pooled as the method says; see `score`.

        Args:
            states: of texts, or of branches.
            side: `label_side`.
            rows: `[R]` the label text of each branch; None where one pass reads all.
        """
        raise NotImplementedError

    def of_labels(self, scores: Tensor) -> Tensor:
        """`[B, V]` scores of the label texts `-> [B, K]` of the labels."""
        return mean_over_texts(scores, self._owners, self.num_labels)

    @cached_property
    def _owners(self) -> Tensor:
        # Training needs it too, where a scorer, in inference mode, may be the first to ask.
        with torch.inference_mode(False):
            return torch.tensor(self.owners, device=self.backbone.device)


@dataclass(frozen=True, eq=False)
class TextModel(Model[TextBatch]):
    """A classifier of texts by their labels; `model_classes.py` has that of every method."""

    @classmethod
    @abstractmethod
    def new(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        labels: Labels,
        states: LabelStates | None,
        *,
        length: int,
        seed: int,
    ) -> Self:
        """Before the first step; weights that start at random are drawn from torch's generator.

        Args:
            backbone: the frozen model.
            method: resolved options (no choice left open).
            labels: what it will tell apart.
            states: of the label texts; None where they are not read.
            length: L, virtual tokens of the plain methods or room for a label text.
            seed: of draws that have a generator of their own.

        Raises:
            ConfigError: more parameters or virtual tokens than there is room for.
            BackboneError: a backbone that the method does not go with.
        """

    @classmethod
    @abstractmethod
    def load(
        cls,
        backbone: Backbone,
        method: MethodOptions,
        saved: Saved,
        *,
        length: int,
        num_labels: int,
    ) -> Self:
        """As it was saved, without states of label texts.

        Raises:
            ArtifactError: tensors or files that are not those of the method.
        """
