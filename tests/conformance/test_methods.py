"""What holds for every method on every family."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.prefix import TRAINING, InTraining, Prefix, announced
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.methods.adapter import AdapterModel
from ltuning.methods.catalog import METHODS
from ltuning.scoring import Scorer

from .cases import (
    LABELS,
    NUM_TOKENS,
    ROWS,
    TEXTS,
    Pad,
    build,
    close,
    everywhere,
    loss,
    on_decoders,
    once_per_family,
    score,
    select,
    virtual_tokens,
    visible,
    where_padding_may_be_left,
    with_each_method,
    with_each_site,
    with_prefix,
)

COLUMNS = ("prefix", "prompt", "lt-prefix", "lt-prompt")
# Trainable parameters of these methods for 5 tokens, 3 labels and rank 64, with a prefix in all 4
# layers and a label prefix in the upper 2. Closed forms, with their values at H = E = N D = 32:
#   prefix     5 * 4*2*N*D + 3*H                      = 1280 + 96
#   prompt     5 * E + 3*H                            = 160 + 96
#   lt-prefix  64 * (H + 2*2*N*D) + (H*H + H + 1)     = 10240 + 1057
#   lt-prompt  H*E + (H*H + H + 1)                    = 1024 + 1057
PARAMETERS = {
    "bert": (1376, 256, 11297, 2081),
    "roberta": (1376, 256, 11297, 2081),
    "xlm-roberta": (1376, 256, 11297, 2081),
    "camembert": (1376, 256, 11297, 2081),
    "electra": (1376, 176, 11297, 1569),  # E = 16
    "albert": (1376, 176, 11297, 1569),  # E = 16
    "distilbert": (1376, 256, 11297, 2081),
    "mpnet": (1376, 256, 11297, 2081),
    "deberta": (1376, 256, 11297, 2081),
    "deberta-v2": (1376, 256, 11297, 2081),
    "deberta-v2-conv": (1376, 256, 11297, 2081),
    "modernbert": (1376, 256, 11297, 2081),
    "t5": (1376, 256, 11297, 2081),
    "mt5": (1056, 256, 9249, 2081),  # N D = 4 * 6
    "gpt2": (1376, 256, 11297, 2081),
    "opt": (1376, 256, 11297, 2081),
    "opt-projected": (1328, 128, 9489, 529),  # H = E = 16
    "gpt_neox": (1376, 256, 11297, 2081),
    "bloom": (1376, 256, 11297, 2081),
    "falcon-multi-query": (416, 256, 5153, 2081),  # N D = 1 * 8
    "falcon-new": (736, 256, 7201, 2081),  # N D = 2 * 8, here and in the grouped queries below
    "falcon-alibi": (1376, 256, 11297, 2081),
    "llama": (736, 256, 7201, 2081),
    "llama-gguf": (736, 256, 7201, 2081),
    "mistral": (736, 256, 7201, 2081),
    "qwen2": (736, 256, 7201, 2081),
    "qwen3": (1376, 256, 11297, 2081),  # N D = 2 * 16
    "gemma2": (1376, 256, 11297, 2081),  # N D = 2 * 16
    "gemma3_text": (1056, 256, 9249, 2081),  # N D = 2 * 12
    "phi3": (736, 256, 7201, 2081),
    "olmo2": (736, 256, 7201, 2081),
    "smollm3": (736, 256, 7201, 2081),
    "mixtral": (736, 256, 7201, 2081),
}


def weights_of(backbone: Backbone) -> str:
    """Hash of every weight and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@everywhere
@with_each_method
def test_a_step_changes_every_weight_of_the_adapter_and_none_of_the_backbone(
    backbone: Backbone, pad: Pad, method: str
) -> None:
    adapter, labels = build(backbone, method)
    before = weights_of(backbone), [weight.clone() for weight in adapter.parameters()]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    loss(backbone, adapter, labels, pad(ROWS)).backward()
    for name, weight in adapter.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.norm() > 0, name
    optimizer.step()
    assert all(
        not torch.equal(old, new) for old, new in zip(before[1], adapter.parameters(), strict=True)
    )
    assert weights_of(backbone) == before[0]
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert all(weight.grad is None for weight in backbone.model.parameters())


