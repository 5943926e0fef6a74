"""What is kept of a training: the figures of its run, and what an artifact and its card say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Never, Protocol

from ltuning.backbones.backbone import Backbone
from ltuning.config import Config
from ltuning.methods.model import Model

if TYPE_CHECKING:
    from ltuning.training.result import TrainingResult


class Fitted(Protocol):
    """What a trained front door holds, whatever else it does."""

    @property
    def model(self) -> Model[Never]:
        """The classifier on its backbone."""

    @property
    def max_length(self) -> int:
        """Tokens that are read at a time."""

    @property
    def num_texts(self) -> int:
        """Training texts."""


def run_figures(
    result: TrainingResult, fitted: Fitted, weights: Sequence[float] | None = None
) -> dict[str, Any]:
    """What a training took, and what its best evaluation came to.

    Args:
        result: of the training.
        fitted: what was trained.
        weights: what the texts counted; None = all the same.
    """
    training = {
        "seconds": round(result.seconds, 2),
        "steps": result.steps,
        "texts": fitted.num_texts,
        "trainable_parameters": fitted.model.adapter.num_parameters,
        "padding_share": round(result.padding_share, 4),
    }
    if weights is not None:
        training["lowest_text_weight"] = round(min(weights), 4)
        training["highest_text_weight"] = round(max(weights), 4)
    figures: dict[str, Any] = {"training": training}
    if result.best:
        figures["validation"] = {
            name: value for name, value in result.best.items() if name != "epoch"
        }
    return figures


def artifact_record(
    config: Config, backbone: Backbone, fitted: Fitted, figures: Mapping[str, object]
) -> dict[str, Any]:
    """What an artifact says of any front door's classifier: how it was made, and with what."""
    options = config.to_dict()
    # What was left open, as it was computed.
    options["backbone"]["attention"] = backbone.attention
    return {
        "config": options,
        "backbone": {
            "name": backbone.name,
            "revision": backbone.revision,
            "fingerprint": backbone.fingerprint,
            "family": backbone.family.name,
            "start_token": backbone.start_token,
        },
        "method": asdict(fitted.model.method),
        "length": fitted.model.length,
        "max_length": fitted.max_length,
        "seed": config.seed,
        "versions": versions(),
        "figures": figures,
    }


def versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on."""
    return {name: version(name) for name in ("ltuning", "torch", "transformers")}
