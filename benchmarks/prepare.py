"""Data sets of the grids that are made of others, in the form that `ltuning compare` reads.

    python benchmarks/prepare.py DATA
    python benchmarks/prepare.py DATA OUTPUT

clinc150: clinc150_oos without the rows that are out of scope. wnut17_types: a text is a sentence's
words of wnut17 joined by spaces, its labels are the types of its entities.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ltuning.data.sources import read_splits, read_tagged_splits

OUT_OF_SCOPE = "oos"
Rows = Iterator[dict[str, Any]]


def main() -> None:
    """Write both data sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path, nargs="?", help="another folder than DATA")
    options = parser.parse_args()
    output = options.output or options.data
    for split, examples in read_splits(options.data / "clinc150_oos").items():
        _write(output / "clinc150" / f"{split}.jsonl", _in_scope(examples))
    for split, sentences in read_tagged_splits(options.data / "wnut17").items():
        _write(output / "wnut17_types" / f"{split}.jsonl", _with_types(sentences))


def _in_scope(examples: Any) -> Rows:
    for text, label in zip(examples.texts, examples.labels, strict=True):
        if label != OUT_OF_SCOPE:
            yield {"text": text, "label": label}


def _with_types(sentences: Any) -> Rows:
    for words, tags in zip(sentences.texts, sentences.tags, strict=True):
        yield {"text": " ".join(words), "labels": sorted({tag[2:] for tag in tags} - {""})}


def _write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
