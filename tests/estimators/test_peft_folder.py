"""Folders that transformers and PEFT alone load."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ltuning.errors import ArtifactError, BackboneError
from ltuning.sentences import Sentence

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone

    from ..conftest import Toy

Make = Callable[..., Any]


@pytest.fixture
def texts_of(toy: Toy, classifier: Make) -> Make:
    """Trains a classifier of texts: `texts_of(llama, "ls-lora", bias=False)`."""

    def fit(backbone: Backbone, method: str = "ls-lora", **options: Any) -> Any:
        made = classifier(backbone, method, toy.names, steps=3, rate=1e-2, **options)
        return made.fit(toy.texts, toy.labels)

    return fit


@pytest.fixture
def tagger(toy: Toy) -> Make:
    """Trains a tagger whose entities are the words of a topic."""
    from ltuning.estimators.token_classifier import TokenClassifier

    def fit(backbone: Backbone) -> Any:
        words = [text.split() for text in toy.texts]
        draw = random.Random(0)
        tags = [[draw.choice(["O", "B-food"]) for _ in row] for row in words]
        options = {"training.learning_rate": 1e-2}
        return TokenClassifier(backbone, steps=3, options=options).fit(words, tags)

    return fit


def loaded(folder: Path, place: Path, of_words: bool = False) -> tuple[Any, Any]:
    """The model and the tokenizer, by transformers and PEFT alone."""
    import transformers
    from peft import PeftModel

    loader: Any = transformers.AutoModelForSequenceClassification
    if of_words:
        loader = transformers.AutoModelForTokenClassification
    config = transformers.AutoConfig.from_pretrained(folder)
    model = loader.from_pretrained(place, config=config)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        peft = PeftModel.from_pretrained(model, folder).eval()
    return peft, transformers.AutoTokenizer.from_pretrained(folder)


def test_a_decoder_s_scores_are_those_of_transformers_and_peft(
    texts_of: Make, llama: Backbone, tiny_llama: Path, toy: Toy, tmp_path: Path
) -> None:
    made = texts_of(llama, bias=False, pooling="last")
    made.save_peft(tmp_path / "peft")
    model, tokenizer = loaded(tmp_path / "peft", tiny_llama)
    assert model.config.id2label == dict(enumerate(toy.names))
    with torch.no_grad():
        batch = tokenizer(toy.test_texts, padding=True, return_tensors="pt")
        found = model(**batch).logits.numpy()
        with model.disable_adapter():
            without = model(**batch).logits.numpy()
    np.testing.assert_allclose(found, made.scores(toy.test_texts), atol=1e-5, rtol=0)
    assert np.abs(found - without).max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_scores_of_words_are_those_of_transformers_and_peft(
    family: str,
    tagger: Make,
    backbones: dict[str, Backbone],
    tiny_models: dict[str, Path],
    toy: Toy,
    tmp_path: Path,
) -> None:
    made = tagger(backbones[family])
    made.save_peft(tmp_path / "peft")
    model, tokenizer = loaded(tmp_path / "peft", tiny_models[family], of_words=True)
    assert model.config.id2label == {0: "O", 1: "B-food", 2: "I-food"}
    # In the tiny tokenizer every word is one token, after a first one that begins the text.
    words = [text.split() for text in toy.test_texts]
    batch = tokenizer(toy.test_texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).logits.softmax(-1).numpy()
    ours = made.scorer().probabilities([Sentence.of_tokens(row) for row in words])
    for row, table in enumerate(ours):
        np.testing.assert_allclose(found[row, 1 : 1 + len(table)], table, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "method", "options", "said"),
    [
        ("llama", "probe", {}, "method 'probe'; train with method ls-lora, without merge"),
        (
            "llama",
            "ls-lora",
            {"merge": True},
            "method 'ls-lora' with method.merge; train with method ls-lora, without merge",
        ),
        ("llama", "ls-lora", {"head": "match"}, "the head 'match'; train with method.head=classes"),
        (
            "llama",
            "ls-lora",
            {"bias": False},
            "the pooling 'mean'; train with method.pooling=last",
        ),
        (
            "llama",
            "ls-lora",
            {"pooling": "last"},
            "a head with a bias, and transformers' own of texts has none; train with "
            "method.bias=false",
        ),
        (
            "bert",
            "ls-lora",
            {"bias": False},
            "the encoder family 'bert', whose state transformers' own classifier of texts reads "
            "through another layer; train on a decoder",
        ),
    ],
)
def test_what_transformers_own_classifier_does_not_compute_is_refused(
    family: str,
    method: str,
    options: dict[str, Any],
    said: str,
    texts_of: Make,
    backbones: dict[str, Backbone],
    tmp_path: Path,
) -> None:
    made = texts_of(backbones[family], method, **options)
    with pytest.raises(ArtifactError) as refused:
        made.save_peft(tmp_path / "peft")
    assert str(refused.value) == (
        "expected a classifier that transformers and PEFT alone can compute, got "
        f"{said}; save_pretrained keeps any"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(
    tagger: Make, llama: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "notes.txt").write_text("mine")
    made = tagger(llama)
    with pytest.raises(ArtifactError, match="peft is not empty: choose another folder"):
        made.save_peft(tmp_path / "peft")
    assert [path.name for path in tmp_path.rglob("*")] == ["peft", "notes.txt"]
    made.save_peft(tmp_path / "new" / "peft")
    assert (tmp_path / "new" / "peft" / "adapter_config.json").is_file()


def test_a_model_with_another_layer_before_its_head_is_refused() -> None:
    from transformers import ModernBertConfig

    from ltuning.backbones.loading import own_head

    with pytest.raises(BackboneError) as refused:
        own_head(ModernBertConfig(), of_words=True)
    assert str(refused.value) == (
        "expected a classifier in transformers that is one linear map on the states of model type "
        "'modernbert', got one of head and classifier; choose another backbone"
    )


def test_a_head_without_bias_is_saved_and_loaded(
    texts_of: Make, llama: Backbone, toy: Toy, tmp_path: Path
) -> None:
    from ltuning.estimators.label_classifier import LabelClassifier

    made = texts_of(llama, bias=False)
    made.save_pretrained(tmp_path / "saved")
    found = LabelClassifier.from_pretrained(tmp_path / "saved", backbone=llama)
    np.testing.assert_array_equal(found.scores(toy.test_texts), made.scores(toy.test_texts))
    assert found._trained().model.adapter.head.bias is None  # type: ignore[union-attr]
