"""Faults put in on purpose: processes killed, broken inputs, two at once, a full disk.

    python benchmarks/faults.py kill --number 200 --output faults.jsonl
    python benchmarks/faults.py mutate --number 10000 --output faults.jsonl
    python benchmarks/faults.py race --output faults.jsonl
    python benchmarks/faults.py disk --output faults.jsonl

Everything runs on a tiny random model, one verb in one forked process. What came of it is one of

    right      as if nothing had happened
    refused    an error that says what to do, or a verb that the error names and that ends well
    leftover   right, but something that nobody needs stayed on the disk
    dead end   no verb that the errors name goes on
    lost       neither the earlier file or artifact nor the new one is there whole
    wrong      ended without an error, with something else than the uninterrupted run
    traceback  an exception that is no LTuningError, or an end without a message
    hang, memory, crash   more than 10 s of computing, more than 4 GiB, the end of the process
"""

from __future__ import annotations

import argparse
import csv
import gc
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

# Before the libraries are loaded: a forked child of a process with threads may hang.
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

# These are loaded once for all children, which import them late or not at all.
import matplotlib.pyplot  # noqa: F401
import pydantic.functional_validators  # noqa: F401
import seqeval.metrics  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch
from mutations import mutate
from rows import add_row, circumstances
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ltuning import Backbone, LabelClassifier
from ltuning.artifacts import store
from ltuning.cli.main import app
from ltuning.cli.terminal import silence_libraries
from ltuning.config import BackboneOptions
from ltuning.errors import LTuningError
from ltuning.experiments import peers  # noqa: F401

GOOD = ("right", "refused")
TOPICS = {"food": "bread soup rice", "sport": "ball team goal", "travel": "train hotel beach"}
SPANS = {"food": "FOOD", "sport": "SPORT", "travel": "PLACE"}
FILLERS = ["the", "of", "and", "is", "was", "it", "to", "in"]
SECONDS = 60  # that a verb may take
Rows = Iterator[dict[str, Any]]
Only = tuple[str, ...]  # beginnings of what is tried
Words = Sequence[str] | Callable[[Path], object]
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")


# --- the world: a model, data, and what earlier runs left


@dataclass(frozen=True)
class World:
    """The folder of all files: a model, data, grids, and `before/`, what earlier runs left."""

    folder: Path
    pairs: dict[str, Pair] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> World:
        world = cls(folder)
        _save_model(folder / "model")
        for split, number, seed in (("train", 12, 1), ("validation", 6, 2), ("test", 6, 3)):
            _write_data(folder, split, number, random.Random(seed))
        # JSON is YAML too.
        grid = {
            "name": "tiny",
            "backbones": {"bert": {"name": str(folder / "model")}},
            "data": {"toy": {"path": str(folder / "data")}},
            "methods": ["prefix", "logistic"],
            "seeds": [0],
            "budget": {"steps": 4, "batch": 4, "evaluations": 2},
        }
        (folder / "grid.yaml").write_text(json.dumps(grid))
        (folder / "grown.yaml").write_text(json.dumps(grid | {"seeds": [0, 1]}))
        return world

    def train(self, data: str = "data", *more: str, seed: int = 0) -> list[str]:
        """A run of seven steps, of which every second is kept; an epoch has three."""
        length = ["--steps", "7", "--set", "training.eval_strategy=steps"]
        length += ["--set", "training.eval_steps=2"]
        length += ["--set", "training.per_device_train_batch_size=4"]
        own = ["train", "--backbone", str(self.folder / "model"), "--data"]
        return [*own, str(self.folder / data), *length, "--seed", str(seed), "--quiet", *more]

    def compare(self, grid: str) -> list[str]:
        return ["compare", str(self.folder / f"{grid}.yaml"), "--quiet"]

    def before(self, name: str) -> Path:
        """The folder of what earlier runs left, made when it is first asked for."""
        place = self.folder / "before" / name
        if not place.exists():
            (place / "tmp").mkdir(parents=True)
            BEFORE[name](self, place)
        return place

    def pair(self, method: str) -> Pair:
        """Two small classifiers of a method."""
        if method not in self.pairs:
            self.pairs[method] = Pair.make(self.folder / "model", method)
        return self.pairs[method]

    @contextmanager
    def place(self, like: Path | None = None) -> Iterator[Path]:
        """A new folder for one trial, which holds what `like` holds."""
        place = Path(tempfile.mkdtemp(dir=self.folder, prefix="place-"))
        try:
            if like is not None:
                shutil.copytree(like, place, dirs_exist_ok=True)
            (place / "tmp").mkdir(exist_ok=True)
            yield place
        finally:
            shutil.rmtree(place)


