from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ltuning.artifacts import store
from ltuning.artifacts.card import PLACE
from ltuning.artifacts.folders import CARD, CONFIG, TENSORS
from ltuning.artifacts.hub import push
from ltuning.artifacts.opened import ANSWERS
from ltuning.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from ltuning.backbones.backbone import Backbone
    from ltuning.estimators.label_classifier import LabelClassifier

    from ..conftest import Toy
    from ..hub_server import HubServer

NAME = "me/topics"
OURS = {CARD, CONFIG, TENSORS, ANSWERS}
EXPECTED = "expected the folder or the hub id of a saved classifier, got '{}', which is no folder"


@pytest.fixture(scope="module")
def fitted(classifier: Callable[..., Any], bert: Backbone, toy: Toy) -> LabelClassifier:
    made: LabelClassifier = classifier(bert, "lt-prefix", steps=2)
    return made.fit(toy.texts, toy.labels, validation=toy.test)


@pytest.fixture
def found(bert: Backbone) -> Callable[..., LabelClassifier]:
    from ltuning.estimators.label_classifier import LabelClassifier

    def from_pretrained(name: str, **arguments: Any) -> LabelClassifier:
        return LabelClassifier.from_pretrained(name, backbone=bert, **arguments)

    return from_pretrained


def test_what_is_pushed_gives_the_same_answers(
    hub: HubServer, fitted: LabelClassifier, found: Callable[..., Any], toy: Toy
) -> None:
    address = fitted.push_to_hub(NAME, commit_message="Topics")
    pushed = hub.repositories[NAME]
    assert address == f"{hub.url}/{NAME}/commit/{pushed.branches['main']}"
    assert pushed.files().keys() == OURS | {".gitattributes"}
    loaded = found(NAME)
    np.testing.assert_array_equal(loaded.scores(toy.test_texts), fitted.scores(toy.test_texts))
    assert loaded.figures == fitted.figures
    # The card is for people.
    assert hub.downloads() == sorted(OURS - {CARD})
    assert f'from_pretrained("{NAME}")' in pushed.files()[CARD].decode()


def test_nothing_but_the_files_of_the_artifact_is_downloaded(
    hub: HubServer, fitted: LabelClassifier, found: Callable[..., Any]
) -> None:
    fitted.push_to_hub(NAME)
    pushed = hub.repositories[NAME]
    strange = {name: b"no" for name in ("adapter_model.bin", "lora/adapter_model.bin", "x.pkl")}
    pushed.commit("main", {**pushed.files(), **strange})
    found(NAME)
    assert hub.downloads() == sorted(OURS - {CARD})


def test_files_that_were_changed_on_the_hub_are_refused(
    hub: HubServer, fitted: LabelClassifier, found: Callable[..., Any]
) -> None:
    fitted.push_to_hub(NAME)
    pushed = hub.repositories[NAME]
    pushed.commit("main", {**pushed.files(), TENSORS: pushed.files()[TENSORS] + b"\0"})
    with pytest.raises(ArtifactError, match="was changed or damaged since it was saved"):
        found(NAME)


def test_a_configuration_cannot_have_other_files_downloaded(
    hub: HubServer, fitted: LabelClassifier, found: Callable[..., Any]
) -> None:
    fitted.push_to_hub(NAME)
    pushed = hub.repositories[NAME]
    config = json.loads(pushed.files()[CONFIG])
    config["parts_sha256"] = {"../secret": "0" * 64}
    pushed.commit("main", {**pushed.files(), CONFIG: store.signed(config)})
    with pytest.raises(ArtifactError, match="expected files of the artifact in calibration/ or"):
        found(NAME)
    assert hub.downloads() == [CONFIG]


def test_a_revision_is_a_branch_that_is_made(
    hub: HubServer,
    fitted: LabelClassifier,
    found: Callable[..., Any],
    classifier: Callable[..., Any],
    bert: Backbone,
    toy: Toy,
) -> None:
    other = classifier(bert, "probe", toy.names, steps=2).fit(toy.texts, toy.labels)
    fitted.push_to_hub(NAME, revision="v1")
    other.push_to_hub(NAME)
    assert found(NAME, revision="v1").config.method.name == "lt-prefix"
    assert found(f"{NAME}@v1").config.method.name == "lt-prefix"
    assert found(NAME).config.method.name == "probe"
    with pytest.raises(ConfigError, match="got 'v1' beside 'me/topics@v2'; leave one of them out"):
        found(f"{NAME}@v2", revision="v1")


def test_the_card_is_pushed_as_it_is_in_the_folder(
    hub: HubServer, fitted: LabelClassifier, tmp_path: Path
) -> None:
    fitted.save_pretrained(tmp_path / "saved")
    mine = f"# Mine\n\nltuning predict {PLACE} texts.txt\n"
    (tmp_path / "saved" / CARD).write_text(mine)
    (tmp_path / "saved" / "notes.txt").write_text("not pushed")
    push(tmp_path / "saved", NAME)
    files = hub.repositories[NAME].files()
    assert files.keys() == OURS | {".gitattributes"}
    assert files[CARD].decode() == mine.replace(PLACE, NAME)
    assert (tmp_path / "saved" / CARD).read_text() == mine