@everywhere
@with_prefix
@pytest.mark.parametrize("first_layer", [0, 2])
def test_gradient_reaches_key_and_value_of_every_prefixed_layer(
    backbone: Backbone, pad: Pad, method: str, first_layer: int
) -> None:
    adapter, labels = visible(backbone, method, first_layer=first_layer)
    tokens = virtual_tokens(backbone, adapter, labels).detach().requires_grad_()
    scores = score(backbone, adapter, labels, pad(ROWS), tokens)
    torch.nn.functional.cross_entropy(scores, torch.arange(3)).backward()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()
    # [V, M', 2, N, L, D]: every layer's keys and values, of every label.
    sizes = backbone.sizes
    assert tokens.shape[1:4] == (sizes.layers - first_layer, 2, sizes.kv_heads)
    assert (tokens.grad.flatten(3).norm(dim=3) > 0).all()


@once_per_family
@with_each_method
def test_trainable_parameters_are_those_of_the_table(
    backbone: Backbone, family: str, method: str
) -> None:
    room = NUM_TOKENS if METHODS[method].source == "labels" else None
    adapter, _ = build(backbone, method, room=room)
    assert adapter.num_parameters == PARAMETERS[family][COLUMNS.index(method)]


@everywhere
@with_each_site
def test_length_of_padding_changes_no_score(backbone: Backbone, pad: Pad, method: str) -> None:
    adapter, labels = visible(backbone, method)
    with torch.no_grad():
        expected = score(backbone, adapter, labels, pad(ROWS))
        found = score(backbone, adapter, labels, pad(ROWS, extra=5))
    close(found, expected, 1e-4)


@where_padding_may_be_left("method", {"lt-prefix": False, "lt-prompt": True})
def test_side_of_padding_changes_no_score(backbone: Backbone, pad: Pad, method: str) -> None:
    adapter, labels = visible(backbone, method)
    with torch.no_grad():
        expected = score(backbone, adapter, labels, pad(ROWS))
        found = score(backbone, adapter, labels, pad(ROWS, "left", 2))
    close(found, expected, 1e-4)


@everywhere
@with_each_site
def test_order_of_texts_is_order_of_scores(backbone: Backbone, pad: Pad, method: str) -> None:
    adapter, labels = visible(backbone, method)
    order = [2, 0, 1]
    with torch.no_grad():
        expected = score(backbone, adapter, labels, pad(ROWS))
        found = score(backbone, adapter, labels, select(pad(ROWS), order))
    assert expected.std(dim=0).min() > 1e-3
    close(found, expected[order], 1e-4)


@everywhere
@with_each_site
def test_order_of_labels_is_order_of_scores(backbone: Backbone, pad: Pad, method: str) -> None:
    order = [2, 0, 1]
    adapter, labels = visible(backbone, method)
    _, turned = visible(backbone, method, labels=[LABELS[index] for index in order])
    with torch.no_grad():
        expected = score(backbone, adapter, labels, pad(ROWS))
        found = score(backbone, adapter, turned, pad(ROWS))
    assert expected.std(dim=1).min() > 1e-3
    close(found, expected[:, order], 1e-4)


def first_layers(method: str) -> list[int]:
    return [0, 2] if METHODS[method].site == "key-values" else [0]


@everywhere
@pytest.mark.parametrize(
    ("method", "first_layer"),
    [(method, layer) for method in METHODS for layer in first_layers(method)],
)
def test_a_branch_alone_has_the_score_that_it_has_among_others(
    backbone: Backbone, pad: Pad, method: str, first_layer: int
) -> None:
    options = {"first_layer": first_layer} if METHODS[method].site == "key-values" else {}
    adapter, labels = visible(backbone, method, **options)
    with torch.no_grad():
        together = score(backbone, adapter, labels, pad(ROWS))
        for text, row in enumerate(ROWS):
            if labels is None:
                close(score(backbone, adapter, None, pad([row]))[0], together[text], 1e-4)
                continue
            for index, label in enumerate(LABELS):
                _, own = visible(backbone, method, labels=[label], room=adapter.length)
                alone = score(backbone, adapter, own, pad([row]))
                close(alone[0, 0], together[text, index], 1e-4)


@everywhere
@with_each_method
def test_cached_virtual_tokens_score_twice_the_same_and_like_recomputed_ones(
    backbone: Backbone, method: str
) -> None:
    adapter, labels = visible(backbone, method)
    scorer = Scorer(AdapterModel(backbone, adapter, labels, range(3)), max_branches=4)
    found = scorer.score(TEXTS)
    assert np.array_equal(scorer.score(TEXTS), found)
    _, fresh = visible(backbone, method)
    with torch.no_grad():
        expected = score(backbone, adapter, fresh, backbone.batch(backbone.tokenize(TEXTS)))
    close(torch.from_numpy(found), expected, 1e-4)


