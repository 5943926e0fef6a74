"""Classifiers as ONNX files: every method, four families, and the same answers without torch."""

from __future__ import annotations

import dataclasses
import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltuning import LabelClassifier, MultilabelClassifier, TokenClassifier, onnx
from ltuning.artifacts import opened, store
from ltuning.backbones.backbone import Backbone
from ltuning.errors import ArtifactError, BackboneError, LabelError
from ltuning.exporting import export as exporting
from ltuning.sentences import Sentence

from ..conformance.tiny import FAMILIES

TOPICS = {
    "food": "apple bread cheese soup rice salt lemon sugar",
    "sport": "ball team goal race match player coach score",
    "travel": "train plane hotel ticket beach road map harbour",
}
LABELS = {"food": ["bread", "soup and salt"], "sport": ["ball and team"], "travel": ["the hotel"]}
NAMES = [*LABELS]
FILLERS = "the a of and is was it to in on with for"


def texts_of(number: int, seed: int, longest: int = 12) -> tuple[list[str], list[str]]:
    """Words of the topics in turn between fillers."""
    draw = random.Random(seed)
    labels = [NAMES[row % 3] for row in range(number)]
    words = [
        draw.choices(TOPICS[label].split(), k=3)
        + draw.choices(FILLERS.split(), k=draw.randint(0, longest))
        for label in labels
    ]
    return [" ".join(draw.sample(some, len(some))) for some in words], labels


TEXTS, TRUTH = texts_of(48, seed=1)
# Of other numbers and lengths than those with which a model is traced; some are cut.
OTHERS = [*texts_of(17, seed=2)[0], "", "ball", "apple the " * 60]


@pytest.fixture(scope="module")
def backbone_of(tmp_path_factory: pytest.TempPathFactory, load: Any) -> Callable[[str], Backbone]:
    """The tiny model of a family with few layers, as each takes its time; loaded once."""
    found: dict[tuple[str, int], Backbone] = {}

    def backbone(family: str, layers: int = 1) -> Backbone:
        if (family, layers) not in found:
            tiny = FAMILIES[family]
            types = tiny.options.get("layer_types", [])[:layers]
            depth = {"num_hidden_layers": layers, "n_layer": layers, "layer_types": types}
            options = {name: depth.get(name, value) for name, value in tiny.options.items()}
            small = dataclasses.replace(tiny, options=options)
            folder = tmp_path_factory.mktemp("small") / family
            found[family, layers] = load(small.save(folder))
        return found[family, layers]

    return backbone


def trained(
    door: type, backbone: Backbone, method: str, options: Any, *data: Any, steps: int = 2
) -> Any:
    """A front door, trained for a few steps at a high rate."""
    paths = {"training.per_device_train_batch_size": 4, "training.learning_rate": 1e-2, **options}
    labels = None if door is TokenClassifier else LABELS
    made = door(backbone, labels, method, steps=steps, options=paths)
    return made.fit(*data)


def saved(door: Any, folder: Path) -> tuple[opened.Opened, Any]:
    """A front door as `ltuning export` loads it."""
    door.save_pretrained(folder)
    read = exporting.exportable(opened.read(folder))
    return read, type(door).from_pretrained(read, backbone=door.backbone)


def exported(door: Any, folder: Path, **how: Any) -> Any:
    done = exporting.export(*saved(door, folder / "run"), folder / "onnx", **how)
    assert done.difference < 1e-4 and done.size == (folder / "onnx/model.onnx").stat().st_size
    assert {path.name for path in (folder / "onnx").iterdir()} == {
        "model.onnx",
        "tokenizer.json",
        "labels.json",
    }
    return onnx.load(folder / "onnx", threads=1)


def same(ours: Any, torchs: Any, texts: list[Any]) -> None:
    """Answers are the same for texts together and for one."""
    for some in (texts, texts[:1]):
        expected = torchs.predict_proba(some)
        np.testing.assert_allclose(ours.predict_proba(some), expected, rtol=0, atol=1e-4)
        assert list(ours.predict(some)) == list(torchs.predict(some))


@pytest.mark.parametrize(("family", "layers"), [("llama", 1), ("gpt2", 1), ("modernbert", 2)])
def test_families(family: str, layers: int, backbone_of: Any, tmp_path: Path) -> None:
    door = trained(LabelClassifier, backbone_of(family, layers), "lt-prefix", {}, TEXTS, TRUTH)
    same(exported(door, tmp_path), door, OTHERS)


