"""Broken inputs for `faults.py mutate`: what is broken, how, and by what it is read."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import itertools
import json
import math
import os
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml
from transformers import TrainingArguments

from ltuning import Backbone, LabelClassifier
from ltuning.cli.configuration import configure, read_options
from ltuning.config import BackboneOptions
from ltuning.data.sources import (
    read_multilabel_splits,
    read_splits,
    read_table,
    read_tagged_splits,
    write_table,
)
from ltuning.errors import LTuningError
from ltuning.experiments.grid import Grid
from ltuning.labels import Labels

Random = random.Random
CPU_SECONDS, MEMORY = 10, 4 * 2**30
_AT_A_TIME = 50  # inputs of one process

NASTY = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"'", b"\r", b"\n\n", b"\t", b",",
    b"[" * 3000, b"{" * 3000, b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"null", b"~", b": ",
    b"&a [*a]", b"*a", b"<<: *a", b"!!python/object/apply:os.system [true]", b"2024-13-45", b"- ",
    b"2024-01-01", b"12:30:45", b"0x" + b"f" * 400, b"? ", b"#", b"|", b"\xe2\x80\xa8", b"\x1b[31m",
    b'"\\ud800"', b"x" * 200_000,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, -0.5, 0.5, 1e308, math.nan, math.inf,
    "", " ", "x", "x" * 100_000, "\0", "\ud800", "no", "1e999", "../x", "/dev/zero", "~nosuchuser",
    [], {}, [None], [[[]]], {"a": {}}, {"": ""}, ["a", 1], "0-100000000", "2024-01-01", "\x1b[2J",
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{last}'] * 9)}]\n"
    for last, name in itertools.pairwise("abcdefghij")
)


class TooLong(BaseException):
    """More than the seconds that an input may take."""


class Wrong(Exception):
    """What should have been refused, or came out otherwise than it went in."""


@dataclass(frozen=True)
class Kind:
    """Inputs of one kind.

    Attributes:
        share: of all inputs.
        make: writes a broken input to a folder; says what is to be read, and how it was broken.
        read: reads it; gives None where nothing was accepted.
    """

    share: float
    make: Callable[[Random, Path], tuple[Any, str]]
    read: Callable[[Any], object]


# --- breaking bytes and values


def broken_bytes(data: bytes, draw: Random) -> tuple[bytes, str]:
    """One to three of: bits flipped, a part cut, repeated or moved, something nasty put in."""
    ways = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        at, to = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        way = draw.choice(("flip", "cut", "drop", "repeat", "move", "put", "put"))
        ways.append(way)
        if way == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif way == "cut":
            data = data[:at]
        elif way == "drop":
            data = data[:at] + data[to:]
        elif way == "repeat":
            data = data[:to] + data[at:to] * draw.choice((1, 1, 50)) + data[to:]
        elif way == "move":
            data = data[at:to] + data[:at] + data[to:]
        elif way == "put":
            data = data[:at] + draw.choice(NASTY) + data[draw.choice((at, to)) :]
    return data, "+".join(ways)


def broken_value(value: Any, draw: Random) -> tuple[Any, str]:
    """Nested plain values with one of them gone, renamed, or another one in its place."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        if draw.random() < 0.8:
            inner, way = broken_value(value[key], draw)
            return {**value, key: inner}, f"{key}.{way}"
        rest = {name: inner for name, inner in value.items() if name != key}
        return draw.choice(((rest, f"-{key}"), ({**rest, f"{key}x": value[key]}, f"{key}x")))
    if isinstance(value, list) and value and draw.random() < 0.7:
        at = draw.randrange(len(value))
        inner, way = broken_value(value[at], draw)
        return [*value[:at], inner, *value[at + 1 :]], f"{at}.{way}"
    if isinstance(value, int) and draw.random() < 0.3:
        near = value + draw.choice((-1, 1, 7))
        return near, f"={near}"
    if draw.random() < 0.05:
        deep: Any = value
        for _ in range(draw.choice((30, 400))):
            deep = [deep] if draw.random() < 0.5 else {"a": deep}
        return deep, "deep"
    new = draw.choice(VALUES)
    return new, f"={new!r:.20}"


# --- tables


