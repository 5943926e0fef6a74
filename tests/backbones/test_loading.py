from __future__ import annotations

import copy
import json
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoTokenizer,
    RobertaForMaskedLM,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.families import FAMILIES, Sizes, family_of
from ltuning.backbones.loading import fingerprint, meta_backbone
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError

from ..conformance.tiny import FAMILIES as CONFORMING
from ..conftest import TOPICS

Load = Callable[..., Backbone]


@pytest.fixture
def copy_of_bert(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "copy"))


@pytest.fixture
def copy_of_llama(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_backbone_is_loaded_by_its_name_alone(tiny_bert: Path) -> None:
    loaded = Backbone.load(str(tiny_bert))
    assert loaded.name == str(tiny_bert)
    assert loaded.options == BackboneOptions(name=str(tiny_bert))


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


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            GatedRepoError,
            "got: a gated model; accept its licence .* `hf auth login` or set HF_",
        ),
        (RepositoryNotFoundError, "got: no model of that name .*; check the name, and where"),
        (RevisionNotFoundError, "got: no such revision; give a branch, tag or commit"),
        (HfHubHTTPError, "got: There was a specific connection error when trying to load a/b"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, load: Load, error: Any, message: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)
    expected = "expected to find the configuration of the backbone 'a/b' on the hub or in its cache"
    with pytest.raises(BackboneError, match=f"^{expected}, {message}"):
        load(Path("a/b"))


