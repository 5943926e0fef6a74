"""Method `auto` beside each single method, on nine settings.

    python benchmarks/auto.py --data DATA --output auto.jsonl
    python benchmarks/auto.py --data DATA --output auto.jsonl --sets trec6 --shots 4 --seeds 0-0
    python benchmarks/auto.py --report auto.jsonl

TREC-6, SST-2 and BANKING77 with 4, with 64 and with all training texts per class. Each is trained
as `ltuning train` trains on one file: its default length, rate and early stop, a tenth of the texts
held out to choose the weights by; logistic regression is fitted on all of them, on frozen mean
states. `auto` is trained too, not copied from the method that it takes. Seconds are those of
training, with the choice. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from rows import Row, add_row, circumstances, grouped, parsed, parser_of, read_rows
from sklearn.linear_model import LogisticRegression
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.examples import Examples
from ltuning.data.sources import read_splits
from ltuning.data.splits import hold_out, take_shots
from ltuning.experiments.grid import Grid
from ltuning.scoring import mean_states

BACKBONE = "builtin:minilm"
GRID = Path(__file__).parent.parent / "grids" / "fewshot.yaml"
METHODS = ("auto", "lt-prefix", "ls-lora", "full", "probe", "logistic")
SHOTS = (4, 64, None)


def main() -> None:
    """Run the settings, or print the table of a results file."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    backbone = Backbone.load(BackboneOptions(name=BACKBONE))
    sets = Grid.from_yaml(GRID).data
    keys = ("set", "shots", "method", "seed")
    done = {tuple(row[key] for key in keys) for row in read_rows(options.output)}
    for seed in options.seeds:
        for name in options.sets or sets:
            path = options.data / str(sets[name].path)
            splits = read_splits(path, splits=("train", "test"))
            for shots in options.shots or SHOTS:
                train = splits["train"]
                train = train if shots is None else take_shots(train, shots, seed)
                for method in options.methods or METHODS:
                    if (name, shots, method, seed) in done:
                        continue
                    found = run(backbone, sets[name].labels, method, train, splits["test"], seed)
                    row = {"set": name, "shots": shots, "method": method, "seed": seed, **found}
                    add_row(options.output, row | circumstances(BACKBONE))
                    print(row, flush=True)


def run(
    backbone: Backbone, labels: Any, method: str, train: Examples, test: Examples, seed: int
) -> Row:
    """Train a method and measure it once on the test texts."""
    truth = np.array(test.labels)
    began = time.perf_counter()
    if method == "logistic":
        head = LogisticRegression(C=10, max_iter=1000, random_state=seed)
        head.fit(_states(backbone, train), train.labels)
        seconds = time.perf_counter() - began
        predicted = head.predict(_states(backbone, test))
        return {"accuracy": float((predicted == truth).mean()), "seconds": round(seconds, 1)}
    rest, held_out = hold_out(train, 0.1, seed)
    made = LabelClassifier(backbone, labels, method, seed=seed)
    made.fit(rest.texts, rest.labels, (held_out.texts, held_out.labels), progress=False)
    seconds = time.perf_counter() - began
    return {
        "accuracy": float((made.predict(test.texts) == truth).mean()),
        "seconds": round(seconds, 1),
        "steps": made.figures["training"]["steps"],
        "took": made.config.method.name,
    }


def _states(backbone: Backbone, examples: Examples) -> np.ndarray:
    return mean_states(backbone, backbone.tokenize(list(examples.texts)), 64).cpu().numpy()


def report(rows: list[Row]) -> str:
    """A Markdown table: what `auto` took, its accuracy and seconds beside those of every method."""
    title = "setting | auto took | behind the best"
    lines = [f"| {title} | {' | '.join(METHODS)} |", "|---" * (3 + len(METHODS)) + "|"]
    for (name, shots), of_setting in grouped(rows, "set", "shots").items():
        methods = grouped(of_setting, "method")
        accuracy = {name: mean(row["accuracy"] for row in found) for name, found in methods.items()}
        took = sorted({row["took"] for row in methods.get("auto", [])})
        single = [value for name, value in accuracy.items() if name != "auto"]
        behind = f"{100 * (max(single) - accuracy['auto']):.1f}" if took and single else ""
        cells = [
            f"{accuracy[name]:.3f}, {median(row['seconds'] for row in methods[name]):.0f} s"
            if name in methods
            else ""
            for name in METHODS
        ]
        setting = f"{name}, {shots or 'all'}"
        lines.append(f"| {setting} | {', '.join(took)} | {behind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "auto.jsonl")
    parser.add_argument("--sets", nargs="+", choices=("trec6", "sst2", "banking77"))
    parser.add_argument("--shots", nargs="+", type=_shots, help="texts per class, or all")
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    return parsed(parser)


def _shots(word: str) -> int | None:
    return None if word == "all" else int(word)


if __name__ == "__main__":
    main()
