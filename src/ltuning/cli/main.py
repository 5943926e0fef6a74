"""The command `ltuning`: its verbs, and how an error ends it.

Exit codes: 0 done, 1 an error that a message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ltuning.cli import compare, demo, doctor, evaluate, params, predict, train
from ltuning.cli.terminal import show_error, show_warnings
from ltuning.errors import LTuningError

_INTERRUPTED = 130
_CLOSED_PIPE = 141


class _Verbs(TyperGroup):
    """The verbs; what one of them raises becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb; set LTUNING_DEBUG=1 to see where an error comes from."""
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()
            return outcome
        except LTuningError as error:
            if os.environ.get("LTUNING_DEBUG"):
                raise
            show_error(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            _drop_output()
            raise typer.Exit(_CLOSED_PIPE) from None


app = typer.Typer(
    cls=_Verbs,
    add_completion=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(predict.predict)
app.command()(params.params)
app.command()(compare.compare)
app.command()(doctor.doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
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
    app(prog_name="ltuning")


def _drop_output() -> None:
    # Python flushes stdout once more at its end, which would report the closed pipe again.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
