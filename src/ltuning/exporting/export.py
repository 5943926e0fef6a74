"""A trained classifier as a folder that `ltuning.onnx` reads, compared with torch first."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ltuning import onnx
from ltuning.artifacts import store
from ltuning.artifacts.opened import Opened
from ltuning.backbones.backbone import Backbone
from ltuning.config import TASK_FACTS
from ltuning.errors import ArtifactError, BackboneError, LabelError, MissingExtraError
from ltuning.exporting.graph import Graph, muted, save_graph
from ltuning.exporting.int8 import quantize_file
from ltuning.sentences import Sentence
from ltuning.texts import Text

# How far answers may be from torch's.
TOLERANCE = 1e-4
# Rows that the graph makes of one text, each as long as the text: see benchmarks/results/onnx.md.
MOST_BRANCHES = 32
_NEEDED = ("onnx", "onnxruntime", "onnxscript")
# Tokens of the two texts with which the model is traced.
_TRACED = 16
# Tokens of the texts with which graph and torch are compared, and texts of each length.
_LENGTHS, _EACH = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89), 2


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        difference: the largest one between its answers and torch's, before it was quantised.
        size: bytes of `model.onnx`.
    """

    difference: float
    size: int


def check_extra() -> None:
    """Refuse to begin without the optional libraries.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    if any(find_spec(name) is None for name in _NEEDED):
        raise MissingExtraError("`ltuning export`", "onnx")


def exportable(opened: Opened) -> Opened:
    """A saved classifier as it is to be loaded: in float32, on the CPU.

    Raises:
        BackboneError: one whose weights are in few bits.
    """
    config = opened.config
    if config.backbone.quantize is not None:
        raise BackboneError(
            f"expected weights in floats to export, got those of backbone.quantize="
            f"{config.backbone.quantize}; train without it, and take --quantize int8 of the export"
        )
    backbone = replace(config.backbone, dtype="float32", device="cpu")
    return replace(opened, config=replace(config, backbone=backbone))


def export(
    opened: Opened, door: Any, output: str | Path, *, int8: bool = False, overwrite: bool = False
) -> Exported:
    """Write a trained classifier as an ONNX file with its tokenizer and labels.

    The folder is written whole or not at all.

    Args:
        opened: the saved classifier; see `exportable`.
        door: the front door that it was loaded with, on the CPU in float32.
        output: the folder; made if it does not exist, with its parents.
        int8: whether weights are quantised to 8 bits.
        overwrite: replace an earlier export.

    Raises:
        ArtifactError: the folder cannot be written, or the graph says other things than torch: by
            more than 1e-4. What was there is still there.
        BackboneError: a backbone that cannot be exported; says why.
        LabelError: too many label texts that are read apart.
    """
    model = door.scorer().model
    backbone: Backbone = model.backbone
    _check_tokenizer(backbone)
    branches = 1 if model.one_pass else model.passes
    if branches > MOST_BRANCHES:
        raise LabelError(
            f"expected at most {MOST_BRANCHES} label texts where each is read in a branch of its "
            f"own, to export them, got {branches}; train lt-prefix with method.labels=together"
        )
    with store.replacing(output, lambda target: store.check_exported(target, overwrite)) as new:
        graph = Graph(model)
        texts = _texts_to_compare(backbone, opened)
        short = min(_TRACED, opened.fields["max_length"])
        batch = backbone.batch(backbone.tokenize(texts[-2:], short))
        inputs = save_graph(graph, batch, new / onnx.GRAPH)
        (new / onnx.TOKENIZER).write_text(_tokenizer_json(backbone), encoding="utf-8")
        described = _described(opened, door, inputs, branches)
        _write(new, described)
        with muted("ltuning"):  # some texts are longer than what is read
            difference = _compared(onnx.load(new, threads=1), door, texts)
        if int8:
            quantize_file(new / onnx.GRAPH)
            _write(new, described)
            onnx.load(new, threads=1)
        return Exported(difference, (new / onnx.GRAPH).stat().st_size)


def _check_tokenizer(backbone: Backbone) -> None:
    if not backbone.tokenizer.is_fast:
        raise BackboneError(
            f"expected of '{backbone.name}' a tokenizer that can be saved as tokenizer.json, got a "
            "slow one; save it as a fast one beside the model, or choose another checkpoint"
        )


def _tokenizer_json(backbone: Backbone) -> str:
    made = json.loads(backbone.tokenizer.backend_tokenizer.to_str())
    # Left from the last call; what is read decides.
    return json.dumps({**made, "truncation": None, "padding": None}, ensure_ascii=False)


def _described(
    opened: Opened, door: Any, inputs: tuple[str, ...], branches: int
) -> onnx.Description:
    """What `labels.json` says, less the checksums."""
    config, fields, facts = opened.config, opened.fields, TASK_FACTS[opened.config.task]
    backbone: Backbone = door.scorer().model.backbone
    tokenizer = backbone.tokenizer
    placeholder = backbone.tokenize([""])[0]["input_ids"]
    temperature = fields.get("temperature")
    scorer = door.scorer()
    return onnx.Description(
        task=config.task,
        labels=tuple(fields["labels"]),
        label_type=fields.get("label_type") or "text",
        inputs=inputs,
        padding_id=tokenizer.pad_token_id,
        empty_id=placeholder[0],
        max_length=fields["max_length"],
        truncation_side=tokenizer.truncation_side,
        long_texts=config.data.long_texts,
        batch_size=config.backbone.max_branches if facts.of_words else scorer.most_texts,
        branches=branches,
        pairs=fields.get("pairs"),
        temperature=1.0 if temperature is None else float(temperature),
        oos_label=config.data.oos_label,
        oos_threshold=fields.get("oos_threshold"),
        thresholds=tuple(fields["thresholds"]) if facts.several else None,
        scheme=fields["scheme"] if facts.of_words else None,
        text_column=config.data.text_column,
        text_pair_column=config.data.text_pair_column,
        answers=None if opened.answers is None else json.loads(opened.answers.to_json()),
        sha256={},
        ltuning_version=version("ltuning"),
    )


def _write(folder: Path, described: onnx.Description) -> None:
    """The description of the other two files, and all three flushed to the disk."""
    shas = {}
    for name in (onnx.GRAPH, onnx.TOKENIZER):
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())
            shas[name] = hashlib.file_digest(file, "sha256").hexdigest()
    store.write_text(folder / onnx.LABELS, replace(described, sha256=shas).to_json())


# --- compared with torch --------------------------------------------------------------------------


def _texts_to_compare(backbone: Backbone, opened: Opened) -> list[Text]:
    """Random words of the tokenizer in texts of many lengths; pairs for who was trained on them."""
    draw = np.random.default_rng(0)
    tokenizer = backbone.tokenizer
    special = {*tokenizer.all_special_ids}
    ids = [id_ for id_ in tokenizer.get_vocab().values() if id_ not in special]
    room = opened.fields["max_length"]
    # The last are longer than what is read.
    lengths = [length for length in _LENGTHS if length < room] + [room + 8]
    texts = [
        str(tokenizer.decode(draw.choice(ids, length).tolist()))
        for length in lengths
        for _ in range(_EACH)
    ]
    names = [text for several in opened.fields["labels"].values() for text in several][:8]
    if opened.fields.get("pairs"):
        return [(names[0], text) for text in texts]
    return ["", *names, *texts]


def _compared(
    exported: onnx.OnnxClassifier | onnx.OnnxTokenClassifier, door: Any, texts: Sequence[Text]
) -> float:
    """The largest difference between the answers of graph and torch.

    Raises:
        ArtifactError: more than `TOLERANCE`.
    """
    alone = texts[len(texts) // 2 :][:1]
    found = max(_difference(exported, door, some) for some in (texts, alone))
    if not found <= TOLERANCE:
        raise ArtifactError(
            f"expected a graph whose answers are torch's to {TOLERANCE:g}, got a difference of "
            f"{found:.1e}; nothing is written: this backbone cannot be exported with these "
            "versions of torch and onnxscript"
        )
    return found


def _difference(
    exported: onnx.OnnxClassifier | onnx.OnnxTokenClassifier, door: Any, texts: Sequence[Text]
) -> float:
    if isinstance(exported, onnx.OnnxTokenClassifier):
        sentences = [Sentence.of_text(str(text)) for text in texts]
        tables = (exported.probabilities(sentences), door.scorer().probabilities(sentences))
        return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(*tables, strict=True))
    ours, torchs = exported.scores(texts), door.scores(texts)
    # Scores too, as probabilities near 0 or 1 would hide what differs.
    of_scores = np.abs(ours - torchs).max() / max(1.0, np.abs(torchs).max())
    of_answers = np.abs(exported.predict_proba(texts) - door.predict_proba(texts)).max()
    return float(max(of_scores, of_answers))
