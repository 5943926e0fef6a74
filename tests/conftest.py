"""Tiny random models of every family with a local tokenizer, and a toy data set."""

from __future__ import annotations

import builtins
import io
import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Where it is kept which models passed the self-test.
_CACHE = tempfile.TemporaryDirectory(prefix="ltuning-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# Heavy libraries are imported in the fixtures: most tests of this project need no model.
if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone
    from ltuning.backbones.frozen_model import TextBatch
    from ltuning.estimators.label_classifier import LabelClassifier

    from .hub_server import HubServer

# No part of the quick half, `pytest -m quick`: what trains, starts processes or tries every family.
LONG = (
    "backbones/test_masks.py",
    "backbones/test_precision.py",
    "artifacts/test_opened.py",
    "cli/test_add_labels.py",
    "cli/test_auto.py",
    "cli/test_calibrate.py",
    "cli/test_compare.py",
    "cli/test_demo.py",
    "cli/test_export.py",
    "cli/test_long_texts.py",
    "cli/test_main.py",
    "cli/test_multilabel.py",
    "cli/test_oos.py",
    "cli/test_predict.py",
    "cli/test_review.py",
    "cli/test_run_folder.py",
    "cli/test_tags.py",
    "cli/test_train.py",
    "conformance",
    "estimators/test_auto.py",
    "estimators/test_calibrated.py",
    "estimators/test_label_classifier.py",
    "estimators/test_long_texts.py",
    "estimators/test_scope.py",
    "estimators/test_multilabel_classifier.py",
    "estimators/test_peft_folder.py",
    "estimators/test_scikit_learn.py",
    "estimators/test_text_weights.py",
    "estimators/test_token_classifier.py",
    "exporting/test_export.py",
    "experiments/test_cells.py",
    "experiments/test_report.py",
    "experiments/test_table1.py",
    "experiments/test_tasks.py",
    "faults",
    "methods/test_tuned.py",
    "methods/test_tuned_families.py",
    "serving",
    "training/test_lower_store.py",
    "training/test_processes.py",
    "training/test_sharding.py",
    "training/test_trainer.py",
)

FAMILIES = ("bert", "roberta", "llama")
METHODS = ("prefix", "prompt", "lt-prefix", "lt-prompt")

TOPICS = {
    "food": "apple bread cheese soup rice salt lemon sugar",
    "sport": "ball team goal race match player coach score",
    "travel": "train plane hotel ticket beach road map harbour",
    "music": "song drum piano choir tune band violin chord",
}
# The topics of the toy's classes; no text of the last one is in its training texts.
TRAINED = ("food", "sport", "travel")
FILLERS = (
    "the a of and is was it to in on with for that this my your we they some any very quite not "
    "more less now then here there about one two three four five red blue green old new small "
    "large good bad early late never always again today"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        is_long = any(item.path.is_relative_to(folder / name) for name in LONG)
        if not is_long and item.get_closest_marker("slow") is None:
            item.add_marker("quick")


@dataclass(frozen=True)
class Toy:
    """Texts whose class is the topic of their words; unseen texts of the same kind beside them."""

    texts: list[str]
    labels: list[str]
    test_texts: list[str]
    test_labels: list[str]
    label_texts: dict[str, str]

    @property
    def names(self) -> list[str]:
        return list(self.label_texts)

    @property
    def test(self) -> tuple[list[str], list[str]]:
        return self.test_texts, self.test_labels


def _toy_rows(topics: Sequence[str], number: int, seed: int) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    texts, labels = [], []
    for row in range(number):
        label = topics[row % len(topics)]
        words = draw.choices(TOPICS[label].split(), k=3)
        words += draw.choices(FILLERS.split(), k=draw.randint(0, 6))
        draw.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


@pytest.fixture(scope="session")
def toy() -> Toy:
    texts, labels = _toy_rows(TRAINED, 48, seed=1)
    test_texts, test_labels = _toy_rows(TRAINED, 30, seed=2)
    # Label texts of different length, so that label padding is at work in every test.
    label_texts = {"food": "bread", "sport": "ball and team", "travel": "the hotel"}
    return Toy(texts, labels, test_texts, test_labels, label_texts)


def _save_tokenizer(folder: Path, special: Sequence[str], template: Any, **names: str) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    # The names of the topics come last: a label may have nothing but its name.
    words = [*special, *" ".join(TOPICS.values()).split(), *FILLERS.split(), *TOPICS]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=names["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template is not None:
        single, pair = template
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(word, vocabulary[word]) for word in special]
        )
    inputs = ["input_ids", "attention_mask"]
    if "[CLS]" in special:
        inputs.append("token_type_ids")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=inputs, **names
    ).save_pretrained(folder)
    return len(words)


