"""Saved classifiers that were changed and signed again: one clear error, or what was saved."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ltuning.artifacts import opened, store
from ltuning.backbones.backbone import Backbone
from ltuning.errors import ArtifactError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier

CONFIG, TENSORS = "ltuning_config.json", "adapter_model.safetensors"
LORA = f"lora/{TENSORS}"
METHODS = {
    "prefix": {"method": "prefix"},
    "lt-prefix": {"method": "lt-prefix"},
    "apart": {"method": "lt-prefix", "method__labels": "apart"},
    "ls-lora": {"method": "ls-lora"},
    "merged": {"method": "ls-lora", "merge": True},
    "full": {"method": "full"},
}
Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def saved(
    bert: Backbone, classifier: Callable[..., Any], toy: Any, tmp_path_factory: Any
) -> dict[str, Path]:
    """An artifact of each method; not to be changed."""
    found = {}
    for name, options in METHODS.items():
        made = classifier(bert, steps=1, **options).fit(toy.texts, toy.labels)
        found[name] = tmp_path_factory.mktemp("saved") / name
        made.save_pretrained(found[name])
    return found


@pytest.fixture
def changed(saved: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy that is changed and signed again, as one that was saved so."""

    def change(
        method: str,
        config: Change | None = None,
        tensors: Change | None = None,
        options: Change | None = None,
        file: str = TENSORS,
    ) -> Path:
        folder = Path(shutil.copytree(saved[method], tmp_path / "changed"))
        found = json.loads((folder / CONFIG).read_text())
        if tensors is not None:
            now = load_file(folder / file)
            tensors(now)
            save_file(now, folder / file)
        if options is not None:
            path = folder / "lora" / "adapter_config.json"
            given = json.loads(path.read_text())
            options(given)
            path.write_text(json.dumps(given))
        found["adapter_sha256"] = sha(folder / TENSORS)
        found["parts_sha256"] = {name: sha(folder / name) for name in found["parts_sha256"]}
        if config is not None:
            config(found)
        (folder / CONFIG).write_bytes(store.signed(found))
        return folder

    return change


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def put(path: str, value: Any) -> Change:
    """Sets `a.b`, or with `...` takes it out."""

    def change(found: dict[str, Any]) -> None:
        *sections, last = path.split("|")
        for section in sections:
            found = found[section]
        if value is ...:
            del found[last]
        else:
            found[last] = value

    return change


@pytest.mark.parametrize("method", METHODS)
def test_an_unchanged_copy_says_the_same(
    method: str, bert: Backbone, saved: dict[str, Path], changed: Callable[..., Path], toy: Any
) -> None:
    folders = (saved[method], changed(method))
    first, again = (LabelClassifier.from_pretrained(one, backbone=bert) for one in folders)
    assert np.array_equal(first.scores(toy.test_texts), again.scores(toy.test_texts))
    assert first.num_parameters == again.num_parameters
    assert first.config == again.config


def test_each_file_is_read_once(
    bert: Backbone, saved: dict[str, Path], reads: Callable[[Path], dict[str, int]]
) -> None:
    LabelClassifier.from_pretrained(saved["ls-lora"], backbone=bert)
    parts = ("lora/adapter_config.json", LORA)
    assert reads(saved["ls-lora"]) == dict.fromkeys((CONFIG, TENSORS, *parts), 1)