ROWS = [
    {"text": f'bread, soup and "{word}" are it', "label": "food" if n % 2 else "sport"}
    for n, word in enumerate(("rice", "ball\nteam", "goal", "naïve", "=1+1", "train", "", "x" * 50))
    if word
]


def _delimited(separator: str) -> bytes:
    quoted = [{k: '"' + v.replace('"', '""') + '"' for k, v in row.items()} for row in ROWS]
    return "\r\n".join(
        separator.join(row.values()) for row in [{"a": "text", "b": "label"}, *quoted]
    ).encode()


def _json_lines() -> bytes:
    tagged = [{"tokens": ["bread", "of"], "tags": ["B-FOOD", "O"]} for _ in range(4)]
    several = [{"text": "it", "labels": ["food", "sport"], "n": n} for n in range(4)]
    rows = random.choice((ROWS, tagged, several))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def odd_columns() -> list[pyarrow.Array]:
    """Columns that parquet holds and that Python or another format cannot."""
    number = len(ROWS)

    def of(value: Any, kind: Any) -> pyarrow.Array:
        return pyarrow.array([value] * number, kind)

    binary = pyarrow.array([b"\xff\xfe"] * number, pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(number, *binary.buffers()[1:])
    nested = pyarrow.struct([("a", pyarrow.int8()), ("b", pyarrow.list_(pyarrow.int16()))])
    return [
        binary,
        text,
        of(2**63 + 1, pyarrow.uint64()),
        of(5, pyarrow.int8()),
        of(0.1, pyarrow.float32()),
        of(math.nan, pyarrow.float64()),
        of(True, pyarrow.bool_()),
        of(None, pyarrow.null()),
        of(10**18 + 1, pyarrow.timestamp("ns")),
        of(2**50, pyarrow.timestamp("s")),
        of(0, pyarrow.timestamp("us", tz="No/Where")),
        of(0, pyarrow.timestamp("ms", tz="Europe/Berlin")),
        of(2**31 - 1, pyarrow.date32()),
        of(10**15, pyarrow.duration("ns")),
        of(1, pyarrow.time64("ns")),
        of({"a": 1, "b": [2]}, nested),
        of([("k", 1)], pyarrow.map_(pyarrow.string(), pyarrow.int32())),
        of("x", pyarrow.string()).dictionary_encode(),
        of("x", pyarrow.large_string()),
        of("1.50", pyarrow.string()).cast(pyarrow.decimal128(10, 2)),
    ]


def make_table(draw: Random, folder: Path) -> tuple[Any, str]:
    """A file of a table."""
    ending = draw.choice(("csv", "tsv", "jsonl", "parquet", "parquet", "conll", "txt"))
    how = "whole"
    if ending == "parquet":
        columns = {name: [row[name] for row in ROWS] for name in ("text", "label")}
        table = pyarrow.table(columns)
        for number in range(draw.choice((0, 1, 2))):
            table = table.append_column(f"odd{number}", draw.choice(odd_columns()))
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        data = buffer.getvalue()
    elif ending == "conll":
        data = b"bread\tB-FOOD\nof\tO\n\nteam\tB-SPORT\nteam\tI-SPORT\n\n"
    elif ending == "jsonl":
        random.seed(draw.random())
        data = _json_lines()
    else:
        data = _delimited({"csv": ",", "tsv": "\t", "txt": " "}[ending])
    if draw.random() < 0.7 or ending != "parquet":
        data, how = broken_bytes(data, draw)
    if draw.random() < 0.2:
        data, ending = gzip.compress(data), f"{ending}.gz"
        if draw.random() < 0.5:
            data, how = broken_bytes(data, draw)
    path = folder / f"table.{ending}"
    path.write_bytes(data)
    return path, f"{ending} {how}"


def read_a_table(path: Path) -> object:
    """By every task, and as `predict` does: all columns come out as they went in."""
    accepted = None
    for read in (read_splits, read_multilabel_splits, read_tagged_splits):
        try:
            accepted = read(path)
        except LTuningError:
            continue
    table = read_table(path)
    added = [{**row, "predicted_label": "food"} for row in table.rows]
    target = path.with_name(f"out.{path.name.partition('.')[2]}".replace("txt", "tsv"))
    write_table(replace(table, columns=[*table.columns, "predicted_label"], rows=added), target)
    again = read_table(target)
    before = [[str(row.get(name)) for name in table.columns] for row in table.rows]
    after = [[str(row.get(name)) for name in table.columns] for row in again.rows]
    if before != after and "conll" not in path.name and "csv" not in path.name:
        raise Wrong("other rows came out than went in")
    if path.name.endswith(".parquet"):
        schemas = [pyarrow.parquet.read_schema(file) for file in (path, target)]
        for name in table.columns:
            if schemas[0].field(name).type != schemas[1].field(name).type:
                raise Wrong(f"{schemas[0].field(name).type} became {schemas[1].field(name).type}")
    return accepted or table


# --- YAML


CONFIG = {
    "task": "classes",
    "backbone": {"name": "builtin:minilm", "dtype": "float32", "max_length": 64, "max_branches": 8},
    "labels": {"food": ["bread", "soup"], "sport": ["a ball"]},
    "method": {
        "name": "lt-prefix",
        "recipe": "default",
        "rank": 4,
        "first_layer": 1,
        "head": "match",
    },
    "data": {"path": "x.csv", "text_column": "text", "shots": 4, "validation_fraction": 0.2},
    "stopping": {"patience": 2, "metric": "loss"},
    "seed": 3,
    "training": {"max_steps": 5, "learning_rate": 1e-3, "logging_steps": 2, "warmup_steps": 0.1},
}
GRID = {
    "name": "tiny",
    "backbones": {"bert": {"name": "builtin:minilm"}},
    "data": {"toy": {"path": "toy", "labels": {"food": "bread", "sport": "ball"}}},
    "methods": {"lt-prefix": {}, "p": {"method": "prefix", "options": {"method.num_tokens": 4}}},
    "seeds": [0, 1],
    "shots": ["all", 4],
    "budget": {"steps": 4, "batch": 12, "evaluations": 2},
}
LABELS = {"food": ["bread", "soup of the day"], "sport": "a ball", "travel": "the hotel"}


def maker_of_yaml(value: Any) -> Callable[[Random, Path], tuple[Any, str]]:
    """Broken values, or a broken text of them."""

    def make(draw: Random, folder: Path) -> tuple[Any, str]:
        path = folder / "file.yaml"
        if draw.random() < 0.6:
            inner, how = broken_value(value, draw)
            text = json.dumps(inner).encode()
        else:
            text, how = yaml.safe_dump(value, sort_keys=False).encode(), "bomb"
            if draw.random() < 0.03:
                key = draw.choice(
                    ("training:\n  x: *j\n", "labels: *j\n", "methods: *j\n", "z: *j\n")
                )
                text = (
                    (BOMB + key).encode()
                    if draw.random() < 0.5
                    else text + f"\n{BOMB}{key}".encode()
                )
            else:
                text, how = broken_bytes(text, draw)
        path.write_bytes(text)
        return path, how

    return make


def read_config(path: Path) -> object:
    """As `train --config` does."""
    problems: list[Any] = []
    return configure(read_options(path, problems), {}, [], problems).to_yaml()


def read_grid(path: Path) -> object:
    """As `compare` does."""
    return [cell.config for cell in Grid.from_yaml(path).cells()][:10]


def make_setting(draw: Random, _: Path) -> tuple[Any, str]:
    """`a.b=c` of `--set`."""
    section = draw.choice([name for name, value in CONFIG.items() if isinstance(value, dict)])
    name = draw.choice(list(CONFIG[section]))  # type: ignore[arg-type]
    text = f"{section}.{name}={json.dumps(draw.choice(VALUES))}"
    if draw.random() < 0.5:
        text = broken_bytes(text.encode(), draw)[0].decode("utf-8", "surrogateescape")
    return text, f"{text!r:.60}"


# --- training options


def make_training(draw: Random, _: Path) -> tuple[Any, str]:
    """A field of TrainingArguments and a value of any type."""
    field = draw.choice([f for f in dataclasses.fields(TrainingArguments) if f.init])
    usual = [draw.choice(["no", "steps", "all", "fsdp", "adamw_torch", "nccl", 1e20, 3, -1, 0, 1])]
    value = draw.choice([*usual * 20, *VALUES])
    return {field.name: value}, f"{field.name}={value!r:.30}"


def trainer_of(model: Path) -> Callable[[Any], object]:
    """Two steps with the options."""
    backbone = Backbone.load(BackboneOptions(name=str(model)))
    texts, labels = ["bread of it", "the ball", "soup", "a team"] * 2, ["food", "sport"] * 4

    def train(options: Mapping[str, Any]) -> object:
        length = {} if {"num_train_epochs", "max_steps"} & options.keys() else {"max_steps": 2}
        mapping = {"backbone": {"name": str(model)}, "training": {**length, **options}}
        config = configure(mapping, {}, [], [])
        made = LabelClassifier(backbone, config=config).fit(texts, labels, (texts, labels))
        assert made.result_ is not None
        if made.result_.steps < 1:
            raise Wrong("no step was made")
        return _finite(made.predict_proba(texts))

    return train


# --- artifacts


@dataclass(frozen=True)
class Artifacts:
    """Trained classifiers to be broken, and their backbone."""

    folder: Path
    backbone: Backbone
    answers: dict[str, np.ndarray]

    TEXTS = ("bread of it", "the ball and the team")

    @classmethod
    def make(cls, folder: Path, model: Path) -> Artifacts:
        backbone, answers = Backbone.load(BackboneOptions(name=str(model))), {}
        texts, labels = ["bread of it", "the ball", "soup", "a team"] * 2, ["food", "sport"] * 4
        for method in ("lt-prefix", "ls-lora", "probe"):
            made = LabelClassifier(backbone, method=method, steps=2).fit(texts, labels)
            made.save_pretrained(folder / method)
            answers[method] = made.predict_proba(cls.TEXTS)
        return cls(folder, backbone, answers)

    def unsigned(self, draw: Random, folder: Path) -> tuple[Any, str]:
        """A file broken, its checksum left as it was."""
        target, method = self._copy(draw, folder)
        path = draw.choice(
            [file for file in sorted(target.rglob("*.*")) if file.name != "README.md"]
        )
        data, how = broken_bytes(path.read_bytes(), draw)
        path.write_bytes(data)
        return (target, self.answers[method]), f"{method} {path.name} {how}"

    def signed(self, draw: Random, folder: Path) -> tuple[Any, str]:
        """Configuration or weights broken, and signed as `save` signs them."""
        from safetensors.numpy import load_file, save_file

        target, method = self._copy(draw, folder)
        config = json.loads((target / "ltuning_config.json").read_bytes())
        if draw.random() < 0.6:
            config, how = broken_value(config, draw)
        else:
            path = draw.choice(sorted(target.rglob("*.safetensors")))
            tensors, how = _broken_tensors(load_file(path), draw)
            save_file(tensors, path, metadata={"format": "pt"})
            if draw.random() < 0.2:
                data, more = broken_bytes(path.read_bytes(), draw)
                path.write_bytes(data)
                how += f"+{more}"
            config["adapter_sha256"] = _sha(target / "adapter_model.safetensors")
            parts = config.get("parts_sha256", {})
            config["parts_sha256"] = {name: _sha(target / name) for name in parts}
        if isinstance(config, dict):
            rest = {name: value for name, value in config.items() if name != "config_sha256"}
            text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
            config["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (target / "ltuning_config.json").write_text(json.dumps(config))
        return (target, None), f"{method} {how}"

    def _copy(self, draw: Random, folder: Path) -> tuple[Path, str]:
        method = draw.choice(list(self.answers))
        return Path(shutil.copytree(self.folder / method, folder / "artifact")), method

    def read(self, given: tuple[Path, np.ndarray | None]) -> object:
        """Load it and ask it; where the right answers are known, it has to give these."""
        folder, expected = given
        loaded = LabelClassifier.from_pretrained(folder, backbone=self.backbone)
        found = _finite(loaded.predict_proba(self.TEXTS))
        if expected is not None and not np.array_equal(found, expected):
            raise Wrong("other answers than before")
        return found


def _broken_tensors(tensors: dict[str, np.ndarray], draw: Random) -> tuple[dict[str, Any], str]:
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    ways = {
        "gone": {},
        "renamed": {f"{name}.x": tensor},
        "more": {name: tensor, "more.weight": tensor},
        "flat": {name: tensor.reshape(-1)},
        "short": {name: tensor[: max(0, len(tensor) - 1)].copy() if tensor.ndim else tensor},
        "nan": {name: np.full_like(tensor, np.nan)},
        "huge": {name: np.full_like(tensor, 3e38)},
        "infinite": {
            name: np.where(
                np.arange(tensor.size).reshape(tensor.shape) == 0, np.inf, tensor
            ).astype(tensor.dtype)
        },
        "integers": {name: tensor.astype(np.int32)},
        "double": {name: tensor.astype(np.float64)},
        "empty": {name: tensor.reshape(-1)[:0].copy()},
    }
    how = draw.choice(list(ways))
    rest = {key: value for key, value in tensors.items() if key != name}
    return {**rest, **ways[how]}, f"{name} {how}"


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _finite(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise Wrong("answers that are no numbers")
    return scores


# --- trying


def mutate(world: Any, number: int, seed: int, only: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Break inputs of every kind, and read them."""
    artifacts = Artifacts.make(world.folder / "artifacts", world.folder / "model")
    kinds = {
        "tables": Kind(0.35, make_table, read_a_table),
        "configurations": Kind(0.15, maker_of_yaml(CONFIG), read_config),
        "grids": Kind(0.1, maker_of_yaml(GRID), read_grid),
        "label files": Kind(0.05, maker_of_yaml(LABELS), Labels.from_yaml),
        "--set": Kind(0.05, make_setting, lambda text: configure({}, {}, [text], [])),
        "training options": Kind(0.05, make_training, trainer_of(world.folder / "model")),
        "artifacts": Kind(0.1, artifacts.unsigned, artifacts.read),
        "artifacts, signed": Kind(0.15, artifacts.signed, artifacts.read),
    }
    kinds = {what: kind for what, kind in kinds.items() if what.startswith(only)}
    total = sum(kind.share for kind in kinds.values())
    for what, kind in kinds.items():
        at, end = 0, max(1, round(kind.share / total * number))
        while at < end:
            for row in _in_a_process(
                kind, f"{seed} {what}", range(at, min(end, at + _AT_A_TIME)), world.folder
            ):
                at = row["number"] + 1
                yield {"what": what, **row}


def _in_a_process(kind: Kind, seed: str, numbers: range, folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of inputs; where one ends the process, its row says so and is the last."""
    reading, writing = os.pipe()
    if not (process := os.fork()):
        try:
            _work(kind, seed, numbers, folder, writing)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    begun: dict[str, Any] | None = {"number": numbers[0], "how": "before the first"}
    with os.fdopen(reading) as rows:
        for line in rows:
            row = json.loads(line)
            begun = None if "outcome" in row else row
            if begun is None:
                yield row
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if begun is not None and code:
        yield {
            **begun,
            "outcome": "hang" if code == -signal.SIGALRM else "crash",
            "detail": f"ended with {code}",
        }


def _work(kind: Kind, seed: str, numbers: range, folder: Path, pipe: int) -> None:
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (pages + MEMORY, pages + MEMORY))

    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGPROF, stop)
    with os.fdopen(pipe, "w", buffering=1) as rows:
        for number in numbers:
            own = folder / f"input-{os.getpid()}"
            own.mkdir()
            given, how = kind.make(Random(f"{seed} {number}"), own)
            rows.write(json.dumps({"number": number, "how": how}) + "\n")
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            signal.alarm(20 * CPU_SECONDS)  # of one that waits and does not compute
            outcome, detail = _try(kind.read, given)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            row = {"number": number, "how": how, "outcome": outcome, "detail": detail}
            rows.write(json.dumps(row) + "\n")
            shutil.rmtree(own)
    os._exit(0)


def _try(read: Callable[[Any], object], given: Any) -> tuple[str, str]:
    try:
        read(given)
    except LTuningError as error:
        return "refused", f"{error!s:.200}"
    except Wrong as error:
        return "wrong", str(error)
    except TooLong:
        return "hang", ""
    except MemoryError:
        return "memory", traceback.format_exc()[-300:]
    except BaseException:
        return "traceback", traceback.format_exc()[-500:]
    return "right", ""
