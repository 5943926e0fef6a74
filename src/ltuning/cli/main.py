"""The command `ltuning`: its verbs, and how an error ends it.

| exit code | what ended it |
|---|---|
| 0 | it is done |
| 1 | an error that a message explains; a failed cell of `compare`, a finding of `doctor` |
| 2 | wrong usage: an option or argument that the verb does not take |
| 70 | a bug of ltuning; LTUNING_DEBUG=1 shows the traceback |
| 130 | Ctrl-C |
| 141 | whoever read the output went away, as `head` does |
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ltuning.cli import (
    add_labels,
    calibrate,
    check,
    compare,
    demo,
    doctor,
    evaluate,
    export,
    params,
    predict,
    push,
    review,
    serve,
    streams,
    train,
)
from ltuning.cli.terminal import show_error, show_warnings
from ltuning.errors import LTuningError

_BUG = 70
_INTERRUPTED = 130


class _Verbs(TyperGroup):
    """The verbs; what one of them raises becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; set LTUNING_DEBUG=1 to see where an error comes from."""
        try:
            return super().invoke(ctx)
        except LTuningError as error:
            if os.environ.get("LTUNING_DEBUG"):
                raise
            show_error(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except EOFError as error:
            # Typer would take it for the end of a user's typing, and say no more than "Aborted."
            raise RuntimeError(f"EOFError: {error}") from error


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(check.check)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(review.review)
app.command()(calibrate.calibrate)
app.command()(add_labels.add_labels)
app.command()(export.export)
app.command()(push.push)
app.command()(params.params)
app.command()(compare.compare)
app.command()(serve.serve)
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ltuning {version('ltuning')}")
        raise typer.Exit


@app.callback()
def ltuning(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Text classifiers from label names, on a frozen language model."""
    show_warnings()


def run() -> None:
    """The entry point of the command `ltuning`."""
    streams.guard()
    try:
        try:
            app(prog_name="ltuning")
        finally:
            sys.stdout.flush()
    except Exception as error:
        if os.environ.get("LTUNING_DEBUG"):
            raise
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Show what no verb expected; gives the exit code."""
    if isinstance(error, LTuningError):
        show_error(error)
        return 1
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f"{error.filename}: "
        show_error(f"{place}cannot be read or written ({error.strerror})")
        return 1
    if isinstance(error, MemoryError):
        show_error("out of memory; a smaller backbone.max_length or max_branches needs less")
        return 1
    words = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
    show_error(
        f"a bug of ltuning, please report it ({words}); LTUNING_DEBUG=1 in front of the command "
        "shows where it happened"
    )
    return _BUG