def test_label_texts_that_are_read_apart_from_the_second_layer_on(
    backbone_of: Any, tmp_path: Path
) -> None:
    options = {"method.labels": "apart", "method.first_layer": 1}
    door = trained(LabelClassifier, backbone_of("bert", 2), "lt-prefix", options, TEXTS, TRUTH)
    ours = exported(door, tmp_path)
    same(ours, door, OTHERS)
    assert ours.description.branches == 4


@pytest.mark.parametrize(
    ("method", "family"), [("prompt", "bert"), ("lt-prompt", "roberta"), ("ls-unmask", "llama")]
)
def test_methods(method: str, family: str, backbone_of: Any, tmp_path: Path) -> None:
    door = trained(LabelClassifier, backbone_of(family), method, {}, TEXTS, TRUTH)
    same(exported(door, tmp_path), door, OTHERS)


def test_texts_out_of_scope_and_what_was_said_of_held_out_texts(
    backbone_of: Any, tmp_path: Path
) -> None:
    held_out = texts_of(60, seed=3)
    options = {"data.oos_label": "none"}
    data = (TEXTS, TRUTH, held_out)
    door = trained(LabelClassifier, backbone_of("bert"), "lt-prefix", options, *data)
    ours = exported(door, tmp_path)
    same(ours, door, OTHERS)
    assert ours.temperature_ == door.temperature_ != 1
    texts = held_out[0]
    surest = door.predict_proba(texts).max(1)
    between = float(np.sort(surest)[29:31].mean())
    said = list(ours.predict(texts, abstain=between))
    assert "none" in said and None in said
    assert said == list(door.predict(texts, abstain=between))
    new = texts_of(200, seed=4)[0]
    sets = ours.predict_sets(new, 0.8)
    assert sets == door.predict_sets(new, 0.8)
    assert [one[:1] == ["none"] for one in sets] == (ours.predict(new) == "none").tolist()
    assert ["none"] in [one[:1] for one in sets]
    assert ours.threshold_for(0.3) == door.threshold_for(0.3)


def test_several_labels_and_lora_in_the_weights(backbone_of: Any, tmp_path: Path) -> None:
    lists = [[label] if row % 4 else [] for row, label in enumerate(TRUTH)]
    backbone = backbone_of("bert")
    data = (TEXTS, lists, (TEXTS, lists))
    door = trained(MultilabelClassifier, backbone, "ls-lora", {}, *data)
    ours = exported(door, tmp_path)
    same(ours, door, OTHERS)
    assert ours.thresholds_.tolist() == door.thresholds_.tolist()
    assert not any("lora" in name for name, _ in backbone.model.named_parameters())


def test_labels_that_are_integers(backbone_of: Any, tmp_path: Path) -> None:
    numbers = [10 * NAMES.index(label) for label in TRUTH]
    made = LabelClassifier(backbone_of("bert"), None, "prefix", steps=2).fit(TEXTS, numbers)
    ours = exported(made, tmp_path)
    same(ours, made, OTHERS)
    assert ours.classes_.tolist() == [0, 10, 20] and ours.predict(["ball"]).dtype.kind == "i"