def _save(folder: Path, model_class: type, config: Any, num_special: int) -> Path:
    """A random model, except that words of one topic have something in common."""
    import torch

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = model_class(config)
        words = model.get_input_embeddings().weight[num_special:]
        for topic, block in zip(TOPICS.values(), words.split(8), strict=False):
            assert len(block) == len(topic.split())
            block += 3 * config.initializer_range * torch.randn(config.hidden_size)
        model.save_pretrained(folder)
    return folder


# A wide start: at the usual 0.02 a model of this size makes much the same of every text.
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "initializer_range": 0.1,
}


class PowerCut(BaseException):
    """The end of the process: nothing after it runs, no clean-up either."""


class Faults:
    """Makes file operations fail: one, by its number; with a `PowerCut` all later ones too."""

    OPERATIONS = (
        (os, "mkdir"),
        (os, "rename"),
        (os, "replace"),
        (os, "fsync"),
        (os, "open"),
        (os, "write"),
        (os, "ftruncate"),
        (os, "unlink"),
        (os, "rmdir"),
        (shutil, "rmtree"),
        (shutil, "copymode"),
        (Path, "open"),
    )

    def __init__(self, number: int, error: BaseException):
        self.number, self.error, self.count = number, error, 0

    @property
    def struck(self) -> bool:
        return self.count > self.number

    def _wrap(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            due = self.count == self.number
            self.count += 1
            if due or (self.struck and isinstance(self.error, PowerCut)):
                raise self.error
            return operation(*args, **kwargs)

        return wrapped

    def during(self, action: Callable[[], Any]) -> None:
        import safetensors.torch

        with pytest.MonkeyPatch.context() as patch:
            for owner, name in (*self.OPERATIONS, (safetensors.torch, "save_file")):
                patch.setattr(owner, name, self._wrap(getattr(owner, name)))
            action()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, int]]:
    """How often files in a folder were opened since the test began, by their names there."""
    import safetensors.torch

    opened: Counter[str] = Counter()

    def counted(own: Callable[..., Any]) -> Callable[..., Any]:
        def open_counted(file: Any, *rest: Any, **named: Any) -> Any:
            opened[str(file)] += 1
            return own(file, *rest, **named)

        return open_counted

    for owner, name in ((io, "open"), (builtins, "open"), (safetensors.torch, "safe_open")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))

    def of(folder: Path) -> dict[str, int]:
        inside = {file: count for file, count in opened.items() if folder in Path(file).parents}
        return {str(Path(file).relative_to(folder)): count for file, count in inside.items()}

    return of


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A model hub on this machine, its owner logged in, and an empty cache."""
    from huggingface_hub import close_session, constants

    from .hub_server import TOKEN, HubServer

    server = HubServer()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    changed = {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HF_HUB_OFFLINE": False,
        # Its protocol is not that of the stand-in.
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in changed.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def _quiet_models() -> None:
    import gc

    import torch
    from transformers.utils import logging

    import ltuning.estimators.label_classifier  # noqa: F401 - so that it is there before the freeze

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    # A Trainer collects garbage as it starts; what the libraries hold need not be searched again.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, _quiet_models: None) -> Path:
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    size = _save_tokenizer(
        folder,
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    return _save(
        folder, BertModel, BertConfig(vocab_size=size, max_position_embeddings=64, **SIZES), 4
    )


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory, _quiet_models: None) -> Path:
    from transformers import RobertaConfig, RobertaModel

    folder = tmp_path_factory.mktemp("models") / "tiny-roberta"
    size = _save_tokenizer(
        folder,
        ["<s>", "<pad>", "</s>", "<unk>"],
        ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
    )
    # As published, two places more than tokens: positions start after the padding id.
    config = RobertaConfig(
        vocab_size=size, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **SIZES
    )
    return _save(folder, RobertaModel, config, 4)


@pytest.fixture(scope="session")
def save_tiny_llama(
    tmp_path_factory: pytest.TempPathFactory, _quiet_models: None
) -> Callable[[str | None], Path]:
    """Saves a Llama with grouped queries and no pad token; `begin` is put before every text."""
    from transformers import LlamaConfig, LlamaModel

    def save(begin: str | None) -> Path:
        folder = tmp_path_factory.mktemp("models") / "tiny-llama"
        template = None if begin is None else (f"{begin} $A", f"{begin} $A $B")
        size = _save_tokenizer(
            folder,
            ["<unk>", "<s>", "</s>"],
            template,
            unk_token="<unk>",
            bos_token="<s>",
            eos_token="</s>",
        )
        config = LlamaConfig(
            vocab_size=size,
            max_position_embeddings=64,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            **SIZES,
        )
        return _save(folder, LlamaModel, config, 3)

    return save


@pytest.fixture(scope="session")
def tiny_llama(save_tiny_llama: Callable[[str | None], Path]) -> Path:
    return save_tiny_llama("<s>")


@pytest.fixture(scope="session")
def tiny_models(tiny_bert: Path, tiny_roberta: Path, tiny_llama: Path) -> dict[str, Path]:
    return {"bert": tiny_bert, "roberta": tiny_roberta, "llama": tiny_llama}


@pytest.fixture(scope="session")
def load(_quiet_models: None) -> Callable[..., Backbone]:
    """Loads a folder: `load(folder, dtype="bfloat16")`."""
    from ltuning.backbones.backbone import Backbone
    from ltuning.config import BackboneOptions

    def load_folder(folder: Path, **options: Any) -> Backbone:
        return Backbone.load(BackboneOptions(name=str(folder), **options))

    return load_folder


@pytest.fixture(scope="session")
def backbones(tiny_models: dict[str, Path], load: Callable[..., Backbone]) -> dict[str, Backbone]:
    """One backbone of each family. Frozen, so the whole test run shares them."""
    return {family: load(folder) for family, folder in tiny_models.items()}


@pytest.fixture(scope="session", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, backbones: dict[str, Backbone]) -> Backbone:
    return backbones[request.param]


@pytest.fixture(scope="session")
def bert(backbones: dict[str, Backbone]) -> Backbone:
    return backbones["bert"]


@pytest.fixture(scope="session")
def llama(backbones: dict[str, Backbone]) -> Backbone:
    return backbones["llama"]


@pytest.fixture(scope="session")
def pad(_quiet_models: None) -> Callable[..., TextBatch]:
    """Pads token ids by hand: `pad([[5, 6], [7]], side="left", extra=2)`."""
    import torch

    from ltuning.backbones.frozen_model import TextBatch

    def padded(rows: Sequence[Sequence[int]], side: str = "right", extra: int = 0) -> TextBatch:
        width = max(map(len, rows)) + extra
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, tokens in enumerate(rows):
            place = slice(0, len(tokens)) if side == "right" else slice(width - len(tokens), width)
            ids[row, place] = torch.tensor(tokens)
            mask[row, place] = True
        return TextBatch(ids, mask)

    return padded


@pytest.fixture(scope="session")
def classifier(toy: Toy) -> Callable[..., LabelClassifier]:
    """Makes a classifier of the toy's labels: `classifier(backbone, "prefix", steps=2, rank=4)`."""
    from ltuning.estimators.label_classifier import LabelClassifier

    sections = {"batch": "training.per_device_train_batch_size", "rate": "training.learning_rate"}

    def make(
        backbone: Any,
        method: str = "lt-prefix",
        labels: Any = toy.label_texts,
        *,
        recipe: str = "default",
        seed: int = 0,
        epochs: float | None = None,
        steps: int | None = None,
        **options: Any,
    ) -> LabelClassifier:
        paths = {
            sections.get(name, name.replace("__", ".")): value for name, value in options.items()
        }
        paths = {path if "." in path else f"method.{path}": value for path, value in paths.items()}
        if steps is None and epochs is None:
            steps = 2
        return LabelClassifier(
            backbone,
            labels,
            method,
            recipe=recipe,
            seed=seed,
            epochs=epochs,
            steps=steps,
            options=paths,
        )

    return make
