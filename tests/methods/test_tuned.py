"""LoRA, un-masking, probe and full fine-tuning, beside others on one backbone."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.families import FAMILIES
from ltuning.backbones.loading import fingerprint
from ltuning.config import Config, MethodOptions
from ltuning.errors import ArtifactError, BackboneError, ConfigError, DataError, LabelError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.methods.catalog import problems, resolve, training_defaults
from ltuning.methods.tuned import LORA, Tuned
from ltuning.methods.weight_methods import WEIGHT_METHODS

Make = Callable[..., LabelClassifier]
RATES = {"ls-lora": 1e-2, "ls-unmask": 1e-2, "probe": 5e-2, "full": 3e-3}


def fit(make: Make, backbone: Backbone, method: str, toy: Any, **options: Any) -> LabelClassifier:
    options.setdefault("rate", RATES[method])
    made = make(backbone, method, **options)
    return made.fit(toy.texts, toy.labels, toy.test)


@pytest.fixture(scope="module", params=WEIGHT_METHODS)
def trained(
    request: pytest.FixtureRequest, backbone: Backbone, classifier: Make, toy: Any
) -> LabelClassifier:
    """Every method on every family, with what a prefix classifier said before and says after."""
    if request.param == "ls-unmask" and not backbone.family.causal:
        pytest.skip("an encoder has no causal mask")
    before = {name: weight.clone() for name, weight in backbone.model.state_dict().items()}
    mark = fingerprint(backbone.model)
    other = classifier(backbone, "prefix").fit(toy.texts, toy.labels)
    scores = other.scores(toy.test_texts)
    made = fit(classifier, backbone, request.param, toy, steps=40)
    assert np.array_equal(other.scores(toy.test_texts), scores)
    for name, weight in backbone.model.state_dict().items():
        assert torch.equal(weight, before[name]), name
    assert backbone.model.state_dict().keys() == before.keys()
    assert fingerprint(backbone.model) == mark
    assert not any(weight.requires_grad for weight in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    return made


def test_it_learns(trained: LabelClassifier, toy: Any) -> None:
    # Chance is a third; a random model's frozen states say least.
    least = 0.45 if trained.config.method.name == "probe" else 0.75
    assert trained.evaluate(*toy.test)["accuracy"] >= least


def test_a_saved_classifier_loads_with_the_same_scores(
    trained: LabelClassifier, toy: Any, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path / "saved")
    loaded = LabelClassifier.from_pretrained(tmp_path / "saved")
    assert np.array_equal(loaded.scores(toy.test_texts), trained.scores(toy.test_texts))
    assert loaded.num_parameters == trained.num_parameters
    # What was loaded can be saved again.
    loaded.save_pretrained(tmp_path / "again")
    again = LabelClassifier.from_pretrained(tmp_path / "again", backbone=trained.backbone)
    assert np.array_equal(again.scores(toy.test_texts), trained.scores(toy.test_texts))


def test_no_label_comes_after_training(trained: LabelClassifier) -> None:
    with pytest.raises(LabelError, match="expected method 'lt-prefix' or 'lt-prompt' for labels"):
        trained.add_labels({"music": "a song"})


def test_padding_and_company_change_no_score(trained: LabelClassifier, toy: Any) -> None:
    alone = np.concatenate([trained.scores([text]) for text in toy.test_texts[:6]])
    np.testing.assert_allclose(trained.scores(toy.test_texts)[:6], alone, atol=1e-5, rtol=1e-5)


def test_the_trainable_parameters_are_those_of_the_table(
    backbones: dict[str, Backbone], classifier: Make, toy: Any
) -> None:
    """H 32, 4 layers; a Llama's values are 16 wide; three classes."""
    head, lora = 3 * 32 + 3, 4 * 12 * (32 + 32)
    narrow = 4 * 12 * (32 + 16)
    weights = {
        name: sum(weight.numel() for weight in backbone.model.parameters())
        for name, backbone in backbones.items()
    }
    expected = {
        ("bert", "ls-lora"): head + 2 * lora,
        ("bert", "probe"): head,
        ("bert", "full"): head + weights["bert"],
        ("llama", "ls-lora"): head + lora + narrow,
        ("llama", "ls-unmask"): head + lora + narrow,
        ("llama", "full"): head + weights["llama"],
    }
    found = {
        (family, method): fit(classifier, backbones[family], method, toy, steps=1).num_parameters
        for family, method in expected
    }
    assert found == expected