@dataclass(frozen=True)
class Pair:
    """Two classifiers of one method, by their seeds, 1 and 2, on a loaded backbone."""

    backbone: Backbone
    classifiers: dict[int, LabelClassifier]

    TEXTS = tuple(f"{word} of it" for word in TOPICS)

    @classmethod
    def make(cls, model: Path, method: str) -> Pair:
        backbone = Backbone.load(BackboneOptions(name=str(model)))
        made = {
            seed: LabelClassifier(backbone, method=method, seed=seed, steps=3) for seed in (1, 2)
        }
        return cls(backbone, {s: c.fit(cls.TEXTS * 2, [*TOPICS] * 2) for s, c in made.items()})

    def read(self, folder: Path) -> tuple[str, str]:
        """Load what is there and ask it: it has to answer as the one of its seed."""
        try:
            read = LabelClassifier.from_pretrained(folder, backbone=self.backbone)
            answers = [
                c.predict_proba(self.TEXTS) for c in (read, self.classifiers[read.config.seed])
            ]
        except LTuningError as error:
            return "refused", str(error)
        except Exception:
            return "traceback", traceback.format_exc()[-300:]
        if (answers[0].round(4) == answers[1].round(4)).all():
            return "right", ""
        return "wrong", "the weights of one save, the configuration of another"


def _save(pair: Pair, seed: int, place: Path) -> None:
    pair.classifiers[seed].save_pretrained(place / "run", overwrite=True)
    (place / "run" / "notes.txt").write_text("a user's own file")


def _save_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*special, *TOPICS, *" ".join(TOPICS.values()).split(), *FILLERS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True)),
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = BertConfig(
        vocab_size=len(words),
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        **size,
    )
    BertModel(config).save_pretrained(folder)


