"""What a user may say: options, how they are read, and what is wrong with them."""

from ltuning.config.label_texts import label_texts, name_as_text
from ltuning.config.reading import apply_settings, read_section
from ltuning.config.schema import (
    EVERY_METRIC,
    SHARD,
    TASK_FACTS,
    BackboneOptions,
    Config,
    DataOptions,
    LongTexts,
    MethodOptions,
    StartToken,
    StoppingOptions,
    TaskFacts,
    TaskName,
    absolute_path,
    layer_numbers,
)
from ltuning.config.trainer_options import check_training

__all__ = [
    "EVERY_METRIC",
    "SHARD",
    "TASK_FACTS",
    "BackboneOptions",
    "Config",
    "DataOptions",
    "LongTexts",
    "MethodOptions",
    "StartToken",
    "StoppingOptions",
    "TaskFacts",
    "TaskName",
    "absolute_path",
    "apply_settings",
    "check_training",
    "label_texts",
    "layer_numbers",
    "name_as_text",
    "read_section",
]
