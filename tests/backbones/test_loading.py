from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import RobertaForMaskedLM, RobertaModel

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.families import FAMILIES, Sizes, family_of
from ltuning.backbones.loading import fingerprint, meta_backbone
from ltuning.errors import BackboneError

Load = Callable[..., Backbone]


@pytest.fixture
def copy_of_bert(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_an_unknown_family_is_refused_before_its_weights_are_read(
    tmp_path: Path, load: Load
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(
        BackboneError,
        match="^expected a backbone of one of the families bert, roberta, .*, smollm3, got model "
        "type 'whisper'; choose a checkpoint of ",
    ):
        load(tmp_path)


def test_a_family_spelt_wrong_gets_a_suggestion() -> None:
    with pytest.raises(BackboneError, match="got model type 'berd'; did you mean 'bert'"):
        family_of(SimpleNamespace(model_type="berd"))


def test_a_missing_folder_is_refused(tmp_path: Path, load: Load) -> None:
    with pytest.raises(
        BackboneError, match="expected a model folder with a config.json, got '.*nothing'"
    ):
        load(tmp_path / "nothing")


def test_a_folder_without_a_model_is_refused(tmp_path: Path, load: Load) -> None:
    with pytest.raises(BackboneError, match="expected a model folder with a config.json"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(copy_of_bert: Path, load: Load) -> None:
    for path in copy_of_bert.glob("*token*"):
        path.unlink()
    with pytest.raises(BackboneError, match="tokenizer of the backbone '.*copy' in that folder"):
        load(copy_of_bert)


def test_a_folder_without_weights_is_refused(copy_of_bert: Path, load: Load) -> None:
    (copy_of_bert / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="model of the backbone '.*copy' in that folder"):
        load(copy_of_bert)


def test_weights_that_are_cut_off_are_refused(copy_of_bert: Path, load: Load) -> None:
    weights = copy_of_bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BackboneError, match="model of the backbone '.*copy' in that folder"):
        load(copy_of_bert)


def test_a_broken_tokenizer_file_is_refused(copy_of_bert: Path, load: Load) -> None:
    (copy_of_bert / "tokenizer.json").write_text("{")
    with pytest.raises(BackboneError, match="tokenizer of the backbone '.*copy' in that folder"):
        load(copy_of_bert)


def test_an_unknown_builtin_name_is_refused(load: Load) -> None:
    with pytest.raises(
        BackboneError, match="expected 'builtin:minilm', the one builtin backbone, got 'builtin:x'"
    ):
        load(Path("builtin:x"))


def test_a_text_may_not_be_longer_than_the_positions(backbone: Backbone, load: Load) -> None:
    folder = Path(backbone.name)
    assert load(folder).max_length == 64
    assert load(folder, max_length=64).max_length == 64
    with pytest.raises(
        BackboneError,
        match="expected max_length of at most 64, the positions of '.*', got 65; give a smaller",
    ):
        load(folder, max_length=65)


def test_a_long_text_is_cut_to_its_room(backbone: Backbone) -> None:
    text = " ".join(["bread"] * 100)
    (whole,) = backbone.tokenize([text])
    (short,) = backbone.tokenize([text], max_length=7)
    assert len(whole["input_ids"]) == 64
    assert len(short["input_ids"]) == 7
    with torch.no_grad():
        assert torch.isfinite(backbone.forward(backbone.batch([whole]))).all()


@pytest.mark.parametrize("room", [1, 3])
def test_no_text_is_longer_than_the_room_that_was_asked_for(
    tiny_bert: Path, load: Load, room: int
) -> None:
    # Two tokens of a BERT text are special.
    try:
        backbone = load(tiny_bert, max_length=room)
    except BackboneError as error:
        assert "max_length" in str(error)
        return
    assert len(backbone.tokenize(["the bread ball"])[0]["input_ids"]) <= room


def test_a_text_beside_a_pair_is_tokenized_as_it_is_alone(backbone: Backbone) -> None:
    (alone,) = backbone.tokenize(["the bread"])
    beside, pair = backbone.tokenize(["the bread", ("the ball", "a hotel")])
    assert beside == alone
    assert pair == backbone.tokenize([("the ball", "a hotel")])[0]


def test_the_segments_of_a_pair_reach_the_model(bert: Backbone) -> None:
    batch = bert.batch(bert.tokenize([("the ball", "a hotel"), ("bread", "cheese")]))
    assert batch.types is not None
    assert batch.types.tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]
    expected = bert.model(
        input_ids=batch.ids, attention_mask=batch.mask, token_type_ids=batch.types
    )[0]
    torch.testing.assert_close(bert.forward(batch)[batch.mask], expected[batch.mask])


def test_a_label_text_longer_than_its_room_is_refused(backbone: Backbone) -> None:
    with pytest.raises(
        BackboneError,
        match="expected label texts of at most 32 tokens, got [0-9]+ for 'bread bread .*'; "
        "shorten the label text",
    ):
        backbone.encode_labels(["ball", " ".join(["bread"] * 40)])
    with pytest.raises(BackboneError, match="at most 3 tokens, got [456] for 'the ball team'"):
        backbone.encode_labels(["the ball team"], max_tokens=3)


def test_a_tokenizer_without_a_pad_token_gets_one_that_exists(llama: Backbone) -> None:
    assert llama.tokenizer.pad_token == "</s>"
    batch = llama.batch(llama.tokenize(["bread", "the ball team"]))
    assert batch.mask.tolist() == [[True, True, False, False], [True] * 4]


def test_a_tokenizer_without_any_special_token_is_refused(llama: Backbone) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
    with pytest.raises(
        BackboneError,
        match="expected the tokenizer of 'tiny' to have a pad, end, unknown or begin token",
    ):
        Backbone(llama.model, bare, name="tiny")


def test_the_fingerprint_is_the_same_in_float32_and_bfloat16(
    backbone: Backbone, load: Load
) -> None:
    half = load(Path(backbone.name), dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == backbone.fingerprint
    assert len(backbone.fingerprint) == 64


def test_the_fingerprint_tells_one_changed_weight(tiny_bert: Path, load: Load) -> None:
    backbone = load(tiny_bert)
    before = fingerprint(backbone.model)
    with torch.no_grad():
        backbone.model.encoder.layer[3].output.dense.weight[5, 7] += 0.5
    assert fingerprint(backbone.model) != before


def test_the_families_have_different_fingerprints(backbones: dict[str, Backbone]) -> None:
    assert len({backbone.fingerprint for backbone in backbones.values()}) == 3


def test_a_checkpoint_without_a_pooler_has_one_fingerprint(
    tiny_roberta: Path, tmp_path: Path, load: Load
) -> None:
    # As roberta-base: the checkpoint of a masked language model, which has no pooler to load.
    folder = shutil.copytree(tiny_roberta, tmp_path / "masked")
    RobertaForMaskedLM.from_pretrained(tiny_roberta).save_pretrained(folder)
    torch.manual_seed(1)
    first = load(folder).fingerprint
    torch.manual_seed(2)
    assert load(folder).fingerprint == first


def test_a_decoder_saved_with_its_tied_output_only_has_its_embedding(
    tiny_llama: Path, tmp_path: Path, load: Load
) -> None:
    # Tied weights are one tensor, which a checkpoint may hold under either of its names.
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "tied"))
    stored = load_file(folder / "model.safetensors")
    tied = {f"model.{name}": weight for name, weight in stored.items()}
    tied["lm_head.weight"] = tied.pop("model.embed_tokens.weight")
    save_file(tied, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, tie_word_embeddings=True, architectures=["LlamaForCausalLM"])
    assert torch.equal(words(load(folder)), words(load(tiny_llama)))