CONFIGS = {
    "no config": ("config", ..., "config: expected the options it was trained with, got nothing"),
    "an option that is none": (
        "config|backbone|max_length",
        "many",
        "config.backbone.max_length: expected an integer of 1 or more, got 'many'",
    ),
    "no fingerprint": (
        "backbone|fingerprint",
        ...,
        "backbone: expected a name, a fingerprint and a family, got {",
    ),
    "a method that is none": (
        "method",
        [1],
        r"method: expected options of a method, with its name, got \[1\]",
    ),
    "a method that there is not": ("method|name", "prefx", "method.name: expected one of 'prefix'"),
    "an open choice": (
        "method|pooling",
        None,
        "method.pooling: expected a value such as mean, got",
    ),
    "no rank": ("method|rank", None, "method.rank: expected a value such as 64, got none"),
    "a head of another method": (
        "method|head",
        "classes",
        "method.head: expected 'match' or 'binary' with method 'lt-prefix', got 'classes'",
    ),
    "a layer beyond the model": (
        "method|first_layer",
        9,
        "1 problem in the configuration: method.first_layer: expected a layer below 4, the "
        "backbone's layers, got 9",
    ),
    "labels that are none": ("labels", {"a": 1}, "labels: expected texts by the names of labels,"),
    "another number of labels": (
        "num_labels",
        10**9,
        "num_labels: expected 3, the number of labels, got 1000000000",
    ),
    "a length below 0": ("length", -1, "length: expected an integer of 0 or more, got -1"),
    "pairs or not": ("pairs", 1, "pairs: expected true, false or nothing, got 1"),
    "texts of no tokens": ("max_length", 0, "max_length: expected an integer of 1 or more, got 0"),
    "texts that are too long": (
        "max_length",
        65,
        "max_length: expected at most 64, the backbone's positions, got 65",
    ),
    "figures that are none": ("figures", {"test": 3}, "figures: expected sections of figures, got"),
    "another task": ("task", "tags", "task: expected 'classes', as in config, got 'tags'"),
}


@pytest.mark.parametrize("damage", CONFIGS)
def test_a_configuration_is_as_it_is_saved(
    damage: str, bert: Backbone, changed: Callable[..., Path]
) -> None:
    path, value, message = CONFIGS[damage]
    folder = changed("lt-prefix", config=put(path, value))
    with pytest.raises(
        ArtifactError,
        match=rf"^.*/changed/{CONFIG} does not hold what a saved classifier's does:\n  {message}"
        r"(.|\n)*\nrestore the file or train again$",
    ):
        LabelClassifier.from_pretrained(folder, backbone=bert)


# What older versions wrote of a label method that read labels apart: no `labels`, and perhaps that
# there is no shortlist.
OLDER: dict[str, dict[str, Any]] = {
    "off": {"shortlist": "off"},
    "none": {"shortlist": None},
    "without": {},
}


def as_older(wrote: dict[str, Any]) -> Change:
    def change(found: dict[str, Any]) -> None:
        for method in (found["method"], found["config"]["method"]):
            del method["labels"], method["label_tokens"]
            method.update(wrote)
        found["config"]["method"]["negatives"] = 1

    return change


@pytest.mark.parametrize("wrote", OLDER)
def test_an_older_artifact_has_its_labels_apart_and_says_the_same(
    wrote: str, bert: Backbone, saved: dict[str, Path], changed: Callable[..., Path], toy: Any
) -> None:
    expected = LabelClassifier.from_pretrained(saved["apart"], backbone=bert)
    loaded = LabelClassifier.from_pretrained(
        changed("apart", config=as_older(OLDER[wrote])), backbone=bert
    )
    assert loaded.resolved_config.method == expected.resolved_config.method
    assert np.array_equal(loaded.scores(toy.test_texts), expected.scores(toy.test_texts))
    # Trained again, it is what it was.
    assert loaded.config.method.labels == "apart"
    assert loaded.config.method.negatives == 1


@pytest.mark.parametrize(("shortlist", "words"), [("auto", "'auto'"), (5, "5")])
def test_an_older_artifact_with_a_shortlist_is_refused(
    shortlist: Any, words: str, bert: Backbone, changed: Callable[..., Path]
) -> None:
    folder = changed("apart", config=as_older({"shortlist": shortlist}))
    with pytest.raises(ArtifactError) as caught:
        LabelClassifier.from_pretrained(folder, backbone=bert)
    assert str(caught.value) == (
        f"{folder / CONFIG} does not hold what a saved classifier's does:\n"
        f"  method.shortlist: got {words}; this version of ltuning has no shortlists: train again, "
        "with the same labels and texts\n"
        "restore the file or train again"
    )


