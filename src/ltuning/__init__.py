"""ltuning: text classifiers from label names, on a frozen language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone
    from ltuning.classifier import LabelClassifier
    from ltuning.labels import Labels
    from ltuning.multilabel import MultilabelClassifier
    from ltuning.tagger import TokenClassifier

__all__ = ["Backbone", "LabelClassifier", "Labels", "MultilabelClassifier", "TokenClassifier"]

_HOMES = {
    "Backbone": "ltuning.backbones.backbone",
    "LabelClassifier": "ltuning.classifier",
    "Labels": "ltuning.labels",
    "MultilabelClassifier": "ltuning.multilabel",
    "TokenClassifier": "ltuning.tagger",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import ltuning` and `ltuning --help` stay fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ltuning' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
