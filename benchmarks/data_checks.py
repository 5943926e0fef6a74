"""What `ltuning check` finds in data sets, and what label errors and `ltuning review` are worth.

    python benchmarks/data_checks.py found DATA/trec6 DATA/sst5
    python benchmarks/data_checks.py labels DATA/sst5 --seeds 0-2

`found` checks a folder as the command does. `labels` makes 5 % of the labels of 3,000 training
texts wrong, each any other one, and counts how many of them are told of. Then, from a few labelled
texts of each class on, it has 50 more labelled three times, drawn at random, by the smallest
margin, or as `ltuning review` draws them, and measures on 1,000 others. The classifier of both is
a logistic regression on the frozen states.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rows import Row, add_row, circumstances, read_rows, seeds_of
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from ltuning.backbones.backbone import Backbone
from ltuning.checks.label_errors import UNLIKELY, labelled_enough, suspects
from ltuning.cli.check import check
from ltuning.data.sources import read_split, read_table
from ltuning.reviewing import worth_labelling
from ltuning.scoring import mean_states

BACKBONE = "builtin:minilm"
TEXTS, TESTED, NOISE = 3000, 1000, 0.05
ASKED, ROUNDS = 50, 3
# Texts of each label to begin with: of few labels, and of many.
FEW, MANY = 16, 2

Choose = Callable[[np.ndarray, Callable[[Sequence[int]], np.ndarray], int], Sequence[int]]


def found(folder: Path) -> list[Row]:
    """What the command finds, and the seconds that it takes."""
    table = read_table(next(iter(folder.glob("train.*"))))
    task = "tags" if "tokens" in table.columns else "classes"
    began, used = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "found.json"
        check(str(folder), task=task, output=output, quiet=True)
        record = json.loads(output.read_text())
    kinds = [{key: one[key] for key in ("kind", "split", "count")} for one in record["findings"]]
    texts = {split: part["texts"] for split, part in record["splits"].items()}
    seconds = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - used}
    sentences = [one["sentence"] for one in record["findings"]]
    return [{"texts": texts, "found": kinds, "sentences": sentences, **seconds}]


def labels(folder: Path, seeds: Sequence[int], backbone: Backbone) -> list[Row]:
    """Label errors and rounds of labelling, of every seed, on the same texts."""
    examples = read_split(folder, "train")
    part = examples.part(sorted(random.Random(0).sample(range(len(examples)), TEXTS)))
    part = part.part(labelled_enough(part.labels or ()))
    tokens = backbone.tokenize(part.texts)
    states = mean_states(backbone, tokens, 256).cpu().numpy()
    names = np.array(part.labels)
    return [
        {"seed": seed, **injected(states, names, seed), "rounds": rounds(states, names, seed)}
        for seed in seeds
    ]


def injected(states: np.ndarray, names: np.ndarray, seed: int) -> Row:
    """Precision and recall of labels told of, with the bound on their probability and without."""
    draw = np.random.default_rng(seed)
    wrong = draw.choice(len(names), round(NOISE * len(names)), replace=False)
    given = names.copy()
    for row in wrong:
        given[row] = draw.choice(np.setdiff1d(names, [names[row]]))
    figures: Row = {}
    for rule, below in {"told": UNLIKELY, "confident learning": 1.0}.items():
        told = suspects(states, given.tolist(), seed, below)
        hits = len({*told.rows} & {*wrong.tolist()})
        figures[rule] = {
            "rows": len(told.rows),
            "precision": hits / max(1, len(told.rows)),
            "recall": hits / len(wrong),
        }
        figures["agreement"] = told.agreement
    return figures


def rounds(states: np.ndarray, names: np.ndarray, seed: int) -> dict[str, list[float]]:
    """Accuracy after each round of labelling, by how the texts are chosen."""
    draw = np.random.default_rng(seed)
    order, states = draw.permutation(len(names)), normalize(states)
    tested, rest = order[:TESTED], order[TESTED:]
    number = FEW if len(Counter(names)) <= 20 else MANY
    start = [row for name in np.unique(names) for row in rest[names[rest] == name][:number]]
    ways: dict[str, Choose] = {
        "random": lambda margins, _, count: draw.choice(len(margins), count, replace=False),
        "margin": lambda margins, _, count: np.argsort(margins)[:count],
        "review": lambda margins, states_of, count: worth_labelling(margins, states_of, count),
    }
    found: dict[str, list[float]] = {}
    for way, choose in ways.items():
        known, accuracies = [*start], []
        for _ in range(ROUNDS + 1):
            model = LogisticRegression(C=3.0, max_iter=1000).fit(states[known], names[known])
            accuracies.append(float(model.score(states[tested], names[tested])))
            pool = np.setdiff1d(rest, known)
            second, first = np.sort(model.predict_proba(states[pool]), axis=1)[:, -2:].T
            states_of = lambda rows, pool=pool: states[pool[rows]]  # noqa: E731
            known += pool[list(choose(first - second, states_of, ASKED))].tolist()
        found[way] = accuracies
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["found", "labels"])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=seeds_of, default=range(3))
    parser.add_argument("--results", type=Path, default=Path("data_checks.jsonl"))
    given = parser.parse_args()
    backbone = Backbone.load(BACKBONE) if given.what == "labels" else None
    for folder in given.folders:
        rows = found(folder) if backbone is None else labels(folder, given.seeds, backbone)
        for row in rows:
            whole = {"what": given.what, "data": folder.name, **row, **circumstances(BACKBONE)}
            add_row(given.results, whole)
            print(json.dumps({"data": folder.name, **row}), flush=True)
    print(f"{len(read_rows(given.results))} rows in {given.results}")


if __name__ == "__main__":
    main()
