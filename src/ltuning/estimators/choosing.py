"""Method `auto`: the choice of a method once texts and labels are known, before training."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ltuning import stages
from ltuning.backbones.backbone import Backbone
from ltuning.config import Config
from ltuning.methods import catalog
from ltuning.methods.choice import PASSES, Choice, Situation, choose
from ltuning.scoring import mean_states
from ltuning.texts import Text

# Texts whose pass is timed for a forecast, and how many at a time: as many as in a step.
_TIMED, _AT_A_TIME = 64, 16
# Evaluations of a run that is not told when to make them, at most.
_EVALUATIONS = 10


def situation_of(config: Config, backbone: Backbone, num_texts: int, num_labels: int) -> Situation:
    """What a choice for a configuration goes by."""
    parameters = sum(weight.numel() for weight in backbone.model.parameters())
    return Situation(num_texts, num_labels, parameters, config.method.head == "match")


def chosen(
    config: Config,
    backbone: Backbone,
    texts: Sequence[Text],
    num_labels: int,
    num_held_out: int,
) -> tuple[Config, Choice]:
    """The configuration with a method in the place of `auto`, and why it is that one; it is said.

    Args:
        config: with method `auto`.
        backbone: the frozen model.
        texts: to train on.
        num_labels: K.
        num_held_out: texts to validate on.
    """
    situation = situation_of(config, backbone, len(texts), num_labels)
    limit = config.stopping.seconds
    if limit is None:
        choice = choose(situation)
        found = choice.of(config)
    else:
        steps = _steps(config, backbone, len(texts), num_held_out)
        forecast = _forecast(config, backbone, texts, steps, num_held_out)
        choice = choose(situation, forecast, limit)
        found = choice.of(config)
        if choice.share < 1:
            fewer = max(1, int(choice.share * steps[0]))
            rest = {k: of for k, of in found.training.items() if k != "num_train_epochs"}
            found = replace(found, training={**rest, "max_steps": fewer})
    stages.note(str(choice) + ("" if choice.seconds is None else _at_most(choice.seconds)))
    return found, choice


def _at_most(seconds: float) -> str:
    from ltuning.training.forecast import in_words

    return f"; by a forecast about {in_words(seconds)} at most"


def _steps(
    config: Config, backbone: Backbone, num_texts: int, num_held_out: int
) -> tuple[int, int]:
    """Steps of a training, the same for every method, and texts in a step."""
    from ltuning.training.arguments import Chosen, planned_steps

    defaults = catalog.training_defaults(config.method, num_texts, causal=backbone.family.causal)
    return planned_steps(
        Chosen(
            {**defaults, **config.training},
            config.stopping,
            has_validation=num_held_out > 0,
            on_cpu=backbone.device.type == "cpu",
        ),
        num_texts,
    )


def _forecast(
    config: Config,
    backbone: Backbone,
    texts: Sequence[Text],
    steps: tuple[int, int],
    num_held_out: int,
) -> Callable[[str], float]:
    """Seconds that a method is trained for at most, by a few passes that are timed."""
    number, batch = steps
    some = list(texts[:: max(1, len(texts) // _TIMED)][:_TIMED])
    timed = backbone.windows(some, long_texts=config.data.long_texts).tokens
    mean_states(backbone, timed[:_AT_A_TIME], _AT_A_TIME)  # the first pass is slower
    began = time.perf_counter()
    mean_states(backbone, timed, _AT_A_TIME)
    of_text = (time.perf_counter() - began) / len(some)
    read = min(batch, len(texts))

    def seconds(method: str) -> float:
        passes = number * read * PASSES[method] + _EVALUATIONS * num_held_out
        return passes * of_text

    return seconds
