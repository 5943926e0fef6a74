"""`ltuning predict`: a label and its probability for every text."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal
from ltuning.errors import DataError

if TYPE_CHECKING:
    from ltuning.classifier import TextClassifier
    from ltuning.data.sources import Examples, Table
    from ltuning.tagger import Entity, TokenClassifier

LABEL, LABELS, PROBABILITY = "predicted_label", "predicted_labels", "probability"
SPANS, TAGS = "predicted_spans", "predicted_tags"
_DIGITS = 6


def predict(
    folder: options.Artifact,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="Texts, one per line (.txt), or a csv, tsv, jsonl, parquet or, of words, conll "
            "file (each also .gz); - or nothing reads standard input.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to write; its ending says the format. By default standard output, in the "
            "format of the input.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of the input where its ending does not say it: txt, csv, tsv, jsonl, "
            "parquet or conll, each also with .gz. Standard input is txt by default.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output file that exists.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="A column for every label's probability.")
    ] = False,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Label texts: the rows of the input in their order, with predicted_label and probability.

    Every column of the input stays. Lines of text come out as tab-separated values with a header
    (text, predicted_label, probability). Empty texts stay in their place and get a label too.

    Where several labels may apply, predicted_labels are those that do: a list in jsonl and parquet,
    names with | between them in csv and tsv, and nothing where none does.

    A tagger gives predicted_spans (start, end, text, type, probability) for texts, and
    predicted_tags for lists of words; lines of text come out as JSON lines.
    """
    from ltuning.classifier import LabelClassifier
    from ltuning.cli import saved
    from ltuning.data.examples import BY_CONVENTION
    from ltuning.data.sources import examples_from_table, write_table
    from ltuning.multilabel import MultilabelClassifier
    from ltuning.tagger import TokenClassifier

    terminal = Terminal(quiet)
    _check_output(output, overwrite)
    table = _read(source, format, terminal)
    _check_format(table, output)
    columns = saved.columns_of(folder, text_column, text_pair_column)
    task, place = saved.task_of(folder), (folder, backbone, trust_remote_code, terminal)
    if task == "tags":
        if probabilities:
            raise DataError(
                "expected --probabilities for labels of texts, got a tagger, whose spans come with "
                "theirs; leave it out"
            )
        text = None if table.format == "txt" else columns.text
        tagged = _tagged(saved.load(TokenClassifier, *place), table, text, terminal)
        write_table(tagged, sys.stdout if output is None else output)
        return
    if table.format == "txt":
        columns = BY_CONVENTION  # lines have one column, whatever training read
    examples = examples_from_table(table, columns, need_labels=False, empty_texts="keep")
    door = MultilabelClassifier if task == "multilabel" else LabelClassifier
    classifier = saved.load(door, *place)
    labelled = _labelled(classifier, table, examples, probabilities, terminal)
    write_table(_writable(labelled, output), sys.stdout if output is None else output)


def _read(source: Path | None, format: str | None, terminal: Terminal) -> Table:
    from ltuning.data.sources import read_table

    if source is not None and str(source) != "-":
        return read_table(source, format)
    if sys.stdin.isatty():
        terminal.note("type one text per line; Ctrl-D on a line of its own ends them")
    return read_table(sys.stdin, format or "txt")


def _check_output(output: Path | None, overwrite: bool) -> None:
    """What can be said before any work is done."""
    from ltuning.data.files import check_target, stem_of
    from ltuning.data.sources import FORMATS

    if output is None:
        return
    check_target(output)
    if output.is_file() and not overwrite:
        raise DataError(f"{output} exists already: choose another file, or add --overwrite")
    ending = output.name.lower().removesuffix(".gz").rpartition(".")[2]
    if stem_of(output.name) is None or ending == "txt":
        formats = ", ".join(f".{name}" for name in FORMATS if name != "txt")
        raise DataError(f"{output}: expected a file ending of {formats} (each also with .gz)")


