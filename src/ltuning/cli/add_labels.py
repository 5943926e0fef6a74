"""`ltuning add-labels`: classes from their texts alone, after training."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, show_facts, show_next
from ltuning.errors import ConfigError, LabelError, Problem

if TYPE_CHECKING:
    from ltuning.estimators.label_classifier import TextClassifier


def add_labels(
    folder: options.Artifact,
    output: Annotated[
        Path,
        typer.Option(
            parser=options.user_path,
            metavar="DIR",
            help="Folder for the classifier with all labels.",
            show_default=False,
        ),
    ],
    labels: options.LabelsFile = None,
    label: options.LabelTexts = None,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
) -> None:
    """Add labels to a trained classifier from their texts; nothing is trained.

    For methods that read label texts: lt-prefix, lt-prompt, and others with method.head=match. The
    classifier in DIR stays as it is.
    """
    from ltuning.artifacts import store
    from ltuning.cli import saved
    from ltuning.cli.configuration import raise_all, read_labels, refusals
    from ltuning.tasks.table import TASKS

    problems: list[Problem] = []
    new = read_labels(labels, label or [], problems)
    if new is None and not problems:
        problems.append(Problem("--label", "missing; give NAME=TEXT for each new label"))
    wrong = [ConfigError(problems)] if problems else []
    target = partial(store.check_output, output, can_overwrite=False)
    if refused := [*wrong, *refusals([target])]:
        raise_all([*refused, *refusals([partial(saved.opened, folder)])])
    opened = saved.opened(folder)
    if not TASKS[opened.config.task].reads_labels:
        raise LabelError(
            "expected a classifier of texts, got a tagger, whose types are those it was trained on"
        )
    classifier: TextClassifier = saved.load(opened, backbone, trust_remote_code, Terminal(quiet))
    classifier.add_labels(new)
    classifier.save_pretrained(output)
    if quiet:
        return
    facts = {"added": ", ".join(new or ()), "labels": f"{len(classifier.classes_):,}"}
    if opened.fields.get("temperature") not in (None, 1):
        facts["calibration"] = (
            "the temperature stays; answers on held-out texts were of the labels before, and are "
            "left out until `ltuning calibrate`"
        )
    show_facts(facts | {"saved": str(output)})
    show_next([f"ltuning predict {shlex.quote(str(output))} texts.txt"])
