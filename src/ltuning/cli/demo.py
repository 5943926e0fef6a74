"""`ltuning demo`: the whole of ltuning in a few minutes, with nothing to prepare."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, results, show_facts, show_next, silence_libraries

if TYPE_CHECKING:
    from ltuning.data.demo import Demo
    from ltuning.estimators.label_classifier import LabelClassifier
    from ltuning.metrics import Report

STEPS = 100
_EVAL_STEPS = 25
# Says in the saved configuration that a folder is the demo's, which the next demo may replace.
_SOURCE = "builtin:demo"
_EXAMPLES = 4

Rows = Sequence[tuple[str, str]]


def demo(
    output: Annotated[
        Path,
        typer.Option(parser=options.user_path, metavar="DIR", help="Folder for the classifier."),
    ] = Path("runs/demo"),
    backbone: Annotated[
        str,
        typer.Option(metavar="NAME", help="builtin:smollm2 shows a decoder: ten times the work."),
    ] = "builtin:minilm",
    quiet: options.Quiet = False,
) -> None:
    """Train a classifier of customer messages, test it, and add a label after training.

    All it needs comes with ltuning: the backbone builtin:minilm, and messages in eight classes.
    Takes about two minutes on two processor cores.
    """
    from ltuning.cli.run_folder import RunFolder
    from ltuning.data.demo import load

    terminal = Terminal(quiet)
    folder, data = RunFolder(output), load()
    folder.check(overwrite=_is_own(output))
    if not quiet:
        _introduce(data)
    classifier = _train(data, backbone, terminal)
    before = _evaluate(classifier, data.test, "testing", terminal)
    if not quiet:
        _show_test(classifier, before, data.test)
    classifier.add_labels(data.new_label)
    after = _evaluate(classifier, [*data.test, *data.new], "testing with the new label", terminal)
    classifier.figures["test"] = {
        name: after[name] for name in ("accuracy", "macro_f1", "mcc", "num_examples")
    }
    classifier.save_pretrained(output, overwrite=True)
    if not quiet:
        _show_new_label(classifier, before, after, data)
        _end(output)


def _is_own(output: Path) -> bool:
    """Whether the folder holds the classifier of an earlier demo."""
    from ltuning.artifacts import store
    from ltuning.errors import ArtifactError

    try:
        saved = store.read_config(output)
    except ArtifactError:
        return False
    return bool(saved["config"]["data"]["path"] == _SOURCE)


def _train(data: Demo, backbone: str, terminal: Terminal) -> LabelClassifier:
    with terminal.waiting("starting"):
        from ltuning.cli.training_bar import TrainingBar
        from ltuning.config import BackboneOptions, Config, DataOptions
        from ltuning.data.sources import Examples
        from ltuning.data.splits import hold_out
        from ltuning.estimators.label_classifier import LabelClassifier

        silence_libraries()
    texts, labels = _columns(data.train)
    config = Config(
        backbone=BackboneOptions(name=backbone),
        labels={name: [text] for name, text in data.labels.items()},
        data=DataOptions(path=_SOURCE),
        training={"max_steps": STEPS, "eval_strategy": "steps", "eval_steps": _EVAL_STEPS},
    )
    whole = Examples([*texts], labels, _SOURCE)
    training, validation = hold_out(whole, config.data.validation_fraction, config.seed)
    classifier = LabelClassifier(config=config)
    with TrainingBar(terminal) as bar:
        classifier.fit(
            training.texts,
            training.labels or [],
            (validation.texts, validation.labels or []),
            callbacks=[bar],
            progress=False,
        )
    return classifier


def _evaluate(classifier: LabelClassifier, rows: Rows, what: str, terminal: Terminal) -> Report:
    texts, labels = _columns(rows)
    with terminal.counting(what, len(texts)) as advance:
        return classifier.evaluate(texts, labels, progress=advance)


def _columns(rows: Rows) -> tuple[list[str], list[str]]:
    return [text for text, _ in rows], [label for _, label in rows]


def _introduce(data: Demo) -> None:
    table = Table(title="Eight labels, and the texts that stand for them", title_justify="left")
    table.add_column("label", no_wrap=True)
    table.add_column("its text")
    for name, text in data.labels.items():
        table.add_row(name, text)
    results().print(table)
    results().print(
        f"Training on {len(data.train)} customer messages. The language model is frozen: what is "
        "trained turns the labels' texts into a prefix that it reads before each message."
    )


def _show_test(classifier: LabelClassifier, report: Report, rows: Rows) -> None:
    from ltuning.cli import figure_tables as tables
    from ltuning.tasks.classes import Classes

    training = classifier.figures["training"]
    show_facts(
        {
            "trained": f"{training['trainable_parameters']:,} parameters in "
            f"{training['seconds']:.0f} s",
            "test": f"{report['num_examples']} messages that training never saw",
            **tables.figures(report),
        }
    )
    results().print(tables.per_class(report, Classes()))
    # Spread over the rows, which are sorted neither by label nor by difficulty.
    step = max(1, len(rows) // _EXAMPLES)
    results().print(_predictions(classifier, rows[::step][:_EXAMPLES], "A few of them"))


def _predictions(classifier: LabelClassifier, rows: Rows, title: str) -> Table:
    """What the classifier makes of texts: the two most probable labels of each."""
    texts, labels = _columns(rows)
    names = [str(name) for name in classifier.classes_]
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("message", ratio=1)
    table.add_column("prediction", no_wrap=True)
    table.add_column("truth", no_wrap=True)
    for text, label, chances in zip(texts, labels, classifier.predict_proba(texts), strict=True):
        first, second = chances.argsort()[::-1][:2]
        style = "green" if names[first] == label else "red"
        prediction = Text(f"{names[first]} {chances[first]:.1%}", style)
        prediction.append(f"\n{names[second]} {chances[second]:.1%}", "dim")
        table.add_row(Text(text), prediction, Text(label))
    return table


def _show_new_label(
    classifier: LabelClassifier,
    before: Report,
    after: Report,
    data: Demo,
) -> None:
    ((name, text),) = data.new_label.items()
    right, of = _right(after, [name])
    old_right, old_of = _right(after, list(data.labels))
    results().print("\nA ninth label, from its text alone: nothing is trained", style="bold")
    show_facts(
        {
            "label": name,
            "its text": text,
            "its messages": f"{right} of {of} right among all nine labels",
            "the others'": f"{old_right} of {old_of} right, accuracy {old_right / old_of:.4f} "
            f"(before: {before['accuracy']:.4f})",
        }
    )
    results().print(_predictions(classifier, data.new[:_EXAMPLES], "A few of its messages"))


def _right(report: Report, labels: Sequence[str]) -> tuple[int, int]:
    """How many texts of these labels are right, and how many there are."""
    order, counts = report["confusion"]["labels"], report["confusion"]["counts"]
    places = [order.index(label) for label in labels]
    return sum(counts[place][place] for place in places), sum(sum(counts[at]) for at in places)


def _end(output: Path) -> None:
    folder = shlex.quote(str(output))
    show_facts({"saved": f"{output}, with all nine labels"})
    show_next(
        [
            f"echo 'I was charged twice for my order' | ltuning predict {folder} -",
            "ltuning train YOUR.csv --output runs/mine",
            "ltuning --help",
        ]
    )
