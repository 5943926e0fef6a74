"""LoRA and full copies on every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions, MethodOptions
from ltuning.methods.catalog import resolve
from ltuning.methods.tuned import Tuned

from ..conformance.cases import ROWS, close
from ..conformance.tiny import FAMILIES, LAYERS

PLACES = [(family, attention) for family, tiny in FAMILIES.items() for attention in tiny.attention]
on_every_family = pytest.mark.parametrize(("family", "attention"), PLACES)


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, _quiet_models: None
) -> Callable[[str, str], Backbone]:
    folders: dict[str, Path] = {}

    def get(family: str, attention: str) -> Backbone:
        if family not in folders:
            folders[family] = FAMILIES[family].save(tmp_path_factory.mktemp("tiny") / family)
        options = BackboneOptions(name=str(folders[family]), attention=attention)  # type: ignore[arg-type]
        return Backbone.load(options, tested=False)

    return get


def made(backbone: Backbone, method: str) -> Tuned:
    options = MethodOptions(method, dropout=0.0 if method == "ls-lora" else None)  # type: ignore[arg-type]
    torch.manual_seed(0)
    return Tuned.new(backbone, resolve(options, backbone.family, LAYERS), 3)


def score(tuned: Tuned, backbone: Backbone) -> torch.Tensor:
    batch = backbone.batch([{"input_ids": row} for row in ROWS])
    return tuned.score(batch)


@on_every_family
def test_lora_has_a_gradient_in_every_layer_and_merges(
    family: str, attention: str, tiny: Callable[[str, str], Backbone], tmp_path: Path
) -> None:
    backbone = tiny(family, attention)
    plain = score(made(backbone, "probe"), backbone)
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    tuned = made(backbone, "ls-lora").eval()
    # B starts at zero: a text is read as without LoRA.
    close(pool_and_read(tuned, backbone), plain)
    with torch.no_grad():
        for name, weight in tuned.weights.named_parameters():
            if "lora_B" in name:
                weight += 0.1 * torch.randn_like(weight)
    scores = score(tuned, backbone)
    assert (scores - plain).abs().max() > 1e-3
    torch.nn.functional.cross_entropy(scores, torch.arange(len(ROWS))).backward()
    for name, weight in tuned.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name
    # Every layer has LoRA beside each of its family's modules; ALBERT has one layer, run again.
    layers = 1 if family == "albert" else LAYERS
    modules = len(backbone.family.lora)
    assert sum("lora_A" in name for name, _ in tuned.weights.named_parameters()) == layers * modules
    after = backbone.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert all(weight.grad is None for weight in backbone.model.parameters())
    tuned.method = replace(tuned.method, merge=True)
    merged = Tuned.load(backbone, tuned.method, 3, tuned.tensors(), {}, tmp_path)
    close(score(merged, backbone), scores)


def pool_and_read(tuned: Tuned, backbone: Backbone) -> torch.Tensor:
    """Scores by the classifier of `probe`, which the same seed made."""
    tuned.head.load_state_dict(made(backbone, "probe").head.state_dict())
    return score(tuned, backbone)


@on_every_family
def test_full_trains_a_copy_that_says_the_same_at_first(
    family: str, attention: str, tiny: Callable[[str, str], Backbone]
) -> None:
    backbone = tiny(family, attention)
    plain = score(made(backbone, "probe"), backbone)
    tuned = made(backbone, "full").eval()
    scores = pool_and_read(tuned, backbone)
    close(scores, plain)
    torch.nn.functional.cross_entropy(scores, torch.arange(len(ROWS))).backward()
    # Some weights are no way to a state: segments without one, the embeddings of other words.
    without = [name for name, weight in tuned.named_parameters() if weight.grad is None]
    assert len(without) <= 2, without
    with torch.no_grad():
        for weight in tuned.weights.parameters():
            weight += 0.1
    close(score(made(backbone, "probe"), backbone), plain)
    assert (pool_and_read(tuned, backbone) - plain).abs().max() > 1e-3
