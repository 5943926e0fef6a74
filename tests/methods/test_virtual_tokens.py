from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.frozen_model import LabelStates
from ltuning.config import MethodOptions
from ltuning.methods.free_starts import free_start
from ltuning.methods.virtual_tokens import FreeTokens, LowRankMap, PooledMap, SquareMap


@pytest.fixture
def states() -> LabelStates:
    """Three label texts of 2, 4 and 1 tokens."""
    mask = torch.arange(4)[None, :] < torch.tensor([2, 4, 1])[:, None]
    hidden = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(5))
    return LabelStates(hidden, mask, torch.zeros(3, 4).long(), torch.zeros(3, 2, 2, 1, 4, 2), 4)


def longer(states: LabelStates) -> LabelStates:
    """The same label texts in more padding, with garbage in it."""
    garbage = torch.full((3, 2, 6), 7.0)
    hidden = torch.where(states.mask[..., None], states.hidden, torch.tensor(-3.0))
    mask = torch.cat([states.mask, torch.zeros(3, 2, dtype=torch.bool)], 1)
    return replace(states, hidden=torch.cat([hidden, garbage], 1), mask=mask)


def test_the_mean_leaves_padding_out(states: LabelStates) -> None:
    expected = [states.hidden[0, :2].mean(0), states.hidden[1].mean(0), states.hidden[2, 0]]
    torch.testing.assert_close(states.mean, torch.stack(expected))
    torch.testing.assert_close(longer(states).mean, states.mean)


def test_free_tokens_are_their_start_and_their_own_memory() -> None:
    start = torch.randn(4, 3)
    tokens = FreeTokens(start)
    assert torch.equal(tokens(None), start[None])
    start += 1
    assert not torch.equal(tokens(None), start[None])


def test_the_pooled_map_is_its_formula(states: LabelStates) -> None:
    module = PooledMap(6, length=5, features=3)
    phi, psi = module.phi.weight[0], module.psi.weight
    tokens = module(states)
    assert tokens.shape == (3, 5, 3)
    for row, length in enumerate([2, 4, 1]):
        weights = torch.zeros(5)
        weights[:length] = (states.hidden[row, :length] @ phi).softmax(0)
        torch.testing.assert_close(tokens[row].flatten(), psi @ weights)


def test_the_pooled_map_does_not_see_label_padding(states: LabelStates) -> None:
    module = PooledMap(6, length=6, features=3)
    torch.testing.assert_close(module(longer(states)), module(states))


def test_the_low_rank_map_is_its_formula(states: LabelStates) -> None:
    module = LowRankMap(6, rank=2, features=3, output_scale=0.5)
    expected = torch.tanh(states.hidden @ module.down.weight.T) @ module.up.weight.T
    torch.testing.assert_close(module(states), expected)
    assert sum(weight.numel() for weight in module.parameters()) == 2 * (6 + 3)


def test_a_small_start_is_small() -> None:
    module = LowRankMap(64, rank=32, features=128, output_scale=1e-3)
    for weight in (module.up.weight, SquareMap(64, 64, 1e-3).square.weight):
        assert weight.std().item() == pytest.approx(1e-3, rel=0.1)


def test_the_square_map_is_a_matrix(states: LabelStates) -> None:
    module = SquareMap(6, 5, None)
    torch.testing.assert_close(module(states), states.hidden @ module.square.weight.T)


def start_of(backbone: Backbone, name: str, start: str, seed: int = 0) -> torch.Tensor:
    method = MethodOptions(name=name, start=start, first_layer=1)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    return free_start(backbone, method, 5, ["the bread", "ball"], generator)


WIDTHS = {"bert": 3 * 2 * 32, "roberta": 3 * 2 * 32, "llama": 3 * 2 * 16}


@pytest.mark.parametrize("start", ["random", "vocabulary", "text"])
@pytest.mark.parametrize("name", ["prefix", "prompt"])
def test_a_start_is_a_function_of_its_seed(backbone: Backbone, name: str, start: str) -> None:
    found = start_of(backbone, name, start)
    width = 32 if name == "prompt" else WIDTHS[backbone.family.name]
    assert found.shape == (5, width)
    assert found.dtype == torch.float32
    assert torch.equal(found, start_of(backbone, name, start))
    assert torch.equal(found, start_of(backbone, name, start, seed=1)) == (start == "text")


def test_a_prompt_from_text_is_the_label_words_again_and_again(backbone: Backbone) -> None:
    (ids,) = backbone.tokenizer(["the bread ball the bread"], add_special_tokens=False)["input_ids"]
    assert torch.equal(start_of(backbone, "prompt", "text"), backbone.embed(torch.tensor(ids)))


def test_a_prompt_from_the_vocabulary_is_words_of_it(backbone: Backbone) -> None:
    special = backbone.embed(torch.tensor(backbone.tokenizer.all_special_ids))
    for seed in range(20):
        for word in start_of(backbone, "prompt", "vocabulary", seed):
            assert (backbone.model.get_input_embeddings().weight == word).all(1).sum() == 1
            assert not (special == word).all(1).any()


def test_a_prefix_from_text_is_the_keys_and_values_of_the_label_words(backbone: Backbone) -> None:
    (ids,) = backbone.tokenizer(["the bread ball the bread"], add_special_tokens=False)["input_ids"]
    key_values = backbone.encode_ids(torch.tensor([ids])).key_values[0]
    sizes = backbone.sizes
    start = start_of(backbone, "prefix", "text")
    start = start.view(5, 3, 2, sizes.kv_heads, sizes.head_dim)
    for token in range(5):
        torch.testing.assert_close(start[token], key_values[1:, :, :, token])


def test_a_random_prompt_has_the_spread_of_the_word_embeddings(bert: Backbone) -> None:
    method = MethodOptions(name="prompt", start="random")
    start = free_start(bert, method, 400, ["bread"], torch.Generator().manual_seed(0))
    assert float(start.std()) == pytest.approx(
        float(bert.model.get_input_embeddings().weight.std()), rel=0.05
    )
