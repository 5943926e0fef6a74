"""`ltuning export`: a trained classifier as an ONNX file, which runs without torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltuning.cli import options
from ltuning.cli.labelled_texts import LabelledTexts
from ltuning.cli.terminal import Terminal, show_facts, show_next, silence_libraries
from ltuning.errors import DataError, LabelError
from ltuning.suggestions import unknown

if TYPE_CHECKING:
    from ltuning.exporting.int8 import Cost
    from ltuning.tasks.task import Labelled, Task

INT8 = "int8"


def export(
    folder: options.Artifact,
    output: Annotated[
        Path,
        typer.Option(
            parser=options.user_path,
            metavar="DIR",
            help="Folder for the exported classifier.",
            show_default=False,
        ),
    ],
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar=INT8,
            help=f"{INT8}: weights of 8 bits, for a file of a quarter of the size; answers change.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Labelled texts on which to measure what --quantize costs: a file, a folder with "
            "splits, or a hub id.",
            show_default=False,
        ),
    ] = None,
    split: options.ValidationSplit = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
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
    """Write a trained classifier as an ONNX file: model.onnx, tokenizer.json and labels.json.

    `ltuning predict` takes that folder, and so does ltuning.onnx, which needs onnxruntime,
    tokenizers and NumPy, and no torch. The file is run before it is kept: answers that differ from
    torch's by more than 0.0001 are an error, and nothing is written.
    """
    from ltuning.artifacts import folders, store
    from ltuning.cli import saved
    from ltuning.cli.configuration import raise_all, refusals
    from ltuning.exporting import export as exporting
    from ltuning.tasks.table import TASKS

    named = (text_column, text_pair_column, label_column)
    how = (encoding, delimiter, empty_texts, missing_labels)
    is_read = any(one is not None for one in (split, *named, *how))
    texts = None if data is None else LabelledTexts(data, split, named, *how)
    checks: list[Callable[[], object]] = [
        partial(_check_quantize, quantize, data, is_read),
        *(texts.checks() if texts is not None and quantize is not None else []),
        exporting.check_extra,
        lambda: store.check_exported(folders.resolve(output), overwrite),
    ]
    if refused := refusals(checks):
        raise_all([*refused, *refusals([partial(saved.opened, folder)])])
    opened, terminal = exporting.exportable(saved.opened(folder)), Terminal(quiet)
    task = TASKS[opened.config.task]
    examples = None
    if texts is not None:
        examples = texts.read(opened.config, "validation")
        known = {*opened.fields["labels"], opened.config.data.oos_label}
        if strange := sorted({*task.names(examples)} - known):
            raise LabelError(unknown("label", strange[0], opened.fields["labels"]))
    with terminal.waiting(f"loading {folder}"):
        door = task.door()
        silence_libraries()
        door = door.from_pretrained(
            opened, backbone=backbone, device="cpu", trust_remote_code=trust_remote_code
        )
    with terminal.waiting("exporting"):
        int8 = quantize is not None
        done = exporting.export(opened, door, output, int8=int8, overwrite=overwrite)
    facts = {
        "difference": f"{done.difference:.1e} from torch at most, on texts of many lengths",
        "size": f"{done.size / 2**20:,.1f} MB",
    }
    if quantize is not None:
        facts[INT8] = _said(_measured(task, door, output, examples, terminal), task)
    if quiet:
        return
    show_facts(facts | {"saved": str(output)})
    show_next([f"ltuning predict {shlex.quote(str(output))} texts.txt"])


def _check_quantize(quantize: str | None, data: str | None, is_read: bool) -> None:
    if quantize not in (None, INT8):
        raise DataError(unknown("value of --quantize", str(quantize), [INT8]))
    if data is not None and quantize is None:
        raise DataError(
            f"expected --data, on which the cost of quantisation is measured, with --quantize "
            f"{INT8}, got it without; leave it out"
        )
    if data is None and is_read:
        raise DataError(
            "expected columns, splits and files to be described with --data, got none; leave "
            "their options out"
        )


def _measured(
    task: Task, door: Any, output: Path, examples: Labelled | None, terminal: Terminal
) -> Cost | None:
    """What quantisation costs; None where there is nothing to measure it on."""
    from ltuning import onnx
    from ltuning.exporting.int8 import cost_of

    if examples is None:
        return None
    with terminal.counting("measuring", 2 * len(examples)) as advance:
        before, after = (
            task.said(one, examples.inputs, advance) for one in (door, onnx.load(output))
        )
    return cost_of(before, after, task.true(examples))


def _said(cost: Cost | None, task: Task) -> str:
    if cost is None:
        return "what it costs was not measured; --data FILE with labelled texts says it"
    return (
        f"of {task.answers} {cost.after:.1%} right, before {cost.before:.1%}; {cost.changed:.1%} "
        f"changed, on {cost.texts:,}"
    )
