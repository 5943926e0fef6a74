"""`ltuning predict --engine`: many files into a folder of parts."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, silence_libraries
from ltuning.errors import DataError
from ltuning.ray_cluster import require_ray
from ltuning.suggestions import unknown

if TYPE_CHECKING:
    from ltuning.data.sources import Dialect
    from ltuning.engines.job import Done, Job, Plan
    from ltuning.predicting import Wanted

_SHOWN = 5


def predict_files(
    engine: str,
    classifier: Path | None,
    source: Path | None,
    output: Path | None,
    *,
    refused: Mapping[str, object],
    columns: tuple[str | None, str | None],
    dialect: Dialect,
    wanted: Wanted,
    model: tuple[str | None, bool],
    replace_columns: bool,
    overwrite: bool,
    workers: int | None,
    terminal: Terminal,
) -> None:
    """Label the texts of files, piece by piece, into a folder; what is done already stays.

    Args:
        engine: `local` or `ray`.
        classifier: folder of a trained or exported one.
        source: a file, or a pattern of several.
        output: the folder.
        refused: values of options that are not for this.
        columns: that of the text and that of the second text, where they are named.
        dialect: how files of text are written.
        wanted: beside labels.
        model: where the backbone is, and whether code that comes with it may run.
        replace_columns: whether columns of an earlier prediction give way.
        overwrite: whether parts of other work give way.
        workers: processes; None is one.
        terminal: for what goes on.

    Raises:
        DataError: options that do not go together; at the end, files that could not be read.
        ArtifactError: no whole classifier, or a folder that holds something else.
    """
    from ltuning.engines.job import Output, planned

    _check(engine, source, output, refused, workers)
    assert source is not None
    assert output is not None
    files = _found(source, output)
    if columns[0] is not None and (lines := [path for path in files if path.suffix == ".txt"]):
        raise DataError(
            f"expected files with columns for --text-column, got lines of text in {lines[0]}; "
            "leave it out"
        )
    job = _job(classifier, output, columns, dialect, wanted, model, replace_columns, terminal)
    place = Output(Path(job.output))
    with place.at_work():
        place.check(job, files, overwrite)
        with terminal.waiting("looking through the files"):
            plan = planned(files, dialect)
        there = place.begin(job, plan, overwrite)
        done = _run(engine, job, plan, there, workers or 1, terminal)
        errors = place.finish(plan, done)
    rows, parts = sum(one.rows for one in done), sum(one.error is None for one in done)
    terminal.note(f"{rows:,} rows in {parts:,} parts in {output}")
    if errors:
        raise _not_done(errors, len(files))


def _check(
    engine: str,
    source: Path | None,
    output: Path | None,
    refused: Mapping[str, object],
    workers: int | None,
) -> None:
    if engine not in options.ENGINES:
        raise DataError(unknown("engine", engine, options.ENGINES))
    if engine == "ray":
        require_ray("--engine ray")
    if named := [option for option, value in refused.items() if value]:
        raise DataError(
            f"expected no {named[0]} with --engine, which reads files into a folder; leave one of "
            "them out"
        )
    if source is None or str(source) == "-":
        raise DataError("expected a file with --engine, or a pattern of several, got none")
    if output is None:
        raise DataError("expected --output with --engine, a folder for the parts, got none")
    if workers is not None and workers < 1:
        raise DataError(f"expected 1 or more for --workers, got {workers}")


def _found(source: Path, output: Path) -> list[Path]:
    """The files of a pattern, by their names; what is written is none of them."""
    if source.is_dir():
        raise DataError(f"expected a file, or a pattern such as '{source}/*.parquet', got a folder")
    paths = (
        [source] if source.exists() else sorted(map(Path, glob.glob(str(source), recursive=True)))
    )
    own = output.absolute()
    files = [path.absolute() for path in paths if not path.is_dir()]
    files = [path for path in files if own not in path.parents]
    if not files:
        raise DataError(f"{source}: no such file, and no file of such a name")
    return files


def _job(
    classifier: Path | None,
    output: Path,
    columns: tuple[str | None, str | None],
    dialect: Dialect,
    wanted: Wanted,
    model: tuple[str | None, bool],
    replace_columns: bool,
    terminal: Terminal,
) -> Job:
    """What is asked, of a classifier that is whole."""
    from ltuning.artifacts import hub
    from ltuning.cli import saved
    from ltuning.engines.job import Job, answers_of, identity
    from ltuning.tasks.table import TASKS

    asked = saved.asked(classifier, False, (None, []), *model, takes_exported=True)
    config, _ = asked.classifier(terminal)
    task = TASKS[config.task]
    wanted.check_task(task)
    assert classifier is not None
    folder = Path(hub.located(classifier)).absolute()
    if wanted.target_precision is not None or wanted.coverage is not None:
        kept = answers_of(folder)
        wanted.least_in_set(kept)  # or it cannot be reached
        wanted = replace(wanted, abstain=wanted.threshold(kept, terminal), target_precision=None)
    return Job(
        str(folder),
        identity(folder),
        str(output.absolute()),
        task.of_words,
        saved.columns_of(config, *columns),
        dialect,
        wanted,
        replace_columns,
        *model,
    )


def _run(
    engine: str, job: Job, plan: Plan, there: set[str], workers: int, terminal: Terminal
) -> list[Done]:
    """What became of every piece."""
    from ltuning.engines import local, ray
    from ltuning.engines.job import Done

    silence_libraries()
    pieces = {asked.part(job): asked for asked in plan.pieces}
    done = [
        Done(asked.file, name, asked.piece.rows) for name, asked in pieces.items() if name in there
    ]
    left = [asked for name, asked in pieces.items() if name not in there]
    before = sum(one.rows for one in done)
    if before:
        terminal.note(f"{before:,} of {plan.rows:,} rows are done already")
    run = {"local": local.run, "ray": ray.run}[engine]
    with terminal.counting("predicting", plan.rows - before) as advance:
        for one in run(job, left, workers) if left else ():
            done.append(one)
            advance(pieces[one.name].piece.rows)
    return done


def _not_done(errors: Mapping[int, str], files: int) -> DataError:
    """Says of how many files, and of the first ones why."""
    shown = "".join(f"\n  {errors[file]}" for file in sorted(errors)[:_SHOWN])
    more = "\n  ..." if len(errors) > _SHOWN else ""
    return DataError(
        f"{len(errors):,} of {files:,} files are not done, or not whole:{shown}{more}"
        "\nthe others are; once these are mended, write them to a new folder"
    )
