"""Many texts through the engines: speed, memory over time, and what deaths cost.

    python benchmarks/scale.py make --data DATA --texts texts --rows 1000000
    python benchmarks/scale.py run --texts texts --run RUN --engine local --output scale.jsonl
    python benchmarks/scale.py kill --texts texts --run RUN --engine ray --workers 2
    python benchmarks/scale.py plot --output scale.jsonl --picture memory.png

make: parquet files of short texts: of those of SST-2, TREC-6 and the financial news, over and over,
five words, which every repeat draws anew.

run: `ltuning predict --engine`, or with `--engine none` plain `ltuning predict` of one file after
the other. Texts per second, and every few seconds the memory of all of its processes.
Then rows in against rows out, in their order.

kill: the same with a process killed by SIGKILL at a random time, `--times` times a worker and
`--times` times the driver, whose command is then given again. What comes out has to be what an
undisturbed run gave, row for row; that is made first where it is not there.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow
import pyarrow.parquet
from rows import Row, add_row, circumstances, read_rows

from ltuning.data.sources import read_split

SETS = ("sst2_sentence", "trec6", "twitter_financial_news")
FILES, GROUP, WORDS, EVERY = 8, 50_000, 5, 5.0


def main() -> None:
    """Do one part."""
    options = _arguments()
    PARTS[options.part](options)


def make(options: argparse.Namespace) -> None:
    """The files, of equal sizes."""
    options.texts.mkdir(parents=True)
    found = (read_split(options.data / name, "train").texts for name in SETS)
    texts = [text for several in found for text in several if isinstance(text, str)]
    each = options.rows // FILES
    for number in range(FILES):
        first = number * each
        rows = [_drawn(texts, row) for row in range(first, first + each)]
        table = pyarrow.table({"row": range(first, first + each), "text": rows})
        path = options.texts / f"{number:02}.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=GROUP)


def _drawn(texts: Sequence[str], row: int) -> str:
    words = texts[row % len(texts)].split()
    return " ".join(random.Random(row).sample(words, min(WORDS, len(words))))


def run(options: argparse.Namespace) -> None:
    """Once, watched."""
    out = _fresh(options)
    start, memory = time.perf_counter(), []
    with _started(options, out) as process:
        while process.poll() is None:
            memory.append([round(time.perf_counter() - start), _resident(process)])
            time.sleep(EVERY)
    seconds = time.perf_counter() - start
    rows = [row for row, _ in _found(out)]
    row = {
        "part": "run",
        "engine": options.engine,
        "workers": options.workers,
        "rows": len(rows),
        "in_order": rows == sorted(rows) and len(set(rows)) == len(rows),
        "exit_code": process.returncode,
        "seconds": round(seconds, 1),
        "texts_per_second": round(len(rows) / seconds, 1),
        "memory_mib": memory,
    }
    _add(options, row)


def kill(options: argparse.Namespace) -> None:
    """Deaths of workers and of the driver."""
    whole = options.out.with_name(options.out.name + "-whole")
    if not whole.exists():
        with _started(options, whole) as process:
            process.wait()
    expected = list(_found(whole))
    for who in ("worker", "driver"):
        for number in range(options.times):
            out, chance = _fresh(options), random.Random(number)
            deaths = _disturbed(options, out, who, chance.uniform(0.2, 0.9), len(expected))
            row = {"part": "kill", "who": who, "engine": options.engine, "number": number}
            found = list(_found(out))
            row |= {"deaths": deaths, "rows": len(found), "same": found == expected}
            _add(options, row)


def _disturbed(options: argparse.Namespace, out: Path, who: str, share: float, rows: int) -> int:
    """Kill once so much of the rows is done, and give the command again until all is."""
    deaths = 0
    while True:
        with _started(options, out) as process:
            while process.poll() is None:
                if not deaths and _done(out) >= share * rows and (victim := _victim(process, who)):
                    victim.send_signal(signal.SIGKILL)
                    deaths += 1
                time.sleep(0.2)
        if process.returncode == 0:
            return deaths


def _victim(process: subprocess.Popen[bytes], who: str) -> psutil.Process | None:
    driver = psutil.Process(process.pid)
    if who == "driver":
        return driver
    for child in driver.children(recursive=True):
        name = " ".join(child.cmdline())
        if "spawn_main" in name or name.startswith("ray::Map"):
            return child
    return None


def _done(out: Path) -> int:
    return sum(pyarrow.parquet.read_metadata(part).num_rows for part in out.glob("part-*"))


def _started(options: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ltuning", "predict", str(options.run)]
    if options.engine == "none":
        out.mkdir(exist_ok=True)
        each = [
            [*command, str(path), "--output", str(out / f"part-{path.name}"), "--quiet"]
            for path in sorted(options.texts.glob("*.parquet"))
        ]
        script = "import subprocess, sys\n" + "".join(
            f"subprocess.run({one!r}, check=True)\n" for one in each
        )
        return subprocess.Popen([sys.executable, "-c", script])
    command += [str(options.texts / "*.parquet"), "--engine", options.engine]
    command += ["--workers", str(options.workers), "--output", str(out)]
    return subprocess.Popen(command)


def _fresh(options: argparse.Namespace) -> Path:
    shutil.rmtree(options.out, ignore_errors=True)
    return Path(options.out)


def _resident(process: subprocess.Popen[bytes]) -> float:
    """MiB of a process and all that it began; what several share counts once for each."""
    total = 0
    try:
        driver = psutil.Process(process.pid)
        for one in [driver, *driver.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return round(total / 2**20, 1)


def _found(out: Path) -> Iterator[tuple[int, str]]:
    """Rows and their labels, in the order of the parts."""
    for part in sorted(out.glob("part-*")):
        table = pyarrow.parquet.read_table(part, columns=["row", "predicted_label"])
        yield from zip(
            *(table.column(name).to_pylist() for name in table.column_names), strict=True
        )


def _add(options: argparse.Namespace, row: Row) -> None:
    add_row(options.output, row | circumstances("builtin:minilm"))
    print(json.dumps({name: value for name, value in row.items() if name != "memory_mib"}))


def plot(options: argparse.Namespace) -> None:
    """Memory over time, a line for each run."""
    from matplotlib import pyplot

    for row in read_rows(options.output):
        if row["part"] == "run":
            seconds, mib = zip(*row["memory_mib"], strict=True)
            pyplot.plot(seconds, mib, label=f"{row['engine']}, {row['workers']} workers")
    pyplot.xlabel("seconds")
    pyplot.ylabel("MiB of all processes")
    pyplot.ylim(bottom=0)
    pyplot.legend()
    pyplot.savefig(options.picture)


PARTS: dict[str, Any] = {"make": make, "run": run, "kill": kill, "plot": plot}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, help="make: the folder of all data sets")
    parser.add_argument("--texts", type=Path, help="the folder of the files")
    parser.add_argument("--rows", type=int, default=1_000_000, help="make")
    parser.add_argument("--run", type=Path, help="the folder of a classifier")
    parser.add_argument("--engine", choices=("none", "local", "ray"), default="local")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--times", type=int, default=10, help="kill")
    parser.add_argument("--out", type=Path, default=Path("scale-out"), help="for the parts")
    parser.add_argument("--output", type=Path, default=Path("scale.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("memory.png"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
