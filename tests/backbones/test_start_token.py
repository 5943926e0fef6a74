"""What stands before the texts of decoders whose tokenizers put nothing there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from ltuning import Backbone, LabelClassifier
from ltuning.artifacts import store
from ltuning.config import BackboneOptions, Config
from ltuning.errors import ArtifactError, ConfigError

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
    backbone: Backbone,
) -> None:
    # BERT, RoBERTa, and a Llama that begins with a token of its own.
    assert backbone.starts_texts_as("none")
    assert backbone.start_token == ("<s>" if backbone.family.causal else None)
    assert words(backbone, "soup").count("<s>") <= 1


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
    _before_start_tokens(saved)
    again = LabelClassifier.from_pretrained(saved)
    assert again.backbone.start_token is None
    assert np.array_equal(again.scores(TEXTS), made.scores(TEXTS))
    with pytest.raises(
        ArtifactError, match="which reads texts after the token .* start_token=none"
    ):
        LabelClassifier.from_pretrained(saved, backbone=loaded(folder))


@pytest.fixture
def saved_with_it(folder: Path, tmp_path: Path) -> Path:
    """The same decoder with a tokenizer that was saved while it had the token put before texts."""
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    loaded(folder).tokenizer.save_pretrained(again)
    return again


def test_a_tokenizer_saved_with_the_token_reads_texts_as_it_did(
    trained: LabelClassifier, folder: Path, saved_with_it: Path, tmp_path: Path
) -> None:
    backbone = loaded(saved_with_it)
    assert words(backbone, TEXTS[0]) == words(loaded(folder), TEXTS[0])
    assert backbone.start_token == START and backbone.starts_texts_as("none")
    assert not loaded(folder).starts_texts_as("none")
    trained.save_pretrained(tmp_path / "saved")
    again = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=backbone)
    assert np.array_equal(again.scores(TEXTS), trained.scores(TEXTS))
    LabelClassifier(backbone, method="probe", steps=2).fit(TEXTS, LABELS).save_pretrained(
        tmp_path / "other"
    )
    other = LabelClassifier.from_pretrained(tmp_path / "other", backbone=loaded(folder))
    assert len(other.predict(TEXTS)) == 4
    bare = LabelClassifier(loaded(folder, start_token="none"), method="probe", steps=2)
    bare.fit(TEXTS, LABELS).save_pretrained(tmp_path / "bare")
    for same in (backbone, loaded(saved_with_it, start_token="none")):
        with pytest.raises(ArtifactError, match="reads texts alone, as .* which reads texts after"):
            LabelClassifier.from_pretrained(tmp_path / "bare", backbone=same)


def test_a_text_of_the_token_alone_does_not_hide_it(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    path = other / "tokenizer.json"
    fields = json.loads(path.read_text())
    # What is read where a word is not known, such as the text that the tokenizer is asked with.
    fields["model"]["unk_token"] = START
    path.write_text(json.dumps(fields))
    assert (loaded(other).start_token, loaded(other, start_token="none").start_token) == (
        START,
        None,
    )


def test_a_token_after_texts_is_none_before_them(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    FAMILIES["gpt2"].save(tmp_path)
    path = str(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {START}", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    tokenizer.save(path)
    backbone = loaded(tmp_path)
    assert words(backbone, "soup") == ["soup", START]
    assert backbone.start_token is None


def test_another_token_before_texts_is_refused(
    trained: LabelClassifier, folder: Path, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path / "saved")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for path in other.glob("tokenizer*.json"):
        path.write_text(path.read_text().replace(START, "<begin>"))
    path = other / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": "<begin>"}))
    with pytest.raises(
        ArtifactError,
        match="which reads texts after the token '<begin>'; load it with the tokenizer that it had "
        "then$",
    ):
        LabelClassifier.from_pretrained(tmp_path / "saved", backbone=loaded(other))


def test_one_of_before_goes_on_with_a_token_of_the_tokenizer_itself(tmp_path: Path) -> None:
    FAMILIES["llama"].save(tmp_path / "llama")
    made = LabelClassifier(loaded(tmp_path / "llama"), method="probe", steps=2).fit(TEXTS, LABELS)
    made.save_pretrained(tmp_path / "saved")
    _before_start_tokens(tmp_path / "saved")
    again = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=loaded(tmp_path / "llama"))
    assert np.array_equal(again.scores(TEXTS), made.scores(TEXTS))


def _before_start_tokens(saved: Path) -> None:
    """A saved classifier as it was written before there were start tokens."""
    path = saved / "ltuning_config.json"
    fields = json.loads(path.read_text())
    del fields["backbone"]["start_token"], fields["config"]["backbone"]["start_token"]
    path.write_bytes(store.signed(fields))


def test_separators_between_the_texts_of_a_pair_stay(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    other = Path(shutil.copytree(folder, tmp_path / "other"))
    path = str(other / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    number = tokenizer.token_to_id(START)
    tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=f"$A {START} $B:1", special_tokens=[(START, number)]
    )
    tokenizer.save(path)
    backbone = loaded(other)
    assert backbone.start_token is None
    assert words(backbone, *TEXTS[:2]).count(START) == 1


def test_a_backbone_made_by_hand_reads_texts_alone_and_so_does_what_it_saved(
    folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    made = LabelClassifier(Backbone(model, tokenizer, name=str(folder)), method="probe", steps=2)
    made.fit(TEXTS, LABELS).save_pretrained(tmp_path / "saved")
    again = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert again.backbone.start_token is None
    np.testing.assert_allclose(again.scores(TEXTS), made.scores(TEXTS), atol=1e-5)


def test_a_configuration_that_says_another_than_the_backbone_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="backbone.start_token: expected 'auto', as the loaded"):
        LabelClassifier(
            loaded(folder),
            config=Config(backbone=BackboneOptions(name=str(folder), start_token="none")),
        )


@pytest.mark.parametrize(
    ("labels", "added"),
    [("together", ["scale"]), ("apart", ["scale", "text_center", "label_center"])],
)
def test_a_checkpoint_of_before_heads_had_a_scale_goes_on(
    folder: Path, tmp_path: Path, labels: str, added: list[str]
) -> None:
    every = {"training.save_steps": 2, "training.save_strategy": "steps", "method.labels": labels}
    made = LabelClassifier(loaded(folder), steps=4, options=every)
    made.fit(TEXTS, LABELS, checkpoints=tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-4")
    path = tmp_path / "checkpoint-2" / "model.safetensors"
    tensors = load_file(path)
    for name in added:
        assert tensors.pop(f"adapter.head.{name}").shape == (32,)
    save_file(tensors, path, metadata={"format": "pt"})
    made.fit(TEXTS, LABELS, checkpoints=tmp_path, resume=True)
    head = made.scorer().model.adapter.head
    assert head.scale.eq(1).all()
    assert bool(head.text_center.any()) == (labels == "together")
