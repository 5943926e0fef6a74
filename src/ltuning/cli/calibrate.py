"""`ltuning calibrate`: how sure a trained classifier says it is, fitted to texts of one's own."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltuning.cli import options
from ltuning.cli.labelled_texts import LabelledTexts
from ltuning.cli.terminal import Terminal, show_facts, show_next
from ltuning.errors import DataError

if TYPE_CHECKING:
    from ltuning.estimators.label_classifier import LabelClassifier


def calibrate(
    folder: options.Artifact,
    data: Annotated[
        str,
        typer.Option(
            metavar="SOURCE",
            help="50 labelled texts or more that were not trained on: a file, a folder with "
            "splits, or a hub id.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            parser=options.user_path,
            metavar="DIR",
            help="Folder for the calibrated classifier.",
            show_default=False,
        ),
    ],
    split: options.ValidationSplit = None,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    label_column: options.LabelColumn = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    empty_texts: options.EmptyTexts = None,
    missing_labels: options.MissingLabels = None,
    quiet: options.Quiet = False,
) -> None:
    """Fit a trained classifier's probabilities to labelled texts; its labels stay the same.

    With a label that stands for none of the others, which texts get it is fitted anew, too.

    What it says of these texts is kept, for --target-precision and --coverage of `ltuning predict`.
    The classifier in DIR stays as it is.
    """
    from ltuning.artifacts import store
    from ltuning.cli import saved
    from ltuning.cli.configuration import raise_all, refusals
    from ltuning.tasks.table import TASKS

    target = partial(store.check_output, output, can_overwrite=False)
    named = (text_column, text_pair_column, label_column)
    texts = LabelledTexts(data, split, named, encoding, delimiter, empty_texts, missing_labels)
    if refused := refusals([target, *texts.checks()]):
        raise_all([*refused, *refusals([partial(saved.opened, folder)])])
    opened, terminal = saved.opened(folder), Terminal(quiet)
    task = TASKS[opened.config.task]
    if not task.one_of_each:
        raise DataError(
            "expected a classifier that gives each text one label, got one of task "
            f"'{task.name}', which has no temperature"
        )
    with terminal.waiting("reading the texts"):
        examples = texts.read(opened.config, "validation")
    classifier: LabelClassifier = saved.load(opened, backbone, trust_remote_code, terminal)
    with terminal.counting("calibrating", len(examples)) as advance:
        classifier.calibrate(examples.inputs, examples.labels, progress=advance)
    classifier.save_pretrained(output)
    if quiet:
        return
    from ltuning.cli.figure_tables import calibration

    show_facts({"calibration": calibration(classifier.figures), "saved": str(output)})
    show_next([f"ltuning predict {shlex.quote(str(output))} texts.txt"])