@everywhere
@with_each_site
def test_checkpointing_saves_memory_and_keeps_gradients(
    backbone: Backbone, pad: Pad, method: str
) -> None:
    def run() -> tuple[int, list[torch.Tensor]]:
        kept: list[int] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        adapter, labels = visible(backbone, method)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(backbone, adapter, labels, pad(ROWS))
        value.backward()
        return sum(kept), [weight.grad for weight in adapter.parameters()]

    whole, expected = run()
    with announced(TRAINING, InTraining(checkpointing=True)):
        saved, found = run()
    assert saved < whole
    for left, right in zip(found, expected, strict=True):
        close(left, right)


@on_decoders
@with_prefix
def test_label_kv_reads_the_label_before_the_text(
    backbone: Backbone, plain: Any, pad: Pad, method: str
) -> None:
    for label in LABELS:
        words = backbone.tokenizer(label)["input_ids"]
        adapter, labels = build(backbone, method, [label], start="label-kv", first_layer=0)
        assert labels is not None
        adapter.tokens.up.weight.data.zero_()
        with torch.no_grad():
            tokens = virtual_tokens(backbone, adapter, labels)
            for row in ROWS:
                prefix = Prefix(tokens, labels.mask, 0, torch.zeros(1, dtype=torch.long))
                states = backbone.forward(pad([row]), prefix=prefix)
                whole = plain(input_ids=torch.tensor([[*words, *row]])).last_hidden_state
                close(states, whole[:, len(words) :], 1e-4)


@on_decoders
@with_prefix
def test_label_kv_reads_labels_of_all_lengths_in_one_batch(
    backbone: Backbone, plain: Any, pad: Pad, method: str
) -> None:
    adapter, labels = build(backbone, method, start="label-kv", first_layer=0)
    assert labels is not None
    adapter.tokens.up.weight.data.zero_()
    texts, rows = torch.arange(3).repeat_interleave(3), torch.arange(3).repeat(3)
    with torch.no_grad():
        tokens = virtual_tokens(backbone, adapter, labels)
        prefix = Prefix(tokens, labels.mask, 0, rows, texts, room=adapter.length)
        states = backbone.forward(pad(ROWS), prefix=prefix)
        for branch, (text, label) in enumerate(zip(texts, rows, strict=True)):
            words = labels.ids[label][labels.mask[label]].tolist()
            whole = torch.tensor([[*words, *ROWS[text]]])
            # Every text starts where its label's room ends; other positions only count as
            # differences.
            start = adapter.length - len(words)
            places = {"position_ids": torch.arange(start, start + whole.shape[1])[None]}
            is_absolute = backbone.family.positions == "absolute"
            expected = plain(input_ids=whole, **(places if is_absolute else {})).last_hidden_state
            close(states[branch, : len(ROWS[text])], expected[0, len(words) :], 1e-4)


@pytest.fixture(scope="session")
def fitted(backbone: Backbone) -> Callable[[str], LabelClassifier]:
    """Trains a classifier for two steps, or gives the one that was."""
    known: dict[str, LabelClassifier] = {}

    def fit(method: str) -> LabelClassifier:
        if method not in known:
            names = dict(zip(("food", "sport", "travel"), LABELS, strict=True))
            options = {"training.per_device_train_batch_size": 3}
            classifier = LabelClassifier(backbone, names, method, steps=2, options=options)
            known[method] = classifier.fit(TEXTS * 2, list(names) * 2)
        return known[method]

    return fit


@everywhere
@with_each_method
def test_a_classifier_trains_and_predicts(
    fitted: Callable[[str], LabelClassifier], method: str
) -> None:
    classifier = fitted(method)
    assert set(classifier.predict(TEXTS)) <= {"food", "sport", "travel"}
    probabilities = classifier.predict_proba(TEXTS)
    assert probabilities.shape == (3, 3)
    assert np.allclose(probabilities.sum(axis=1), 1)


@everywhere
@with_each_site
def test_a_saved_classifier_scores_the_same(
    fitted: Callable[[str], LabelClassifier], method: str, tmp_path: Path
) -> None:
    classifier = fitted(method)
    classifier.save_pretrained(tmp_path / "saved")
    again = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert again.backbone is not classifier.backbone
    close(torch.from_numpy(again.scores(TEXTS)), torch.from_numpy(classifier.scores(TEXTS)))
