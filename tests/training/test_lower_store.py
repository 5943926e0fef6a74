"""What is kept of the layers below the prefix, against computing it in every epoch."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.prefix import RUNNING
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.training import lower_store
from ltuning.training.lower_store import GIB, LowerStore

from ..conformance.cases import counted
from ..conformance.tiny import FAMILIES

Make = Callable[..., LabelClassifier]
FIELDS: dict[str, Any] = {"room": 0, "limit": 1.0, "batch_size": 4}


def weights(classifier: LabelClassifier) -> dict[str, torch.Tensor]:
    return classifier._trained().model.adapter.state_dict()


def differences(left: LabelClassifier, right: LabelClassifier) -> float:
    pairs = [(weight, weights(right)[name]) for name, weight in weights(left).items()]
    return max(float((one - other).abs().max()) for one, other in pairs)


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[LowerStore | None]:
    """What came of every store that was to be filled."""
    made: list[LowerStore | None] = []
    fill = LowerStore.fill

    def record(*args: Any, **kwargs: Any) -> LowerStore | None:
        made.append(fill(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(LowerStore, "fill", record)
    return made


@pytest.fixture
def texts(toy: Any) -> tuple[list[str], list[str]]:
    return toy.texts[:20], toy.labels[:20]


@pytest.fixture
def fit(classifier: Make, texts: Any) -> Callable[..., LabelClassifier]:
    """Trains for three epochs; at a rate at which rounding does not become another path."""

    def fitted(backbone: Backbone, method: str = "lt-prefix", **options: Any) -> LabelClassifier:
        options = {"first_layer": 2, "epochs": 3, "training__optim": "sgd"} | options
        return classifier(backbone, method, batch=8, rate=0.1, **options).fit(*texts)

    return fitted


# --- the same training --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prefix", "lt-prefix"])
@pytest.mark.parametrize("first_layer", [1, 3])
def test_training_is_the_same_with_and_without(
    backbone: Backbone, fit: Any, filled: list[Any], method: str, first_layer: int
) -> None:
    with_store = fit(backbone, method, first_layer=first_layer)
    assert isinstance(filled.pop(), LowerStore)
    without = fit(backbone, method, first_layer=first_layer, backbone__cache_size=0)
    assert filled == []
    assert differences(with_store, without) < 1e-5


# With positions that a prefix takes, with a cache, with a convolution beside the first layer.
@pytest.mark.parametrize("family", ["gpt2", "bloom", "falcon-alibi", "deberta-v2-conv", "mixtral"])
def test_it_is_the_same_for_families_of_every_kind(
    family: str, tmp_path: Path, load: Callable[..., Backbone], fit: Any, filled: list[Any]
) -> None:
    backbone = load(FAMILIES[family].save(tmp_path / family))
    with counted(backbone) as calls:
        with_store = fit(backbone)
    assert isinstance(filled.pop(), LowerStore)
    with counted(backbone) as calls_without:
        without = fit(backbone, backbone__cache_size=0)
    assert len(calls) < len(calls_without)
    assert differences(with_store, without) < 1e-5


def test_accumulated_and_checkpointed_steps_are_the_same(
    bert: Backbone, fit: Any, filled: list[Any]
) -> None:
    options = {
        "training__gradient_accumulation_steps": 2,
        "training__gradient_checkpointing": True,
        "method__labels": "apart",
        "objective": "pairs",
    }
    with_store = fit(bert, **options)
    assert isinstance(filled[0], LowerStore)
    assert differences(with_store, fit(bert, backbone__cache_size=0, **options)) < 1e-5


def test_a_file_holds_what_memory_holds(
    bert: Backbone, fit: Any, filled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = fit(bert)
    reserved: list[int] = []
    reserve = lower_store._reserve
    monkeypatch.setattr(lower_store, "_IN_MEMORY", 0)
    monkeypatch.setattr(
        lower_store, "_reserve", lambda file, size: (reserved.append(size), reserve(file, size))
    )
    assert differences(in_memory, fit(bert)) == 0
    assert reserved == [filled[1]._states.nbytes]


# --- where it is not kept -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lt-prefix", {"first_layer": 0}),
        ("lt-prefix", {"epochs": 1}),
        ("lt-prefix", {"epochs": None, "steps": 2}),
        ("lt-prompt", {"first_layer": None}),
        ("prompt", {"first_layer": None}),
    ],
)
def test_nothing_is_kept_that_is_not_needed_again(
    bert: Backbone, fit: Any, filled: list[Any], method: str, options: dict[str, Any]
) -> None:
    fit(bert, method, **options)
    assert filled == []


def test_what_takes_more_than_the_limit_is_not_kept(
    bert: Backbone, texts: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = bert.tokenize(texts[0])
    size = sum(len(row["input_ids"]) for row in tokens) * bert.sizes.hidden * 4 / GIB
    fields = FIELDS | {"folder": tmp_path, "limit": size}
    assert LowerStore.fill(bert, tokens, 2, **fields) is not None
    with caplog.at_level(logging.INFO, logger="ltuning"):
        assert LowerStore.fill(bert, tokens, 2, **(fields | {"limit": size * 0.999})) is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "takes 0.0 GiB, so it is computed in every epoch; backbone.cache_size" in record.message


@pytest.mark.parametrize("family", ["t5", "mt5"])
def test_layers_that_hand_on_more_than_states_run_in_every_epoch(
    family: str, tmp_path: Path, load: Callable[..., Backbone], fit: Any, filled: list[Any]
) -> None:
    fit(load(FAMILIES[family].save(tmp_path / family)))
    assert filled == [None]


def full_disk(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_a_warning(
    bert: Backbone,
    fit: Any,
    filled: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without = fit(bert, backbone__cache_size=0)
    monkeypatch.setattr(lower_store, "_IN_MEMORY", 0)
    monkeypatch.setattr(lower_store, "_reserve", full_disk)
    assert differences(without, fit(bert)) == 0
    assert filled == [None]
    (message,) = [record.message for record in caplog.records if record.name == "ltuning"]
    assert message.startswith("no room of 0.0 GiB in ")
    assert message.endswith(
        "No space left on device): the output of the layers below 2 is computed in every epoch"
    )


def test_a_folder_that_cannot_be_written_is_a_warning(
    bert: Backbone,
    texts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(lower_store, "_IN_MEMORY", 0)
    (tmp_path / "file").touch()
    tokens = bert.tokenize(texts[0])
    folder = tmp_path / "file" / "run"
    assert LowerStore.fill(bert, tokens, 2, **FIELDS, folder=folder) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file", "written file"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_batch_is_what_the_layers_make_of_it_and_zero_at_padding(
    tiny_llama: Path,
    load: Callable[..., Backbone],
    texts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    dtype: str,
) -> None:
    llama = load(tiny_llama, dtype=dtype)
    if where != "memory":
        monkeypatch.setattr(lower_store, "_IN_MEMORY", 0)
    if where == "written file":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        monkeypatch.setattr(lower_store, "_CHUNK", 100)
    tokens = llama.tokenize([*texts[0], "ball"])
    kept = LowerStore.fill(llama, tokens, 2, **FIELDS, folder=tmp_path / "run")
    assert not any(tmp_path.rglob("*lower*"))
    rows = [20, 3, 11, 3]
    batch = llama.batch([tokens[row] for row in rows])
    found, expected = kept.lower(rows, batch).states, llama.run_lower(batch, 2).states
    assert found.dtype == expected.dtype == getattr(torch, dtype)
    atol = 1e-5 if dtype == "float32" else 0.1
    torch.testing.assert_close(found[batch.mask], expected[batch.mask], atol=atol, rtol=1e-2)
    assert not batch.mask.all()
    assert (found[~batch.mask] == 0).all()


def test_filling_runs_every_text_once_and_nothing_above(
    bert: Backbone, texts: Any, tmp_path: Path
) -> None:
    tokens = bert.tokenize(texts[0])
    runs: list[tuple[int, int]] = []

    def count(_module: Any, inputs: Any, _output: Any) -> None:
        running = RUNNING.get()
        runs.append((running.layer - 1, len(inputs[0])))

    layers = bert.model.get_submodule(bert.family.layers)
    hooks = [next(layer.children()).register_forward_hook(count) for layer in layers]
    LowerStore.fill(bert, tokens, 3, **FIELDS, folder=tmp_path)
    for hook in hooks:
        hook.remove()
    assert runs == [(layer, 4) for _ in range(5) for layer in range(3)]
    assert not any(tmp_path.iterdir())