def test_parts_of_an_earlier_artifact_go(hub: HubServer, fitted: LabelClassifier) -> None:
    fitted.push_to_hub(NAME)
    pushed = hub.repositories[NAME]
    pushed.commit("main", {**pushed.files(), "lora/adapter_config.json": b"{}", "notes.md": b"-"})
    fitted.push_to_hub(NAME, commit_message="Again")
    assert pushed.files().keys() == OURS | {".gitattributes", "notes.md"}


def test_a_pull_request_leaves_the_branch_as_it_is(hub: HubServer, fitted: LabelClassifier) -> None:
    assert fitted.push_to_hub(NAME, create_pr=True) == f"{hub.url}/{NAME}/discussions/1"
    assert hub.repositories[NAME].files().keys() == {".gitattributes"}
    with pytest.raises(ConfigError, match="expected no revision beside it, got 'v1'"):
        fitted.push_to_hub(NAME, create_pr=True, revision="v1")


def test_a_private_classifier_wants_its_token(
    hub: HubServer,
    fitted: LabelClassifier,
    found: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = "hf_of_the_owner"
    monkeypatch.delenv("HF_TOKEN")
    fitted.push_to_hub(NAME, private=True, token=token)
    assert hub.repositories[NAME].private
    with pytest.raises(ArtifactError) as refused:
        found(NAME)
    assert str(refused.value) == (
        f"{EXPECTED.format(NAME)}, and on the hub no model of that name that may be read; check "
        "the name, and where the model is private log in with `hf auth login` or set HF_TOKEN"
    )
    assert found(NAME, token=token).labels_ == fitted.labels_


def test_what_was_to_be_private_is_not_pushed_to_a_public_place(
    hub: HubServer, fitted: LabelClassifier
) -> None:
    fitted.push_to_hub(NAME)
    before = hub.repositories[NAME].branches["main"]
    with pytest.raises(ArtifactError) as refused:
        fitted.push_to_hub(NAME, private=True, commit_message="Again")
    assert str(refused.value) == (
        "expected a private repository 'me/topics', got one that is there and public; make it "
        "private in its settings on the hub, or push to another name"
    )
    assert hub.repositories[NAME].branches["main"] == before


def test_who_may_not_push_is_told(
    hub: HubServer, fitted: LabelClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ArtifactError) as refused:
        fitted.push_to_hub(NAME)
    assert str(refused.value) == (
        "expected to push to 'me/topics' on the hub, got no right to do so; log in with "
        "`hf auth login` or set HF_TOKEN, with a token that may write there"
    )
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [
        ("me/nothing", None, "no model of that name that may be read; check the name"),
        ("me/other", None, "a repository without the files of a classifier of ltuning"),
        ("me/other", "v9", "no such revision; give a branch, tag or commit"),
        ("me/a..b", None, "check the name and the network, and try again"),
    ],
)
def test_what_the_hub_has_not(
    name: str, revision: str | None, said: str, hub: HubServer, found: Callable[..., Any]
) -> None:
    from ..hub_server import Repository

    hub.repositories["me/other"] = Repository()
    with pytest.raises(ArtifactError) as refused:
        found(name, revision=revision)
    assert str(refused.value).startswith(f"{EXPECTED.format(name)}, and on the hub ")
    assert said in str(refused.value)


def test_what_was_loaded_once_is_there_without_a_network(
    hub: HubServer,
    fitted: LabelClassifier,
    found: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    fitted.push_to_hub(NAME)
    found(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert found(NAME).labels_ == fitted.labels_
    with pytest.raises(ArtifactError, match="nothing in the cache and no connection to the hub"):
        found("me/nothing")
    with pytest.raises(ArtifactError, match="got no connection, as HF_HUB_OFFLINE is set"):
        fitted.push_to_hub(NAME)


def test_a_folder_goes_before_the_hub(
    hub: HubServer,
    fitted: LabelClassifier,
    found: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted.save_pretrained(NAME)
    assert found(NAME).labels_ == fitted.labels_
    for missing in ("me/other", "./you/topics", "topics", str(tmp_path / "none")):
        with pytest.raises(ArtifactError, match="does not exist: check the path"):
            found(missing)
    assert hub.asked == []


def test_a_backbone_of_this_machine_is_warned_of(
    hub: HubServer, fitted: LabelClassifier, bert: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ltuning"):
        fitted.push_to_hub(NAME)
    assert caplog.messages == [
        f"'{NAME}' stands on the backbone '{bert.name}', which is on this machine alone: who loads "
        "it has to say where it is there (backbone=, --backbone)"
    ]
