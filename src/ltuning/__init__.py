"""ltuning: text classifiers from label names, on a frozen language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone
    from ltuning.estimators.label_classifier import LabelClassifier
    from ltuning.estimators.multilabel_classifier import MultilabelClassifier
    from ltuning.estimators.token_classifier import TokenClassifier
    from ltuning.labels import Labels

__all__ = ["Backbone", "LabelClassifier", "Labels", "MultilabelClassifier", "TokenClassifier"]

_HOMES = {
    "Backbone": "ltuning.backbones.backbone",
    "LabelClassifier": "ltuning.estimators.label_classifier",
    "Labels": "ltuning.labels",
    "MultilabelClassifier": "ltuning.estimators.multilabel_classifier",
    "TokenClassifier": "ltuning.estimators.token_classifier",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import ltuning` and `ltuning --help` stay fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ltuning' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
