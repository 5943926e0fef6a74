"""Tagging through the front door."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback

from ltuning.backbones.backbone import Backbone
from ltuning.backbones.loading import fingerprint
from ltuning.backbones.words import WordBatch, windows_of
from ltuning.config import Config
from ltuning.errors import ArtifactError, BackboneError, ConfigError, DataError, LabelError
from ltuning.estimators.label_classifier import LabelClassifier
from ltuning.estimators.token_classifier import Entity, TokenClassifier
from ltuning.sentences import Sentence
from ltuning.training.objectives import TagsObjective
from ltuning.training.trainer import AdapterTrainer, TrainingModel

from ..conformance.tiny import FAMILIES, WORDS
from ..conftest import FILLERS, TOPICS

Rows = tuple[list[list[str]], list[list[str]]]
FOOD, SPORT = TOPICS["food"].split(), TOPICS["sport"].split()
RATES = {"ls-lora": 1e-2, "ls-unmask": 1e-2, "probe": 5e-2, "full": 3e-3}


def rows(number: int, seed: int, longest: int = 12) -> Rows:
    """Words of two topics are entities; two of one topic, one after the other, are one."""
    draw = random.Random(seed)
    token_lists, tag_lists = [], []
    for _ in range(number):
        tokens: list[str] = []
        tags: list[str] = []
        while len(tokens) < longest - 3:
            words, type_ = draw.choice([(FOOD, "food"), (SPORT, "sport"), (FILLERS.split(), "")])
            chosen = draw.choices(words, k=draw.randint(1, 2))
            tokens += [*chosen, "the"]
            tags += [f"{'BI'[place]}-{type_}" if type_ else "O" for place in range(len(chosen))]
            tags.append("O")
        token_lists.append(tokens)
        tag_lists.append(tags)
    return token_lists, tag_lists


TRAINING, TEST = rows(40, seed=1), rows(15, seed=2)


def tagger(
    backbone: Any, method: str = "ls-lora", steps: int = 2, **options: Any
) -> TokenClassifier:
    paths = {name.replace("__", "."): value for name, value in options.items()}
    paths.setdefault("training.learning_rate", RATES[method])
    return TokenClassifier(backbone, None, method, steps=steps, options=paths)


@pytest.fixture(scope="module", params=["ls-lora", "ls-unmask", "probe", "full"])
def trained(request: pytest.FixtureRequest, backbone: Backbone) -> TokenClassifier:
    """Every method on every family; the backbone is as it was. Not to be changed."""
    if request.param == "ls-unmask" and not backbone.family.causal:
        pytest.skip("an encoder has no causal mask")
    mark = fingerprint(backbone.model)
    made = tagger(backbone, request.param, steps=120).fit(*TRAINING, TEST)
    assert fingerprint(backbone.model) == mark
    return made


def test_it_learns(trained: TokenClassifier) -> None:
    report = trained.evaluate(*TEST)
    assert report["f1"] >= (0.3 if trained.config.method.name == "probe" else 0.5)
    assert [row["label"] for row in report["per_class"]] == ["food", "sport"]
    assert trained.types_ == ("food", "sport")
    validation = trained.figures["validation"]
    assert validation["f1"] == pytest.approx(report["f1"])
    assert trained.figures["training"]["texts"] == 40


def test_accumulated_batches_are_one_of_their_size(
    bert: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AdapterTrainer, "_get_train_sampler", lambda *_: SequentialSampler(range(7))
    )
    # Of 1, 3, 5, ... words: a mean of the batches' means is not the mean over the words.
    sentences = [words[: 2 * row + 1] for row, words in enumerate(TRAINING[0][:7])]
    tags = [names[: len(words)] for names, words in zip(TRAINING[1], sentences, strict=False)]

    def weights(batch: int, parts: int) -> dict[str, torch.Tensor]:
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": parts}
        paths = {f"training__{name}": value for name, value in sizes.items()}
        rate = {"training__learning_rate": 0.1, "training__optim": "sgd"}
        made = tagger(bert, steps=2, method__dropout=0.0, **paths, **rate).fit(sentences, tags)
        return made._trained().model.adapter.state_dict()

    whole = weights(7, 1)
    for name, weight in weights(2, 4).items():
        torch.testing.assert_close(weight, whole[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("step", [4, 7])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(
    bert: Backbone, tmp_path: Path, step: int
) -> None:
    """Also after its last step, 7, which is in the middle of an epoch of 5."""

    class Interrupt(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    options = {"training__lr_scheduler_type": "constant", "training__save_steps": 1}
    options |= {"training__per_device_train_batch_size": 8, "method__dropout": 0.5}
    made = [tagger(bert, steps=7, **options) for _ in range(3)]
    made[0].fit(*TRAINING)
    with pytest.raises(KeyboardInterrupt):
        made[1].fit(*TRAINING, checkpoints=tmp_path, callbacks=[Interrupt()])
    made[2].fit(*TRAINING, checkpoints=tmp_path, resume=True)
    results = [made[place].result_ for place in (0, 2)]
    assert [result and result.steps for result in results] == [7, 7]
    whole, resumed = [made[place]._trained().model.adapter.state_dict() for place in (0, 2)]
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_a_checkpoint_in_the_names_of_before_is_taken_up(bert: Backbone) -> None:
    made = tagger(bert, "probe").fit(*TRAINING)
    model = TrainingModel(made._trained().model, TagsObjective(), 0)
    now = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert all(name.startswith("adapter.") for name in now)
    before = {name.replace("adapter.", "tuned."): weight + 1 for name, weight in now.items()}
    model.load_state_dict(before)
    assert all(torch.equal(model.state_dict()[name], weight + 1) for name, weight in now.items())


def test_a_saved_tagger_says_the_same(trained: TokenClassifier, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "saved")
    loaded = TokenClassifier.from_pretrained(tmp_path / "saved")
    texts = [" ".join(tokens) for tokens in TEST[0]]
    assert loaded.predict(texts) == trained.predict(texts)
    assert loaded.predict_tags(TEST[0]) == trained.predict_tags(TEST[0])
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "token-classification" in card and "TokenClassifier.from_pretrained" in card


def test_spans_are_those_of_the_tags(trained: TokenClassifier) -> None:
    tags = trained.predict_tags(TEST[0])
    found = trained.predict([" ".join(tokens) for tokens in TEST[0]])
    for tokens, several, predicted in zip(TEST[0], tags, found, strict=True):
        text = " ".join(tokens)
        assert len(several) == len(tokens)
        assert sum(tag.startswith("B-") for tag in several) == len(predicted)
        for entity in predicted:
            assert text[entity.start : entity.end] == entity.text
            assert 0 < entity.probability <= 1
            place = len(text[: entity.start].split())
            assert several[place] == f"B-{entity.type}"


def test_company_and_order_change_nothing(trained: TokenClassifier) -> None:
    sentences = [Sentence.of_tokens(tokens) for tokens in TEST[0]]
    together = trained.scorer().probabilities(sentences)
    for sentence, table in zip(sentences, together, strict=True):
        (alone,) = trained.scorer().probabilities([sentence])
        np.testing.assert_allclose(alone, table, atol=1e-5, rtol=1e-5)


def test_sentences_are_tagged_piece_by_piece(
    trained: TokenClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = [Sentence.of_tokens(tokens) for tokens in TEST[0]]
    sentences.insert(3, Sentence.of_text(""))
    expected = trained.scorer().probabilities(sentences)
    done: list[int] = []
    waiting: list[int] = []

    def watched(backbone: Backbone, some: Sequence[Sentence]) -> Any:
        # Whatever was tokenized before has its tags.
        assert sum(waiting) == sum(done)
        waiting.append(len(some))
        return windows_of(backbone, some)

    monkeypatch.setattr("ltuning.backbones.batch_sizes._TEXTS", 6)
    monkeypatch.setattr("ltuning.scoring.windows_of", watched)
    tables = trained.scorer().probabilities(sentences, done.append)
    assert waiting == [6, 6, 4] and sum(done) == 16
    for table, other in zip(tables, expected, strict=True):
        np.testing.assert_allclose(table, other, atol=1e-5, rtol=1e-5)


def test_the_scheme_of_the_training_tags_comes_back(llama: Backbone) -> None:
    names = {"B-food": "S-food", "B-sport": "S-sport"}
    singles = [[names.get(tag, "O") for tag in tags] for tags in TRAINING[1]]
    made = tagger(llama, steps=60).fit(TRAINING[0], singles)
    letters = {tag[0] for tags in made.predict_tags(TEST[0]) for tag in tags}
    assert "S" in letters and letters <= set("OSBIE")
    assert made.evaluate(TRAINING[0], singles)["num_entities"] > 0


def test_nothing_in_nothing_out(llama: Backbone) -> None:
    made = tagger(llama).fit(*TRAINING)
    assert made.predict([]) == [] and made.predict_tags([]) == []
    assert made.predict(["", " "]) == [[], []]
    assert made.predict_tags([[], ["the"]])[0] == []


# --- what only right context can solve ------------------------------------------------------------


def tags_of_the_next_word(number: int, seed: int) -> Rows:
    draw, words = random.Random(seed), WORDS.split()[:8]
    token_lists = [draw.choices(words, k=draw.randint(4, 9)) for _ in range(number)]
    # After the last word comes, so to say, the first one of the vocabulary.
    following = [[*tokens[1:], words[0]] for tokens in token_lists]
    return token_lists, [["B-x" if words.index(word) % 2 else "O" for word in f] for f in following]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3", "gemma3_text", "phi3"])
def test_the_next_word_is_seen_without_the_causal_mask(
    family: str, tmp_path: Path, load: Callable[..., Backbone]
) -> None:
    backbone = load(FAMILIES[family].save(tmp_path / family))
    tokens, truth = tags_of_the_next_word(60, seed=1)

    def right(method: str) -> float:
        made = tagger(
            backbone, method, steps=250, method__dropout=0.0,
            training__per_device_train_batch_size=32,
        ).fit(*tags_of_the_next_word(400, seed=0))  # fmt: skip
        pairs = zip(made.predict_tags(tokens), truth, strict=True)
        hits = [a == b for said, real in pairs for a, b in list(zip(said, real, strict=True))[:-1]]
        # Padding beside a sentence changes none of its states.
        tuned = made._trained().model.adapter
        windows = windows_of(backbone, [Sentence.of_tokens(words) for words in tokens[:8]])
        with torch.no_grad():
            together = tuned.score_words(WordBatch.of(backbone, windows))
            for window, scores in zip(windows, together, strict=True):
                alone = tuned.score_words(WordBatch.of(backbone, [window]))[0]
                assert (scores[: len(window.words)] - alone).abs().max() <= 1e-5 * alone.abs().max()
        return sum(hits) / len(hits)

    # Half of the words are followed by a word of each kind.
    assert right("ls-lora") <= 0.62
    assert right("ls-unmask") >= 0.99


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "llama"])
def test_every_word_of_a_long_sentence_is_read_once(
    family: str, tiny_models: dict[str, Path], load: Callable[..., Backbone]
) -> None:
    backbone = load(tiny_models[family], max_length=16)
    tokens = random.Random(0).choices(FILLERS.split(), k=100)
    windows = windows_of(backbone, [Sentence.of_tokens(["the"]), Sentence.of_tokens(tokens)])
    assert {window.sentence for window in windows} == {0, 1}
    long = [window for window in windows if window.sentence == 1]
    assert len(long) > 6
    assert sorted(word for window in long for word in window.words) == list(range(100))
    vocabulary = backbone.tokenizer.get_vocab()
    for window in long:
        ids = window.tokens["input_ids"]
        assert len(ids) <= 16
        assert [ids[place] for place in window.places] == [
            vocabulary[tokens[word]] for word in window.words
        ]
        # In the middle of the sentence, each word has some of it on both sides.
        inner = [p for w, p in zip(window.words, window.places, strict=True) if 5 < w < 95]
        assert all(1 < place < len(ids) - 2 for place in inner)


def test_a_long_sentence_is_tagged_as_its_parts(
    tiny_models: dict[str, Path], load: Callable[..., Backbone]
) -> None:
    made = tagger(load(tiny_models["llama"], max_length=12), steps=80)
    made.fit(*rows(20, seed=5, longest=60))
    tokens, tags = rows(5, seed=6, longest=60)
    assert made.evaluate(tokens, tags)["f1"] >= 0.8


def test_a_word_without_a_token_is_outside(bert: Backbone) -> None:
    # The tokenizer drops signs that it takes for spaces.
    sentence = Sentence.of_tokens(["the", "\u2028", "bread"])
    (window,) = windows_of(bert, [sentence])
    assert window.words == [0, 2]
    made = tagger(bert).fit(*TRAINING)
    assert made.predict_tags([["the", "\u2028", "bread"]])[0][1] == "O"


def test_a_slow_tokenizer_is_refused(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llama.tokenizer), "is_fast", False)
    with pytest.raises(
        BackboneError, match="a tokenizer that says where its tokens are in the text, for tags, got"
    ):
        tagger(llama).fit(*TRAINING)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lt-prefix", "lt-prompt", "prefix", "prompt"])
def test_methods_that_score_a_text_as_a_whole_are_refused(method: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TokenClassifier(method=method)
    assert [str(problem) for problem in caught.value.problems] == [
        "method.name: expected a method that gives every word a score ('ls-lora', 'ls-unmask', "
        f"'probe', 'full') with task 'tags', got '{method}', which scores a text as a whole"
    ]


def test_options_that_the_task_lacks_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TokenClassifier(
            labels=["O", "a b"],
            options={
                "method.pooling": "max",
                "data.shots": 3,
                "data.text_pair_column": "other",
                "data.empty_texts": "skip",
                "data.long_texts": "windows",
                "data.missing_labels": "skip",
                "stopping.metric": "mcc",
            },
        )
    assert sorted(str(problem) for problem in caught.value.problems) == [
        "data.empty_texts: task 'tags' skips no sentences; mend the rows and leave it out",
        "data.long_texts: task 'tags' reads every text in windows as it is; leave it out",
        "data.missing_labels: task 'tags' skips no sentences; mend the rows and leave it out",
        "data.shots: task 'tags' has no texts of one class to draw from; leave it out",
        "data.text_pair_column: task 'tags' has no pairs of texts; leave it out",
        "labels: expected types of entities, of one word each and not 'O', got 'O'; rename it",
        "labels: expected types of entities, of one word each and not 'O', got 'a b'; rename it",
        "method.pooling: task 'tags' reads every word and pools none, got 'max'; leave it out",
        "stopping.metric: expected 'loss' or 'f1' with task 'tags', got 'mcc'",
    ]
    with pytest.raises(ConfigError, match="expected 'loss', 'accuracy', 'macro_f1' or 'mcc'"):
        LabelClassifier(options={"stopping.metric": "f1"})


def test_texts_of_types_are_not_read_and_that_is_said(
    llama: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ltuning"):
        tagger(llama, labels=["food", "sport"], steps=1).fit(*TRAINING)
        assert not caplog.messages
        tagger(llama, labels={"food": "what one eats", "sport": ["sport"]}, steps=1).fit(*TRAINING)
    assert caplog.messages == [
        "no method reads texts of types of entities: those of 'food' have no effect; give the "
        "names alone"
    ]


def test_a_tagger_that_was_given_options_of_texts_is_still_loaded(
    llama: Backbone, tmp_path: Path
) -> None:
    made = tagger(llama, steps=1).fit(*TRAINING)
    made.config = made.config.with_set(["data.text_pair_column=other", "data.empty_texts=skip"])
    made.save_pretrained(tmp_path / "older")
    loaded = TokenClassifier.from_pretrained(tmp_path / "older", backbone=llama)
    assert loaded.config.data == made.config.data
    assert loaded.predict_tags(TEST[0]) == made.predict_tags(TEST[0])


def test_another_door_is_named(llama: Backbone, tmp_path: Path, toy: Any) -> None:
    with pytest.raises(ConfigError, match="task: expected 'classes' for LabelClassifier, got 'ta"):
        LabelClassifier(config=Config.from_dict({"task": "tags", "method": {"name": "probe"}}))
    tagger(llama).fit(*TRAINING).save_pretrained(tmp_path / "tags")
    with pytest.raises(ArtifactError, match="got one of task 'tags'; load it with TokenClassifier"):
        LabelClassifier.from_pretrained(tmp_path / "tags")
    made = LabelClassifier(llama, None, "probe", steps=1).fit(toy.texts, toy.labels)
    made.save_pretrained(tmp_path / "classes")
    with pytest.raises(ArtifactError, match="of task 'classes'; load it with LabelClassifier"):
        TokenClassifier.from_pretrained(tmp_path / "classes")


@pytest.mark.parametrize(
    ("tokens", "tags", "sentence"),
    [
        (
            [["a"], ["b", "c"]],
            [["O"], ["O"]],
            "training, row 2: expected a tag for each word, got 2 ",
        ),
        ([["a"], []], [["O"], []], "training, row 2: expected a sentence of one word or more"),
        (
            [["a"]],
            [["O"], ["O"]],
            "expected tags for each training sentence, got 1 sentences and 2",
        ),
        ([], [], "expected at least one training sentence, got none"),
        (["a b"], [["O", "O"]], "training, row 1: expected a list of words, got 'a b'; "),
        ("ab", ["O", "O"], "expected a list of sentences, got one text; write [words]"),
        ([["a", "b"]], [["O", "I-x"]], "training, row 1, word 2: expected an entity to begin with"),
        ([["a"]], [["O"]], "expected entities in the training tags, got O everywhere"),
    ],
)
def test_training_data_that_is_wrong(
    llama: Backbone, tokens: Any, tags: Sequence[Sequence[str]], sentence: str
) -> None:
    with pytest.raises(DataError) as caught:
        tagger(llama).fit(tokens, tags)
    assert str(caught.value).startswith(sentence)


def test_types_that_training_does_not_know(llama: Backbone) -> None:
    with pytest.raises(DataError, match="^validation, row 1: unknown type 'fod': expected one of"):
        tagger(llama).fit(*TRAINING, ([["bread"]], [["B-fod"]]))
    with pytest.raises(DataError, match="^training, row .*unknown type 'sport': .* 'food'"):
        TokenClassifier(llama, ["food"], steps=1).fit(*TRAINING)
    made = TokenClassifier(llama, ["food", "sport", "music"], steps=1).fit(*TRAINING)
    assert made.types_ == ("food", "sport", "music")
    with pytest.raises(DataError, match="^test, row 1: unknown type 'x'"):
        made.evaluate([["bread"]], [["B-x"]])


def test_what_is_predicted_must_be_texts_or_words(llama: Backbone) -> None:
    made = tagger(llama)
    with pytest.raises(LabelError, match="TokenClassifier.from_pretrained"):
        made.predict(["a"])
    made.fit(*TRAINING)
    with pytest.raises(DataError, match="expected a list of texts, got one text"):
        made.predict("a text")
    with pytest.raises(DataError, match="give texts, or lists of words to predict_tags"):
        made.predict([["a", "list"]])  # type: ignore[list-item]


def test_columns_and_generators_are_read_by_every_verb(llama: Backbone) -> None:
    pandas = pytest.importorskip("pandas")
    tokens, tags = (pandas.Series(column) for column in TRAINING)
    made = tagger(llama).fit(iter(TRAINING[0]), tags, (tokens, iter(TRAINING[1])))
    expected = tagger(llama).fit(*TRAINING, TRAINING)
    assert made.predict_tags(tokens) == expected.predict_tags(TRAINING[0])
    assert made.evaluate(tokens, (iter(row) for row in TRAINING[1])) == expected.evaluate(*TRAINING)
    texts = [" ".join(words) for words in TRAINING[0]]
    assert made.predict(pandas.DataFrame({"text": texts})) == expected.predict(texts)
    with pytest.raises(DataError, match="expected a list of texts, got dict; give a list"):
        made.predict({"text": texts})
    with pytest.raises(
        DataError, match=r"got half a character \('\\ud83d' at 0\) in the text at i"
    ):
        made.predict(["a", "\ud83d"])


def test_tags_that_are_no_texts_or_missing_are_refused(llama: Backbone) -> None:
    for what, fit in {
        "training": lambda tags: tagger(llama).fit([["a", "b"]], tags),
        "validation": lambda tags: tagger(llama).fit(*TRAINING, ([["a", "b"]], tags)),
    }.items():
        with pytest.raises(DataError, match=f"^{what}, row 1, word 2: expected a tag as text, su"):
            fit([["O", 3]])
        with pytest.raises(DataError, match=f"^{what}, row 1, word 2: expected a tag, got None, a"):
            fit([["O", None]])


def test_offsets_are_those_of_the_text(llama: Backbone) -> None:
    made = tagger(llama, steps=80).fit(*TRAINING)
    text = "  the bread\n(cheese) the  ball"
    (found,) = made.predict([text])
    assert all(isinstance(entity, Entity) for entity in found)
    assert {entity.text for entity in found} >= {"ball"}
    assert all(text[entity.start : entity.end] == entity.text for entity in found)
