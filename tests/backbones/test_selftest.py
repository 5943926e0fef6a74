"""The self-test finds what is wrong with a model, and says so."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltuning.backbones import selftest
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.prefix import LAYER, Prefix
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError

(FROZEN, PLAIN, PADDING, DIRECTION, WORDS, EMPTY, REACHED, UNREAD, APART, FREE, FREE_PADDING) = (
    name for name, *_ in selftest._CHECKS
)


@pytest.fixture
def own(tiny_bert: Path) -> Backbone:
    """A backbone that a test may break."""
    return Backbone.load(BackboneOptions(name=str(tiny_bert)), tested=False)


def failing(backbone: Backbone) -> dict[str, str]:
    return {
        finding.name: finding.found for finding in selftest.examine(backbone) if not finding.holds
    }


def replace_arguments(backbone: Backbone, **others: Any) -> None:
    forward = backbone.model.forward
    backbone.model.forward = lambda **inputs: forward(**(inputs | others))


def test_every_tiny_model_passes(backbone: Backbone) -> None:
    assert failing(backbone) == {}


def test_a_weight_that_is_not_frozen(own: Backbone) -> None:
    next(own.model.parameters()).requires_grad_(True)
    assert failing(own) == {FROZEN: "1 trainable weights"}


def test_dropout_that_is_on(own: Backbone) -> None:
    own.model.train()
    assert FROZEN in failing(own)


def test_a_model_that_sees_padding(own: Backbone) -> None:
    replace_arguments(own, attention_mask=None)
    assert {PADDING, APART} <= set(failing(own))


def test_a_family_that_is_said_to_be_causal(own: Backbone) -> None:
    own.family = replace(own.family, causal=True, positions="rotary")
    found = failing(own)
    assert "relative difference" in found[DIRECTION]


def test_positions_that_start_elsewhere(own: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backbone, "positions", lambda _, mask: mask.long().cumsum(1))
    assert PLAIN in failing(own)


def test_a_layer_that_the_prefix_does_not_reach(own: Backbone) -> None:
    attention = own.model.encoder.layer[2].attention.self
    forward = attention.forward

    def deaf(*args: Any, **kwargs: Any) -> Any:
        token = LAYER.set(None)
        try:
            return forward(*args, **kwargs)
        finally:
            LAYER.reset(token)

    attention.forward = deaf
    assert failing(own) == {REACHED: "keys and values of 3 of 4 layers have a gradient"}


def test_attention_that_knows_no_prefix(own: Backbone) -> None:
    own.model.set_attn_implementation("sdpa")
    assert failing(own)[REACHED] == "the attention of none of 4 layers is reached"


def test_states_that_are_not_numbers(own: Backbone) -> None:
    forward = own.model.forward

    def spoilt(**inputs: Any) -> Any:
        output = forward(**inputs)
        # The second text of a batch, which is the padded one.
        output.last_hidden_state[1:] = float("nan")
        return output

    own.model.forward = spoilt
    assert failing(own)[PADDING] == "relative difference nan"


def test_a_prefix_whose_padding_is_read(own: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = lambda prefix: torch.ones_like(prefix.mask.index_select(0, prefix.rows))  # noqa: E731
    monkeypatch.setattr(Prefix, "branch_mask", everything)
    assert UNREAD in failing(own)


def test_a_prompt_that_is_not_read(own: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Backbone.forward

    def deaf(self: Backbone, batch: Any, *, prompt: Any = None, prefix: Any = None) -> Any:
        if prompt is not None:
            prompt = (torch.zeros_like(prompt[0]), prompt[1])
        return forward(self, batch, prompt=prompt, prefix=prefix)

    monkeypatch.setattr(Backbone, "forward", deaf)
    assert set(failing(own)) == {WORDS}


def test_what_a_model_raises_is_a_finding(own: Backbone) -> None:
    def out_of_order(**_: Any) -> Any:
        raise RuntimeError("out of order")

    own.model.forward = out_of_order
    assert failing(own)[PADDING] == "RuntimeError: out of order"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes one property fail, with no earlier pass remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def break_it(name: str) -> None:
        checks = tuple(
            (known, needed_by, (lambda _: (False, "something else")) if known == name else check)
            for known, needed_by, check in selftest._CHECKS
        )
        monkeypatch.setattr(selftest, "_CHECKS", checks)

    return break_it


def test_a_model_that_fails_is_refused_at_load(
    broken: Callable[[str], None], tiny_bert: Path
) -> None:
    broken(PADDING)
    with pytest.raises(
        BackboneError,
        match="^expected of '.*tiny-bert' \\(model type 'bert', attention sdpa\\) that padding "
        "changes no state, got: something else; its scores would be wrong: try "
        "backbone.attention=eager, or another checkpoint$",
    ):
        Backbone.load(BackboneOptions(name=str(tiny_bert)))


def test_a_model_that_takes_no_prefix_serves_the_prompts(
    broken: Callable[[str], None], tiny_bert: Path, toy: Any, classifier: Callable[..., Any]
) -> None:
    broken(REACHED)
    backbone = Backbone.load(BackboneOptions(name=str(tiny_bert)))
    with pytest.raises(
        BackboneError,
        match="that a prefix reaches every layer, got: something else; use method prompt or "
        "lt-prompt with it$",
    ):
        classifier(backbone, "lt-prefix").fit(toy.texts, toy.labels)
    for method, options in (("prefix", {}), ("lt-prefix", {"start": "label-kv"})):
        with pytest.raises(BackboneError, match="use method prompt or lt-prompt with it$"):
            classifier(backbone, method, **options).fit(toy.texts, toy.labels)
    classifier(backbone, "lt-prompt").fit(toy.texts, toy.labels).predict(toy.test_texts)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the backbones that were tried."""
    names: list[str] = []
    examine = selftest.examine

    def counted(backbone: Backbone) -> Any:
        names.append(backbone.name)
        return examine(backbone)

    monkeypatch.setattr(selftest, "examine", counted)
    return names