def _write_data(folder: Path, split: str, number: int, draw: random.Random) -> None:
    rows, sentences = [], []
    for row in range(number):
        label = list(TOPICS)[row % len(TOPICS)]
        word = draw.choice(TOPICS[label].split())
        fillers = draw.choices(FILLERS, k=draw.randint(1, 5))
        rows.append((" ".join([word, *fillers]), label))
        sentences.append([(word, f"B-{SPANS[label]}"), *((filler, "O") for filler in fillers)])
    for name in ("data", "tags"):
        (folder / name).mkdir(exist_ok=True)
    with (folder / "data" / f"{split}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    lines = ["\n".join(f"{word}\t{tag}" for word, tag in words) + "\n" for words in sentences]
    (folder / "tags" / f"{split}.conll").write_text("\n".join(lines))


# --- a verb in a process of its own, which may be killed


@dataclass(frozen=True)
class Kill:
    """When a process ends: at its n-th change of files, or at the first that a path names.

    With `torn`, the file that was being written is there, empty or half.
    """

    at: int = 0
    path: str | None = None
    torn: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a verb ended: its exit code (negative: a signal), what it said, its changes of files."""

    code: int
    said: str
    changes: int
    seconds: float

    @property
    def fault(self) -> str | None:
        """What may never be."""
        if self.code == -signal.SIGALRM:
            return "hang"
        if "Traceback (most" in self.said or "Error: " in self.said.replace("error: ", ""):
            return "traceback"
        unsaid = self.code != 0 and "error: " not in self.said and "failed" not in self.said
        return "traceback" if unsaid or self.code not in (0, 1, 2) else None


class _Watch:
    """Counts a process's changes of files below its place, and ends it at one of them."""

    def __init__(self, place: Path, kill: Kill):
        self.place, self.kill, self.count = f"{place}{os.sep}", kill, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if flags & _WRITING and self._is_below(path):
                empties = "w" in (mode or "") or "x" in (mode or "")
                self.step(path, (lambda: Path(path).write_bytes(b"")) if empties else None)
        elif event in _EVENTS:
            # A name without a folder is one in the folder that shutil.rmtree is removing.
            where = arguments[0]
            if isinstance(where, int) or not os.path.dirname(where) or self._is_below(where):
                self.step(where)

    def _is_below(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.place)

    def step(self, path: Any, tear: Callable[[], object] | None = None) -> None:
        self.count += 1
        named = self.kill.path is not None and self.kill.path in str(path)
        if named or self.count == self.kill.at:
            if self.kill.torn and tear is not None:
                tear()
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, write: Callable[..., object]) -> Callable[..., object]:
        """A writer whose changes of files Python does not see; it may be killed half done."""

        def watched(content: Any, path: Any, *rest: Any, **more: Any) -> None:
            def tear() -> None:
                write(content, path, *rest, **more)
                os.truncate(path, os.path.getsize(path) // 2)

            if self._is_below(path):
                self.step(path, tear)
            write(content, path, *rest, **more)

        return watched


def call(words: Words, place: Path, kill: Kill | None = None, more: Any = None) -> Ended:
    """Run a verb to its end, or to where it is killed; `more` is done before it in its process."""
    started = time.monotonic()
    return wait(start(words, place, kill, more), place, started)


def start(words: Words, place: Path, kill: Kill | None = None, more: Any = None) -> int:
    """Start a verb; the process id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = 70
    try:
        for stream, ending in ((1, "out"), (2, "err")):
            path = f"{place}.{os.getpid()}.{ending}"
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
        signal.setitimer(signal.ITIMER_REAL, (kill and kill.seconds) or SECONDS)
        watch = _Watch(place, kill or Kill())
        _watch_native_writers(watch)
        sys.addaudithook(watch)
        if more is not None:
            more()
        try:
            code = 0 if callable(words) and words(place) is None else 70
            if not callable(words):
                app(list(words), prog_name="ltuning")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        Path(f"{place}.{os.getpid()}.count").write_text(str(watch.count))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch_native_writers(watch: _Watch) -> None:
    import safetensors.torch

    torch.save = watch.wrap(torch.save)
    safetensors.torch.save_file = watch.wrap(safetensors.torch.save_file)


def wait(process: int, place: Path, started: float) -> Ended:
    """How a started verb ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    found = {}
    for ending in ("out", "err", "count"):
        path = Path(f"{place}.{process}.{ending}")
        found[ending] = path.read_text(errors="replace") if path.exists() else ""
        path.unlink(missing_ok=True)
    return Ended(code, found["err"], int(found["count"] or 0), time.monotonic() - started)


# --- kill


def _finish(world: World, place: Path, data: str, *more: str, seed: int) -> None:
    ended = call([*world.train(data, *more, seed=seed), "--output", f"{place}/run"], place)
    assert ended.code == 0, ended.said
    (place / "run" / "notes.txt").write_text("a user's own file")


def _interrupt(world: World, place: Path, *more: str) -> None:
    call([*world.train(), *more, "--output", f"{place}/run"], place, Kill(path="point-6"))


def _interrupt_over_old(world: World, place: Path) -> None:
    shutil.copytree(world.before("old"), place, dirs_exist_ok=True)
    _interrupt(world, place, "--overwrite")


def _compare(world: World, place: Path, grid: str) -> None:
    ended = call([*world.compare(grid), "--output", f"{place}/results"], place)
    assert ended.code == 0, ended.said


TAGGING = ("--task", "tags", "--method", "ls-lora")
BEFORE: dict[str, Callable[[World, Path], object]] = {
    "old": partial(_finish, data="data", seed=1),
    "new": partial(_finish, data="data", seed=0),
    "old tags": lambda world, place: _finish(world, place, "tags", *TAGGING, seed=1),
    "new tags": lambda world, place: _finish(world, place, "tags", *TAGGING, seed=0),
    "unfinished": _interrupt,
    "unfinished over old": _interrupt_over_old,
    "grid": partial(_compare, grid="grid"),
    "grown": partial(_compare, grid="grown"),
    "labels.csv": lambda world, place: (place / "labels.csv").write_text("an earlier file"),
    "figures.json": lambda world, place: (place / "figures.json").write_text("an earlier file"),
    "save lt-prefix": lambda world, place: _save(world.pair("lt-prefix"), 1, place),
    "save ls-lora": lambda world, place: _save(world.pair("ls-lora"), 1, place),
}


@dataclass(frozen=True)
class Scenario:
    """What is done in a folder where `before` is, and what it is to end as.

    `after` says what became of a killed one: the outcome, and more words.
    """

    name: str
    words: Callable[[World], Words]
    before: str | None
    reference: str | None
    after: Callable[[Scenario, World, Path, int], tuple[str, str]]

    @property
    def target(self) -> str:
        """The name of what is written."""
        if self.after is after_file:
            return self.before or ""
        return "results" if self.after is after_compare else "run"

    def run(self, world: World, place: Path, end: Kill | None = None, more: Any = None) -> Ended:
        """Do it, to the end or to where it is killed."""
        words = self.words(world)
        if not callable(words):
            words = [*words, "--output", str(place / self.target)]
        return call(words, place, end, more)

    def place(self, world: World) -> AbstractContextManager[Path]:
        """A folder in which it can be done."""
        return world.place(world.before(self.before) if self.before else None)


def kill(world: World, number: int, seed: int, only: Only) -> Rows:
    """Kill verbs at their n-th change of files, and go on."""
    rows = [row for row in SCENARIOS if row.name.startswith(only)]
    for place_of, scenario in enumerate(rows):
        draw = random.Random(f"{seed} {scenario.name}")
        with scenario.place(world) as place:
            whole = scenario.run(world, place)
        assert whole.code == 0, whole.said
        share = number // len(rows) + (place_of < number % len(rows))
        for point in range(share):
            at = 1 + int((point + draw.random()) * whole.changes / share)
            end = Kill(at, torn=draw.random() < 0.5)
            if point % 10 == 9:
                end = Kill(seconds=draw.uniform(0.1, 1) * whole.seconds)
            with scenario.place(world) as place:
                scenario.run(world, place, end)
                outcome, detail = scenario.after(scenario, world, place, point)
            row = {"what": scenario.name, "point": end.at or end.seconds, "of": whole.changes}
            yield {**row, "torn": end.torn, "outcome": outcome, "detail": detail}


def after_save(scenario: Scenario, world: World, place: Path, _: int) -> tuple[str, str]:
    """One of the two loads; the next save ends as it should."""
    pair = world.pair(scenario.name.removeprefix("save "))
    outcome, detail = pair.read(place / "run")
    if outcome != "right":
        return ("lost" if outcome in ("wrong", "refused") else outcome), detail
    ended = scenario.run(world, place)
    if ended.code:
        return ended.fault or "dead end", ended.said[-300:]
    if pair.read(place / "run")[0] != "right" or not (place / "run" / "notes.txt").exists():
        return "lost", "after the next save"
    left = sorted({path.name for path in place.iterdir()} - {"run", "tmp"})
    return ("leftover", str(left)) if left else ("right", detail)


def identity(run: Path) -> tuple[Any, ...] | None:
    """What two equal classifiers have equal: their weights' bytes, seed, steps and figures."""
    try:
        saved = json.loads((run / "ltuning_config.json").read_bytes())
        files = [run / "adapter_model.safetensors", *sorted(run.glob("lora/*.safetensors"))]
        hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    except (OSError, ValueError):
        return None
    figures = saved["figures"]
    measured = tuple(sorted(figures.get("validation", {}).items()))
    return (*hashes, saved["seed"], figures["training"]["steps"], measured)


def after_train(scenario: Scenario, world: World, place: Path, point: int) -> tuple[str, str]:
    """The earlier artifact is whole, or the new one; a verb that errors name ends as it should."""
    target, right = place / "run", identity(world.before(scenario.reference or "") / "run")
    earlier = identity(world.before(scenario.before) / "run") if scenario.before else None
    if earlier is not None:
        folders = [target, *place.glob(".run*")]
        if not any(identity(folder) in (earlier, right) for folder in folders):
            return "lost", "no whole artifact after the kill"
        try:
            store.read(target)
        except LTuningError as error:
            return "lost", f"does not load: {error}"
    outcome, said = _go_on(scenario, world, place, ("--resume", "", "--overwrite")[point % 3])
    if outcome != "right":
        return outcome, said
    if (found := identity(target)) != right:
        return "wrong", f"{said} gave {found} instead of {right}"
    if earlier is not None and not (target / "notes.txt").exists():
        return "lost", "the user's own file"
    left = sorted({path.name for path in place.iterdir()} - {"run", "tmp"})
    left += [path.name for path in (place / "tmp").iterdir()]
    left += ["checkpoints"] if (target / "checkpoints").exists() else []
    return ("leftover", f"{said} left {left}") if left else ("right", said)


def _go_on(scenario: Scenario, world: World, place: Path, way: str) -> tuple[str, str]:
    """Train one way, and as long as it is refused, the way that the error names."""
    words = scenario.words(world)
    assert not callable(words)
    base = [word for word in words if word not in ("--overwrite", "--resume")]
    tried, said = [], ""
    while way not in tried:
        ended = call([*base, *filter(None, [way]), "--output", str(place / "run")], place)
        tried.append(way)
        said = f"{' '.join(tried)}: {ended.said[-300:]}"
        if ended.fault or ended.code == 0:
            return ended.fault or "right", said
        named = [] if "leave out --resume" in ended.said else ["--resume"]
        ways = [name for name in ["--overwrite", *named] if name in ended.said] + [""]
        way = next((name for name in ways if name not in tried), way)
    return "dead end", said


def after_compare(scenario: Scenario, world: World, place: Path, _: int) -> tuple[str, str]:
    """The same command goes on, and nothing that was finished is run again."""
    ended = scenario.run(world, place)
    if ended.fault or ended.code:
        return ended.fault or "dead end", ended.said[-300:]
    expected, got = world.before(scenario.reference or "") / "results", place / "results"
    for path in sorted(expected.glob("cells/*.json")):
        same = got / "cells" / path.name
        first, second = (json.loads(file.read_bytes()) for file in (path, same))
        if any(first[name] != second[name] for name in ("test", "predictions_sha256")):
            return "wrong", path.name
        before = scenario.before and world.before(scenario.before) / "results/cells" / path.name
        if before and before.exists() and before.read_bytes() != same.read_bytes():
            return "lost", path.name
    names = [{str(p.relative_to(folder)) for p in folder.rglob("*")} for folder in (expected, got)]
    left = [*sorted(names[1] - names[0]), *(path.name for path in (place / "tmp").iterdir())]
    return ("leftover", str(left)) if left else ("right", "")


def after_file(scenario: Scenario, world: World, place: Path, _: int) -> tuple[str, str]:
    """The earlier file is whole, or the new one; the same command ends as it should."""
    path = place / scenario.target
    found = path.read_bytes()
    ended = scenario.run(world, place)
    if ended.fault or ended.code:
        return ended.fault or "dead end", ended.said[-300:]
    if found not in (b"an earlier file", path.read_bytes()):
        return "lost", scenario.target
    left = {path.name for path in place.iterdir()} - {scenario.target, "tmp"}
    return ("leftover", str(sorted(left))) if left else ("right", "")


def _use(verb: str, *options: str) -> Callable[[World], Words]:
    """`verb` with the finished classifier, on the test texts where `TEXTS` stands."""

    def words(world: World) -> Words:
        texts = str(world.folder / "data" / "test.csv")
        options_of = [texts if word == "TEXTS" else word for word in options]
        return [verb, str(world.before("new") / "run"), *options_of, "--quiet"]

    return words


def _train(*more: str, data: str = "data") -> Callable[[World], Words]:
    return lambda world: world.train(data, *more)


def _save_second(method: str) -> Callable[[World], Words]:
    return lambda world: partial(_save, world.pair(method), 2)


SCENARIOS = (
    Scenario("save lt-prefix", _save_second("lt-prefix"), "save lt-prefix", None, after_save),
    Scenario("save ls-lora", _save_second("ls-lora"), "save ls-lora", None, after_save),
    Scenario("train", _train(), None, "new", after_train),
    Scenario("train --overwrite", _train("--overwrite"), "old", "new", after_train),
    Scenario("train --resume", _train("--resume"), "unfinished", "new", after_train),
    Scenario("over, --resume", _train("--resume"), "unfinished over old", "new", after_train),
    Scenario(
        "tags", _train(*TAGGING, "--overwrite", data="tags"), "old tags", "new tags", after_train
    ),
    Scenario("compare", lambda world: world.compare("grid"), None, "grid", after_compare),
    Scenario(
        "compare, grown", lambda world: world.compare("grown"), "grid", "grown", after_compare
    ),
    Scenario("predict", _use("predict", "TEXTS", "--overwrite"), "labels.csv", None, after_file),
    Scenario("evaluate", _use("evaluate", "--data", "TEXTS"), "figures.json", None, after_file),
)


_WITHOUT_A_TWIN = ("train", "train --overwrite", "train --resume")
_ON_A_FULL_DISK = ("train", "train --overwrite", "compare")


# --- race, disk


def race(world: World, number: int, seed: int, only: Only) -> Rows:
    """Readers while a writer overwrites; two trainings in one folder."""
    for method in ("lt-prefix", "ls-lora"):
        if f"read {method}".startswith(only):
            yield from _read_while_written(world, method, number)
    for scenario in SCENARIOS:
        what = f"two of {scenario.name}"
        if what.startswith(only) and scenario.name in _WITHOUT_A_TWIN:
            for turn in range(max(1, number // 20)):
                yield {"what": what, **_train_twice(scenario, world, 20 * turn / number)}


def _read_while_written(world: World, method: str, number: int) -> Rows:
    pair = world.pair(method)
    with world.place() as place:
        _save(pair, 1, place)
        if not (writer := os.fork()):
            try:
                for turn in range(10**9):
                    _save(pair, 1 + turn % 2, place)
            finally:
                os._exit(1)
        try:
            for _ in range(number):
                outcome, detail = pair.read(place / "run")
                yield {"what": f"read {method}", "outcome": outcome, "detail": detail}
        finally:
            os.kill(writer, signal.SIGKILL)
            if os.waitpid(writer, 0)[1] != signal.SIGKILL:
                yield {"what": f"write {method}", "outcome": "traceback", "detail": "it ended"}


def _train_twice(scenario: Scenario, world: World, seconds: float) -> dict[str, Any]:
    """Two at once: what is there at the end is whole and by one that says that it saved it."""
    seeds = (0, 0) if "resume" in scenario.name else (0, 1)
    expected = {
        seed: identity(world.before(name) / "run") for seed, name in ((0, "new"), (1, "old"))
    }
    with scenario.place(world) as place:
        words, started, processes = scenario.words(world), time.monotonic(), []
        assert not callable(words)
        for seed in seeds:
            more = ["--seed", str(seed), "--output", str(place / "run")]
            processes.append(start([*words, *more], place))
            time.sleep(seconds)
        ended = [wait(process, place, started) for process in processes]
        found = identity(place / "run")
    done = [expected[seed] for end, seed in zip(ended, seeds, strict=True) if end.code == 0]
    faults = [end.fault for end in ended if end.fault]
    outcome = "right" if found in done else "wrong" if done else "lost"
    said = " | ".join(end.said[-200:] for end in ended)
    return {"outcome": [*faults, outcome][0], "detail": said}


def disk(world: World, number: int, seed: int, only: Only) -> Rows:
    """Train and compare on file systems of every size from none to enough."""
    for scenario in SCENARIOS:
        if scenario.name.startswith(only) and scenario.name in _ON_A_FULL_DISK:
            for turn in range(number):
                room = 16 + int(1200 * (turn / number) ** 2)
                row = _on_a_full_disk(scenario, world, room)
                yield {"what": f"full disk, {scenario.name}", "kib": room, **row}


def _on_a_full_disk(scenario: Scenario, world: World, room: int) -> dict[str, Any]:
    """With so many KiB beside what is there."""
    before = world.before(scenario.before) if scenario.before else None
    files = [] if before is None else [path for path in before.rglob("*") if path.is_file()]
    room += sum(4 * (path.stat().st_size // 4096 + 2) for path in files)
    with world.place() as place:
        small = place / "small"
        small.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(small)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        # Where that is not allowed, no single file may become large.
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room * 50,) * 2)
        try:
            if before is not None:
                shutil.copytree(before, small, dirs_exist_ok=True)
            (small / "tmp").mkdir(exist_ok=True)
            ended = scenario.run(world, small, more=None if mounted else limit)
            outcome = ended.fault or ("refused" if ended.code else "right")
            if scenario.target == "run" and not ended.fault:
                name = scenario.before if ended.code else scenario.reference
                if name and identity(small / "run") != identity(world.before(name) / "run"):
                    outcome = "lost" if ended.code else "wrong"
            return {"tmpfs": mounted, "outcome": outcome, "detail": ended.said[-400:]}
        finally:
            if mounted:
                subprocess.run(["umount", "-l", str(small)], check=True)


# --- the command


PARTS: dict[str, tuple[Callable[[World, int, int, Only], Rows], int]] = {
    "kill": (kill, 200),
    "mutate": (mutate, 10_000),
    "race": (race, 100),
    "disk": (disk, 12),
}


def main() -> None:
    """Run one part; rows of all that is not right go to the file, counts to the screen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--number", type=int, help="of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of what is tried")
    parser.add_argument("--output", type=Path, help="a file to which rows are added")
    arguments = parser.parse_args()
    silence_libraries()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # a child that collects garbage need not copy every page of its parent
    run, usual = PARTS[arguments.part]
    counts: Counter[tuple[str, str]] = Counter()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    began = time.monotonic()
    try:
        for row in run(
            World.make(folder), arguments.number or usual, arguments.seed, tuple(arguments.only)
        ):
            counts[row["what"], row["outcome"]] += 1
            if arguments.output and row["outcome"] != "right":
                add_row(arguments.output, {"part": arguments.part, "seed": arguments.seed, **row})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    summary = {what: {} for what, _ in counts}
    for (what, outcome), count in counts.items():
        summary[what][outcome] = count
    if arguments.output:
        done = {"part": arguments.part, "seed": arguments.seed, "summary": summary}
        seconds = round(time.monotonic() - began)
        add_row(arguments.output, {**done, "seconds": seconds, **circumstances("tiny")})
    show(summary)


def show(summary: dict[str, dict[str, int]]) -> None:
    """A Markdown table of counts."""
    names = sorted({name for row in summary.values() for name in row} - {*GOOD})
    columns = [*GOOD, *names]
    print("| what | tried |", *(f"{name} |" for name in columns))
    print("|---|" + "---|" * (len(columns) + 1))
    for what, row in summary.items():
        cells = [sum(row.values()), *(row.get(name, 0) for name in columns)]
        print(f"| {what} |", *(f"{cell:,} |" for cell in cells))


if __name__ == "__main__":
    main()
