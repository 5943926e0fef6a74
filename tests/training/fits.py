"""What two processes fit together, and one alone; as a script, the part of one of the two."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import TrainerCallback

from ltuning import LabelClassifier, MultilabelClassifier, TokenClassifier, processes
from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.errors import DataError, TrainingError
from ltuning.training.checkpoints import TimedCheckpoints

Toy = Mapping[str, Any]

# Two batches of 16, and one of a single text, of which a process has none.
SIZE = 33
APART = {"method.labels": "apart"}
# Gradients as they are: Adam makes steps of any size of what rounding leaves of a gradient of 0.
PLAIN = {"training.optim": "sgd", "training.learning_rate": 0.1}
NO_DROPOUT = {"method.dropout": 0.0}
VALIDATED = {**PLAIN, "training.eval_strategy": "epoch"}


def texts_of(backbone: Backbone, toy: Toy, method: str, **options: Any) -> LabelClassifier:
    """A classifier that validates after each of two epochs."""
    made = LabelClassifier(
        backbone, toy["label_texts"], method, epochs=2, options=VALIDATED | options
    )
    return made.fit(toy["texts"], toy["labels"], (toy["test_texts"], toy["test_labels"]))


def weighted(backbone: Backbone, toy: Toy, **options: Any) -> LabelClassifier:
    """In micro-batches that make a batch together, with weights and several texts of a label."""
    labels = {**toy["label_texts"], "food": ["bread", "the soup"]}
    parts = {
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 3,
    }
    made = LabelClassifier(backbone, labels, "lt-prefix", epochs=2, options=PLAIN | parts | options)
    return made.fit(toy["texts"], toy["labels"], sample_weight=[1 + row % 3 for row in range(SIZE)])


def windows(backbone: Backbone, toy: Toy) -> LabelClassifier:
    """On texts of one window and of several."""
    texts = [" ".join([text] * (1 + 9 * (row % 3))) for row, text in enumerate(toy["texts"])]
    options = {**VALIDATED, "data.long_texts": "windows"}
    made = LabelClassifier(backbone, toy["label_texts"], "prefix", epochs=1, options=options)
    return made.fit(texts, toy["labels"], (texts[::2], toy["labels"][::2]))


def several(backbone: Backbone, toy: Toy, **options: Any) -> MultilabelClassifier:
    """Texts with one or two labels."""
    names = [*toy["label_texts"]]
    labels = [
        [one] if row % 2 or one == names[0] else [one, names[0]]
        for row, one in enumerate(toy["labels"])
    ]
    made = MultilabelClassifier(
        backbone, toy["label_texts"], "lt-prefix", epochs=2, options=VALIDATED | options
    )
    return made.fit(toy["texts"], labels, (toy["texts"][:9], labels[:9]))


def tags(backbone: Backbone, toy: Toy, method: str, **options: Any) -> TokenClassifier:
    """Sentences of which each third word is tagged."""
    words = [text.split() for text in toy["texts"]]
    given = [["O" if place % 3 else "B-x" for place, _ in enumerate(one)] for one in words]
    made = TokenClassifier(backbone, method=method, epochs=2, options=VALIDATED | options)
    return made.fit(words, given, (words[:7], given[:7]))


FITS: dict[str, tuple[str, Callable[[Backbone, Toy], Any]]] = {
    **{
        name: ("llama", lambda backbone, toy, name=name: texts_of(backbone, toy, name))
        for name in ("prefix", "prompt", "lt-prefix", "lt-prompt", "probe", "full")
    },
    **{
        name: (
            "llama",
            lambda backbone, toy, name=name: texts_of(backbone, toy, name, **NO_DROPOUT),
        )
        for name in ("ls-lora", "ls-unmask")
    },
    "pairs": (
        "bert",
        lambda backbone, toy: weighted(backbone, toy, **APART, **{"method.objective": "pairs"}),
    ),
    "contrast": (
        "bert",
        lambda backbone, toy: weighted(backbone, toy, **APART, **{"method.negatives": 1}),
    ),
    "windows": ("bert", windows),
    "multilabel": ("bert", several),
    "drawn labels": (
        "bert",
        lambda backbone, toy: several(backbone, toy, **APART, **{"method.negatives": 1}),
    ),
    "tags": ("bert", lambda backbone, toy: tags(backbone, toy, "ls-lora", **NO_DROPOUT)),
}


class StopAt(TrainerCallback):
    """Ends a run after some steps, as an interruption after its checkpoint would."""

    def __init__(self, step: int):
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def interrupted(backbone: Backbone, toy: Toy, folder: Path | None, stop: int, resume: bool) -> Any:
    """A run with a checkpoint within an epoch, ended there or gone on with."""
    options = {**PLAIN, "training.eval_strategy": "steps", "training.eval_steps": 2}
    made = LabelClassifier(backbone, toy["label_texts"], "lt-prefix", epochs=3, options=options)
    held_out = (toy["test_texts"], toy["test_labels"])
    return made.fit(
        toy["texts"],
        toy["labels"],
        held_out,
        checkpoints=folder,
        resume=resume,
        callbacks=[StopAt(stop)],
    )


def command(toy_folder: Path, backbone: Path, output: Path) -> list[str]:
    """`ltuning train`, by its words."""
    settings = [word for path, of in PLAIN.items() for word in ("--set", f"{path}={of}")]
    words = ["--data", toy_folder, "--backbone", backbone, "--output", output, "--epochs", 2]
    return ["train", *map(str, words), *settings]


def record(classifier: Any, path: Path) -> None:
    """The weights of a classifier, and the course of its training."""
    state = classifier._trained().model.adapter.state_dict()
    save_file({name: of.contiguous().clone() for name, of in state.items()}, f"{path}.safetensors")
    result = classifier.result_
    losses = [row["loss"] for row in result.history if "loss" in row]
    losses += [row["train_loss"] for row in result.history if "train_loss" in row]
    said = {"steps": result.steps, "best": result.best, "losses": losses}
    path.with_suffix(".json").write_text(json.dumps(said))


class Dies(TrainerCallback):
    """Is killed at its second step, where it is not the main process."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2 and not processes.is_main():
            os.kill(os.getpid(), signal.SIGKILL)


