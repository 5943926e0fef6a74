"""What errors of the hub's client mean, and what to do."""

from __future__ import annotations

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The first that fits counts.
_MEANINGS = {
    GatedRepoError: "a gated model; accept its licence on the model's page, then log in with "
    "`hf auth login` or set HF_TOKEN",
    RepositoryNotFoundError: "no model of that name that may be read; check the name, and where "
    "the model is private log in with `hf auth login` or set HF_TOKEN",
    RevisionNotFoundError: "no such revision; give a branch, tag or commit of the model's page",
    LocalEntryNotFoundError: "nothing in the cache and no connection to the hub; check the name "
    "and the network, unset HF_HUB_OFFLINE where it is set, or give a local folder",
}


def hub_meaning(error: Exception) -> str | None:
    """What an error of the hub means; None of another."""
    # transformers turns the hub's errors into an OSError each.
    came = (error, error.__cause__)
    found = [words for kind, words in _MEANINGS.items() if any(isinstance(e, kind) for e in came)]
    return found[0] if found else None