# --- PEFT -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ls-lora", "ls-unmask"])
def test_peft_alone_loads_the_lora_part(
    method: str, llama: Backbone, tiny_llama: Path, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    made = fit(classifier, llama, method, toy, steps=10)
    made.save_pretrained(tmp_path / "saved")
    base = AutoModel.from_pretrained(tiny_llama)
    base.config.is_causal = method == "ls-lora"
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        peft = PeftModel.from_pretrained(base, tmp_path / "saved" / LORA).eval()
    batch = llama.batch(llama.tokenize(toy.test_texts))
    adapter = made._trained().model.adapter
    assert not isinstance(adapter, torch.Tensor)
    with torch.no_grad():
        states = peft(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
        ours = adapter.hidden(batch)  # type: ignore[operator, union-attr]
    real = batch.mask
    torch.testing.assert_close(states[real], ours[real], atol=1e-5, rtol=1e-5)
    assert (states - llama.forward(batch))[real].abs().max() > 1e-2


def test_a_merged_artifact_says_the_same_without_peft(
    backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    scores = {}
    for merge in (None, True):
        made = fit(classifier, backbone, "ls-lora", toy, steps=10, merge=merge)
        folder = tmp_path / str(merge)
        made.save_pretrained(folder)
        assert (folder / LORA).exists() == (merge is None)
        loaded = LabelClassifier.from_pretrained(folder, backbone=backbone)
        names = [name for name, _ in loaded._trained().model.adapter.model.model.named_modules()]  # type: ignore[union-attr]
        assert any("lora" in name for name in names) == (merge is None)
        scores[merge] = loaded.scores(toy.test_texts)
    np.testing.assert_allclose(scores[None], scores[True], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["ls-lora", "ls-unmask"])
def test_a_merged_artifact_can_be_saved_again(
    method: str, backbone: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    if method == "ls-unmask" and not backbone.family.causal:
        pytest.skip("an encoder has no causal mask")
    made = fit(classifier, backbone, method, toy, steps=10, merge=True)
    made.save_pretrained(tmp_path / "first")
    first = LabelClassifier.from_pretrained(tmp_path / "first", backbone=backbone)
    first.save_pretrained(tmp_path / "second")
    second = LabelClassifier.from_pretrained(tmp_path / "second", backbone=backbone)
    scores = first.scores(toy.test_texts)
    np.testing.assert_allclose(scores, made.scores(toy.test_texts), atol=1e-5, rtol=1e-5)
    assert np.array_equal(second.scores(toy.test_texts), scores)
    assert first.num_parameters == second.num_parameters == made.num_parameters


def test_a_merged_artifact_without_its_weights_is_refused(
    llama: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    made = fit(classifier, llama, "ls-lora", toy, steps=1, merge=True)
    tuned = made._trained().model.adapter
    assert isinstance(tuned, Tuned)
    head = {name: weight for name, weight in tuned.tensors().items() if name.startswith("head.")}
    with pytest.raises(
        ArtifactError,
        match=r"^expected in '.*', an artifact with method.merge, the weights that LoRA was added "
        r"to \(weights\.\*\), got none; restore its tensors from where it was first saved",
    ):
        Tuned.load(llama, tuned.method, 3, head, {}, tmp_path)


def test_a_changed_lora_file_is_refused(
    llama: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    fit(classifier, llama, "ls-lora", toy, steps=1).save_pretrained(folder)
    sums = json.loads((folder / "ltuning_config.json").read_text())["parts_sha256"]
    lora = ["lora/adapter_config.json", "lora/adapter_model.safetensors"]
    assert sorted(sums) == ["calibration/answers.json", *lora]
    file = folder / LORA / "adapter_config.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"r": 12', b'"r": 13'))
    with pytest.raises(Exception, match="adapter_config.json was changed or damaged since"):
        LabelClassifier.from_pretrained(folder, backbone=llama)
    file.unlink()
    with pytest.raises(Exception, match="cannot read .*adapter_config.json"):
        LabelClassifier.from_pretrained(folder, backbone=llama)


def test_an_artifact_of_another_method_leaves_no_lora_behind(
    llama: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "saved"
    fit(classifier, llama, "ls-lora", toy, steps=1).save_pretrained(folder)
    fit(classifier, llama, "probe", toy, steps=1).save_pretrained(folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_model.safetensors",
        "calibration",
        "ltuning_config.json",
    ]


def test_two_on_one_backbone_do_not_meet(backbone: Backbone, classifier: Make, toy: Any) -> None:
    first = fit(classifier, backbone, "ls-lora", toy, steps=5)
    scores = first.scores(toy.test_texts)
    probe = fit(classifier, backbone, "probe", toy, steps=5)
    said = probe.scores(toy.test_texts)
    for method in ("ls-lora", "full"):
        fit(classifier, backbone, method, toy, steps=5, seed=1)
        assert np.array_equal(first.scores(toy.test_texts), scores)
        assert np.array_equal(probe.scores(toy.test_texts), said)


def test_the_same_seed_gives_the_same_and_a_resumed_run_ends_the_same(
    llama: Backbone, classifier: Make, toy: Any, tmp_path: Path
) -> None:
    class Interruption(Exception):
        pass

    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise Interruption

    often = {"training__save_steps": 4, "training__save_strategy": "steps", "steps": 8}
    for method in ("ls-lora", "full"):
        whole, same = (
            classifier(llama, method, rate=RATES[method], **often).fit(toy.texts, toy.labels)
            for _ in range(2)
        )
        assert np.array_equal(whole.scores(toy.test_texts), same.scores(toy.test_texts))
        cut, folder = classifier(llama, method, rate=RATES[method], **often), tmp_path / method
        with pytest.raises(Interruption):
            cut.fit(toy.texts, toy.labels, checkpoints=folder, callbacks=[Stop()])
        cut.fit(toy.texts, toy.labels, checkpoints=folder, resume=True)
        assert np.array_equal(whole.scores(toy.test_texts), cut.scores(toy.test_texts))


def test_checkpointing_changes_nothing(llama: Backbone, classifier: Make, toy: Any) -> None:
    scores = [
        fit(
            classifier, llama, "ls-unmask", toy, steps=4, dropout=0.0, unmask_layers="1-2",
            training__gradient_checkpointing=on,
        ).scores(toy.test_texts)
        for on in (False, True)
    ]  # fmt: skip
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-5, rtol=1e-5)


def test_dropout_is_on_in_training_only(bert: Backbone, classifier: Make, toy: Any) -> None:
    made = fit(classifier, bert, "ls-lora", toy, steps=5, dropout=0.5)
    adapter = made._trained().model.adapter
    batch = bert.batch(bert.tokenize(toy.test_texts))

    def differs() -> bool:
        with torch.no_grad():
            return not torch.equal(adapter.hidden(batch), adapter.hidden(batch))  # type: ignore[operator, union-attr]

    adapter.eval()
    assert not differs()
    adapter.train()
    assert differs()


def test_full_is_a_copy_in_float32(
    load: Callable[..., Backbone], tiny_bert: Path, classifier: Make, toy: Any
) -> None:
    backbone = load(tiny_bert, dtype="bfloat16")
    made = classifier(backbone, "full").fit(toy.texts, toy.labels)
    model = made._trained().model.adapter.model.model  # type: ignore[union-attr]
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert backbone.dtype == torch.bfloat16
    lora = classifier(backbone, "ls-lora").fit(toy.texts, toy.labels)
    assert np.isfinite(lora.scores(toy.test_texts)).all()


# --- options --------------------------------------------------------------------------------------


def test_every_option_has_a_value_that_fits() -> None:
    for name in WEIGHT_METHODS:
        for recipe in ("default", "paper"):
            given = MethodOptions(name=name, recipe=recipe)  # type: ignore[arg-type]
            chosen = resolve(given, FAMILIES["llama"], 6)
            assert chosen.pooling is not None
            assert problems(Config(method=chosen)) == []
            assert training_defaults(chosen)["learning_rate"] > 0
    lora = resolve(MethodOptions("ls-lora"), FAMILIES["llama"], 6)
    assert (lora.rank, lora.alpha, lora.dropout) == (12, 32, 0.1)
    assert (lora.pooling, lora.unmask_layers) == ("mean", None)
    paper = MethodOptions("ls-lora", recipe="paper")
    assert resolve(paper, FAMILIES["llama"], 6).pooling == "last"
    assert resolve(paper, FAMILIES["bert"], 6).pooling == "mean"
    free = resolve(MethodOptions("ls-unmask", unmask_layers="0,5"), FAMILIES["llama"], 6)
    assert (free.pooling, free.unmask_layers) == ("mean", "0,5")


@pytest.mark.parametrize(
    ("method", "sentences"),
    [
        (
            {"name": "probe", "rank": 3, "alpha": 1, "unmask_layers": "all"},
            [
                "method.rank: expected no such option with method 'probe', got 3; leave it out",
                "method.alpha: expected no such option with method 'probe', got 1; leave it out",
                "method.unmask_layers: expected no such option with method 'probe', got 'all'; "
                "leave it out",
            ],
        ),
        (
            {"name": "ls-lora", "labels": "together", "head": "binary", "num_tokens": 4},
            [
                "method.labels: expected no such option with method 'ls-lora', got 'together'; "
                "leave it out",
                "method.num_tokens: expected no such option with method 'ls-lora', got 4; leave "
                "it out",
                "method.head: expected 'classes' or 'match' with method 'ls-lora', got 'binary'",
            ],
        ),
        (
            {"name": "ls-lora", "head": "match", "bias": False},
            [
                "method.bias: expected with the head 'classes' and task 'classes' alone, got "
                "False; leave it out",
            ],
        ),
        (
            {"name": "lt-prefix", "merge": True, "bias": True, "dropout": 0.1},
            [
                "method.bias: expected no such option with method 'lt-prefix', got True; leave "
                "it out",
                "method.dropout: expected no such option with method 'lt-prefix', got 0.1; leave "
                "it out",
                "method.merge: expected no such option with method 'lt-prefix', got True; leave "
                "it out",
            ],
        ),
    ],
)
def test_an_option_that_the_method_lacks_is_refused(
    method: dict[str, Any], sentences: list[str]
) -> None:
    found = problems(Config.from_dict({"method": method}))
    assert sorted(map(str, found)) == sorted(sentences)


def test_what_cannot_be_trained_in_few_bits() -> None:
    few = {"quantize": "4bit"}
    for method, what in (
        ({"name": "full"}, "method 'full'"),
        ({"name": "ls-lora", "merge": True}, "method.merge"),
    ):
        (problem,) = problems(Config.from_dict({"method": method, "backbone": few}))
        assert str(problem) == (
            f"backbone.quantize: expected weights in floats for {what}, got 4bit; leave one of "
            "them out"
        )
    assert problems(Config.from_dict({"method": {"name": "ls-lora"}, "backbone": few})) == []


def test_a_checkpoint_that_is_quantised_already(
    load: Callable[..., Backbone], tiny_bert: Path, classifier: Make, toy: Any
) -> None:
    backbone = load(tiny_bert)
    backbone.config.quantization_config = {"quant_method": "gptq"}
    for method, options, what in (
        ("full", {}, "method 'full'"),
        ("ls-lora", {"merge": True}, "method.merge"),
    ):
        with pytest.raises(BackboneError, match=f"expected weights in floats for {what}, got qua"):
            classifier(backbone, method, **options).fit(toy.texts, toy.labels)


def test_an_encoder_has_no_mask_to_remove(bert: Backbone, classifier: Make, toy: Any) -> None:
    with pytest.raises(
        BackboneError,
        match="^expected a decoder for method 'ls-unmask', got the encoder family 'bert', which "
        "has no causal mask to remove; use method ls-lora$",
    ):
        classifier(bert, "ls-unmask").fit(toy.texts, toy.labels)


def test_a_layer_beyond_the_model_is_refused(llama: Backbone, classifier: Make, toy: Any) -> None:
    with pytest.raises(ConfigError, match="expected layers below 4, the backbone's layers, got 9"):
        classifier(llama, "ls-unmask", unmask_layers="2-9").fit(toy.texts, toy.labels)


def test_a_model_without_the_modules_for_lora(bert: Backbone, classifier: Make, toy: Any) -> None:
    from dataclasses import replace

    other = copy.copy(bert)
    other.family = replace(bert.family, lora=("nowhere",))
    with pytest.raises(
        BackboneError,
        match="expected modules named nowhere for LoRA in .* got none; use method probe or full",
    ):
        classifier(other, "ls-lora").fit(toy.texts, toy.labels)


def test_a_class_that_training_lacks_is_refused(llama: Backbone, classifier: Make) -> None:
    made = classifier(llama, "ls-lora", ["food", "sport", "travel"])
    with pytest.raises(DataError, match="expected validation labels that training has"):
        made.fit(["bread", "ball"], ["food", "sport"], (["road"], ["travel"]))
