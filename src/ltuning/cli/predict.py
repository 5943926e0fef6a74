"""`ltuning predict`: a label and its probability for every text."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal
from ltuning.errors import DataError
from ltuning.predicting import PREDICTION_SET, Wanted, Writing, check_columns, predicted

if TYPE_CHECKING:
    from ltuning.data.sources import Dialect, Table

_Source = Annotated[
    Path | None,
    typer.Argument(
        parser=options.user_path,
        metavar="[FILE|-]",
        help="Texts, one per line (.txt), or a csv, tsv, jsonl, parquet or, of words, conll "
        "file (each also .gz); - or nothing reads standard input.",
        show_default=False,
    ),
]
_Output = Annotated[
    Path | None,
    typer.Option(
        parser=options.user_path,
        metavar="FILE",
        help="Where to write; its ending says the format. By default standard output, in the "
        "format of the input.",
        show_default=False,
    ),
]
_Format = Annotated[
    str | None,
    typer.Option(
        help="Format of the input where its ending does not say it: txt, csv, tsv, jsonl, "
        "parquet or conll, each also with .gz. Standard input is txt by default.",
        show_default=False,
    ),
]
_Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="A column for every label's probability.")
]
_Abstain = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Leave the label empty where its probability is below this one.",
        show_default=False,
    ),
]
_TargetPrecision = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="As --abstain, from the probability on from which such a share of labels was right "
        "on held-out texts, such as .95.",
        show_default=False,
    ),
]
_Coverage = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help=f"A column {PREDICTION_SET}: the labels that may be true, so many that the true one "
        "is among them for this share of texts like the held-out ones, such as .9.",
        show_default=False,
    ),
]
_Texts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="Label this text, in place of a file; give it once per text.",
        show_default=False,
    ),
]
ReplaceColumns = Annotated[
    bool,
    typer.Option(
        "--replace-columns",
        help="Where the input has columns of an earlier prediction, put the new ones in their "
        "place.",
    ),
]
_EscapeFormulas = Annotated[
    bool,
    typer.Option(
        "--escape-formulas",
        help="In csv and tsv, put a ' before every text that begins with =, +, -, @, a tab or "
        "a carriage return and is no number, so that a spreadsheet does not run it.",
    ),
]
_Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="local or ray: read files piece by piece, however large, and write parts into the "
        "folder --output; FILE may be a pattern in quotes. The same command goes on where it was.",
        rich_help_panel="Many files",
        show_default=False,
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes of --engine; 1 by default.",
        rich_help_panel="Many files",
        show_default=False,
    ),
]
_Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


def predict(
    folder: options.ArtifactUnlessZeroShot = None,
    source: _Source = None,
    output: _Output = None,
    format: _Format = None,
    overwrite: options.Overwrite = False,
    probabilities: _Probabilities = False,
    abstain: _Abstain = None,
    target_precision: _TargetPrecision = None,
    coverage: _Coverage = None,
    text: _Texts = None,
    replace_columns: ReplaceColumns = False,
    escape_formulas: _EscapeFormulas = False,
    zero_shot: options.ZeroShot = False,
    label: options.LabelTexts = None,
    labels: options.LabelsFile = None,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    engine: _Engine = None,
    workers: _Workers = None,
    quiet: _Quiet = False,
) -> None:
    """Label texts: the rows of the input in their order, with predicted_label and probability.

    Every column of the input stays. Lines of text come out as tab-separated values with a header
    (text, predicted_label, probability). Empty texts stay in their place and get a label too. A
    csv file comes back with its delimiter and in its encoding, a parquet file with its types.

    Where the training had --oos-label, texts that look like those of no label get it; probability
    stays that of the most probable label.

    Held-out texts are the validation texts of the training, or those of `ltuning calibrate`.

    Where several labels may apply, predicted_labels are those that do: a list in jsonl and parquet,
    names with | between them in csv and tsv, and nothing where none does.

    A tagger gives predicted_spans (start, end, text, type, probability) for texts, and
    predicted_tags for lists of words; lines of text come out as JSON lines.

    DIR may also be what `ltuning export` wrote, which is run without torch.

    With --zero-shot there is no DIR: nothing is trained, and every text gets the label whose text
    is nearest to it in the frozen backbone. That is a guess.
    """
    from ltuning.cli import saved
    from ltuning.data.sources import Dialect, write_table
    from ltuning.tasks.table import TASKS

    terminal = Terminal(quiet)
    wanted = Wanted(probabilities, abstain, target_precision, coverage)
    wanted.check(zero_shot)
    if engine is not None:
        from ltuning.cli.predict_files import predict_files

        predict_files(
            engine,
            folder,
            source,
            output,
            refused={
                "--text": text,
                "--format": format,
                "--escape-formulas": escape_formulas,
                "--zero-shot": zero_shot,
                "--label": label or labels,
            },
            columns=(text_column, text_pair_column),
            dialect=Dialect(encoding, delimiter),
            wanted=wanted,
            model=(backbone, trust_remote_code),
            replace_columns=replace_columns,
            overwrite=overwrite,
            workers=workers,
            terminal=terminal,
        )
        return
    if workers is not None:
        raise DataError("expected --workers with --engine alone, got it without; leave it out")
    if zero_shot:
        folder, source = None, _only_file(folder, source)
    named_labels = (labels, label or [])
    place_of_model = (backbone, trust_remote_code)
    asked = saved.asked(folder, zero_shot, named_labels, *place_of_model, takes_exported=True)
    check_output(output, overwrite)
    named = {
        "FILE": source,
        "--format": format,
        "--delimiter": delimiter,
        "--encoding": encoding,
        "--text-column": text_column,
        "--text-pair-column": text_pair_column,
    }
    if text:
        table = _of_texts(text, [name for name, value in named.items() if value is not None])
    else:
        table = _read(source, format, Dialect(encoding, delimiter), terminal)
    check_columns(table, text_column, text_pair_column, instead=", or say --format")
    check_format(table, output)
    config, load = asked.classifier(terminal)
    columns = saved.columns_of(config, text_column, text_pair_column)
    write = Writing(output, escape_formulas, replace_columns)
    place = (load, terminal)
    wanted.check_task(TASKS[config.task])
    done = predicted(place, config, table, columns, wanted, write)
    write_table(write.prepared(done), sys.stdout if output is None else output)


def _only_file(first: Path | None, second: Path | None) -> Path | None:
    """The file of texts with --zero-shot, which has no folder before it."""
    if first is not None and first.is_dir():
        raise DataError(
            f"expected no trained classifier with --zero-shot, got {first}; leave one of them out"
        )
    if second is not None:
        raise DataError(
            f"expected no trained classifier with --zero-shot, got {first} before the file "
            f"{second}; leave one of them out"
        )
    return first


def _of_texts(texts: list[str], others: list[str]) -> Table:
    """The texts of `--text` as lines of text."""
    from ltuning.data.sources import Table
    from ltuning.data.tables import encode_text

    if others:
        raise DataError(f"expected --text in place of a file, got {', '.join(others)} too")
    table = Table(["text"], [{"text": text} for text in texts], "txt", "--text")
    # Bytes of the command line that are no text come as halves of surrogate pairs.
    encode_text("\n".join(texts), table, "txt")
    return table


def _read(source: Path | None, format: str | None, dialect: Dialect, terminal: Terminal) -> Table:
    from ltuning.data.sources import read_table

    if source is not None and str(source) != "-":
        if " " in str(source) and not os.path.exists(source):
            raise DataError(
                f"{source}: no such file; if these words are what is to be labelled, say --text "
                f"{shlex.quote(str(source))}"
            )
        return read_table(source, format, dialect)
    if sys.stdin.isatty():
        terminal.note("type one text per line; Ctrl-D on a line of its own ends them")
    return read_table(sys.stdin, format or "txt", dialect)


def check_output(output: Path | None, overwrite: bool) -> None:
    """What can be said before any work is done."""
    from ltuning.data.files import check_new_file, stem_of
    from ltuning.data.sources import FORMATS

    if output is None:
        return
    check_new_file(output, overwrite)
    ending = output.name.lower().removesuffix(".gz").rpartition(".")[2]
    if stem_of(output.name) is None or ending == "txt":
        formats = ", ".join(f".{name}" for name in FORMATS if name != "txt")
        raise DataError(f"{output}: expected a file ending of {formats} (each also with .gz)")


def check_format(table: Table, output: Path | None) -> None:
    """Raises DataError where parquet would be shown on a screen."""
    if table.format == "parquet" and output is None and sys.stdout.isatty():
        raise DataError(
            f"{table.origin}: parquet is no text to show here; name a file with --output"
        )
