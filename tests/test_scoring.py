from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.config import MethodOptions
from ltuning.errors import ScoresError
from ltuning.labels import Labels
from ltuning.methods.adapter import Adapter, AdapterModel
from ltuning.methods.catalog import METHODS, resolve, uses_labels
from ltuning.scoring import Scorer

LABELS = {"food": "bread", "sport": ["ball and team", "the game"], "travel": "the hotel"}
Build = Callable[..., Scorer]
APART = ["lt-prefix apart", "lt-prompt"]
every_method = pytest.mark.parametrize("name", [*METHODS, "lt-prefix apart"])
label_methods = pytest.mark.parametrize("name", ["lt-prefix", *APART])
with_branches = pytest.mark.parametrize("name", APART)


@pytest.fixture
def build(backbone: Backbone, name: str) -> Build:
    """A scorer with an adapter that is always the same, for labels that may differ."""

    def scorer(labels: Any = LABELS, **rest: Any) -> Scorer:
        known = Labels.from_any(labels)
        chosen, *apart = name.split()
        options = MethodOptions(name=chosen, labels=apart[0] if apart else None)  # type: ignore[arg-type]
        method = resolve(options, backbone.family, backbone.sizes.layers)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            adapter = Adapter(backbone.sizes, method, length=6, num_labels=3)
            for weight in adapter.tokens.parameters():
                torch.nn.init.normal_(weight, std=0.3)
        model = AdapterModel(backbone, adapter, None, range(3))
        if uses_labels(method):
            states = backbone.encode_labels(known.flat_texts)
            model = AdapterModel(backbone, adapter, states, known.owners)
        return Scorer(model, **{"max_branches": 256, **rest})

    return scorer


@pytest.fixture
def texts(toy: Any) -> list[str]:
    return [*toy.test_texts[:11], "bread", "the team on the beach"]


