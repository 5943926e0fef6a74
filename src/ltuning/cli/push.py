"""`ltuning push`: a trained classifier to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ltuning.cli import options
from ltuning.cli.terminal import Terminal, show_facts, show_next


def push(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder of a trained classifier.",
            show_default=False,
            parser=options.user_path,
        ),
    ],
    repo_id: Annotated[
        str,
        typer.Argument(
            metavar="USER/NAME", help="Its name on the hub; made if not there.", show_default=False
        ),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="A repository that is made is private.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="BRANCH",
            help="Branch, made if it is not there; by default the main one.",
            show_default=False,
        ),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Push a trained classifier to the Hugging Face hub; `ltuning predict USER/NAME` loads it.

    The classifier and its card are pushed, in one commit; nothing else of the folder, and never the
    backbone. Log in with `hf auth login` first, or set HF_TOKEN.
    """
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from ltuning.artifacts import hub

    disable_progress_bars()
    with Terminal(quiet).waiting(f"pushing {folder}"):
        address = hub.push(folder, repo_id, private=private or None, revision=revision)
    if not quiet:
        show_facts({"pushed": address})
        place = repo_id if revision is None else f"{repo_id}@{revision}"
        show_next([f"ltuning predict {place} texts.txt"])