def test_words_of_long_sentences_of_a_whole_model(backbone_of: Any, tmp_path: Path) -> None:
    token_lists = [text.split() for text in TEXTS]
    tags = [["S-food" if word in TOPICS["food"] else "O" for word in row] for row in token_lists]
    door = trained(TokenClassifier, backbone_of("bert"), "full", {}, token_lists, tags, steps=20)
    ours = exported(door, tmp_path)
    sentences = [Sentence.of_text(text) for text in OTHERS]
    tables = (ours.probabilities(sentences), door.scorer().probabilities(sentences))
    for found, expected in zip(*tables, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    words = [text.split() for text in OTHERS]
    assert ours.predict_tags(words) == door.predict_tags(words)
    found, expected = ours.predict(OTHERS), door.predict(OTHERS)
    assert [[one.type for one in some] for some in found] == [
        [one.type for one in some] for some in expected
    ]
    assert any(expected) and ours.types_ == ("food",)


# --- what is refused ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probe(backbone_of: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A classifier of pairs in windows, and the folder that holds its `run` and its `onnx`."""
    folder = tmp_path_factory.mktemp("probe")
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    options = {"data.long_texts": "windows"}
    door = trained(LabelClassifier, backbone_of("bert"), "probe", options, pairs, TRUTH)
    exported(door, folder)
    return door, folder


def test_pairs_in_windows(probe: tuple[Any, Path]) -> None:
    door, folder = probe
    others = [("ball team", text) for text in OTHERS] + [(OTHERS[-1], "bread")]
    same(onnx.load(folder / "onnx", threads=1), door, others)


@pytest.fixture
def as_before(probe: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that is written is that of `probe`, without the time that it takes to trace it."""

    def copied(_: Any, __: Any, path: Path) -> tuple[str, ...]:
        shutil.copy(probe[1] / "onnx/model.onnx", path)
        return ("input_ids", "attention_mask", "token_type_ids")

    monkeypatch.setattr(exporting, "save_graph", copied)


def test_a_graph_that_says_other_things_than_torch_is_not_kept(
    probe: tuple[Any, Path], as_before: None, tmp_path: Path
) -> None:
    door, _ = probe
    other = trained(LabelClassifier, door.backbone, "probe", {}, TEXTS[:9], TRUTH[:9])
    with pytest.raises(
        ArtifactError,
        match=r"^expected a graph whose answers are torch's to 0.0001, got a difference of "
        r"\S+; nothing is written: this backbone cannot be exported with these versions of torch "
        r"and onnxscript$",
    ):
        exported(other, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_earlier_export_gives_way_whole_when_asked(
    probe: tuple[Any, Path], as_before: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door, _ = probe
    target = tmp_path / "onnx"
    exporting.export(*saved(door, tmp_path / "run"), target)
    for name in ("notes.txt", "README.md", "config.yaml"):
        (target / name).write_text("mine")
    ours = opened.read(tmp_path / "run")
    with pytest.raises(
        ArtifactError,
        match="^.*onnx holds an exported classifier already: choose another folder, or replace it "
        r"with --overwrite \(overwrite=True in Python\)$",
    ):
        exporting.export(exporting.exportable(ours), door, target)
    before = (target / "labels.json").stat().st_ino
    exporting.export(exporting.exportable(ours), door, target, overwrite=True)
    assert (target / "labels.json").stat().st_ino != before
    for name in ("notes.txt", "README.md", "config.yaml"):
        assert (target / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx", "run"]
    assert caplog.records == []
    with caplog.at_level(logging.ERROR):
        same(onnx.load(target, threads=1), door, OTHERS)


@pytest.mark.parametrize("name", ["ltuning_config.json", "notes.txt", "labels.json"])
def test_nothing_but_an_export_is_ever_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(
        ArtifactError,
        match="is not empty and holds no exported classifier, so it is "
        "never overwritten: choose another folder$".replace("(", r"\(").replace(")", r"\)"),
    ):
        store.check_exported(tmp_path, overwrite=True)


def test_what_is_read_apart_has_a_limit(
    probe: tuple[Any, Path], backbone_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MOST_BRANCHES", 3)
    options = {"method.labels": "apart"}
    door = trained(LabelClassifier, backbone_of("bert"), "lt-prefix", options, TEXTS, TRUTH)
    with pytest.raises(
        LabelError,
        match="^expected at most 3 label texts where each is read in a branch of its own, to "
        "export them, got 4; train lt-prefix with method.labels=together$",
    ):
        exported(door, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_slow_tokenizer_is_refused(
    probe: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, _ = probe
    monkeypatch.setattr(type(door.backbone.tokenizer), "is_fast", False)
    with pytest.raises(
        BackboneError,
        match="^expected of '.*' a tokenizer that can be saved as tokenizer.json, got a slow one; "
        "save it as a fast one beside the model, or choose another checkpoint$",
    ):
        exporting.export(*saved(door, tmp_path / "run"), tmp_path / "onnx")


def test_weights_in_few_bits_are_refused(probe: tuple[Any, Path]) -> None:
    read = opened.read(probe[1] / "run")
    backbone = dataclasses.replace(read.config.backbone, quantize="4bit")
    config = dataclasses.replace(read.config, backbone=backbone)
    with pytest.raises(
        BackboneError,
        match="^expected weights in floats to export, got those of backbone.quantize=4bit; train "
        "without it, and take --quantize int8 of the export$",
    ):
        exporting.exportable(dataclasses.replace(read, config=config))


def test_weights_of_8_bits(probe: tuple[Any, Path], as_before: None, tmp_path: Path) -> None:
    door, folder = probe
    whole = (folder / "onnx/model.onnx").stat().st_size
    ours = exported(door, tmp_path, int8=True)
    assert (tmp_path / "onnx/model.onnx").stat().st_size < whole
    found, expected = ours.predict_proba(OTHERS), door.predict_proba(OTHERS)
    difference = np.abs(found - expected).max()
    assert 1e-4 < difference < 0.2
