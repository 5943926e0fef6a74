"""`python -m ltuning` is the command `ltuning`."""

from ltuning.cli.main import run

run()
