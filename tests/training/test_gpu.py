"""On a CUDA device: the weights are those of a CPU, and the answers go with the artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ltuning import LabelClassifier
from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.experiments import own
from ltuning.experiments.entries import Budget
from ltuning.experiments.fitting import Job
from ltuning.experiments.peers import PEERS
from ltuning.tasks.table import TASKS

from . import fits

if TYPE_CHECKING:
    from ..conftest import Toy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

METHODS = (
    "prefix", "prompt", "lt-prefix", "lt-prompt", "probe", "full", "ls-lora", "ls-unmask",
)  # fmt: skip


def weights(classifier: Any) -> dict[str, torch.Tensor]:
    return {
        name: of.detach().cpu()
        for name, of in classifier._trained().model.adapter.state_dict().items()
    }


@pytest.mark.parametrize("name", fits.FITS)
def test_weights_are_those_of_a_cpu(
    tiny_models: dict[str, Path],
    load: Callable[..., Backbone],
    plain: dict[str, Any],
    name: str,
) -> None:
    family, fit = fits.FITS[name]
    given = {"dtype": "float32", "device": "cuda"}
    on_gpu = weights(fit(load(tiny_models[family], **given), plain))
    on_cpu = weights(fit(load(tiny_models[family], **given | {"device": "cpu"}), plain))
    assert on_gpu.keys() == on_cpu.keys()
    for key, weight in on_cpu.items():
        torch.testing.assert_close(on_gpu[key], weight, atol=1e-4, rtol=1e-3, msg=key)


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("method", METHODS)
def test_what_a_gpu_trained_in_bfloat16_answers_on_a_cpu(
    tiny_models: dict[str, Path], toy: Toy, tmp_path: Path, method: str, family: str
) -> None:
    if method == "ls-unmask" and family == "bert":
        pytest.skip("an encoder has no causal mask")
    made = LabelClassifier(
        str(tiny_models[family]), toy.label_texts, method, steps=30, options={"calibrate": True}
    )
    made.fit(toy.texts, toy.labels, toy.test)
    assert made.backbone.device.type == "cuda"
    assert made.backbone.dtype == torch.bfloat16
    found = made.predict_proba(toy.test_texts)
    made.save_pretrained(tmp_path / "saved")
    on_cpu = Backbone.load(BackboneOptions(name=str(tiny_models[family]), device="cpu"))
    again = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=on_cpu)
    np.testing.assert_allclose(again.predict_proba(toy.test_texts), found, atol=0.05)
    if method == "lt-prefix":
        for one in (made, again):
            one.add_labels({"music": "song and band"})
        several = (one.predict_proba(toy.test_texts) for one in (made, again))
        np.testing.assert_allclose(*several, atol=0.05)


# PEFT asks transformers by a name that is going.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize("name", ["prefix", "ls-lora", "peft-prefix", "peft-lora", "logistic"])
def test_methods_and_peers_are_compared(tiny_llama: Path, toy: Toy, name: str) -> None:
    from ltuning.data.examples import Examples

    options = BackboneOptions(name=str(tiny_llama))
    backbone = Backbone.load(options)
    job = Job(
        task=TASKS["classes"],
        backbone=options,
        outline=backbone,
        load=lambda: backbone,
        release=lambda: None,
        train=Examples(toy.texts, toy.labels, "toy"),
        validation=Examples(toy.test_texts, toy.test_labels, "toy"),
        labels={label: [text] for label, text in toy.label_texts.items()},
        budget=Budget(40, 16, 2),
        metric="accuracy",
        seed=0,
        recipe="default",
        options={},
    )
    fitted = PEERS[name].fit(job, None) if name in PEERS else own.fit(name, job, None)
    found = fitted.probabilities(toy.test_texts)
    assert found.shape == (len(toy.test_texts), 3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-3)