def test_a_model_that_passed_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bert: Path, tried: list[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        Backbone.load(BackboneOptions(name=str(tiny_bert)))
    assert tried == [str(tiny_bert)]
    # The same weights elsewhere are the same model; another implementation is another question.
    copy = Path(shutil.copytree(tiny_bert, tmp_path / "copy"))
    Backbone.load(BackboneOptions(name=str(copy)))
    assert len(tried) == 1
    Backbone.load(BackboneOptions(name=str(tiny_bert), attention="eager"))
    assert len(tried) == 2
    # So is another configuration of the same weights.
    config = copy / "config.json"
    config.write_text(
        config.read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-5')
    )
    Backbone.load(BackboneOptions(name=str(copy)))
    assert len(tried) == 3


def test_a_failure_is_not_remembered(
    broken: Callable[[str], None], tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = selftest._CHECKS
    broken(PADDING)
    with pytest.raises(BackboneError):
        Backbone.load(BackboneOptions(name=str(tiny_bert)))
    monkeypatch.setattr(selftest, "_CHECKS", checks)
    Backbone.load(BackboneOptions(name=str(tiny_bert)))


def test_without_a_home_every_load_is_tried(
    monkeypatch: pytest.MonkeyPatch, tiny_bert: Path, tried: list[str]
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    for number in (1, 2):
        Backbone.load(BackboneOptions(name=str(tiny_bert)))
        assert len(tried) == number


def test_a_cache_of_somebody_else(monkeypatch: pytest.MonkeyPatch, tiny_bert: Path) -> None:
    exists = Path.exists

    def closed(self: Path, **options: Any) -> bool:
        if "selftest" in self.parts:
            raise PermissionError(13, "Permission denied")
        return exists(self, **options)

    monkeypatch.setattr(Path, "exists", closed)
    Backbone.load(BackboneOptions(name=str(tiny_bert)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bert: Path
) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Backbone.load(BackboneOptions(name=str(tiny_bert)))


def test_a_cache_that_is_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_bert: Path
) -> None:
    (tmp_path / "ltuning").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Backbone.load(BackboneOptions(name=str(tiny_bert)))
