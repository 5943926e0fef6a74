"""What the front doors share: arguments, configurations and loaded backbones side by side."""

from __future__ import annotations

import inspect
import json
import pydoc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from huggingface_hub.utils import are_progress_bars_disabled

from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions, Config
from ltuning.errors import ConfigError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier


def problems(make: Callable[[], Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make()
    return [str(problem) for problem in caught.value.problems]


def saved_backbone(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "ltuning_config.json").read_text())
    options: dict[str, Any] = found["config"]["backbone"]
    return options


# --- what help tells ------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [LabelClassifier, MultilabelClassifier, TokenClassifier])
def test_help_of_a_front_door_tells_every_argument(door: type) -> None:
    told = pydoc.plain(pydoc.render_doc(door))
    told = " ".join(told.replace("|", " ").split())
    for name in ("__init__", "fit", "predict", "evaluate", "save_pretrained", "from_pretrained"):
        method = getattr(door, name)
        words = inspect.getdoc(method) or ""
        assert " ".join(words.split()) in told
        for argument in inspect.signature(method).parameters:
            assert argument == "self" or f"\n    {argument}: " in words, f"{name}: {argument}"


# --- what is given twice --------------------------------------------------------------------------


def test_arguments_beside_a_configuration_are_refused_every_one() -> None:
    given: dict[str, Any] = {
        "labels": ["a", "b"],
        "method": "prefix",
        "recipe": "default",
        "seed": 0,
        "epochs": 2.0,
        "steps": 3,
        "options": {"method.rank": 4},
    }
    paths = {"method": "method.name", "recipe": "method.recipe"}
    paths |= {"epochs": "training.num_train_epochs", "steps": "training.max_steps"}
    assert problems(lambda: LabelClassifier(config=Config(), **given)) == [
        f"{paths.get(name, name)}: expected it in the configuration, got {name}= beside config=; "
        "set it there, or leave config out"
        for name in given
    ]
    with pytest.raises(ConfigError, match="method.name: expected it in the configuration, got me"):
        TokenClassifier(config=Config.from_dict({"task": "tags"}), method="probe")
    with pytest.raises(ConfigError, match="seed: expected it in the configuration, got seed= bes"):
        MultilabelClassifier(config=Config.from_dict({"task": "multilabel"}), seed=7)


def test_a_backbone_beside_a_configuration_must_be_the_same(
    bert: Backbone, tiny_roberta: Path
) -> None:
    config = Config.from_dict({"backbone": {"name": bert.name}})
    assert problems(lambda: LabelClassifier(tiny_roberta, config=config)) == [
        f"backbone.name: expected '{bert.name}', as the configuration says, got '{tiny_roberta}' "
        "beside config=; set it there, or leave one of them out"
    ]
    assert LabelClassifier(bert.name, config=config).config == config
    assert LabelClassifier(bert, config=config).config == config
    other = replace(config, backbone=BackboneOptions(name="x", dtype="bfloat16", max_length=9))
    assert problems(lambda: LabelClassifier(bert, config=other)) == [
        f"backbone.{name}: expected {found!r}, as the loaded backbone has it, got {got!r} in the "
        "configuration; change it there, or load the backbone with these options"
        for name, found, got in [
            ("name", bert.name, "x"),
            ("dtype", "float32", "bfloat16"),
            ("max_length", 64, 9),
        ]
    ]
    computed = replace(config.backbone, dtype="float32", attention=bert.attention, max_length=64)
    assert LabelClassifier(bert, config=replace(config, backbone=computed)).backbone is bert


def test_options_that_say_an_argument_again_are_refused(bert: Backbone) -> None:
    options = {
        "method": {"name": "probe", "rank": 4},
        "seed": 3,
        "training.max_steps": 5,
        "backbone.dtype": "bfloat16",
        "backbone.device": "cpu",
    }
    made = lambda: LabelClassifier(bert, method="prefix", seed=2, steps=1, options=options)  # noqa: E731
    once = "expected it once, got it as {}= and in options; leave one out"
    loaded = "expected it where the backbone is loaded, got a loaded one; leave it out"
    assert {
        f"method.name: {once.format('method')}",
        f"seed: {once.format('seed')}",
        f"training.max_steps: {once.format('steps')}",
        f"backbone.dtype: {loaded}",
        f"backbone.device: {loaded}",
    } <= set(problems(made))


def test_a_section_of_options_keeps_what_the_arguments_say() -> None:
    options = {"method": {"rank": 4}, "training": {"learning_rate": 1e-3}}
    config = LabelClassifier(method="ls-lora", steps=3, options=options).config
    assert (config.method.name, config.method.rank) == ("ls-lora", 4)
    assert config.training == {"max_steps": 3, "learning_rate": 1e-3}


def test_options_of_files_are_refused_where_no_file_is_read() -> None:
    options = {"data.shots": 5, "data.text_column": "text", "data.empty_texts": "skip"}
    assert problems(lambda: LabelClassifier(options=options)) == [
        f"data.{name}: `ltuning train` reads files, fit is given what they hold; leave it out"
        for name in ("shots", "text_column")
    ]


# --- what is shown ------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [LabelClassifier, MultilabelClassifier, TokenClassifier])
def test_a_training_shows_its_steps_where_that_is_asked_for(
    door: Any, bert: Backbone, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if door is TokenClassifier:
        data: Any = ([["the", f"bread{row}"] for row in range(8)], [["O", "B-x"]] * 8)
    else:
        lists = [[name] for name in toy.labels]
        data = (toy.texts, lists if door is MultilabelClassifier else toy.labels)
    made = door(bert, None, "probe", steps=2)
    made.fit(*data)
    assert capsys.readouterr() == ("", "")
    made.fit(*data, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "training texts, 2 steps of" in err and "step 2 of 2: " in err


def test_loading_a_backbone_shows_no_bar_and_leaves_those_of_others(
    load: Callable[..., Backbone],
    tiny_bert: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transformers.logging, "_tqdm_active", True)
    was_disabled = are_progress_bars_disabled()
    load(tiny_bert)
    assert capsys.readouterr() == ("", "")
    assert transformers.logging.is_progress_bar_enabled()
    assert are_progress_bars_disabled() == was_disabled


# --- backbones that are given loaded --------------------------------------------------------------


def test_how_a_backbone_was_loaded_is_in_the_artifact_and_used_again(
    load: Callable[..., Backbone], tiny_bert: Path, toy: Any, tmp_path: Path
) -> None:
    chosen = {"revision": "pinned", "dtype": "bfloat16", "attention": "eager", "max_length": 16}
    made = LabelClassifier(load(tiny_bert, **chosen), None, "probe", steps=1)
    made.fit(toy.texts, toy.labels).save_pretrained(tmp_path / "saved")
    assert saved_backbone(tmp_path / "saved").items() >= chosen.items()
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert loaded.backbone.options == replace(
        BackboneOptions(name=str(tiny_bert), **chosen), device="auto"
    )
    assert np.array_equal(loaded.scores(toy.test_texts), made.scores(toy.test_texts))


def test_a_backbone_made_by_hand_says_what_it_is(bert: Backbone) -> None:
    by_hand = Backbone(bert.model, bert.tokenizer, name=bert.name, revision="pinned")
    options = LabelClassifier(by_hand).config.backbone
    assert (options.name, options.revision, options.dtype) == (bert.name, "pinned", "float32")


def test_what_a_classifier_shows_of_itself(bert: Backbone) -> None:
    assert repr(TokenClassifier()) == "<TokenClassifier ls-lora on builtin:minilm, not trained>"
    classifier = LabelClassifier(bert, method="probe", steps=1)
    classifier.fit(["bread", "ball"], ["food", "sport"], progress=False)
    assert repr(classifier) == (
        f"<LabelClassifier probe on {bert.name}, {classifier.num_parameters:,} trained parameters>"
    )


def test_a_relative_folder_is_found_from_elsewhere(
    tiny_bert: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bert.parent)
    named = LabelClassifier(tiny_bert.name, None, "probe", steps=1)
    given = LabelClassifier(
        Backbone.load(BackboneOptions(name=tiny_bert.name)), None, "probe", steps=1
    )
    by_config = LabelClassifier(config=Config(backbone=BackboneOptions(name=tiny_bert.name)))
    monkeypatch.chdir(tmp_path)
    for place, made in enumerate((named, given)):
        made.fit(toy.texts, toy.labels).save_pretrained(f"saved-{place}")
        assert saved_backbone(tmp_path / f"saved-{place}")["name"] == str(tiny_bert)
        loaded = LabelClassifier.from_pretrained(f"saved-{place}")
        assert np.array_equal(loaded.scores(toy.test_texts), made.scores(toy.test_texts))
    assert by_config.config.backbone.name == str(tiny_bert)


def test_a_revision_can_be_said_at_loading(
    bert: Backbone, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LabelClassifier(bert, None, "probe", steps=1).fit(toy.texts, toy.labels)
    pinned = replace(made.config.backbone, revision="first")
    made.config = replace(made.config, backbone=pinned)
    made.save_pretrained(tmp_path / "saved")
    asked = []

    def load(options: BackboneOptions) -> Backbone:
        asked.append((options.name, options.revision))
        return bert

    monkeypatch.setattr(Backbone, "load", load)
    LabelClassifier.from_pretrained(tmp_path / "saved")
    LabelClassifier.from_pretrained(tmp_path / "saved", revision="second")
    LabelClassifier.from_pretrained(tmp_path / "saved", backbone="team/copy")
    LabelClassifier.from_pretrained(tmp_path / "saved", backbone="team/copy", revision="third")
    assert asked == [
        (bert.name, "first"),
        (bert.name, "second"),
        ("team/copy", None),
        ("team/copy", "third"),
    ]
    assert problems(
        lambda: LabelClassifier.from_pretrained(
            tmp_path / "saved", backbone=bert, revision="second", device="cpu"
        )
    ) == [
        f"backbone.{name}: the backbone is loaded already; give it to Backbone.load"
        for name in ("revision", "device")
    ]