def test_a_hub_id_without_a_network_is_refused(load: Load) -> None:
    with pytest.raises(
        BackboneError,
        match="'no/such' on the hub or in its cache, got: nothing in the cache and no connection "
        "to the hub; check the name and the network, unset HF_HUB_OFFLINE where it is set",
    ):
        load(Path("no/such"))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "expected a CUDA device for device=cuda:99, got a machine with 0 of them"),
        ("split", "expected a CUDA device for device=split, got a machine with 0 of them"),
        ("gpu", "expected a device such as auto, cpu, cuda, cuda:1, split or shard, got 'gpu'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_weights_are_read(
    copy_of_bert: Path, load: Load, monkeypatch: pytest.MonkeyPatch, device: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (copy_of_bert / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match=message):
        load(copy_of_bert, device=device)


# --- what is said once


def test_a_family_that_is_guessed_is_said(
    copy_of_llama: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(copy_of_llama, model_type="granite")
    load(copy_of_llama)
    assert caplog.messages == [
        "model type 'granite' has no row of its own: treated as a causal decoder with rotary "
        "positions; the self-test says whether that holds"
    ]


def test_an_encoder_that_is_guessed_is_said(
    copy_of_bert: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(copy_of_bert, model_type="ernie")
    load(copy_of_bert)
    assert "treated as an encoder with absolute positions" in caplog.text


def test_a_decoder_that_is_left_out_is_said(
    tiny_bert: Path, tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "t5"))
    config = T5Config(
        vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    load(folder)
    assert caplog.messages == [f"only the encoder of '{folder}' is used, its decoder is left out"]


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_a_trained_head_that_is_left_out_is_said(
    copy_of_bert: Path, load: Load, caplog: pytest.LogCaptureFixture, task: str
) -> None:
    edit_config(copy_of_bert, architectures=[f"BertFor{task}"])
    load(copy_of_bert)
    assert caplog.messages == [f"the head that '{copy_of_bert}' has (BertFor{task}) is left out"]


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_the_head_of_a_language_model_needs_no_word(
    copy_of_bert: Path, load: Load, caplog: pytest.LogCaptureFixture, architecture: str
) -> None:
    edit_config(copy_of_bert, architectures=[architecture])
    load(copy_of_bert)
    assert caplog.messages == []


# --- code that comes with a checkpoint


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(__file__).with_name("ran").touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(copy_of_llama: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkpoint of a model type and of classes that only its own code has."""
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (copy_of_llama / "own.py").write_text(CODE)
    edit_config(
        copy_of_llama,
        model_type="own",
        architectures=["OwnForCausalLM"],
        auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    )
    return copy_of_llama


def code_ran(folder: Path) -> bool:
    return any(folder.parent.rglob("ran"))


def test_code_of_a_checkpoint_is_refused(with_code: Path, load: Load) -> None:
    with pytest.raises(
        BackboneError,
        match="got: one that needs Python code which comes with it, and which would run on this "
        "machine with all your rights; .* allow it with the option "
        "backbone.trust_remote_code=true",
    ):
        load(with_code)
    assert not code_ran(with_code)


def test_code_of_a_checkpoint_runs_when_it_is_trusted(
    with_code: Path, load: Load, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "own", replace(FAMILIES["llama"], name="own"))
    backbone = load(with_code, trust_remote_code=True)
    assert code_ran(with_code)
    assert backbone.family.name == "own"
    assert torch.equal(backbone.encode(["the ball"])[0], llama.encode(["the ball"])[0])


def test_code_of_a_known_model_type_does_not_run_by_itself(with_code: Path, load: Load) -> None:
    edit_config(with_code, model_type="llama")
    assert load(with_code).family.name == "llama"
    assert not code_ran(with_code)


def test_an_unknown_builtin_name_is_refused(load: Load) -> None:
    with pytest.raises(
        BackboneError, match="expected 'builtin:minilm' or 'builtin:smollm2', got 'builtin:x'"
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


class Watched:
    """A tokenizer, and how many parts of texts that it cut off it has kept."""

    def __init__(self, tokenizer: Any):
        self.tokenizer, self.parts = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        encoded = self.tokenizer(*texts, **options)
        self.parts += sum(len(encoding.overflowing) for encoding in encoded.encodings)
        return encoded


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_pair_is_cut_as_the_tokenizer_would_cut_it(
    backbone: Backbone, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(backbone.tokenizer)
    monkeypatch.setattr(watched.tokenizer, "truncation_side", side)
    monkeypatch.setattr(backbone, "tokenizer", watched)
    first, second = (TOPICS[topic].split() * 4 for topic in ("food", "sport"))
    lengths = [1, 2, 5, 8, 9, 10, 30, 31]
    pairs = [(" ".join(first[:a]), " ".join(second[:b])) for a in lengths for b in lengths]
    for room in (5, 16, 17):
        got = backbone.tokenize(pairs, room)
        assert watched.parts == 0
        expected = watched.tokenizer(*zip(*pairs, strict=True), truncation=True, max_length=room)
        assert got == [{key: expected[key][row] for key in got[0]} for row in range(len(pairs))]


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_a_model_without_segments_gets_no_segment_ids(
    family: str, tmp_path: Path, load: Load
) -> None:
    backbone = load(CONFORMING[family].save(tmp_path / family))
    pair = [("the ball", "a hotel")]
    backbone.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    backbone.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A", pair="$A:0 $B:1", special_tokens=[]
    )
    (tokens,) = backbone.tokenize(pair)
    assert set(tokens["token_type_ids"]) == {0, 1}
    assert backbone.batch([tokens]).types is None
    with torch.no_grad():
        expected = backbone.forward(backbone.batch([{"input_ids": tokens["input_ids"]}]))
    torch.testing.assert_close(backbone.encode(pair)[0], expected)


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
    model, family = meta_backbone(BackboneOptions(name=str(tmp_path)))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    real = RobertaModel.from_pretrained(tiny_roberta, add_pooling_layer=False)
    assert sum(w.numel() for w in model.parameters()) == sum(w.numel() for w in real.parameters())
    assert family.name == "roberta"


def test_every_family_says_how_it_is_read() -> None:
    read = {name: (row.causal, row.positions) for name, row in FAMILIES.items()}
    assert read["bert"] == (False, "absolute")
    assert read["modernbert"] == (False, "rotary")
    assert read["t5"] == (False, "relative")
    assert read["gpt2"] == (True, "absolute")
    assert read["llama"] == (True, "rotary")
    assert read["bloom"] == (True, "relative")


def test_an_attention_without_a_twin_is_refused(tiny_llama: Path) -> None:
    model = AutoModel.from_pretrained(tiny_llama)
    model.config._attn_implementation_internal = "flash_attention_2"
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    with pytest.raises(BackboneError, match="attention sdpa or eager, got 'flash_attention_2'"):
        Backbone(model, tokenizer, name="mine")


def test_a_tokenizer_serves_one_thread_at_a_time(bert: Backbone) -> None:
    """It keeps its options: of two calls at once, one would be cut as the other asked."""
    others, both = threading.Event(), []

    class Watched:
        is_fast = True

        def __init__(self) -> None:
            self.inside = 0

        def __call__(self, *texts: Any, **options: Any) -> Any:
            self.inside += 1
            both.append(self.inside > 1)
            if self.inside > 1:
                others.set()
            others.wait(0.05)
            self.inside -= 1
            return bert.tokenizer(*texts, **options)

    watched = copy.copy(bert)
    watched.tokenizer = Watched()
    threads = [threading.Thread(target=watched.tokenize, args=(["the bread"],)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert both == [False, False, False]
