"""Exported classifiers beside torch: differences, 8 bits, speed, start-up, size on disk.

    python benchmarks/exporting.py --data DATA --decoder FOLDER --output onnx.jsonl
    python benchmarks/exporting.py --report onnx.jsonl

DATA has the folders trec6, sst2_sentence, twitter_financial_news and wnut17; FOLDER holds a decoder
of the Llama family. All on one thread. Finished rows are skipped.

methods     trained for 8 steps on TREC-6, the largest difference of probabilities on its 500 test
            questions (of the tagger on 200 sentences of WNUT-17); `ls-unmask` on the decoder
families    `lt-prefix` in the decoder and in tiny random models of the tests, on 500 texts
sets        `lt-prefix`, 60 steps of 8 texts on 300; accuracy on 500 held-out texts in float32 and
            in 8 bits, texts per second of torch and of both
start       seconds of a new process until the first answer, the fastest of three
branches    memory and seconds of one text of 512 tokens where label texts are read apart
"""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, add_row, circumstances, parsed, parser_of, read_rows

BACKBONE = "builtin:minilm"
ROOT = Path(__file__).resolve().parent.parent
METHODS = ["prefix", "probe", "ls-lora", "full", "prompt", "lt-prefix apart", "lt-prompt"]
METHODS += ["ls-unmask", "tagger"]
FAMILIES = ["llama", "gpt2", "modernbert", "deberta-v2", "t5", "bloom"]
SETS = {
    "trec6": "test",
    "sst2_sentence": "test",
    "twitter_financial_news": "validation",
}
BRANCHES = [32]
TREC = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human being",
    "LOC": "location",
    "NUM": "number",
}
START = {
    "torch": "from ltuning import LabelClassifier\nc = LabelClassifier.from_pretrained({folder!r})",
    "onnx": "from ltuning.onnx import OnnxClassifier\nc = OnnxClassifier({folder!r}, threads=1)",
}


def main() -> None:
    """Measure what is not yet in a results file, or print its tables."""
    parser = parser_of(__doc__, "onnx.jsonl")
    parser.add_argument("--decoder", type=Path, help="the folder of a decoder")
    options = parsed(parser, "--data and --decoder", "decoder")
    if options.report:
        print(report(read_rows(options.report)))
        return
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    done = {(row["part"], row["name"]) for row in read_rows(options.output)}
    for part, name, measure in _parts(options.data, options.decoder):
        if (part, name) not in done:
            with tempfile.TemporaryDirectory() as folder:
                row = {"part": part, "name": name, **measure(Path(folder))}
            add_row(options.output, row | circumstances(BACKBONE))
            print(row, flush=True)


def _parts(data: Path, decoder: Path) -> Iterator[tuple[str, str, Callable[[Path], Row]]]:
    for name in SETS:
        yield "sets", name, lambda folder, name=name: of_set(folder, data, name)
    for method in METHODS:
        yield "methods", method, lambda folder, name=method: of_method(folder, data, decoder, name)
    for family in FAMILIES:
        yield "families", family, lambda folder, name=family: of_family(folder, decoder, name)
    for number in BRANCHES:
        yield "branches", str(number), lambda folder, of=number: of_branches(folder, of)


def exported(door: Any, folder: Path) -> tuple[Any, Row]:
    """An exported classifier on one thread, and the largest difference that the export found."""
    from ltuning import onnx
    from ltuning.artifacts import opened
    from ltuning.exporting import export

    door.save_pretrained(folder / "run")
    read = export.exportable(opened.read(folder / "run"))
    start = time.process_time()
    made = export.export(read, door, folder / "onnx")
    seconds = round(time.process_time() - start, 1)
    facts = {"found_by_export": made.difference, "size": made.size, "export_seconds": seconds}
    return onnx.load(folder / "onnx", threads=1), facts


def in_int8(folder: Path) -> Any:
    """An exported classifier with weights of 8 bits, without tracing it anew."""
    from ltuning import onnx
    from ltuning.exporting.int8 import quantize_file

    place = shutil.copytree(folder / "onnx", folder / "int8")
    quantize_file(place / onnx.GRAPH)
    described = onnx.Description.read(place)
    sha = hashlib.sha256((place / onnx.GRAPH).read_bytes()).hexdigest()
    described = replace(described, sha256={**described.sha256, onnx.GRAPH: sha})
    (place / onnx.LABELS).write_text(described.to_json())
    return onnx.load(place, threads=1)


def timed(ask: Callable[[], Any]) -> tuple[Any, float]:
    """What is answered, and the seconds of the CPU."""
    start = time.process_time()
    return ask(), time.process_time() - start


def read(data: Path, name: str, split: str, number: int) -> tuple[list[Any], list[Any]]:
    """Some rows of a split, drawn at random and each time the same ones."""
    from ltuning.data.sources import read_split

    examples = read_split(data / name, split)
    rows = sorted(random.Random(0).sample(range(len(examples)), min(number, len(examples))))
    some = examples.part(rows)
    return some.inputs, list(some.labels or ())


