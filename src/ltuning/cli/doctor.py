"""`ltuning doctor`: whether a backbone can be trusted with every method, tried on the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from ltuning.cli.terminal import Terminal, results, show_facts, silence_libraries

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone
    from ltuning.backbones.selftest import Finding


def doctor(
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="builtin:minilm, a hub id, or a local folder.")
    ] = "builtin:minilm",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="A.B=C", help="Any option of the backbone, such as backbone.dtype."
        ),
    ] = None,
) -> None:
    """Try on a backbone what every method relies on, and say what it is.

    The same is tried at every first load. The exit code is 1 if something does not hold.
    """
    from ltuning.cli.configuration import configure, unread

    words = "`ltuning doctor` tries the backbone alone; leave it out"
    problems = unread(set_ or [], ("backbone",), words)
    config = configure({}, {"backbone.name": backbone}, set_ or [], problems)
    silence_libraries()
    terminal = Terminal(quiet=False)
    with terminal.loading(backbone):
        from ltuning.backbones.backbone import Backbone
        from ltuning.backbones.selftest import examine

        loaded = Backbone.load(config.backbone, tested=False)
    with terminal.waiting("trying"):
        findings = examine(loaded)
    show_facts(_facts(loaded))
    _show(findings)
    if not all(finding.holds for finding in findings):
        raise typer.Exit(1)


def _facts(backbone: Backbone) -> dict[str, str]:
    from ltuning.backbones.families import FAMILIES

    family, sizes = backbone.family, backbone.sizes
    entry = {
        "function": "through the attention interface",
        "cache": "through the cache",
        "wrapped": "through the wrapped self-attention",
    }
    known = "in the table of families" if family.name in FAMILIES else "not in the table: a guess"
    budget = backbone.position_budget
    number = sum(weight.numel() for weight in backbone.model.parameters())
    return {
        "backbone": f"{backbone.name}, {number:,} parameters",
        "family": f"{family.name} ({known}), {'causal' if family.causal else 'bidirectional'}",
        "sizes": f"{sizes.layers} layers, hidden {sizes.hidden}, embeddings {sizes.embedding}, "
        f"{sizes.kv_heads} key/value heads of {sizes.head_dim}",
        "positions": f"{family.positions}, {'no limit' if budget is None else f'{budget:,} tokens'}"
        f"; texts are read up to {backbone.max_length:,}",
        **({"start token": backbone.start_token or "none"} if family.causal else {}),
        "attention": f"{backbone.attention}; a prefix enters {entry[family.attention]}",
        "computed": f"in {str(backbone.dtype).removeprefix('torch.')} on {backbone.device}",
        "fingerprint": backbone.fingerprint[:16],
    }


def _show(findings: list[Finding]) -> None:
    table = Table(header_style="bold")
    table.add_column("property")
    table.add_column("", no_wrap=True)
    table.add_column("found")
    table.add_column("needed by", no_wrap=True)
    for finding in findings:
        verdict = Text("holds", "green") if finding.holds else Text("FAILS", "red")
        table.add_row(finding.name, verdict, finding.found, finding.needed_by)
    results().print()
    results().print(table)
