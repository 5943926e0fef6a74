"""Options that several verbs have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

ENGINES = ("local", "ray")


def user_path(word: str) -> Path:
    """The path that a user means; `~` is the home folder, also where a shell leaves it."""
    return Path(os.path.expanduser(word))


def classifier_path(word: str) -> Path:
    """As `user_path`; `./a/b` stays a path, where `a/b` may be one of the hub."""
    path = user_path(word)
    return path.absolute() if word.startswith("./") else path


ValidationSplit = Annotated[
    str | None,
    typer.Option(
        help="Which split of a folder or hub data set; validation by default.",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars and no summary.")]
QuietTables = Annotated[bool, typer.Option("--quiet", help="No progress bars and no tables.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output file that exists.")]
Artifact = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="Folder of a trained classifier, or user/name[@revision] of the hub.",
        show_default=False,
        parser=classifier_path,
    ),
]
ArtifactUnlessZeroShot = Annotated[
    Path | None,
    typer.Argument(
        metavar="DIR",
        help="Folder of a trained classifier, or user/name[@revision] of the hub; left out with "
        "--zero-shot.",
        show_default=False,
        parser=classifier_path,
    ),
]
ZeroShot = Annotated[
    bool,
    typer.Option(
        "--zero-shot",
        help="Nothing is trained: guess by the texts of --label or --labels, in the frozen "
        "backbone (builtin:minilm, or --backbone).",
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        parser=user_path,
        metavar="FILE",
        help="YAML file: label names, or names with the texts that stand for them.",
        rich_help_panel="Data",
        show_default=False,
    ),
]
LabelTexts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=TEXT",
        help="One label and its text; give it once per label. A name given twice has two texts.",
        rich_help_panel="Data",
        show_default=False,
    ),
]
OtherBackbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Where the backbone is now; by default where it was.",
        show_default=False,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run Python code that comes with the backbone's checkpoint."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the text; by default found by its usual names (text, sentence, ...).",
        rich_help_panel="Columns",
        show_default=False,
    ),
]
TextPairColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the second text of a pair.",
        rich_help_panel="Columns",
        show_default=False,
    ),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        metavar="SIGN",
        help="What stands between the fields of a csv or tsv file, or the word tab; by default "
        "found: a comma, semicolon, tab or |.",
        rich_help_panel="Files",
        show_default=False,
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of the text, such as cp1252; by default by the file's byte-order mark, "
        "else UTF-8.",
        rich_help_panel="Files",
        show_default=False,
    ),
]
EmptyTexts = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="refuse (the default) or skip rows whose text is empty.",
        rich_help_panel="Files",
        show_default=False,
    ),
]
MissingLabels = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="refuse (the default) or skip rows without a label.",
        rich_help_panel="Files",
        show_default=False,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of the label; by default found by its usual names (label, category, ...).",
        rich_help_panel="Columns",
        show_default=False,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="classes: one label for a text (the default), multilabel: every label that "
        "applies to it, or tags: entities in it.",
        rich_help_panel="Data",
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="builtin:minilm (the default), a local folder, or a hub id.",
        rich_help_panel="Training",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="prefix, prompt, lt-prefix (the default), lt-prompt, ls-lora (of tags the "
        "default), ls-unmask, probe, full, or auto: chosen by the number of texts and labels.",
        rich_help_panel="Training",
    ),
]
