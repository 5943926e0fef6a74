"""`ltuning review`: the unlabelled texts that are worth labelling next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from xml.sax.saxutils import quoteattr

import typer

from ltuning.cli import options
from ltuning.cli.predict import ReplaceColumns, check_format, check_output
from ltuning.cli.terminal import Terminal
from ltuning.errors import DataError
from ltuning.predicting import DIGITS, Writing, answers, check_columns, with_columns
from ltuning.suggestions import unknown

if TYPE_CHECKING:
    import numpy as np

    from ltuning.data.sources import Columns, Table
    from ltuning.tasks.task import Task
    from ltuning.texts import Text

_TABLE, _LABEL_STUDIO = "table", "label-studio"
# What Label Studio's tags are called in the interface that is told beside the tasks.
_CHOICES, _FIELDS = "label", ("text", "text_pair")

_Source = Annotated[
    Path,
    typer.Argument(
        parser=options.user_path,
        metavar="FILE",
        help="Unlabelled texts, one per line (.txt), or a csv, tsv, jsonl or parquet file (each "
        "also .gz).",
        show_default=False,
    ),
]
_Count = Annotated[int, typer.Option(min=1, help="How many texts.")]
_Output = Annotated[
    Path | None,
    typer.Option(
        parser=options.user_path,
        metavar="FILE",
        help="Where to write: a table, whose format its ending says, or a .json file for Label "
        "Studio. By default standard output.",
        show_default=False,
    ),
]
_Format = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="table: the rows with predicted_label and probability; label-studio: tasks with "
        "predictions, to import into Label Studio.",
    ),
]


def review(
    folder: options.Artifact,
    source: _Source,
    count: _Count = 50,
    output: _Output = None,
    format: _Format = _TABLE,
    overwrite: options.Overwrite = False,
    replace_columns: ReplaceColumns = False,
    backbone: options.OtherBackbone = None,
    trust_remote_code: options.TrustRemoteCode = False,
    text_column: options.TextColumn = None,
    text_pair_column: options.TextPairColumn = None,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars and no notes.")] = False,
) -> None:
    """Choose the unlabelled texts whose labels would teach a classifier most.

    They are texts that it is unsure of, unlike each other, the unsurest first. A text that stands
    there twice is chosen once.
    """
    from ltuning.cli import saved
    from ltuning.data.sources import Dialect, read_table
    from ltuning.tasks.table import TASKS

    terminal = Terminal(quiet)
    _check_target(output, format, overwrite)
    table = read_table(source, None, Dialect(encoding, delimiter))
    check_columns(table, text_column, text_pair_column)
    opened = saved.opened(folder)
    task = TASKS[opened.config.task]
    if task.of_words:
        raise DataError(
            f"expected a classifier of texts, got one of words (task '{opened.config.task}') in "
            f"{folder}; choose sentences for it at random"
        )
    columns = saved.columns_of(opened.config, text_column, text_pair_column)
    write = Writing(None if format == _LABEL_STUDIO else output, False, replace_columns)
    if format == _TABLE:
        check_format(table, output)
        table = write.room(table, [*task.output_columns])
    rows, texts = _texts(table, columns)
    classifier = saved.load(opened, backbone, trust_remote_code, terminal)
    if format == _TABLE:
        table = write.without_earlier(table, task, list(classifier.labels_.names))
    chosen, said = _chosen(classifier, task, texts, count, terminal)
    if len(chosen) < count:
        terminal.note(f"{len(chosen):,} texts, as there are no more")
    picked = _picked(table, [rows[place] for place in chosen])
    if format == _TABLE:
        _write_rows(with_columns(picked, [*task.output_columns], said), task, write, output)
        return
    oos_label = classifier.config.data.oos_label
    names = [name for name in classifier.labels_.names if name != oos_label]
    names += [] if oos_label is None else [oos_label]
    _write_tasks(picked, [texts[place] for place in chosen], said, output)
    terminal.note(f"labelling interface for these tasks: {_interface(names, texts[0], task)}")


def _check_target(output: Path | None, format: str, overwrite: bool) -> None:
    from ltuning.data.files import check_new_file

    if format not in (_TABLE, _LABEL_STUDIO):
        raise DataError(unknown("format", format, (_TABLE, _LABEL_STUDIO)))
    if format == _TABLE:
        check_output(output, overwrite)
    elif output is not None:
        check_new_file(output, overwrite)
        if output.suffix.lower() != ".json":
            raise DataError(
                f"{output}: expected a file ending of .json for Label Studio, got "
                f"{output.suffix!r}; rename it"
            )


def _texts(table: Table, columns: Columns) -> tuple[list[int], list[Text]]:
    """The rows of texts that are not empty, each text once, and the texts."""
    from ltuning.data.examples import BY_CONVENTION, refuse_rows, texts_of

    problems: list[str] = []
    # Lines have one column, whatever training read.
    named = BY_CONVENTION if table.format == "txt" else columns
    texts, kept = texts_of(table, named, "skip", problems)
    refuse_rows(table, problems)
    first = {texts[row]: row for row in reversed(kept)}
    rows = sorted(first.values())
    return rows, [texts[row] for row in rows]


def _picked(table: Table, rows: Sequence[int]) -> Table:
    lines = None if table.lines is None else [table.lines[row] for row in rows]
    kept = table.kept
    if kept is not None:
        values = {name: [of[row] for row in rows] for name, of in kept.values.items()}
        kept = replace(kept, columns=kept.columns.take(rows), values=values)
    return replace(table, rows=[table.rows[row] for row in rows], lines=lines, kept=kept)


def _chosen(
    classifier: Any, task: Task, texts: Sequence[Text], count: int, terminal: Terminal
) -> tuple[list[int], list[list[object]]]:
    """The places of the texts to label, and what is said of each."""
    from ltuning.reviewing import worth_labelling

    with terminal.counting("predicting", len(texts)) as advance:
        scored, outside = answers(classifier, task, texts, advance)
    thresholds = task.thresholds(classifier)
    margins = task.margins(scored, thresholds)
    chosen = worth_labelling(margins, _states_of(classifier, texts), count)
    decided, names = task.decide(scored, thresholds), list(classifier.labels_.names)
    rows = [task.output_row(decided[place], scored[place], names) for place in chosen]
    for row, place in zip(rows, chosen, strict=True):
        row[0] = classifier.config.data.oos_label if outside[place] else row[0]
    said = [
        [round(value, DIGITS) if isinstance(value, float) else value for value in row]
        for row in rows
    ]
    return chosen, said


def _states_of(classifier: Any, texts: Sequence[Text]) -> Callable[[Sequence[int]], np.ndarray]:
    """Mean frozen states of some of the texts."""
    from ltuning.scoring import mean_states

    def states_of(rows: Sequence[int]) -> np.ndarray:
        backbone, size = classifier.backbone, classifier.config.backbone.max_branches
        tokens = backbone.tokenize([texts[row] for row in rows])
        states: np.ndarray = mean_states(backbone, tokens, size).cpu().numpy()
        return states

    return states_of


def _write_rows(table: Table, task: Task, write: Writing, output: Path | None) -> None:
    from ltuning.data.sources import write_table

    done = replace(table, format=task.lines) if table.format == "txt" else table
    write_table(write.prepared(done), sys.stdout if output is None else output)


def _write_tasks(
    table: Table, texts: Sequence[Text], said: Sequence[Sequence[object]], output: Path | None
) -> None:
    """Tasks with predictions, as Label Studio imports them (labelstud.io/guide/predictions)."""
    from ltuning.data.files import write_file
    from ltuning.data.tables import json_text

    try:
        tasks = [
            json_text({"data": row | _fields(text), "predictions": [_prediction(number, *answer)]})
            for number, (row, text, answer) in enumerate(
                zip(table.rows, texts, said, strict=True), start=1
            )
        ]
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{table.origin}: a value has no form in JSON ({error}); take its column out"
        ) from error
    whole = "[\n" + ",\n".join(tasks) + "\n]\n"
    if output is None:
        sys.stdout.write(whole)
    else:
        write_file(whole.encode(), output)


def _fields(text: Text) -> dict[str, str]:
    """The texts under the names that the interface has for them."""
    return dict(zip(_FIELDS, (text,) if isinstance(text, str) else text, strict=False))


def _prediction(number: int, answer: object, probability: object = None) -> dict[str, object]:
    """What the classifier says of a text, to be accepted or corrected."""
    labels = answer if isinstance(answer, list) else [answer]
    result = {
        "id": f"ltuning-{number}",
        "from_name": _CHOICES,
        "to_name": _FIELDS[0],
        "type": "choices",
        "value": {"choices": labels},
    }
    score = {} if probability is None else {"score": probability}
    return {"model_version": "ltuning", **score, "result": [result] if labels else []}


def _interface(names: Sequence[str], text: Text, task: Task) -> str:
    """The labelling interface in which the predictions have their place."""
    shown = "".join(f'<Text name="{name}" value="${name}"/>' for name in _fields(text))
    choices = "".join(f"<Choice value={quoteattr(name)}/>" for name in names)
    number = "single" if task.one_of_each else "multiple"
    tag = f'<Choices name="{_CHOICES}" toName="{_FIELDS[0]}" choice="{number}">'
    return f"<View>{shown}{tag}{choices}</Choices></View>"