def test_all_that_is_wrong_is_said_at_once(changed: Callable[..., Path]) -> None:
    def change(found: dict[str, Any]) -> None:
        found.update(labels=3, length=None, max_length="x")

    with pytest.raises(ArtifactError) as caught:
        opened.read(changed("prefix", config=change))
    for name in ("labels: ", "length: ", "max_length: ", "num_labels: "):
        assert f"\n  {name}expected " in str(caught.value)


def test_what_training_no_longer_takes_still_loads(
    bert: Backbone, changed: Callable[..., Path]
) -> None:
    training = {"max_steps": 1, "no_such_option": True}
    folder = changed("prefix", config=put("config|training", training))
    assert LabelClassifier.from_pretrained(folder, backbone=bert).config.training == training


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(tensors) if tensors[name].dim() == 2)


def without(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[first(tensors)]


def with_another(tensors: dict[str, torch.Tensor]) -> None:
    tensors["strange"] = torch.zeros(1)


def narrower(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)][:, :-1].contiguous()


def of_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)] = tensors[first(tensors)].long()


def with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)][0, 0] = float("nan")


def huge(tensors: dict[str, torch.Tensor]) -> None:
    tensors[first(tensors)][0, 0] = 3e38


TENSOR_CHANGES = {
    without: r"none named ",
    with_another: r"one named strange, which it has not",
    narrower: r".* of shape \[.*\] for \[.*\]",
    of_integers: r".* of torch.int64 for torch.float32",
    with_nan: r"NaN, infinity or a number beyond 1e\+15 in ",
    huge: r"NaN, infinity or a number beyond 1e\+15 in ",
}


@pytest.mark.parametrize("change", TENSOR_CHANGES)
@pytest.mark.parametrize(
    ("method", "file"), [(method, TENSORS) for method in METHODS] + [("ls-lora", LORA)]
)
def test_tensors_are_those_of_the_method(
    method: str, file: str, change: Change, bert: Backbone, changed: Callable[..., Path]
) -> None:
    folder = changed(method, tensors=change, file=file)
    with pytest.raises(
        ArtifactError,
        match=f"^expected the tensors of (its method|LoRA of rank 12) in '.*/changed', got "
        f"({TENSOR_CHANGES[change]}|others;).*restore the folder from where it was first saved, or "
        "train again$",
    ):
        LabelClassifier.from_pretrained(folder, backbone=bert)


def test_precision_may_be_another(bert: Backbone, changed: Callable[..., Path], toy: Any) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    loaded = LabelClassifier.from_pretrained(changed("prefix", tensors=halve), backbone=bert)
    assert loaded.scores(toy.test_texts).dtype == np.float32


@pytest.mark.parametrize(
    ("option", "value"),
    [
        # A pattern that takes longer than anyone waits.
        ("target_modules", "(a+)+$"),
        ("target_modules", ["query", "LayerNorm"]),
        ("target_modules", None),
        ("r", 10**9),
        ("lora_alpha", "16"),
        ("use_dora", True),
        ("modules_to_save", ["pooler"]),
        ("rank_pattern", {"query": 3}),
        ("peft_type", "IA3"),
        ("no_such_option", 1),
    ],
)
def test_options_of_lora_are_those_of_the_method(
    option: str, value: Any, bert: Backbone, changed: Callable[..., Path]
) -> None:
    folder = changed("ls-lora", options=put(option, value))
    with pytest.raises(
        ArtifactError,
        match="^expected the options of LoRA as its method has them in '.*/changed', got "
        f"{option}=.* in lora/adapter_config.json; restore the folder from where it was first "
        "saved, or train again$",
    ):
        LabelClassifier.from_pretrained(folder, backbone=bert)


def test_a_rank_that_is_not_the_tensors_takes_no_memory(
    bert: Backbone, changed: Callable[..., Path]
) -> None:
    rank = 10**9
    folder = changed("ls-lora", config=put("method|rank", rank), options=put("r", rank))
    with pytest.raises(ArtifactError, match="^expected the tensors of LoRA of rank 1000000000 in "):
        LabelClassifier.from_pretrained(folder, backbone=bert)


