"""Texts that belong to none of the labels: CLINC150 with its texts out of scope.

    python benchmarks/out_of_scope.py --data DATA --output out-of-scope.jsonl
    python benchmarks/out_of_scope.py --report out-of-scope.jsonl

A cell is a number of training texts (`few`: 10 a class, `many`: all), whether some of them are out
of scope, and a seed; see `calibration.py` for the texts that are validated on. In-domain accuracy,
F1, precision and recall of the label `oos`, and AUROC are of the test split. Finished cells are
skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from calibration import BACKBONE, SIZES, parts_of
from rows import Row, add_row, circumstances, grouped, mean_and_each, parsed, parser_of, read_rows
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.data.sources import Examples

FOLDER, FEW, OOS = "clinc150_oos", 10, "oos"
FIGURES = {
    "in_domain_accuracy": "in-domain accuracy",
    "f1": "F1 of oos",
    "precision": "its precision",
    "recall": "its recall",
    "auroc": "AUROC",
}


def main() -> None:
    """Measure cells, or print the table of a results file."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    backbone = Backbone.load(BACKBONE)
    done = {(row["size"], row["trained_oos"], row["seed"]) for row in read_rows(options.output)}
    for seed in options.seeds:
        for size in options.sizes:
            for trained_oos in (False, True):
                if (size, trained_oos, seed) in done:
                    continue
                cell = {"size": size, "trained_oos": trained_oos, "seed": seed}
                train, validation, test = parts_of(options.data / FOLDER, FEW, size, seed)
                if not trained_oos:
                    train, validation = _in_scope(train), _in_scope(validation)
                made = LabelClassifier(backbone, seed=seed, steps=options.steps, oos_label=OOS)
                made.fit(
                    train.texts,
                    train.labels,
                    (validation.texts, validation.labels),
                    progress=False,
                )
                found = made.evaluate(test.texts, test.labels)["out_of_scope"]
                seconds = made.figures["training"]["seconds"]
                row: Row = {**cell, **found, "seconds": seconds}
                add_row(options.output, row | circumstances(BACKBONE.name))
                print(row, flush=True)


def _in_scope(examples: Examples) -> Examples:
    return examples.part([row for row, label in enumerate(examples.labels or ()) if label != OOS])


def report(rows: Sequence[Row]) -> str:
    """A Markdown table: mean and deviation over seeds, and each seed."""
    titles = " | ".join(f"{words} | each seed" for words in FIGURES.values())
    parts = [f"| training texts | {titles} |", "|---" * (2 * len(FIGURES) + 1) + "|"]
    for (size, trained_oos), group in grouped(rows, "size", "trained_oos").items():
        cells = (mean_and_each([row[figure] for row in group]) for figure in FIGURES)
        what = f"{size}, {'some' if trained_oos else 'none'} out of scope"
        parts.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(parts)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "out-of-scope.jsonl")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--steps", type=int, help="another number of optimizer steps")
    return parsed(parser)


if __name__ == "__main__":
    main()
