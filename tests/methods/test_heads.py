from __future__ import annotations

import math

import pytest
import torch

from ltuning.methods.heads import BinaryHead, CentredMatchHead, ClassesHead, MatchHead, pool

# Two texts of 2 and 3 tokens in 4 places, on either side; 9s are padding.
RIGHT = torch.tensor([[[1.0, 2], [3, 6], [9, 9], [9, 9]], [[0.0, 1], [2, 3], [4, 8], [9, 9]]])
LEFT = torch.tensor([[[9.0, 9], [9, 9], [1, 2], [3, 6]], [[9.0, 9], [0, 1], [2, 3], [4, 8]]])
LITERALS = {
    "cls": [[1.0, 2.0], [0.0, 1.0]],
    "last": [[3.0, 6.0], [4.0, 8.0]],
    "mean": [[2.0, 4.0], [2.0, 4.0]],
}


@pytest.mark.parametrize("how", ["cls", "last", "mean"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_finds_the_real_tokens_on_either_side(how: str, side: str) -> None:
    states = RIGHT if side == "right" else LEFT
    mask = states[..., 0] != 9
    assert pool(states, mask, how).tolist() == LITERALS[how]  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["cls", "last", "mean"])
def test_pooling_gives_float32(how: str) -> None:
    mask = torch.ones(2, 4, dtype=torch.bool)
    assert pool(RIGHT.bfloat16(), mask, how).dtype == torch.float32  # type: ignore[arg-type]


def test_the_binary_score_is_the_log_odds_of_true() -> None:
    head, state = BinaryHead(5), torch.randn(7, 5)
    true = head.out(state).softmax(-1)[:, 1]
    torch.testing.assert_close(head(state, state), (true / (1 - true)).log(), rtol=1e-4, atol=1e-5)
    assert sum(weight.numel() for weight in head.parameters()) == 2 * 5


def test_the_classes_head_is_a_matrix() -> None:
    head, state = ClassesHead(5, 3), torch.randn(7, 5)
    torch.testing.assert_close(head(state), state @ head.out.weight.T)


def test_the_match_head_starts_as_the_cosine_of_state_and_label() -> None:
    state, label = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert MatchHead(2, tau=10.0)(state, label).tolist() == pytest.approx([9.6, 0.0])


def test_the_match_head_is_its_formula() -> None:
    head = MatchHead(6, tau=2.0)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    state, label = torch.randn(6), torch.randn(6)
    weights = dict(head.named_parameters())
    mapped = weights["map.weight"] @ label
    cosine = state @ mapped / (state.norm() * mapped.norm())
    expected = weights["read.weight"][0] @ state + weights["tau"] * cosine
    torch.testing.assert_close(head(state[None], label[None])[0], expected)


def test_a_match_head_compares_from_its_centers_in_the_spread_of_texts() -> None:
    head, bare = MatchHead(6, tau=2.0), MatchHead(6, tau=2.0)
    torch.nn.init.normal_(head.read.weight)
    torch.nn.init.normal_(head.map.weight)
    bare.load_state_dict({**bare.state_dict(), **dict(head.named_parameters())})
    texts, labels = torch.randn(9, 6) * torch.tensor([1.0, 1, 1, 1, 1, 40]) + 3, torch.randn(3, 6)
    head.center(texts, labels, scaled=True)
    spread = texts.std(0, correction=0)
    scale = spread / spread.median()
    read = (texts[:3] - texts.mean(0)) / scale, (labels - labels.mean(0)) / scale
    torch.testing.assert_close(head(texts[:3], labels), bare(*read), atol=1e-5, rtol=1e-4)


def test_a_wide_match_head_is_identity_plus_low_rank() -> None:
    head = MatchHead(1025, tau=10.0)
    assert {name: tuple(weight.shape) for name, weight in head.named_parameters()} == {
        "tau": (),
        "read.weight": (1, 1025),
        "map.down.weight": (64, 1025),
        "map.up.weight": (1025, 64),
    }
    label = torch.randn(3, 1025)
    assert torch.equal(head.map(label), label)


def test_a_match_score_has_a_gradient_at_the_start() -> None:
    head = MatchHead(8, tau=10.0)
    head(torch.randn(4, 8), torch.randn(4, 8)).sum().backward()
    for weight in head.parameters():
        assert weight.grad is not None
        assert math.isfinite(weight.grad.norm()) and weight.grad.norm() > 0


def centred(bias: bool) -> CentredMatchHead:
    head = CentredMatchHead(6, tau=5.0, bias=bias)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    return head


def by_formula(
    head: CentredMatchHead, states: torch.Tensor, labels: torch.Tensor, trained: int
) -> torch.Tensor:
    """Label by label: the map whole or half of its way, and a tenth of tau where there is no b."""
    rows = []
    for place, label in enumerate((labels - head.label_center) / head.scale):
        whole = head.map.weight @ label  # type: ignore[union-attr, operator]
        mapped = whole if place < trained else (label + whole) / 2
        texts = (states - head.text_center) / head.scale
        cosine = texts @ mapped / (texts.norm(dim=1) * mapped.norm())
        if head.bias is not None:
            rows.append(head.tau * cosine + head.bias)
        else:
            rows.append(head.tau * cosine + (0.05 * head.tau if place >= trained else 0.0))
    return torch.stack(rows, 1)


@pytest.mark.parametrize("bias", [False, True])
def test_labels_that_came_after_training_are_read_by_half_of_the_map(bias: bool) -> None:
    head, states, labels = centred(bias), torch.randn(7, 6), torch.randn(5, 6)
    head.center(torch.randn(9, 6) + 1, labels[:3], scaled=True)
    torch.testing.assert_close(head.label_center, labels[:3].mean(0))
    found = head(states, labels)
    torch.testing.assert_close(found, by_formula(head, states, labels, trained=3))
    # Those of the training have the scores that they have without the others.
    torch.testing.assert_close(found[:, :3], head(states, labels[:3]))


def test_a_feature_that_is_far_wider_than_the_others_decides_no_cosine() -> None:
    head = CentredMatchHead(6, tau=5.0)
    widths = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 500.0])
    states, labels = torch.randn(400, 6), torch.randn(4, 6)
    labels[:, 5] = torch.tensor([1.0, 2.0, -1.0, -2.0])
    head.center(states * widths, labels * widths, scaled=True)
    expected = CentredMatchHead(6, tau=5.0)
    expected.center(states, labels, scaled=True)
    torch.testing.assert_close(
        head(states * widths, labels * widths), expected(states, labels), atol=1e-4, rtol=1e-4
    )
    # Without a scale there is nothing but the sign of the last feature.
    signs = torch.sign((states - states.mean(0))[:, 5:] * (labels - labels.mean(0))[:, 5])
    alone = CentredMatchHead(6, tau=5.0)
    alone.center(states * widths, labels * widths, scaled=False)
    assert ((alone(states * widths, labels * widths) - 5 * signs).abs() < 0.5).float().mean() > 0.9


def test_texts_of_one_state_give_no_scale_and_a_constant_feature_does_not_blow_up() -> None:
    head = CentredMatchHead(6, tau=5.0)
    head.center(torch.ones(1, 6), torch.randn(3, 6), scaled=True)
    assert torch.equal(head.scale, torch.ones(6))
    states = torch.randn(9, 6)
    states[:, 2] = 7.0
    head.center(states, torch.randn(3, 6), scaled=True)
    assert head.scale[2] == pytest.approx(1e-2) and head.scale.isfinite().all()


def test_before_there_are_centres_no_label_is_a_later_one() -> None:
    head, states, labels = centred(bias=False), torch.randn(7, 6), torch.randn(5, 6)
    expected = by_formula(head, states, labels, trained=5)
    torch.testing.assert_close(head(states, labels), expected)


def test_what_training_knew_is_kept_with_the_weights() -> None:
    head, states, labels = centred(bias=False), torch.randn(7, 6), torch.randn(5, 6)
    head.center(torch.randn(9, 6), labels[:3], scaled=True)
    again = CentredMatchHead(6, tau=5.0)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(states, labels), head(states, labels))