def test_lora_is_read_from_what_has_a_checksum_and_never_from_a_pickle(
    bert: Backbone, changed: Callable[..., Path]
) -> None:
    folder = changed("ls-lora", config=put("parts_sha256", {}))
    torch.save({}, folder / "lora" / "adapter_model.bin")
    (folder / LORA).unlink()
    with pytest.raises(
        ArtifactError,
        match=r"^expected the file lora/adapter_config.json with its checksum \(parts_sha256\) in "
        "'.*/changed', got none; restore the folder",
    ):
        LabelClassifier.from_pretrained(folder, backbone=bert)


def test_thresholds_and_schemes_are_checked(
    bert: Backbone, tiny_bert: Path, toy: Any, tmp_path: Path
) -> None:
    several = MultilabelClassifier(bert, method="prefix", steps=1)
    several.fit(toy.texts, [[label] for label in toy.labels]).save_pretrained(tmp_path / "several")
    tagger = TokenClassifier(bert, method="probe", steps=1)
    tagger.fit([["bread", "ball"]] * 3, [["B-food", "O"]] * 3).save_pretrained(tmp_path / "tags")
    for door, name, key, value, message in (
        (MultilabelClassifier, "several", "thresholds", [0.5], "expected 3 numbers, one for each"),
        (TokenClassifier, "tags", "scheme", "IOB1", "expected IOB2 or BIOES, got 'IOB1'"),
    ):
        path = tmp_path / name / CONFIG
        path.write_bytes(store.signed(json.loads(path.read_text()) | {key: value}))
        with pytest.raises(ArtifactError, match=f"\n  {key}: {message}"):
            door.from_pretrained(tmp_path / name, backbone=bert)


ANSWERS = {"confidence": [0.5, 1.0], "right": [True, False], "true": [0.5, 0.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": [True]}, "expected lists of one length, from 1 to 5000, got {"),
        ({"right": [True, 1]}, "expected right of type bool, from 0 to 1, got {"),
        ({"true": [0.5, 1.5]}, "expected true of type float, from 0 to 1, got {"),
        ({"more": []}, "expected confidence, right, true, got {"),
    ],
)
def test_answers_and_a_temperature_are_checked(
    bert: Backbone, changed: Callable[..., Path], change: dict[str, Any], message: str
) -> None:
    folder = changed("prefix")
    path = folder / "calibration" / "answers.json"
    path.parent.mkdir()

    def sign(found: dict[str, Any], temperature: Any = 1.5) -> None:
        path.write_text(json.dumps(found))
        config = json.loads((folder / CONFIG).read_text())
        signed = config | {
            "parts_sha256": {"calibration/answers.json": sha(path)},
            "temperature": temperature,
        }
        (folder / CONFIG).write_bytes(store.signed(signed))

    sign(ANSWERS)
    loaded = LabelClassifier.from_pretrained(folder, backbone=bert)
    assert (loaded.temperature_, loaded.threshold_for(0.3)) == (1.5, (0.5, 1.0))
    sign(ANSWERS | change, 0)
    with pytest.raises(ArtifactError) as caught:
        LabelClassifier.from_pretrained(folder, backbone=bert)
    for said in (
        "temperature: expected a number from 0.05 to 20, got 0",
        f"calibration/answers.json: {message}",
    ):
        assert f"\n  {said}" in str(caught.value)


def test_an_artifact_of_before_has_no_temperature(
    bert: Backbone, changed: Callable[..., Path], toy: Any
) -> None:
    def as_before(found: dict[str, Any]) -> None:
        del found["temperature"], found["config"]["calibrate"]

    loaded = LabelClassifier.from_pretrained(changed("prefix", config=as_before), backbone=bert)
    assert loaded.temperature_ == 1
    assert "uncalibrated" not in loaded.evaluate(*toy.test)