def by_the_clock(backbone: Backbone, toy: Toy, folder: Path) -> None:
    """Time passes in the main process alone."""
    ticks = itertools.count(step=1000 if processes.is_main() else 0)
    TimedCheckpoints.clock = staticmethod(ticks.__next__)  # type: ignore[assignment]
    options = {"training.save_strategy": "steps", "training.save_steps": 100}
    made = LabelClassifier(backbone, toy["label_texts"], "probe", steps=11, options=options)
    made.fit(toy["texts"], toy["labels"], checkpoints=folder)


def refused(backbone: Backbone, toy: Toy) -> str:
    """What is said where each process is given texts of its own."""
    own = slice(processes.rank(), None, 2)
    made = LabelClassifier(backbone, toy["label_texts"], "probe", steps=1)
    try:
        made.fit(toy["texts"][own], toy["labels"][own])
    except DataError as error:
        return str(error)
    return ""


def lost(backbone: Backbone, toy: Toy) -> str:
    """What the main process says where the other is killed."""
    made = LabelClassifier(backbone, toy["label_texts"], "probe", steps=9)
    try:
        made.fit(toy["texts"], toy["labels"], callbacks=[Dies()])
    except TrainingError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    """Everything, in one process of two."""
    from transformers.utils import logging

    from ltuning.cli.main import app

    logging.disable_progress_bar()
    given = json.loads((folder / "given.json").read_text())
    toy, own = given["toy"], folder / f"rank-{processes.rank()}"
    own.mkdir()
    paths = {name: Path(path) for name, path in given["models"].items()}
    backbones = {
        name: Backbone.load(BackboneOptions(name=str(path))) for name, path in paths.items()
    }
    for name, (family, fit) in FITS.items():
        record(fit(backbones[family], toy), own / name)
    bert = backbones["bert"]
    interrupted(bert, toy, folder / "two", stop=4, resume=False)
    record(interrupted(bert, toy, folder / "one", stop=99, resume=True), own / "resumed")
    by_the_clock(bert, toy, folder / "clock")
    (own / "refused.txt").write_text(refused(bert, toy))
    # It would take the store of all with it, which this process goes on with.
    processes.leave = lambda: (own / "left").touch()
    app(command(folder / "data", paths["bert"], folder / "run"), standalone_mode=False)
    (own / "lost.txt").write_text(lost(bert, toy))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
