"""What a training leaves behind, and what two at a time do to each other."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from ltuning.backbones.backbone import Backbone
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier

Make = Callable[..., LabelClassifier]


def draws() -> list[Any]:
    return [random.random(), np.random.random(), torch.rand(3).tolist()]


@pytest.mark.parametrize("task", ["classes", "tags"])
def test_random_numbers_go_on_as_if_nothing_had_been_trained(
    bert: Backbone, classifier: Make, toy: Any, task: str
) -> None:
    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draws()
    seed()
    if task == "classes":
        classifier(bert, "ls-lora", training__full_determinism=True).fit(toy.texts, toy.labels)
    else:
        TokenClassifier(bert, steps=1).fit([["bread"], ["ball"]], [["B-food"], ["O"]])
    assert draws() == expected
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_training_does_without_attention_of_cudnn_and_leaves_it_as_it_was(
    bert: Backbone, classifier: Make, toy: Any, enabled: bool
) -> None:
    seen = []

    class Looks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())

    was = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        classifier(bert).fit(toy.texts, toy.labels, callbacks=[Looks()])
        assert torch.backends.cuda.cudnn_sdp_enabled() == enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)
    assert set(seen) == {False}


def test_a_training_that_fails_leaves_random_numbers_as_they_were(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    class Broken(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    random.seed(1)
    expected = random.random()
    random.seed(1)
    with pytest.raises(KeyboardInterrupt):
        classifier(bert).fit(toy.texts, toy.labels, callbacks=[Broken()])
    assert random.random() == expected


def test_trainings_of_several_threads_come_one_after_the_other(
    bert: Backbone, classifier: Make, toy: Any
) -> None:
    """LoRA draws its dropout from torch's one source, and both stand on one backbone."""
    running: list[int] = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            running.append(threading.get_ident())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            assert running[-1] == threading.get_ident()

    def fit(_: int) -> np.ndarray:
        made = classifier(bert, "ls-lora", steps=6, dropout=0.5, rate=1e-2)
        return made.fit(toy.texts, toy.labels, callbacks=[Watch()]).scores(toy.test_texts[:3])

    alone = fit(0)
    with ThreadPoolExecutor(3) as pool:
        for scores in pool.map(fit, range(3)):
            assert np.array_equal(scores, alone)