def close(left: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(left, right, atol=1e-5, rtol=1e-5)


@every_method
def test_scores_differ_by_text_and_label(build: Build, texts: list[str]) -> None:
    scores = build().score(texts)
    assert scores.shape == (13, 3)
    assert scores.dtype == np.float32
    assert (scores.std(axis=0) > 1e-3).all()
    assert (scores.std(axis=1) > 1e-3).all()


@every_method
def test_the_same_texts_twice_have_the_same_scores(build: Build, texts: list[str]) -> None:
    scorer = build()
    assert np.array_equal(scorer.score(texts), scorer.score(texts))
    close(scorer.score(texts + texts), np.concatenate([scorer.score(texts)] * 2))


@every_method
def test_scores_come_in_the_order_of_the_texts(build: Build, texts: list[str]) -> None:
    scorer = build()
    order = np.random.default_rng(0).permutation(len(texts))
    close(scorer.score([texts[row] for row in order]), scorer.score(texts)[order])


@every_method
def test_a_text_has_the_scores_that_it_has_alone(build: Build, texts: list[str]) -> None:
    scorer = build()
    alone = np.concatenate([scorer.score([text]) for text in texts])
    close(alone, scorer.score(texts))


@pytest.mark.parametrize("name", ["lt-prefix", "prompt"])
def test_no_more_texts_than_a_piece_wait_for_their_scores(
    backbone: Backbone, build: Build, texts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, read = build(), backbone.windows
    texts = [*texts[:5], ("the ball", "bread"), *texts[5:]]
    expected, short = scorer.score(texts), scorer.score_tokens(backbone.tokenize(texts, 4))
    done: list[int] = []
    waiting: list[int] = []

    def watched(some: Sequence[Any], room: int | None = None, **options: Any) -> Any:
        # Whatever was tokenized before has its scores.
        assert sum(waiting) == sum(done)
        waiting.append(len(some))
        return read(some, room, **options)

    monkeypatch.setattr("ltuning.backbones.batch_sizes._TEXTS", 4)
    monkeypatch.setattr(backbone, "windows", watched)
    close(scorer.score(texts, done.append), expected)
    assert waiting == [4, 4, 4, 2] and sum(done) == 14
    waiting.clear(), done.clear()
    close(scorer.score(texts, done.append, max_length=4), short)
    assert abs(short - expected).max() > 1e-3


@pytest.mark.parametrize("name", ["lt-prefix", "lt-prompt"])
def test_a_text_in_windows_has_the_pooled_scores_of_its_windows(
    backbone: Backbone, build: Build, texts: list[Any]
) -> None:
    scorer, texts = build(max_branches=8), [*texts, ("the ball", " ".join(texts))]
    done: list[int] = []
    windows = backbone.windows(texts, 12, long_texts="windows")
    assert windows.counts[0] == 1 and windows.counts[-1] > 4
    every = scorer.score_tokens(windows.tokens)
    ends = np.cumsum(windows.counts)
    expected = [np.log(np.exp(part).mean(0)) for part in np.split(every, ends[:-1])]
    close(scorer.score(texts, done.append, 12, "windows"), np.stack(expected))
    assert sum(done) == len(texts)


@every_method
@pytest.mark.parametrize("max_branches", [1, 2, 3, 7, 10_000])
def test_the_batch_size_in_branches_changes_no_score(
    build: Build, texts: list[str], max_branches: int
) -> None:
    scorer = build(max_branches=max_branches)
    close(scorer.score(texts), build().score(texts))


@every_method
def test_no_forward_has_more_branches_than_allowed(
    backbone: Backbone, build: Build, texts: list[str]
) -> None:
    widths: list[int] = []
    last = backbone.model.get_submodule(backbone.family.layers)[-1]
    for max_branches in (1, 3, 9):
        scorer = build(max_branches=max_branches)
        hook = last.register_forward_hook(
            lambda _module, _args, output: widths.append(
                len(output[0] if isinstance(output, tuple) else output)
            )
        )
        scorer.score(texts)
        hook.remove()
        assert max(widths) <= max_branches
        assert sum(widths) == scorer.num_branches
        widths.clear()


@every_method
def test_branches_are_texts_times_label_texts(build: Build, name: str, texts: list[str]) -> None:
    scorer = build()
    scorer.score(texts)
    # Three labels, one of them with two texts; or one pass reads all of them.
    assert scorer.num_branches == len(texts) * (4 if name in APART else 1)


@label_methods
def test_permuting_the_labels_permutes_the_scores(build: Build, texts: list[str]) -> None:
    order = ["travel", "food", "sport"]
    permuted = build({label: LABELS[label] for label in order}).score(texts)
    close(permuted, build().score(texts)[:, [2, 0, 1]])


@with_branches
def test_a_label_of_several_texts_has_the_mean_of_their_scores(
    build: Build, texts: list[str]
) -> None:
    def single(sport: str) -> np.ndarray:
        return build({**LABELS, "sport": sport}).score(texts)

    scores = build().score(texts)
    one, two = single("ball and team"), single("the game")
    close(scores[:, 1], (one[:, 1] + two[:, 1]) / 2)
    close(scores[:, [0, 2]], one[:, [0, 2]])


@with_branches
def test_a_label_scores_the_same_whatever_the_other_labels(build: Build, texts: list[str]) -> None:
    more: dict[str, str | Sequence[str]] = {**LABELS, "music": "a very good song on the piano"}
    close(build(more).score(texts)[:, :3], build().score(texts))


@every_method
def test_progress_counts_every_text_once(build: Build, texts: list[str]) -> None:
    done: list[int] = []
    build(max_branches=8).score(texts, done.append)
    assert sum(done) == len(texts)
    assert len(done) > 1


def test_scores_that_are_not_finite_are_no_answer(bert: Backbone, classifier: Any) -> None:
    made = classifier(bert, "prefix").fit(["bread", "ball", "hotel"], ["food", "sport", "travel"])
    with torch.no_grad():
        next(iter(made.scorer().model.adapter.head.parameters())).fill_(3e38)
    with pytest.raises(
        ScoresError,
        match="expected finite scores of texts, got NaN or infinity: the classifier's weights are "
        "too large, or a text's states for float16; train again, restore its folder from where",
    ):
        made.predict(["bread"])