def of_set(folder: Path, data: Path, name: str) -> Row:
    """Accuracy and speed of torch, float32 and 8 bits, and seconds to the first answer."""
    from ltuning import LabelClassifier

    labels = TREC if name == "trec6" else None
    options = {"training.per_device_train_batch_size": 8}
    door = LabelClassifier(BACKBONE, labels, steps=60, options=options)
    door.fit(*read(data, name, "train", 300), progress=False)
    texts, truth = read(data, name, SETS[name], 500)
    whole, facts = exported(door, folder)
    small = in_int8(folder)
    row: Row = {"texts": len(texts), **facts}
    row["size_int8"] = (folder / "int8" / "model.onnx").stat().st_size
    row["tokens"] = float(np.mean(door.backbone.windows(texts).lengths))
    chances = {}
    for kind, one in {"torch": door, "float32": whole, "int8": small}.items():
        one.predict_proba(texts[:8])  # so that nothing is made for the first time
        chances[kind], seconds = timed(lambda one=one: one.predict_proba(texts))
        row[f"texts_per_second_{kind}"] = len(texts) / seconds
        said = [str(door.classes_[best]) for best in chances[kind].argmax(1)]
        row[f"accuracy_{kind}"] = float(np.mean(np.array(said) == np.array(truth)))
    row["difference"] = float(np.abs(chances["torch"] - chances["float32"]).max())
    row["difference_int8"] = float(np.abs(chances["torch"] - chances["int8"]).max())
    changed = chances["torch"].argmax(1) != chances["int8"].argmax(1)
    row["changed_int8"] = float(changed.mean())
    if name == "trec6":
        for kind, place in {"torch": "run", "onnx": "onnx", "int8": "int8"}.items():
            row[f"start_{kind}"] = started("torch" if kind == "torch" else "onnx", folder / place)
    return row


def started(kind: str, folder: Path) -> list[float]:
    """Seconds of the clock and of the CPU until a new process gave its first answer."""
    code = (
        START[kind].format(folder=str(folder)) + "\nc.predict(['where is my parcel?'])\n"
        "import time; print(time.process_time())"
    )
    found = []
    for _ in range(3):
        start = time.perf_counter()
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        clock = time.perf_counter() - start
        assert ran.returncode == 0, ran.stderr
        found.append([clock, float(ran.stdout.split()[-1])])
    return min(found, key=lambda pair: pair[1])


def of_method(folder: Path, data: Path, decoder: Path, name: str) -> Row:
    """The largest difference of probabilities on 500 questions."""
    from ltuning import LabelClassifier

    if name == "tagger":
        return of_tagger(folder, data)
    method, _, apart = name.partition(" ")
    options = {"method.labels": "apart"} if apart else {}
    backbone = str(decoder) if method == "ls-unmask" else BACKBONE
    door = LabelClassifier(backbone, TREC, method, steps=8, options=options)
    door.fit(*read(data, "trec6", "train", 100), progress=False)
    texts, _ = read(data, "trec6", "test", 500)
    ours, facts = exported(door, folder)
    difference = np.abs(ours.predict_proba(texts) - door.predict_proba(texts)).max()
    return {"texts": len(texts), "difference": float(difference), **facts}


def of_tagger(folder: Path, data: Path) -> Row:
    """The same of a tagger's probabilities of tags."""
    from ltuning import TokenClassifier
    from ltuning.data.sources import read_tagged_split

    examples = read_tagged_split(data / "wnut17", "train").part(range(100))
    sentences = read_tagged_split(data / "wnut17", "validation").inputs[:200]
    door = TokenClassifier(BACKBONE, None, "ls-lora", steps=8)
    door.fit(examples.inputs, examples.labels, progress=False)
    ours, facts = exported(door, folder)
    return {"texts": len(sentences), **facts} | {
        "difference": _of_tables(
            ours.probabilities(sentences), door.scorer().probabilities(sentences)
        )
    }


def _of_tables(ours: Sequence[np.ndarray], torchs: Sequence[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, torchs, strict=True))


def of_family(folder: Path, decoder: Path, name: str) -> Row:
    """The largest difference in the decoder or a tiny random model, or why there is no export."""
    sys.path.insert(0, str(ROOT / "tests" / "conformance"))
    from tiny import FAMILIES, WORDS

    from ltuning import LabelClassifier
    from ltuning.errors import LTuningError

    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(1, 40))) for _ in range(500)]
    labels = {"food": "bread", "sport": "ball and team", "travel": "the hotel"}
    place = decoder if name == "llama" else FAMILIES[name].save(folder / "model")
    door = LabelClassifier(str(place), labels, steps=2)
    door.fit(texts[:48], [[*labels][row % 3] for row in range(48)], progress=False)
    try:
        ours, facts = exported(door, folder)
    except LTuningError as error:
        return {"refused": str(error)}
    difference = np.abs(ours.predict_proba(texts) - door.predict_proba(texts)).max()
    return {"texts": len(texts), "difference": float(difference), **facts}


def of_branches(folder: Path, number: int) -> Row:
    """What one text of 512 tokens takes where so many label texts are read apart."""
    from ltuning import LabelClassifier

    labels = {f"label {one}": f"label number {one}" for one in range(number)}
    options = {"method.labels": "apart", "training.per_device_train_batch_size": 1}
    door = LabelClassifier(BACKBONE, labels, "lt-prefix", steps=1, options=options)
    door.fit(["a text"] * number, [*labels], progress=False)
    _, facts = exported(door, folder)
    # Not `getrusage`, whose peak a child takes over from its parent.
    code = (
        "import re, time\n" + START["onnx"].format(folder=str(folder / "onnx")) + "\n"
        "start = time.process_time(); c.predict(['word ' * 510])\n"
        "seconds = time.process_time() - start\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]\n"
        "print(seconds, int(peak) / 1024)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    seconds, peak = map(float, ran.stdout.split())
    return {"seconds": seconds, "peak_mb": peak, **facts}


def report(rows: Sequence[Row]) -> str:
    """Markdown tables of all parts."""
    lines = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        names = [name for name in own[0] if name not in {*circumstances(""), "part"}]
        lines += ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(_cell(row.get(name)) for name in names)} |" for row in own]
    return "\n".join(lines[1:])


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " / ".join(f"{one:.2f}" for one in value)
    if isinstance(value, float):
        return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
