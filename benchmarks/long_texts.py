"""Texts that are longer than the model reads: cut, or in windows.

    python benchmarks/long_texts.py --data DATA --output long-texts.jsonl
    python benchmarks/long_texts.py --report long-texts.jsonl

DATA has the folders clinc150_oos and sst5; of both only the training rows are read. A text is about
travel or about cooking by one sentence of CLINC150, beside neutral sentences of SST-5. `late`: they
come first, and fill what the model reads once to two and a half times. `start`: they come after.
`alone`: there are none. 100 texts to train on, 100 to measure, 50 steps of 4 texts; the model is
told to read 64 tokens, so that a run takes minutes on a CPU. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rows import Row, add_row, circumstances, grouped, mean_and_each, parsed, parser_of, read_rows
from transformers.utils import logging as transformers_logging

from ltuning import Backbone, LabelClassifier
from ltuning.config import BackboneOptions
from ltuning.data.sources import read_splits

BACKBONE = "builtin:minilm"
ROOM = 64
TEXTS = 100
INTENTS = {
    "travel": "book_flight book_hotel flight_status lost_luggage carry_on travel_suggestion "
    "car_rental vaccines",
    "cooking": "recipe ingredients_list cook_time calories meal_suggestion food_last "
    "ingredient_substitution nutrition_info",
}
RUNS = [
    ("alone", "cut"),
    *((place, how) for place in ("late", "start") for how in ("cut", "windows")),
]


def main() -> None:
    """Run what is not yet in a results file, or print its table."""
    options = _arguments()
    if options.report:
        print(report(read_rows(options.report)))
        return
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    backbone = Backbone.load(BackboneOptions(name=BACKBONE, max_length=ROOM))
    done = {(row["place"], row["long_texts"], row["seed"]) for row in read_rows(options.output)}
    for seed in options.seeds:
        for place, how in RUNS:
            if (place, how, seed) not in done:
                texts, labels = made(backbone, options.data, place, seed)
                row = {"place": place, "long_texts": how, "seed": seed}
                row |= measured(backbone, texts, labels, how, seed)
                add_row(options.output, row | circumstances(BACKBONE))
                print(row, flush=True)


def made(backbone: Backbone, data: Path, place: str, seed: int) -> tuple[list[str], list[str]]:
    """Texts of both classes in turn, and these; no sentence comes twice."""
    draw = random.Random(seed)
    intents = read_splits(data / "clinc150_oos", splits=("train",))["train"]
    reviews = read_splits(data / "sst5", splits=("train",))["train"]
    assert intents.labels is not None and reviews.labels is not None
    fillers = [
        text
        for text, label in zip(reviews.texts, reviews.labels, strict=True)
        if label == "neutral"
    ]
    draw.shuffle(fillers)
    deciding = {}
    for name, several in INTENTS.items():
        deciding[name] = [
            text
            for text, label in zip(intents.texts, intents.labels, strict=True)
            if label in several.split()
        ]
        draw.shuffle(deciding[name])
    texts, labels = [], []
    for row in range(2 * TEXTS):
        label = list(INTENTS)[row % 2]
        own, around = str(deciding[label].pop()), ""
        size = draw.uniform(1, 2.5) * ROOM
        while place != "alone" and _length(backbone, around) < size:
            around = f"{around} {fillers.pop()}".strip()
        texts.append(f"{around} . {own}" if place == "late" else f"{own} . {around}")
        labels.append(label)
    return texts, labels


def _length(backbone: Backbone, text: str) -> int:
    """Its tokens."""
    return backbone.windows([text]).lengths[0]


def measured(backbone: Backbone, texts: list[str], labels: list[str], how: str, seed: int) -> Row:
    """Train on the first texts, measure on the others; seconds are those of the CPU."""
    options = {"data.long_texts": how, "training.per_device_train_batch_size": 4}
    classifier = LabelClassifier(backbone, list(INTENTS), seed=seed, steps=50, options=options)
    start = time.process_time()
    classifier.fit(texts[:TEXTS], labels[:TEXTS], progress=False)
    trained = time.process_time()
    found = classifier.evaluate(texts[TEXTS:], labels[TEXTS:])
    return {
        "tokens": mean(backbone.windows(texts).lengths),
        "accuracy": found["accuracy"],
        "log_loss": found["log_loss"],
        "training_seconds": round(trained - start, 1),
        "measuring_seconds": round(time.process_time() - trained, 1),
    }


def report(rows: Sequence[Row]) -> str:
    """A Markdown table: accuracy as mean, deviation and each seed; means of the rest."""
    lines = [
        "| deciding sentence | long texts | tokens | accuracy | each seed | log loss | training, s "
        "| measuring, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (place, how), group in grouped(rows, "place", "long_texts").items():
        cells = [
            place,
            how,
            f"{mean(row['tokens'] for row in group):.0f}",
            mean_and_each([row["accuracy"] for row in group]),
            f"{mean(row['log_loss'] for row in group):.3f}",
            f"{mean(row['training_seconds'] for row in group):.0f}",
            f"{mean(row['measuring_seconds'] for row in group):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "long-texts.jsonl")
    return parsed(parser)


if __name__ == "__main__":
    main()
