"""Saved classifiers on the Hugging Face hub: pushed from their folder, found by their id.

What is loaded is what `store.read` reads of a folder, and passes the same checks: no other file of
the repository is downloaded.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from ltuning.artifacts import card, store
from ltuning.artifacts.folders import CARD, CONFIG, PARTS, TENSORS
from ltuning.errors import ArtifactError, ConfigError, Problem

logger = logging.getLogger("ltuning")

_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def is_hub_id(name: str | Path) -> bool:
    """Whether a name is `user/name` of the hub, with or without `@revision`.

    A folder of that name goes before, and so does one that is missing in a folder that is there.
    """
    text = _text(name)
    return _ID.fullmatch(text) is not None and not os.path.exists(text.partition("/")[0])


def located(
    name: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> str | Path:
    """Where the files of a classifier are: its folder, or where the hub's client keeps its files.

    Args:
        name: a folder, or `user/name` of the hub, also as `user/name@revision`.
        revision: branch, tag or commit on the hub; None = that of the name, or its main branch.
        token: for the hub; None = that of `hf auth login` or HF_TOKEN.

    Raises:
        ArtifactError: nothing on the hub that may be read and is a classifier, or no connection.
        ConfigError: two revisions.
    """
    if not is_hub_id(name):
        return name
    repo_id, pinned = _ID.fullmatch(_text(name)).groups()  # type: ignore[union-attr]
    if revision is not None and pinned is not None:
        message = (
            f"expected it once, got '{revision}' beside '{_text(name)}'; leave one of them out"
        )
        raise ConfigError([Problem("revision", message)])
    what = f"expected the folder or the hub id of a saved classifier, got '{_text(name)}', which is"
    with _meaning(f"{what} no folder, and on the hub"):
        return _downloaded(repo_id, revision or pinned, token)


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Push an artifact to the hub, all of it in one commit; its parts of before go.

    Args:
        folder: of the artifact; what else it holds stays here.
        repo_id: `user/name`; made if it is not there.
        private: whether a repository that is made is private; None = as the hub has it.
        token: for the hub; None = that of `hf auth login` or HF_TOKEN.
        commit_message: of the commit.
        revision: branch; made if it is not there; None = the main one.
        create_pr: open a pull request instead.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ArtifactError: no whole artifact, no right to push there, no connection, or a repository
            that is public and was to be private.
        ConfigError: `create_pr` beside a revision.
    """
    from huggingface_hub import HfApi

    if create_pr and revision is not None:
        message = f"expected no revision beside it, got '{revision}'; leave one of them out"
        raise ConfigError([Problem("create_pr", message)])
    files = store.contents(folder)
    config = json.loads(files[CONFIG])
    api = HfApi(token=token, library_name="ltuning")
    with _meaning(f"expected to push to '{repo_id}' on the hub, got"):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ArtifactError(
                f"expected a private repository '{repo_id}', got one that is there and public; "
                "make it private in its settings on the hub, or push to another name"
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            _operations(
                _public(files, config, repo_id),
                api.list_repo_files(repo_id, revision=revision),
            ),
            commit_message=commit_message or "Push a classifier with ltuning",
            revision=revision,
            create_pr=create_pr,
        )
    _warn_of_backbone(config["backbone"]["name"], repo_id)
    return str(commit.pr_url or commit.commit_url)


def _public(files: dict[str, bytes], config: Any, repo_id: str) -> dict[str, bytes]:
    """The files as others get them: where they are now, and not where the training texts were."""
    data = config["config"]["data"]
    if os.path.isabs(data.get("path") or ""):
        data["path"] = None
    changed = {CONFIG: store.signed(config)}
    if CARD in files:
        changed[CARD] = files[CARD].replace(card.PLACE.encode(), repo_id.encode())
    return files | changed


def _operations(files: dict[str, bytes], there: list[str]) -> list[Any]:
    """What the commit does: its files, and parts of an earlier artifact that go."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    gone = [name for name in there if name.partition("/")[0] in PARTS and name not in files]
    return [
        *(CommitOperationDelete(name) for name in gone),
        *(CommitOperationAdd(name, content) for name, content in files.items()),
    ]


def _warn_of_backbone(backbone: str, repo_id: str) -> None:
    if card.hub_id(backbone) is None:
        logger.warning(
            "'%s' stands on the backbone '%s', which is on this machine alone: who loads it has to "
            "say where it is there (backbone=, --backbone)",
            repo_id,
            backbone,
        )


def _downloaded(repo_id: str, revision: str | None, token: str | bool | None) -> Path:
    from huggingface_hub import hf_hub_download

    fetch = partial(hf_hub_download, repo_id, token=token, library_name="ltuning")
    folder = Path(fetch(CONFIG, revision=revision)).parent
    # All of the commit that the configuration is of, whatever is pushed meanwhile.
    for name in (TENSORS, *store.part_names(folder)):
        fetch(name, revision=folder.name)
    return folder


@contextmanager
def _meaning(sentence: str) -> Iterator[None]:
    """Say what an error of the hub's client means, after the words of a sentence."""
    from huggingface_hub.errors import HfHubHTTPError

    # Of the client's HTTP library, which is another one by version.
    http_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
    try:
        yield
    except (OSError, ValueError, RuntimeError, http_error) as error:
        raise ArtifactError(f"{sentence} {_words(error)}") from error


def _words(error: Exception) -> str:
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RemoteEntryNotFoundError,
    )

    from ltuning.backbones.hub_errors import hub_meaning

    if (meaning := hub_meaning(error)) is not None:
        return meaning
    if isinstance(error, RemoteEntryNotFoundError):
        return "a repository without the files of a classifier of ltuning; check the name"
    if isinstance(error, OfflineModeIsEnabled):
        return "no connection, as HF_HUB_OFFLINE is set; unset it"
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        return (
            "no right to do so; log in with `hf auth login` or set HF_TOKEN, with a token that "
            "may write there"
        )
    return f"{' '.join(str(error).split())[:300]}; check the name and the network, and try again"


def _text(name: str | Path) -> str:
    return name.as_posix() if isinstance(name, Path) else str(name)