def test_a_checkpoint_that_lacks_weights_of_the_states_is_refused(
    copy_of_bert: Path, load: Load
) -> None:
    # transformers would draw them at random, anew at every load.
    stored = load_file(copy_of_bert / "model.safetensors")
    rest = {name: weight for name, weight in stored.items() if "layer.3." not in name}
    save_file(rest, copy_of_bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="encoder.layer.3"):
        load(copy_of_bert)


def words(backbone: Backbone) -> torch.Tensor:
    return backbone.model.get_input_embeddings().weight


def test_sizes_count_grouped_heads(backbones: dict[str, Backbone]) -> None:
    assert backbones["bert"].sizes == Sizes(layers=4, hidden=32, kv_heads=4, head_dim=8)
    assert backbones["roberta"].sizes == Sizes(layers=4, hidden=32, kv_heads=4, head_dim=8)
    assert backbones["llama"].sizes == Sizes(layers=4, hidden=32, kv_heads=2, head_dim=8)


def test_counting_needs_only_a_configuration(tiny_roberta: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_roberta / "config.json", tmp_path)
    model, family = meta_backbone(str(tmp_path))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    real = RobertaModel.from_pretrained(tiny_roberta, add_pooling_layer=False)
    assert sum(w.numel() for w in model.parameters()) == sum(w.numel() for w in real.parameters())
    assert family.name == "roberta"


def test_every_family_says_how_it_is_read() -> None:
    read = {name: (row.pooling, row.positions) for name, row in FAMILIES.items()}
    assert read["bert"] == ("mean", "absolute")
    assert read["modernbert"] == ("mean", "rotary")
    assert read["t5"] == ("mean", "relative")
    assert read["gpt2"] == ("last", "absolute")
    assert read["llama"] == ("last", "rotary")
    assert read["bloom"] == ("last", "relative")
