"""`ltuning evaluate`: how often a trained classifier is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, results, show_facts


def evaluate(
    folder: options.Artifact,
    data: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="Labelled texts: a file, a folder with splits, or a hub id."
        ),
    ],
    split: Annotated[str, typer.Option(help="Which split of a folder or hub data set.")] = "test",
    output: Annotated[
        Path | None,
        typer.Option(
            parser=options.user_path,
            metavar="FILE",
            help="Write all figures to this JSON file.",
            show_default=False,
        ),
    ] = None,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    label_column: options.LabelColumn = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars and no tables.")] = False,
) -> None:
    """Measure a classifier on labelled texts: accuracy, per class, and what it confuses.

    Where several labels may apply: F1, precision and recall of labels, micro and macro, exact
    match, and per label with its threshold. Of a tagger: precision, recall and F1 of entities,
    overall and per type.
    """
    from ltuning.data.files import check_target, write_file

    if output is not None:
        check_target(output)
    named = (text_column, text_pair_column, label_column)
    report = _measure(folder, data, split, (backbone, trust_remote_code), named, quiet)
    if output is not None:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        write_file(text.encode(), output)
    if not quiet:
        _show(report)


def _measure(
    folder: Path,
    data: str,
    split: str,
    backbone: tuple[str | None, bool],
    named: tuple[str | None, str | None, str | None],
    quiet: bool,
) -> dict[str, Any]:
    from ltuning.classifier import LabelClassifier
    from ltuning.cli import saved
    from ltuning.data.sources import read_multilabel_split, read_split, read_tagged_split
    from ltuning.multilabel import MultilabelClassifier
    from ltuning.tagger import TokenClassifier

    doors: dict[str, tuple[Any, Any]] = {
        "classes": (LabelClassifier, read_split),
        "multilabel": (MultilabelClassifier, read_multilabel_split),
        "tags": (TokenClassifier, read_tagged_split),
    }
    terminal = Terminal(quiet)
    door, read = doors[saved.task_of(folder)]
    with terminal.waiting(f"reading {data}"):
        examples = read(data, split, saved.columns_of(folder, *named))
    assert examples.labels is not None  # they are needed
    classifier = saved.load(door, folder, *backbone, terminal)
    with terminal.counting("evaluating", len(examples)) as advance:
        report = classifier.evaluate(examples.inputs, examples.labels, progress=advance)
    return {**report, "classifier": str(folder), "data": data, "split": split}


def _show(report: dict[str, Any]) -> None:
    from ltuning.cli import report as tables

    split = "" if Path(report["data"]).is_file() else f" ({report['split']})"
    where = f"{report['num_examples']:,} of {report['data']}{split}"
    show_facts({"texts": where, **tables.figures(report)})
    results().print(tables.per_class(report))
    if "confusion" in report:
        results().print(tables.confusion(report))
