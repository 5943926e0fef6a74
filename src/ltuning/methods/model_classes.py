"""What each method makes of a backbone: the class of its model."""

from __future__ import annotations

from ltuning.methods.adapter import AdapterModel
from ltuning.methods.catalog import METHODS
from ltuning.methods.model import TextModel
from ltuning.methods.tuned import TunedModel
from ltuning.methods.weight_methods import WEIGHT_METHODS

MODELS: dict[str, type[TextModel]] = {
    **dict.fromkeys(METHODS, AdapterModel),
    **dict.fromkeys(WEIGHT_METHODS, TunedModel),
}
