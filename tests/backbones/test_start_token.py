"""What stands before the texts of decoders whose tokenizers put nothing there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ltuning import Backbone, LabelClassifier
from ltuning.artifacts import store
from ltuning.config import BackboneOptions
from ltuning.errors import ArtifactError

from ..conformance.tiny import FAMILIES

START = "<|endoftext|>"
TEXTS = ["bread and soup", "team goal", "soup", "goal ball"]
LABELS = ["a", "b", "a", "b"]


@pytest.fixture(scope="module", params=["gpt2", "qwen2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: Any, _quiet_models: None) -> Path:
    """A decoder whose tokenizer puts nothing before a text: of whole words, and of bytes."""
    folder = Path(tmp_path_factory.mktemp("bare")) / request.param
    FAMILIES[request.param].save(folder)
    return folder


def loaded(folder: Path, **options: Any) -> Backbone:
    return Backbone.load(BackboneOptions(name=str(folder), **options))


def words(backbone: Backbone, *texts: str) -> list[str]:
    return list(backbone.tokenizer.convert_ids_to_tokens(backbone.tokenizer(*texts)["input_ids"]))


def test_a_text_and_a_pair_come_after_one_start_token(folder: Path) -> None:
    backbone, bare = loaded(folder), loaded(folder, start_token="none")
    assert (backbone.start_token, bare.start_token) == (START, None)
    assert words(backbone, TEXTS[0]) == [START, *words(bare, TEXTS[0])]
    assert words(backbone, *TEXTS[:2]) == [START, *words(bare, *TEXTS[:2])]
    assert words(backbone, "") == [START]
    assert backbone.tokenizer.num_special_tokens_to_add() == 1


def test_a_text_that_is_cut_keeps_it(folder: Path) -> None:
    short, bare = loaded(folder, max_length=3), loaded(folder, start_token="none")
    (tokens,) = short.tokenize([TEXTS[0]])
    whole = bare.tokenizer(TEXTS[0])["input_ids"]
    assert tokens["input_ids"] == [*short.tokenizer.convert_tokens_to_ids([START]), *whole[:2]]


def test_tokenizers_that_put_tokens_themselves_and_encoders_get_none(
    backbone: Backbone, tmp_path: Path
) -> None:
    # BERT, RoBERTa, and a Llama that begins with a token of its own.
    assert backbone.start_token is None


def test_without_a_document_token_it_is_the_begin_token(tmp_path: Path, folder: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for path in other.glob("*.json"):
        path.write_text(path.read_text().replace(START, "<begin>"))
    assert loaded(other).start_token is None
    path = other / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<begin>"}))
    backbone = loaded(other)
    assert backbone.start_token == "<begin>"
    assert words(backbone, TEXTS[2])[0] == "<begin>"


def test_a_begin_token_that_the_model_does_not_know_is_not_taken(
    tmp_path: Path, folder: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for path in other.glob("*.json"):
        path.write_text(path.read_text().replace(START, "<end>"))
    path = other / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<one more>"}))
    assert loaded(other).start_token is None


@pytest.fixture
def trained(folder: Path) -> LabelClassifier:
    return LabelClassifier(loaded(folder), method="probe", steps=2).fit(TEXTS, LABELS)


def test_a_saved_classifier_reads_texts_as_it_was_trained(
    trained: LabelClassifier, folder: Path, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path / "saved")
    again = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert again.backbone.start_token == START
    assert np.array_equal(again.scores(TEXTS), trained.scores(TEXTS))
    with pytest.raises(
        ArtifactError,
        match=r"^expected a backbone that reads texts after the token '<\|endoftext\|>', as the "
        r"classifier in '.*' was trained, got '.*', which reads texts alone; load it by its name "
        "with start_token=auto$",
    ):
        LabelClassifier.from_pretrained(
            tmp_path / "saved", backbone=loaded(folder, start_token="none")
        )


def test_one_of_before_there_was_a_start_token_reads_texts_alone(
    folder: Path, tmp_path: Path
) -> None:
    bare = loaded(folder, start_token="none")
    made = LabelClassifier(bare, method="probe", steps=2).fit(TEXTS, LABELS)
    saved = tmp_path / "saved"
    made.save_pretrained(saved)
    path = saved / "ltuning_config.json"
    fields = json.loads(path.read_text())
    del fields["backbone"]["start_token"], fields["config"]["backbone"]["start_token"]
    path.write_bytes(store.signed(fields))
    again = LabelClassifier.from_pretrained(saved)
    assert again.backbone.start_token is None
    assert np.array_equal(again.scores(TEXTS), made.scores(TEXTS))
    with pytest.raises(
        ArtifactError, match="which reads texts after the token .* start_token=none"
    ):
        LabelClassifier.from_pretrained(saved, backbone=loaded(folder))
