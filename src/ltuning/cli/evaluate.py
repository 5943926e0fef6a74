"""`ltuning evaluate`: how often a trained classifier is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltuning.cli import options
from ltuning.cli.labelled_texts import LabelledTexts
from ltuning.cli.terminal import Terminal, results, show_facts
from ltuning.errors import DataError

if TYPE_CHECKING:
    from ltuning.config import Config
    from ltuning.metrics import Report
    from ltuning.tasks.task import Labelled

_SPLIT = "test"


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="Labelled texts: a file, a folder with splits, or a hub id."
        ),
    ],
    folder: options.ArtifactUnlessZeroShot = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Which split of a folder or hub data set; test by default.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=options.user_path,
            metavar="FILE",
            help="Write all figures to this JSON file.",
            show_default=False,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    zero_shot: options.ZeroShot = False,
    label: options.LabelTexts = None,
    labels: options.LabelsFile = None,
    oos_label: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The label of texts that belong to none of the others, such as oos; by default "
            "that of the training, if it had one.",
            show_default=False,
        ),
    ] = None,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    label_column: options.LabelColumn = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    empty_texts: options.EmptyTexts = None,
    missing_labels: options.MissingLabels = None,
    quiet: options.QuietTables = False,
) -> None:
    """Measure a classifier on labelled texts: accuracy, per class, and what it confuses.

    Where several labels may apply: F1, precision and recall of labels, micro and macro, exact
    match, and per label with its threshold. Of a tagger: precision, recall and F1 of entities,
    overall and per type. With a label that stands for none of the others: in-domain accuracy, and
    F1, precision, recall and AUROC of telling such texts. With --zero-shot, of a guess that nothing
    is trained for.
    """
    from ltuning.cli import saved
    from ltuning.cli.configuration import raise_all, refusals
    from ltuning.data.files import check_new_json, write_file

    terminal, named_labels = Terminal(quiet), (labels, label or [])
    asked = saved.asked(folder, zero_shot, named_labels, backbone, trust_remote_code)
    named = (text_column, text_pair_column, label_column)
    texts = LabelledTexts(data, split, named, encoding, delimiter, empty_texts, missing_labels)
    split = split or _SPLIT
    targets = [] if output is None else [partial(check_new_json, output, overwrite)]
    if refused := refusals([*targets, *texts.checks()]):
        raise_all([*refused, *refusals([partial(asked.classifier, terminal)])])
    config, load = asked.classifier(terminal)
    read = partial(texts.read, config, _SPLIT)
    report = _measure(load, read, _of_scope(config, oos_label), terminal)
    if output is not None:
        classifier = None if folder is None else str(folder)
        whole = {**report, "classifier": classifier, "data": data, "split": split}
        text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
        write_file(text.encode(), output)
    if not quiet:
        where = data if texts.is_file() else f"{data} ({split})"
        _show(report, where, config.task)


def _of_scope(config: Config, oos_label: str | None) -> dict[str, str]:
    """What the front door is told of a label for none."""
    from ltuning.tasks.table import TASKS

    if oos_label is None:
        return {}
    if not TASKS[config.task].one_of_each:
        raise DataError(
            "expected --oos-label for a classifier that gives each text one label, got one of task "
            f"'{config.task}'; leave it out"
        )
    return {"oos_label": oos_label}


def _measure(
    load: Callable[[], Any],
    read: Callable[[], Labelled],
    scope: dict[str, str],
    terminal: Terminal,
) -> Report:
    with terminal.waiting("reading the texts"):
        examples = read()
    door = load()
    with terminal.counting("evaluating", len(examples)) as advance:
        report: Report = door.evaluate(examples.inputs, examples.labels, progress=advance, **scope)
    return report


def _show(report: Report, where: str, task: str) -> None:
    from ltuning.cli import figure_tables as tables
    from ltuning.tasks.table import TASKS

    texts = f"{report['num_examples']:,} of {where}"
    show_facts({"texts": texts, **tables.figures(report)})
    results().print(tables.per_class(report, TASKS[task]))
    if "confusion" in report:
        results().print(tables.confusion(report))
