#!/usr/bin/env python
"""Store a tiny artifact of every method and task, and what it says of a few texts.

tests/artifacts/test_stored.py loads them ever after. What is stored is what the library that is
imported writes, so it is run once for a version whose artifacts are in use:

    PYTHONPATH=CHECKOUT/src python scripts/store_artifacts.py tests/artifacts/stored/VERSION.zip.xz
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.multilabel_classifier import MultilabelClassifier
from ltuning.estimators.token_classifier import TokenClassifier

WORDS = "apple bread soup ball team goal train hotel map the a and to in 2 3 10"
SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    # A wide start: at the usual 0.02 a model of this size makes much the same of every text.
    "initializer_range": 0.3,
}
TEXTS = ["apple and bread", "the ball", "train to the hotel", "soup in a bread", "a team", "map"]
CLASSES = ["food", "sport", "travel"] * 2
SEVERAL = [["food"], ["sport"], ["travel"], ["food", "sport"], [], ["travel", "food"]]
LABELS = {"food": "bread", "sport": "ball and team", "travel": "the hotel"}
TWO_TEXTS = {"food": ["bread", "a soup"], "sport": ["team"], "travel": ["the hotel", "map"]}
ASKED = ["bread", "the team in a train", "apple to the ball and hotel"]
TAGS = [["B-food", "O", "B-food"], ["O", "B-sport"], ["B-travel", "O", "O", "B-travel"]]
TAGS += [["B-food", "O", "O", "B-food"], ["O", "B-sport"], ["B-travel"]]
DOORS = {
    "classes": LabelClassifier,
    "multilabel": MultilabelClassifier,
    "tags": TokenClassifier,
}


@dataclass(frozen=True)
class Case:
    """One artifact.

    Attributes:
        method: its name.
        family: of the backbone.
        options: of the method, `method.` left out.
        labels: as given to the front door.
        truth: of the training texts.
        recipe: `default` or `paper`.
        added: labels after training.
        pairs: whether each text is a pair.
    """

    method: str
    family: str = "bert"
    options: dict[str, Any] = field(default_factory=dict)
    labels: Any = None
    truth: Any = None
    recipe: str = "default"
    added: dict[str, str] | None = None
    pairs: bool = False


def of_texts(labels: Any) -> dict[str, Case]:
    """Artifacts of the tasks that score labels of texts."""
    few = {"rank": 4}
    added = {"tour": "a map"}
    cases = {
        "prefix": Case("prefix", options={"num_tokens": 2}),
        "prefix-llama": Case("prefix", "llama", {"num_tokens": 2, "start": "text"}),
        "prompt": Case("prompt", options={"num_tokens": 2, "start": "text"}),
        "prompt-llama": Case("prompt", "llama", {"num_tokens": 2}),
        "lt-prefix": Case("lt-prefix"),
        "lt-prefix-all-layers": Case("lt-prefix", options={**few, "first_layer": 0}),
        "lt-prefix-llama": Case("lt-prefix", "llama", few),
        "lt-prefix-mean": Case("lt-prefix", options={**few, "label_tokens": "mean"}),
        "lt-prefix-label-kv": Case("lt-prefix", "llama", {**few, "start": "label-kv"}),
        "lt-prefix-apart": Case("lt-prefix", options={**few, "labels": "apart"}),
        "lt-prefix-apart-label-kv": Case(
            "lt-prefix", "llama", {**few, "labels": "apart", "start": "label-kv"}
        ),
        "lt-prefix-room": Case("lt-prefix", options={**few, "num_tokens": 6}),
        "lt-prefix-two-texts": Case("lt-prefix", options=few, labels=TWO_TEXTS),
        "lt-prefix-apart-two-texts": Case(
            "lt-prefix", options={**few, "labels": "apart"}, labels=TWO_TEXTS
        ),
        "lt-prefix-added": Case("lt-prefix", options=few, added=added),
        "lt-prefix-pairs": Case("lt-prefix", options=few, pairs=True),
        "lt-prompt": Case("lt-prompt"),
        "lt-prompt-llama": Case("lt-prompt", "llama", {**few, "transform": "lowrank"}),
        "lt-prompt-binary": Case("lt-prompt", options={"head": "binary"}),
        "lt-prompt-two-texts": Case("lt-prompt", labels=TWO_TEXTS),
        "lt-prompt-added": Case("lt-prompt", added=added),
        "ls-lora": Case("ls-lora", options=few),
        "ls-lora-llama": Case("ls-lora", "llama", few),
        "ls-lora-merge": Case("ls-lora", options={**few, "merge": True}),
        "ls-lora-match": Case("ls-lora", options={**few, "head": "match"}),
        "ls-lora-pairs": Case("ls-lora", options=few, pairs=True),
        "ls-unmask": Case("ls-unmask", "llama", few),
        "ls-unmask-layers": Case("ls-unmask", "llama", {**few, "unmask_layers": "1"}),
        "ls-unmask-merge": Case("ls-unmask", "llama", {**few, "merge": True}),
        "probe": Case("probe"),
        "probe-max": Case("probe", "llama", {"pooling": "max"}),
        "probe-match": Case("probe", options={"head": "match"}, labels=TWO_TEXTS),
        "probe-match-added": Case("probe", options={"head": "match"}, added=added),
        "full": Case("full"),
        "full-llama": Case("full", "llama"),
        "prefix-paper": Case("prefix", recipe="paper"),
        "prompt-paper": Case("prompt", recipe="paper"),
        "lt-prompt-paper": Case("lt-prompt", recipe="paper"),
        "ls-lora-paper": Case("ls-lora", recipe="paper"),
    }
    return {name: with_truth(case, labels) for name, case in cases.items()}


def with_truth(case: Case, truth: Any) -> Case:
    """With what is said of the training texts, and label texts where it has none."""
    return Case(**{**vars(case), "truth": truth, "labels": case.labels or LABELS})


def every_case() -> dict[str, dict[str, Case]]:
    """By task and name."""
    integers = [10, 2, 3] * 2
    classes = of_texts(CLASSES) | {
        "lt-prefix-paper": Case("lt-prefix", labels=LABELS, truth=CLASSES, recipe="paper"),
        "lt-prefix-integers": Case("lt-prefix", options={"rank": 4}, truth=integers),
        "probe-booleans": Case("probe", truth=[True, False] * 3),
    }
    multilabel = of_texts(SEVERAL) | {
        "probe-integers": Case("probe", truth=[[1], [20], [], [1, 20], [20], [1]]),
    }
    # Read apart, as it has to be here.
    multilabel["lt-prefix-paper"] = Case(
        "lt-prefix", options={"labels": "apart"}, labels=LABELS, truth=SEVERAL, recipe="paper"
    )
    bioes = [[tag.replace("B-", "S-") for tag in tags] for tags in TAGS]
    few = {"rank": 4}
    tags = {
        "ls-lora": Case("ls-lora", options=few, truth=TAGS),
        "ls-lora-bioes": Case("ls-lora", options=few, truth=bioes),
        "ls-lora-merge": Case("ls-lora", options={**few, "merge": True}, truth=TAGS),
        "ls-lora-paper": Case("ls-lora", truth=TAGS, recipe="paper"),
        "ls-unmask": Case("ls-unmask", "llama", few, truth=TAGS),
        "ls-unmask-layers": Case("ls-unmask", "llama", {**few, "unmask_layers": "1"}, truth=TAGS),
        "ls-unmask-merge": Case("ls-unmask", "llama", {**few, "merge": True}, truth=TAGS),
        "probe": Case("probe", labels=["travel", "sport", "food"], truth=TAGS),
        "full": Case("full", truth=TAGS),
        "full-llama": Case("full", "llama", truth=TAGS),
    }
    return {"classes": classes, "multilabel": multilabel, "tags": tags}


def save_backbones(folder: Path) -> None:
    """Random models of two families, with tokenizers of a few words."""
    torch.manual_seed(0)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    template = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    size = save_tokenizer(folder / "bert", special, template)
    BertModel(BertConfig(vocab_size=size, **SIZES)).save_pretrained(folder / "bert")
    template = "[CLS] $A", "[CLS] $A $B"
    size = save_tokenizer(folder / "llama", special, template)
    config = LlamaConfig(
        vocab_size=size, num_key_value_heads=1, bos_token_id=2, eos_token_id=3, **SIZES
    )
    LlamaModel(config).save_pretrained(folder / "llama")


def save_tokenizer(folder: Path, special: list[str], template: tuple[str, str]) -> int:
    """The size of its vocabulary."""
    ids = {word: index for index, word in enumerate([*special, *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    single, pair = template
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(word, ids[word]) for word in special]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, sep_token="[SEP]", **names).save_pretrained(
        folder
    )
    return len(ids)


def trained(task: str, case: Case, backbone: Backbone) -> Any:
    """A classifier after a few steps that are large enough to be seen in every score."""
    options = {f"method.{name}": value for name, value in case.options.items()}
    # A tagger has to find something.
    steps, options["training.learning_rate"] = (60, 0.05) if task == "tags" else (4, 0.02)
    options["training.per_device_train_batch_size"] = 3
    door = DOORS[task](
        backbone, case.labels, case.method, recipe=case.recipe, steps=steps, options=options
    )
    texts: Any = [text.split() for text in TEXTS] if task == "tags" else TEXTS
    texts = [(text, "the map") for text in texts] if case.pairs else texts
    # Thresholds are fitted on validation texts.
    validation = (texts, case.truth) if task == "multilabel" else None
    door.fit(texts, case.truth, validation)
    return door.add_labels(case.added) if case.added else door


def answers(task: str, case: Case, door: Any) -> dict[str, Any]:
    """What a classifier says of a few texts, in what JSON can carry."""
    if task == "tags":
        sentences = [text.split() for text in ASKED]
        entities = [[vars(entity) for entity in found] for found in door.predict(ASKED)]
        tags = door.predict_tags(sentences)
        return {"texts": sentences, "types": [*door.types_], "tags": tags, "entities": entities}
    texts = [[text, "a goal"] for text in ASKED] if case.pairs else ASKED
    asked = [*map(tuple, texts)] if case.pairs else texts
    predicted = door.predict(asked)
    found = {
        "texts": texts,
        "classes": door.classes_.tolist(),
        "scores": door.scores(asked).tolist(),
        "predicted": predicted if task == "multilabel" else predicted.tolist(),
    }
    return found | ({"thresholds": door.thresholds_.tolist()} if task == "multilabel" else {})


def check(where: str, found: dict[str, Any]) -> None:
    """Refuse what would be the same whatever was loaded."""
    if "scores" in found:
        spread = torch.tensor(found["scores"]).std(dim=0).min()
        assert spread > 1e-3, f"{where}: the scores of texts differ by {spread:.1e}"
    else:
        assert any(found["entities"]), f"{where}: no entity is found"


def pack(folder: Path, archive: Path) -> None:
    """The files of a folder, without times; model cards are for people and left out."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != "README.md":
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                packed.writestr(entry, path.read_bytes())
    # Compressed as a whole: the files are much alike.
    archive.write_bytes(lzma.compress(content.getvalue(), preset=9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="to be written; answers.json goes inside")
    archive = parser.parse_args().archive
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    index: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="stored-") as temporary:
        folder = Path(temporary)
        save_backbones(folder / "backbones")
        backbones = {
            family: Backbone.load(BackboneOptions(name=str(folder / "backbones" / family)))
            for family in ("bert", "llama")
        }
        for task, cases in every_case().items():
            for name, case in cases.items():
                door = trained(task, case, backbones[case.family])
                where = f"{task}/{name}"
                door.save_pretrained(folder / where)
                found = answers(task, case, door)
                check(where, found)
                index[where] = {"backbone": f"backbones/{case.family}", **found}
        (folder / "answers.json").write_text(json.dumps(index), encoding="utf-8")
        pack(folder, archive)


if __name__ == "__main__":
    main()
