"""Exported classifiers, with a graph of a few lines: what is read, and what is done around it."""

from __future__ import annotations

import builtins
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from ltuning.errors import ArtifactError, ConfigError, DataError, MissingExtraError, ScoresError
from ltuning.onnx import Description, OnnxClassifier, OnnxTokenClassifier, is_exported, load

WORDS = ["[pad]", "[unk]", "[end]", "ball", "bread", "the"]
# What a token adds to the scores of two labels.
TABLE = np.array([[9, 9], [0, 0], [0, 0.5], [2, 0], [0, 2], [0.1, 0.1]], dtype=np.float32)


def write_graph(path: Path) -> None:
    """Scores are sums over the real tokens."""
    integers = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["real"]),
        helper.make_node("ReduceSum", ["real", "second"], ["scores"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(TABLE, "table"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "second"),
    ]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "sums", integers, [scores], constants)
    opset = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes an exported classifier; what is given goes into `labels.json`."""

    def write(**given: Any) -> Path:
        from tokenizers import Tokenizer, models, pre_tokenizers, processors

        write_graph(tmp_path / "model.onnx")
        ids = {word: place for place, word in enumerate(WORDS)}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[unk]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A [end]", pair="$A $B [end]", special_tokens=[("[end]", 2)]
        )
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        shas = {
            name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
            for name in ("model.onnx", "tokenizer.json")
        }
        facts: dict[str, Any] = {
            "task": "classes",
            "labels": ("sport", "food"),
            "inputs": ("input_ids", "attention_mask"),
            "padding_id": 0,
            "empty_id": 2,
            "max_length": 6,
            "batch_size": 2,
            "sha256": shas,
            "ltuning_version": "0",
        }
        (tmp_path / "labels.json").write_text(Description(**facts | given).to_json())
        return tmp_path

    return write


def test_answers_in_the_order_of_the_texts_whatever_they_are_batched_with(folder: Any) -> None:
    ours, done = OnnxClassifier(folder(temperature=2.0), threads=1), []
    texts = ["the bread the the", "ball", "", "bread ball ball", "ball ball ball"]
    assert list(ours.predict(texts, done.append)) == ["food", "sport", "food", "sport", "sport"]
    assert sum(done) == 5
    scores = [[0.3, 2.8], [2, 0.5], [0, 0.5], [4, 2.5], [6, 0.5]]
    np.testing.assert_allclose(ours.scores(texts), scores, rtol=1e-6)
    odds = np.exp(np.array(scores) / 2)
    np.testing.assert_allclose(ours.predict_proba(texts), odds / odds.sum(1, keepdims=True), 1e-6)
    assert ours.predict([]).shape == (0,)
    assert repr(ours).startswith("<OnnxClassifier of 2 labels from ")


def test_pairs_and_single_texts(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    ours = OnnxClassifier(folder(pairs=True))
    assert list(ours.predict([("ball", "the"), ("the", "bread")])) == ["sport", "food"]
    assert caplog.records == []
    ours.predict(["ball"])
    assert "trained on pairs of texts, and 1 of the 1 given are single texts" in caplog.text


def test_a_long_text_is_cut_or_read_in_windows(
    folder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = "ball " * 5 + "bread " * 15
    cut = OnnxClassifier(folder()).scores([long, "ball"])
    assert cut.tolist() == [[10, 0.5], [2, 0.5]]
    assert "1 of 2 texts is longer than the 6 tokens that the model reads" in caplog.text
    caplog.clear()
    whole = OnnxClassifier(folder(long_texts="windows")).scores([long, "ball"])
    assert caplog.records == [] and whole[1].tolist() == [2, 0.5]
    # Five windows or more share a quarter of their tokens: most say bread, the first says ball.
    assert whole[0, 1] > whole[0, 0] > 5
    left = OnnxClassifier(folder(truncation_side="left")).scores([long])
    assert left.tolist() == [[0, 10.5]]


def test_several_labels_from_their_thresholds_on(folder: Any) -> None:
    ours = OnnxClassifier(folder(thresholds=(0.6, 0.1), task="multilabel", label_type="text"))
    assert ours.predict(["ball", "bread", ""]) == [["sport", "food"], ["food"], ["food"]]
    assert ours.thresholds_.tolist() == [0.6, 0.1]
    with pytest.raises(
        DataError, match="^expected no abstain where several labels may apply; leave it out$"
    ):
        ours.predict(["ball"], abstain=0.5)


def test_labels_are_of_the_type_of_the_data(folder: Any) -> None:
    ours = OnnxClassifier(folder(labels=("1", "2"), label_type="integer"))
    assert ours.predict(["ball"]).tolist() == [1] and ours.classes_.tolist() == [1, 2]
    assert not hasattr(ours, "thresholds_")


def test_what_is_said_without_held_out_answers(folder: Any) -> None:
    ours = OnnxClassifier(folder())
    with pytest.raises(
        DataError,
        match="^expected a classifier that keeps its answers on held-out texts, got one without: "
        "train with validation texts, or calibrate it, and export it again$",
    ):
        ours.predict_sets(["ball"])


def test_texts_that_are_none(folder: Any) -> None:
    with pytest.raises(DataError, match="^expected a list of texts, got one text; write"):
        OnnxClassifier(folder()).predict("ball")


# --- folders that are refused ---------------------------------------------------------------------


def changed(folder: Path, **given: Any) -> Path:
    path = folder / "labels.json"
    content = json.loads(path.read_text()) | given
    del content["own_sha256"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    own = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps({**content, "own_sha256": own}))
    return folder


def test_labels_that_changed_places(folder: Any) -> None:
    path = folder() / "labels.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "labels": content["labels"][::-1]}))
    with pytest.raises(
        ArtifactError,
        match=r"it was changed since \(its content does not match own_sha256\); export the",
    ):
        load(path.parent)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"format": 2}, "expected 1 for format, got 2"),
        ({"labels": []}, "expected names of labels for labels, got []"),
        ({"max_length": 0}, "expected an integer of 1 or more for max_length, got 0"),
        ({"temperature": "1"}, "expected a number above 0 for temperature, got '1'"),
        ({"thresholds": [0.5]}, "expected 2 numbers for thresholds, got [0.5]"),
        ({"sha256": {}}, "expected checksums for sha256, got {}"),
        ({"answers": {"true": []}}, "expected JSON, got expected confidence, right, true"),
    ],
)
def test_a_description_that_is_none(folder: Any, given: Any, problem: str) -> None:
    place = changed(folder(), **given)
    with pytest.raises(ArtifactError) as caught:
        load(place)
    assert str(caught.value) == (
        f"{place / 'labels.json'} does not hold what `ltuning export` writes: {problem}; export "
        "the classifier again"
    )


def test_a_folder_without_the_files(folder: Any, tmp_path: Path) -> None:
    place = folder()
    assert is_exported(place)
    (place / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match="^cannot read .*tokenizer.json: .*No such file"):
        load(place)
    (place / "labels.json").unlink()
    assert not is_exported(place)
    with pytest.raises(ArtifactError, match="^cannot read .*labels.json: .*No such file"):
        load(place)


def test_a_run_folder_is_none(folder: Any) -> None:
    place = folder()
    (place / "labels.json").rename(place / "ltuning_config.json")
    with pytest.raises(
        ArtifactError,
        match="^expected a folder that `ltuning export` wrote, got a trained classifier in .*; "
        "write one with ltuning export .* --output DIR$",
    ):
        load(place)


def test_threads_that_are_none(folder: Any) -> None:
    with pytest.raises(ConfigError, match="threads: expected 1 or more, got -1"):
        load(folder(), threads=-1)


def test_a_file_that_was_changed(folder: Any) -> None:
    place = folder()
    graph = bytearray((place / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (place / "model.onnx").write_bytes(graph)
    with pytest.raises(
        ArtifactError,
        match=r"model.onnx was changed or damaged since it was exported \(its content does not "
        r"match sha256 in labels.json\): restore the file or export the classifier again$",
    ):
        load(place)


def test_a_file_that_is_no_graph(folder: Any) -> None:
    place = folder()
    (place / "model.onnx").write_bytes(b"none")
    shas = json.loads((place / "labels.json").read_text())["sha256"]
    changed(place, sha256=shas | {"model.onnx": hashlib.sha256(b"none").hexdigest()})
    with pytest.raises(ArtifactError, match="^cannot read .*model.onnx: .*; the file is whole"):
        load(place)


def test_a_graph_of_other_labels(folder: Any) -> None:
    with pytest.raises(
        ArtifactError,
        match="^expected a graph of input_ids, attention_mask that gives 3 scores in .*model.onnx, "
        "got one of input_ids, attention_mask that gives 2; export the classifier again$",
    ):
        load(folder(labels=("a", "b", "c")))


def test_a_classifier_of_texts_is_none_of_words(folder: Any) -> None:
    with pytest.raises(
        ArtifactError,
        match="^expected a folder for OnnxTokenClassifier, got a classifier of texts in .*; load "
        "it with OnnxClassifier$",
    ):
        OnnxTokenClassifier(folder())


def test_without_onnxruntime(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return own(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtraError,
        match=r"^an exported classifier needs an optional library: pip install 'ltuning\[onnx\]'$",
    ):
        load(folder())


def test_scores_that_are_no_numbers(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = OnnxClassifier(folder())
    monkeypatch.setattr(ours, "_session", _Broken())
    with pytest.raises(ScoresError, match="^expected finite scores, got NaN or infinity from"):
        ours.scores(["ball"])


class _Broken:
    def run(self, _: Any, __: Any) -> list[np.ndarray]:
        return [np.full((1, 2), np.nan)]


def test_nothing_is_logged_of_what_is_right(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="ltuning"):
        load(folder()).predict(["ball"])
    assert caplog.records == []
