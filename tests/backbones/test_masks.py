"""Decoders without their causal mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ltuning.backbones import selftest
from ltuning.backbones.backbone import Backbone
from ltuning.backbones.copies import own_copy, shared_copy
from ltuning.backbones.masks import causal, unmasked
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError

from ..conformance.tiny import BARE, FAMILIES, LAYERS

ROWS = [[5, 20, 31, 9, 7, 8], [29, 12]]
DECODERS = [
    (family, attention)
    for family, tiny in FAMILIES.items()
    if tiny.causal
    for attention in tiny.attention
]


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, load: Callable[..., Backbone]
) -> Callable[[str, str], Backbone]:
    folders: dict[str, Path] = {}

    def get(family: str, attention: str) -> Backbone:
        if family not in folders:
            folders[family] = FAMILIES[family].save(tmp_path_factory.mktemp("tiny") / family)
        return load(folders[family], attention=attention)

    return get


def reach(backbone: Backbone) -> torch.Tensor:
    """`[T, T]` whether the word of a column changes the state of a row."""
    row = ROWS[0]
    batch = backbone.batch([{"input_ids": row}])
    with torch.no_grad():
        plain = backbone.forward(batch)[0]
        columns = []
        for place in range(len(row)):
            other = [*row[:place], 33, *row[place + 1 :]]
            states = backbone.forward(backbone.batch([{"input_ids": other}]))[0]
            columns.append((states - plain).abs().amax(1) > 1e-6)
    return torch.stack(columns, dim=1)


def states(backbone: Backbone, rows: list[list[int]]) -> list[torch.Tensor]:
    batch = backbone.batch([{"input_ids": row} for row in rows])
    with torch.no_grad():
        found = backbone.forward(batch)
    return [found[place, : len(row)] for place, row in enumerate(rows)]


@pytest.mark.parametrize(("family", "attention"), DECODERS)
def test_every_word_reaches_every_state_and_padding_none(
    family: str, attention: str, tiny: Callable[[str, str], Backbone]
) -> None:
    backbone = tiny(family, attention)
    assert backbone.problems.unmasking is None
    before = states(backbone, ROWS)
    free = unmasked(backbone)
    assert reach(free).all()
    for together, row in zip(states(free, ROWS), ROWS, strict=True):
        torch.testing.assert_close(together, states(free, [row])[0], atol=1e-5, rtol=1e-5)
    # Who shares the backbone sees its mask as before.
    assert torch.equal(reach(backbone), torch.ones(6, 6).tril().bool())
    assert all(map(torch.equal, states(backbone, ROWS), before))


@pytest.mark.parametrize(("family", "attention"), DECODERS)
def test_no_layer_without_its_mask_is_the_backbone(
    family: str, attention: str, tiny: Callable[[str, str], Backbone]
) -> None:
    backbone = tiny(family, attention)
    for kept, plain in zip(
        states(unmasked(backbone, ()), ROWS), states(backbone, ROWS), strict=True
    ):
        torch.testing.assert_close(kept, plain, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("family", "attention"), DECODERS)
def test_some_layers_without_their_mask_and_no_padding(
    family: str, attention: str, tiny: Callable[[str, str], Backbone]
) -> None:
    """transformers may leave the mask out where it would hide nothing."""
    backbone = tiny(family, attention)
    for numbers in ((), [0]):
        some = unmasked(backbone, numbers)
        alone, together = states(some, ROWS[:1])[0], states(some, ROWS)[0]
        torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
        plain = states(backbone, ROWS[:1])[0]
        assert torch.allclose(alone, plain, atol=1e-5, rtol=1e-5) == (numbers == ())


def test_some_layers_without_their_mask(llama: Backbone) -> None:
    """What the first layers have mixed, causal layers above them hand on to the left no more."""
    plain = states(llama, ROWS)[0]
    found = {
        name: states(unmasked(llama, numbers), ROWS)[0]
        for name, numbers in {
            "all": range(LAYERS),
            "first": [0],
            "last": [3],
            "two": [1, 2],
        }.items()
    }
    assert torch.equal(found["all"], states(unmasked(llama), ROWS)[0])
    for name, one in found.items():
        assert (one - plain).abs().max() > 1e-3, name
    assert not torch.allclose(found["first"], found["last"], atol=1e-3)
    assert reach(unmasked(llama, [0])).all()


@pytest.mark.parametrize("family", ["mistral", "mixtral", "gemma2", "gemma3_text", "phi3"])
def test_a_window_stays_a_window(family: str, tmp_path: Path) -> None:
    """A layer that sees two words sees no more than two to each side, and never the whole text."""
    narrow = {"sliding_window": 2, "num_hidden_layers": 1, "layer_types": ["sliding_attention"]}
    if family in ("mistral", "mixtral", "phi3"):
        del narrow["layer_types"]
    tiny = FAMILIES[family]
    replace(tiny, options={**tiny.options, **narrow}).save(tmp_path)
    backbone = Backbone.load(BackboneOptions(name=str(tmp_path)), tested=False)
    assert torch.equal(reach(backbone), torch.ones(6, 6).tril().triu(-1).bool())
    assert torch.equal(reach(unmasked(backbone)), torch.ones(6, 6).tril(2).triu(-2).bool())
    kept = states(unmasked(backbone, ()), ROWS)
    for one, plain in zip(kept, states(backbone, ROWS), strict=True):
        torch.testing.assert_close(one, plain, atol=1e-6, rtol=1e-6)


def test_the_causal_part_of_a_mask() -> None:
    real = torch.tensor([True, True, False])[None, None, None, :].expand(1, 1, 3, 3)
    kept = causal(real)
    assert kept[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, False]]
    added = torch.where(real, 0.0, torch.finfo(torch.float32).min)
    assert torch.equal(causal(added) == 0, kept)


def test_copies_share_the_weights_or_have_their_own(backbone: Backbone) -> None:
    shared, own = shared_copy(backbone), own_copy(backbone)
    triples = zip(
        backbone.model.parameters(), shared.model.parameters(), own.model.parameters(), strict=True
    )
    for given, same, other in triples:
        assert same is given
        assert other is not given and torch.equal(other, given)
    assert shared.config is not backbone.config and shared.config is shared.model.config
    plain = states(backbone, ROWS)
    for copied in (shared, own):
        assert all(map(torch.equal, states(copied, ROWS), plain))
    assert own.fingerprint == backbone.fingerprint


SILENT = {
    # A triangle of its own beside the mask that it is given.
    "gpt_neo": (
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        "a word sees later ones, got: the first state after another last word: relative "
        "difference 0.0e[+]00",
    ),
    "mpt": (
        "MptConfig",
        "MptForCausalLM",
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
        "padding changes no state, got: AttributeError: ",
    ),
}


@pytest.mark.parametrize("family", SILENT)
def test_a_family_that_stays_causal_is_refused_by_name(
    family: str, tmp_path: Path, classifier: Callable[..., Any], toy: Any
) -> None:
    import transformers

    config, model, options, found = SILENT[family]
    if "d_model" not in options:
        options = options | {"hidden_size": 32, "max_position_embeddings": 64}
    made = getattr(transformers, config)(vocab_size=BARE.size, pad_token_id=None, **options)
    getattr(transformers, model)(made).save_pretrained(tmp_path)
    BARE.save(tmp_path)
    backbone = Backbone.load(BackboneOptions(name=str(tmp_path), attention="eager"))
    with pytest.raises(
        BackboneError,
        match=f"model type '{family}'.* that without its causal mask {found}.*; use method ls-lora "
        "with it$",
    ):
        classifier(backbone, "ls-unmask").fit(toy.texts, toy.labels)
    classifier(backbone, "probe").fit(toy.texts, toy.labels)


def test_a_backbone_that_was_not_tried_is_tried_before_its_mask_goes(
    tmp_path: Path, classifier: Callable[..., Any], toy: Any
) -> None:
    import transformers

    config, model, options, _ = SILENT["gpt_neo"]
    sizes = options | {"hidden_size": 32, "max_position_embeddings": 64}
    made = getattr(transformers, config)(vocab_size=BARE.size, pad_token_id=None, **sizes)
    BARE.save(tmp_path)
    backbone = Backbone(
        getattr(transformers, model)(made).base_model,
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        name="made by hand",
    )
    assert backbone.problems.unmasking is None
    with pytest.raises(BackboneError, match="^expected of 'made by hand'.* a word sees later ones"):
        classifier(backbone, "ls-unmask").fit(toy.texts, toy.labels)


def test_stablelm_is_un_masked_because_its_mask_is_always_written_out(tmp_path: Path) -> None:
    """Without a mask sdpa would ask the module's flag, which stays causal."""
    from transformers import StableLmConfig, StableLmModel

    options = {**FAMILIES["llama"].options, "num_key_value_heads": 4}
    StableLmModel(
        StableLmConfig(vocab_size=BARE.size, pad_token_id=None, **options)
    ).save_pretrained(tmp_path)
    BARE.save(tmp_path)
    backbone = Backbone.load(BackboneOptions(name=str(tmp_path), attention="sdpa"))
    assert backbone.problems.unmasking is None
    assert reach(unmasked(backbone)).all()


def test_an_encoder_is_not_asked(bert: Backbone, llama: Backbone) -> None:
    def asked(backbone: Backbone) -> int:
        findings = selftest.examine(backbone)
        return sum(finding.needed_by == "ls-unmask" for finding in findings)

    assert (asked(bert), asked(llama)) == (0, 2)
