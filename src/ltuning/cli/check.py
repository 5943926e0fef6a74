"""`ltuning check`: what is, or may be, wrong with labelled texts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ltuning.checks.finding import quoted
from ltuning.cli import options
from ltuning.cli.figure_tables import titled
from ltuning.cli.terminal import Terminal, results, show_facts, silence_libraries
from ltuning.errors import DataError, LabelError, Problem
from ltuning.texts import visible

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from ltuning.checks.finding import Finding
    from ltuning.config import Config
    from ltuning.data.examples import Examples

_TRAINED_ON = ("train", "validation")
_SHOWN = 10  # of many labels, and of labels that may be wrong
# Texts that are read by the model for likely label errors: MiniLM reads as many tweets in 75 s.
_MOST = 10_000
# Texts by which it is told how long that takes, and the seconds from which on it is told.
_TIMED, _TOLD_FROM = 64, 20.0

_Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A csv, tsv, jsonl or parquet file (or .gz), a folder with train, validation and "
        "test files, or a hub data set id.",
        show_default=False,
    ),
]
_NoModel = Annotated[
    bool,
    typer.Option(
        "--no-model",
        help="Leave out likely label errors, for which the backbone reads the training texts. "
        "Its tokenizer is used all the same.",
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        parser=options.user_path,
        metavar="FILE",
        help="Write all that was found, text by text, to this JSON file.",
        show_default=False,
    ),
]
_Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Any option of the configuration, as of train."),
]


def check(
    data: _Source,
    labels: options.LabelsFile = None,
    label: options.LabelTexts = None,
    task: options.Task = None,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    label_column: options.LabelColumn = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    empty_texts: options.EmptyTexts = None,
    missing_labels: options.MissingLabels = None,
    backbone: options.Backbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    method: options.Method = None,
    set_: _Settings = None,
    no_model: _NoModel = False,
    output: _Output = None,
    overwrite: options.Overwrite = False,
    quiet: options.QuietTables = False,
) -> None:
    """Look at labelled texts before training on them.

    Labels and their shares, labels with few texts, one text under several labels, texts that are
    there twice or in two splits, labels without words or with several in one, texts that the model
    cuts or whose language it does not know, and labels that are likely to be wrong.

    Whatever is found, the exit code is 0.
    """
    from ltuning.cli.configuration import configure, raise_all, read_labels, read_splits, refusals
    from ltuning.data.files import check_new_json, write_file
    from ltuning.data.sources import check_source

    problems: list[Problem] = []
    given = {
        "task": task,
        "backbone.name": backbone,
        "backbone.trust_remote_code": trust_remote_code or None,
        "labels": read_labels(labels, label or [], problems),
        "method.name": method,
        "data.path": data,
        "data.text_column": text_column,
        "data.text_pair_column": text_pair_column,
        "data.label_column": label_column,
        "data.delimiter": delimiter,
        "data.encoding": encoding,
        "data.empty_texts": empty_texts,
        "data.missing_labels": missing_labels,
    }
    terminal = Terminal(quiet)
    checks = [partial(check_source, data)]
    if output is not None:
        checks.append(partial(check_new_json, output, overwrite))
    raise_all(refusals(checks))
    config = configure({}, given, set_ or [], problems, needs_data=True)
    with terminal.waiting(f"reading {data}"):
        splits, findings = _readable(partial(read_splits, config))
    findings += _findings(config, splits, no_model, terminal)
    record = _record(data, config, splits, findings)
    if output is not None:
        write_file((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode(), output)
    if not quiet:
        _show(record, findings)


def _readable(read: Callable[..., Mapping[str, Any]]) -> tuple[dict[str, Any], list[Finding]]:
    """The splits; that of the test is left out where it cannot be used, as one without labels."""
    from ltuning.checks.finding import Finding

    splits, findings = {**read(*_TRAINED_ON)}, []
    try:
        splits |= read("test")
    except DataError as error:
        if not splits:
            raise
        findings.append(Finding("left out", "test", 0, str(error)))
    return {name: splits[name] for name in (*_TRAINED_ON, "test") if name in splits}, findings


def _findings(
    config: Config, splits: Mapping[str, Any], no_model: bool, terminal: Terminal
) -> list[Finding]:
    """What is found, the cheap things first."""
    from ltuning.checks.examples import check_examples
    from ltuning.tasks.table import TASKS

    task = TASKS[config.task]
    found = check_examples(splits, one_of_each=task.one_of_each)
    if task.reads_labels:
        found += _of_labels(config, splits)
    if not task.of_words:  # longer sentences are read in windows
        found += _of_reading(config, splits, terminal)
    if task.one_of_each and not no_model and "train" in splits:
        found += _of_label_errors(config, splits["train"], terminal)
    return found


def _of_labels(config: Config, splits: Mapping[str, Any]) -> list[Finding]:
    """Labels without words, where a method reads them, and labels that look like several."""
    from ltuning.checks.finding import Finding
    from ltuning.labels import Labels, joined_hints, wordless, wordless_hint
    from ltuning.methods.catalog import reads_texts

    split, reads = next(iter(splits)), reads_texts(config.method)
    names = sorted({name for part in splits.values() for of in part.names for name in of})
    found = [
        Finding("label names", split, len(joined), hint, [{"label": name} for name in joined])
        for joined, hint in joined_hints(names)
    ]
    try:
        empty = wordless(Labels.from_any(config.labels or names, texts_read=reads))
    except LabelError as error:  # with which training would end
        return [*found, Finding("label texts", split, len(names), str(error))]
    if empty and reads:
        hint = wordless_hint(empty, config.method.name)
        found.append(
            Finding("label texts", split, len(empty), hint, [{"label": name} for name in empty])
        )
    return found


def _of_reading(config: Config, splits: Mapping[str, Any], terminal: Terminal) -> list[Finding]:
    """Texts that are cut, and texts in another language."""
    silence_libraries()
    with terminal.loading(config.backbone.name):
        from ltuning.backbones.frozen_model import text_room
        from ltuning.backbones.loading import load_config, load_tokenizer
        from ltuning.checks.examples import places_of
        from ltuning.checks.reading import check_language, check_lengths, token_counts

        of_model, family = load_config(config.backbone)
        tokenizer = load_tokenizer(config.backbone, of_model, family)
        room = text_room(tokenizer, family.position_budget(of_model), config.backbone.max_length)
    found = []
    for split, part in splits.items():
        with terminal.counting("tokenizing", len(part)) as advance:
            counts = token_counts(tokenizer, part.texts, advance)
        if config.data.long_texts == "cut":
            found += check_lengths(counts, room, places_of(part), split)
        found += check_language(tokenizer, part.texts, config.backbone.name, split)
    return found


def _of_label_errors(config: Config, training: Examples, terminal: Terminal) -> list[Finding]:
    """Training labels that are likely to be wrong."""
    from ltuning.checks.label_errors import check_label_errors, labelled_enough, suspects

    part = training
    if len(training) > _MOST:
        part = training.part(random.Random(config.seed).sample(range(len(training)), _MOST))
        terminal.note(
            f"label errors: of {len(training):,} training texts {_MOST:,} are looked at, drawn at "
            "random"
        )
    part = part.part(labelled_enough(part.labels or ()))
    if not len(part):
        return []
    states = _states(config, part, terminal)
    with terminal.waiting("looking for label errors"):
        found = suspects(states, part.labels or (), config.seed)
    return check_label_errors(part, found, "train")


def _states(config: Config, examples: Examples, terminal: Terminal) -> np.ndarray:
    """`[N, H]` mean frozen states."""
    with terminal.loading(config.backbone.name):
        from ltuning.backbones.backbone import Backbone
        from ltuning.scoring import mean_states

        backbone = Backbone.load(config.backbone)
    tokens, size = backbone.tokenize(examples.texts), config.backbone.max_branches
    some = tokens[:: -(-len(tokens) // _TIMED)]
    began = time.monotonic()
    mean_states(backbone, some, size)
    seconds = (time.monotonic() - began) * len(tokens) / len(some)
    if seconds >= _TOLD_FROM:
        terminal.note(
            f"label errors: the model reads {len(tokens):,} training texts, which takes about "
            f"{seconds:,.0f} s; --no-model leaves them out"
        )
    with terminal.counting("reading the training texts", len(examples)) as advance:
        states = mean_states(backbone, tokens, size, progress=advance)
    found: np.ndarray = states.cpu().numpy()
    return found


def _record(
    data: str, config: Config, splits: Mapping[str, Any], findings: Sequence[Finding]
) -> dict[str, Any]:
    """All of it as plain values."""
    from ltuning.checks.examples import label_counts

    return {
        "data": data,
        "task": config.task,
        "splits": {
            split: {"texts": len(part), "labels": label_counts(part)}
            for split, part in splits.items()
        },
        "findings": [asdict(finding) for finding in findings],
    }


def _show(record: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    splits = record["splits"]
    split = next(iter(splits))
    show_facts(
        {
            "data": record["data"],
            "texts": ", ".join(f"{name} {part['texts']:,}" for name, part in splits.items()),
            "labels": f"{len(splits[split]['labels']):,} in {split}",
        }
    )
    results().print(_shares(splits[split], split))
    if not findings:
        results().print("nothing found")
        return
    results().print(_found(findings))
    for finding in findings:
        if finding.kind == "label errors":
            results().print(_least_likely(finding))


def _shares(part: Mapping[str, Any], split: str) -> RenderableType:
    """The labels of a split, with how many of its texts have each."""
    table = Table(header_style="bold")
    table.add_column("label", overflow="fold")
    for name in ("texts", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    pairs = list(part["labels"].items())
    for label, count in pairs[:_SHOWN]:
        table.add_row(Text(visible(label)), f"{count:,}", f"{count / part['texts']:.1%}")
    if rest := pairs[_SHOWN:]:
        table.add_row(f"{len(rest):,} more", f"{rest[-1][1]:,} to {rest[0][1]:,}", "")
    return titled(f"labels of {split}", table)


def _found(findings: Sequence[Finding]) -> RenderableType:
    table = Table(header_style="bold")
    for name in ("found", "split"):
        table.add_column(name, no_wrap=True)
    table.add_column("what")
    for finding in findings:
        table.add_row(finding.kind, finding.split, Text(visible(finding.sentence)))
    return titled("found", table)


def _least_likely(finding: Finding) -> RenderableType:
    """The first labels that may be wrong."""
    table = Table(header_style="bold")
    unit = next(iter(finding.found[0]))
    table.add_column(unit, justify="right", no_wrap=True)
    for name in ("label", "rather", "text"):
        table.add_column(name, overflow="fold")
    for row in finding.found[:_SHOWN]:
        words = (row["label"], row["likelier"], quoted(row["text"]))
        table.add_row(str(row[unit]), *(Text(visible(word)) for word in words))
    return titled("labels that may be wrong, the least likely first", table)