def _check_format(table: Table, output: Path | None) -> None:
    if table.format == "parquet" and output is None and sys.stdout.isatty():
        raise DataError(
            f"{table.origin}: parquet is no text to show here; name a file with --output"
        )


def _tagged(
    tagger: TokenClassifier, table: Table, text_column: str | None, terminal: Terminal
) -> Table:
    """The table with a column of spans, or for lists of words of tags, behind its own."""
    from ltuning.data.sources import Columns, tagged_from_table
    from ltuning.data.tagged import text_column_of

    sentences = tagged_from_table(table, Columns(text_column), need_tags=False).sentences
    column = text_column_of(table, text_column)
    has_words = any(isinstance(row.get(column), list) for row in table.rows)
    added = TAGS if has_words else SPANS
    _check_free(table, [added])
    found: list[list[Any]]
    with terminal.counting("predicting", len(sentences)) as advance:
        if has_words:
            found = tagger.predict_tags(sentences, progress=advance)
        else:
            spans = tagger.predict(sentences, progress=advance)
            found = [[_span(span) for span in several] for several in spans]
    rows = [{**row, added: values} for row, values in zip(table.rows, found, strict=True)]
    format = "jsonl" if table.format == "txt" else table.format
    return replace(table, columns=[*table.columns, added], rows=rows, format=format)


def _span(entity: Entity) -> dict[str, Any]:
    return {**asdict(entity), "probability": round(entity.probability, _DIGITS)}


def _check_free(table: Table, added: list[str]) -> None:
    if taken := [name for name in added if name in table.columns]:
        raise DataError(
            f"{table.origin}: there is a column {taken[0]!r} already; rename it or take it out"
        )


def _labelled(
    classifier: TextClassifier,
    table: Table,
    examples: Examples,
    every: bool,
    terminal: Terminal,
) -> Table:
    """The table with the columns of the prediction behind its own."""
    from ltuning.multilabel import MultilabelClassifier

    several = isinstance(classifier, MultilabelClassifier)
    names = [str(name) for name in classifier.classes_]
    own = [LABELS] if several else [LABEL, PROBABILITY]
    added = [*own, *(f"{PROBABILITY}_{name}" for name in names if every)]
    _check_free(table, added)
    with terminal.counting("predicting", len(examples)) as advance:
        scored = classifier.predict_proba(examples.texts, progress=advance)
    found: list[list[Any]]
    if isinstance(classifier, MultilabelClassifier):
        found = [[labels] for labels in classifier.applying(scored)]
    else:
        best = scored.argmax(axis=1)
        found = [
            [names[label], round(float(chances[label]), _DIGITS)]
            for label, chances in zip(best, scored, strict=True)
        ]
    rows = []
    for row, said, chances in zip(table.rows, found, scored.tolist(), strict=True):
        values = said + [round(chance, _DIGITS) for chance in chances if every]
        rows.append({**row, **dict(zip(added, values, strict=True))})
    # Lines of text have no place for a second column.
    format = "tsv" if table.format == "txt" else table.format
    return replace(table, columns=[*table.columns, *added], rows=rows, format=format)


def _writable(table: Table, output: Path | None) -> Table:
    """With text in the place of lists of labels where the format written has no lists."""
    from ltuning.data.files import format_of
    from ltuning.data.multilabel import SEPARATOR

    written = table.format if output is None else format_of(output)
    if LABELS not in table.columns or written not in ("csv", "tsv"):
        return table
    rows = []
    for row in table.rows:
        if unsure := [name for name in row[LABELS] if SEPARATOR in name]:
            raise DataError(
                f"expected label names without {SEPARATOR!r}, which stands between them in "
                f"{written}, got {unsure[0]!r}; write jsonl or parquet"
            )
        rows.append({**row, LABELS: SEPARATOR.join(row[LABELS])})
    return replace(table, rows=rows)
