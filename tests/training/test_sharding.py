"""A backbone that is divided over two processes; each test looks at the same two."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ltuning import LabelClassifier
from ltuning.backbones import sharding
from ltuning.backbones.backbone import Backbone
from ltuning.cli.main import app
from ltuning.config import BackboneOptions, Config
from ltuning.errors import BackboneError, ConfigError
from ltuning.training.lower_store import LowerStore

from ..conformance.tiny import FAMILIES
from ..processes import run_distributed
from . import fits, shards
from .compared import assert_as_alone, write_given


@pytest.fixture(scope="module")
def models(
    tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    others = {family: FAMILIES[family].save(folder / family) for family in ("t5", "opt", "gpt2")}
    found = {"llama": tiny_models["llama"], "bert": tiny_models["bert"], **others}
    return {family: str(path) for family, path in found.items()}


@pytest.fixture(scope="module")
def both(
    plain: dict[str, Any], models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of what two processes did together."""
    folder = tmp_path_factory.mktemp("both")
    write_given(folder, plain, models)
    for ended in run_distributed(Path(shards.__file__), folder, folder=folder):
        assert ended.code == 0, ended.stderr
        assert "FSDP" not in ended.stderr
    return folder


@pytest.fixture(scope="module")
def said(both: Path) -> list[dict[str, Any]]:
    return [json.loads((both / f"rank-{rank}" / "said.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def whole(models: dict[str, str]) -> dict[str, Backbone]:
    return {family: Backbone.load(path) for family, path in models.items()}


@pytest.mark.parametrize("name", shards.FITS)
def test_they_come_to_the_weights_and_the_losses_of_one_process_with_a_whole_backbone(
    both: Path, whole: dict[str, Backbone], plain: dict[str, Any], tmp_path: Path, name: str
) -> None:
    family, fit = shards.FITS[name]
    assert_as_alone(both, name, fit(whole[family], plain), tmp_path / "alone")


def test_each_holds_half_of_the_weights_before_and_after_training(
    said: list[dict[str, Any]], whole: dict[str, Backbone]
) -> None:
    weights = [*whole["llama"].model.parameters()]
    elements = sum(weight.numel() for weight in weights)
    # Of a weight whose first dimension is odd the other process has one row less.
    rows = sum(weight[0].numel() for weight in weights if len(weight) % 2)
    for when in ("loaded", "trained"):
        first, second = (one[when]["held"] for one in said)
        assert {one[when]["whole"] for one in said} == {elements}
        assert first + second == elements
        assert first - second == rows
    # Nothing else is in memory: neither the weights that were read, nor those that were gathered.
    for one in said:
        assert one["loaded"]["bytes"] < 4 * (elements + rows) / 2 + 4096


def test_no_more_than_a_layer_is_gathered_at_a_time(
    said: list[dict[str, Any]], whole: dict[str, Backbone]
) -> None:
    layer = sum(weight.numel() for weight in whole["llama"].model.layers[0].parameters())
    for one in said:
        # As it came from the processes, and as it runs; a text's own states are small beside it.
        assert one["passing"] - one["loaded"]["bytes"] < 2.5 * 4 * layer


def test_a_pass_that_an_error_ended_is_followed_by_others(said: list[dict[str, Any]]) -> None:
    assert [one["recovers"] for one in said] == [True, True]


def test_they_score_what_one_process_scores(
    said: list[dict[str, Any]], whole: dict[str, Backbone], plain: dict[str, Any]
) -> None:
    alone = shards.scores(shards.FITS["lt-prefix"][1](whole["llama"], plain), plain)
    for one in said:
        np.testing.assert_allclose(one["scores"], alone, atol=1e-5)


def test_a_classifier_that_was_trained_so_predicts_on_a_whole_backbone(
    both: Path, models: dict[str, str], plain: dict[str, Any], tmp_path: Path
) -> None:
    words = fits.command(both / "data", Path(models["llama"]), tmp_path / "run")
    assert CliRunner().invoke(app, words).exit_code == 0
    divided, alone = (
        LabelClassifier.from_pretrained(folder / "run").predict_proba(plain["test_texts"])
        for folder in (both, tmp_path)
    )
    np.testing.assert_allclose(divided, alone, atol=1e-5)


def test_a_pickle_of_it_predicts_in_one_process(both: Path, said: list[dict[str, Any]]) -> None:
    plain = json.loads((both / "given.json").read_text())["toy"]
    for rank, one in enumerate(said):
        loaded = pickle.loads((both / f"rank-{rank}" / "classifier.pickle").read_bytes())
        assert loaded.config.backbone.device == "auto"
        np.testing.assert_allclose(shards.scores(loaded, plain), one["scores"], atol=1e-5)


def test_texts_that_differ_between_processes_are_refused(said: list[dict[str, Any]]) -> None:
    for one in said:
        assert one["others"].startswith(
            "expected the same texts and labels in every process, each of which sees to its part"
        )


def test_a_method_that_changes_the_backbone_is_refused(said: list[dict[str, Any]]) -> None:
    for one in said:
        by_name, by_copy = one["refusals"]
        assert by_name.endswith(
            "method.name: expected a method with virtual tokens, or 'probe', with backbone.device "
            "'shard', whose layers stay as they are, got 'full'; leave device out"
        )
        assert by_copy.endswith(
            "whole in this process, for a method that changes its weights or its mask, got it with "
            "device=shard; use a method with virtual tokens, or probe"
        )


# --- what is refused before weights are read ---------------------------------------------------


def test_one_process_is_refused(tiny_bert: Path) -> None:
    with pytest.raises(
        BackboneError,
        match="^expected several processes for device=shard, each of which holds a part of the "
        "weights, got one; start them with torchrun, or choose another device$",
    ):
        Backbone.load(BackboneOptions(name=str(tiny_bert), device="shard"))


def test_processes_with_a_gpu_beside_others_without_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ltuning.processes.gathered", lambda _: ["cuda", "cpu", "cuda", "cpu"])
    with pytest.raises(
        BackboneError,
        match="^expected a GPU for every process, or for none, with device=shard, got none for "
        "process 1, 3; start them on machines that are alike, or hide the GPUs of the others",
    ):
        sharding.device_type()


def test_processes_with_other_weights_or_another_precision_are_refused(
    bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [("torch.float32", "a"), ("torch.float32", "a"), ("torch.bfloat16", "a")]
    monkeypatch.setattr("ltuning.processes.gathered", lambda _: found)
    with pytest.raises(
        BackboneError, match=r"another precision, in process 2 than in process 0 \(torch.float32\)"
    ):
        sharding._check_alike(bert)


def test_a_whole_backbone_is_no_divided_one(bert: Backbone) -> None:
    options = {"backbone": {"name": bert.name, "device": "shard"}, "method": {"name": "prefix"}}
    with pytest.raises(ConfigError, match="expected a backbone that is divided over processes"):
        LabelClassifier(bert, config=Config.from_dict(options))


def test_windows_that_an_artifact_brings_are_refused_in_fit(plain: dict[str, Any]) -> None:
    made = LabelClassifier(method="prefix", options={"backbone.device": "shard"})
    data = dataclasses.replace(made.config.data, long_texts="windows")
    made.config = dataclasses.replace(made.config, data=data)
    with pytest.raises(ConfigError, match="data.long_texts: expected 'cut' with backbone.device"):
        made.fit(plain["texts"], plain["labels"])


@pytest.mark.parametrize("has_own", [True, False])
def test_lower_layers_are_kept_by_all_or_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, has_own: bool
) -> None:
    store: Any = object() if has_own else None
    monkeypatch.setattr("ltuning.processes.gathered", lambda own: [own, False])
    with caplog.at_level(logging.WARNING):
        assert LowerStore._of_all(store, 2) is None
    # Who has none himself has said so.
    assert ("no room in process 1" in caplog.text) == has_own
    monkeypatch.setattr("ltuning.processes.gathered", lambda own: [own, own])
    assert LowerStore._of_all(store, 2) is store


@pytest.mark.parametrize(
    ("options", "method", "message"),
    [
        (
            {},
            "full",
            "method.name: expected a method with virtual tokens, or 'probe', with backbone.device "
            "'shard', whose layers stay as they are, got 'full'; leave device out",
        ),
        (
            {},
            "auto",
            "method.name: expected a method with virtual tokens, or 'probe', with backbone.device "
            "'shard', got 'auto', which may choose one that changes the layers; name one",
        ),
        (
            {"backbone.quantize": "4bit"},
            "prefix",
            "backbone.quantize: expected weights in floats with device 'shard', got 4bit; leave "
            "one of them out",
        ),
        (
            {"data.long_texts": "windows"},
            "prefix",
            "data.long_texts: expected 'cut' with backbone.device 'shard', where all processes run "
            "as many texts at a time, got 'windows'; leave one of them out",
        ),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(
    options: dict[str, object], method: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        LabelClassifier(method=method, options={"backbone.device": "shard", **options})
    assert [str(problem) for problem in refused.value.problems] == [message]
