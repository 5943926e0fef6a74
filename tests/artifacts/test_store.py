from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltuning.artifacts import store
from ltuning.artifacts.folders import claim, settle
from ltuning.artifacts.store import check_output, read_config, save
from ltuning.errors import ArtifactError

from ..conftest import Faults, PowerCut

OLD: dict[str, Any] = {"tensors": {"w": torch.zeros(3)}, "config": {"v": "old"}, "card": "old"}
NEW: dict[str, Any] = {"tensors": {"w": torch.ones(2, 2)}, "config": {"v": "new"}, "card": "new"}
FILES = {"adapter_model.safetensors", "ltuning_config.json", "README.md"}


def load(folder: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    artifact = store.read(folder)
    return artifact.tensors, artifact.config


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def holds(folder: Path, expected: dict[str, Any]) -> bool:
    """Whether the folder holds the artifact, all three files of it."""
    tensors, config = load(folder)
    same = {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in expected["tensors"].items()
    }
    card = (folder / "README.md").read_text()
    parts = [same, config == expected["config"], card == expected["card"]]
    assert all(parts) or not any(parts), "half of one artifact and half of another"
    return all(parts)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    save(folder, **OLD)
    return folder


# --- round trip


def test_an_artifact_is_three_files_and_comes_back_equal(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "counts": torch.tensor([1, 2]),
    }
    config = {"labels": {"good": ["très bien"]}, "seed": 0, "rate": 1e-3, "none": None}
    save(tmp_path / "deep" / "run", tensors, config, "# card\n")
    assert names(tmp_path / "deep" / "run") == FILES
    assert names(tmp_path / "deep") == {"run"}
    loaded, read = load(tmp_path / "deep" / "run")
    assert read == read_config(tmp_path / "deep" / "run") == config
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
        assert loaded[name].dtype == tensor.dtype


def test_views_shared_memory_and_gradients_are_no_obstacle(tmp_path: Path) -> None:
    base = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    save(tmp_path / "run", {"a": base, "b": base.T, "c": base[0].expand(2, 3)}, {}, "")
    loaded, _ = load(tmp_path / "run")
    assert torch.equal(loaded["b"], base.T)
    assert torch.equal(loaded["c"], torch.tensor([[0.0, 1, 2], [0, 1, 2]]))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no text that a file could carry.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", max_size=2), inner),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("abc", max_size=3), JSON))
def test_every_json_configuration_comes_back_equal(config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as parent:
        save(Path(parent, "run"), {}, config, "")
        assert load(Path(parent, "run")) == ({}, config)


def test_run_files_are_written_beside_the_artifact(tmp_path: Path) -> None:
    files = {"config.yaml": "seed: 0\n", "metrics.json": "{}"}
    save(tmp_path / "run", **OLD, files=files)
    assert names(tmp_path / "run") == FILES | files.keys()
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("name", ["README.md", "a/b", "../a", "..", "", "checkpoints"])
def test_run_files_have_bare_names_of_their_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="expected the bare name of a file .*, got '"):
        save(tmp_path / "run", **OLD, files={name: "x"})
    assert names(tmp_path) == set()


def test_all_files_are_readable_as_the_umask_says(saved: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in saved.iterdir()}
    plain = saved.parent / "plain"
    plain.touch()
    assert modes == {stat.S_IMODE(plain.stat().st_mode)}


# --- configurations that cannot be saved


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, torch.zeros(1)])
def test_a_configuration_that_json_cannot_carry_is_refused(saved: Path, value: Any) -> None:
    with pytest.raises(ArtifactError, match="the configuration holds what JSON cannot carry: "):
        save(saved, {}, {"value": value}, "", overwrite=True)
    assert holds(saved, OLD)


def test_a_configuration_may_not_set_the_keys_of_the_store(tmp_path: Path) -> None:
    message = "the configuration may not set config_sha256, format: `save` writes them"
    with pytest.raises(ArtifactError, match=message):
        save(tmp_path / "run", {}, {"format": 3, "config_sha256": ""}, "")


def test_a_card_that_is_no_text_leaves_the_old_artifact(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="surrogates not allowed; the earlier artifact is unt"):
        save(saved, **{**NEW, "card": "\ud800"}, overwrite=True)
    assert holds(saved, OLD)
    assert names(saved.parent) == {"run"}


# --- which folders may be written to


def test_an_artifact_is_replaced_only_with_overwrite(saved: Path) -> None:
    message = "holds a trained classifier already: choose another folder, or replace it with --over"
    for refused in (lambda: save(saved, **NEW), lambda: check_output(saved)):
        with pytest.raises(ArtifactError, match=message):
            refused()
    assert holds(saved, OLD)
    check_output(saved, overwrite=True)
    save(saved, **NEW, overwrite=True)
    assert holds(saved, NEW)
    assert names(saved.parent) == {"run"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", ["README.md", "metrics.json", "thesis.tex"])
def test_a_folder_of_others_is_never_overwritten(
    tmp_path: Path, overwrite: bool, content: str
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / content).write_text("mine")
    message = r"is not an ltuning folder \(it has no ltuning_config.json\), so it is never overwrit"
    with pytest.raises(ArtifactError, match=message):
        check_output(tmp_path / "run", overwrite=overwrite)
    with pytest.raises(ArtifactError, match=message):
        save(tmp_path / "run", **NEW, overwrite=overwrite)
    assert (tmp_path / "run" / content).read_text() == "mine"


def test_other_files_called_as_ours_beside_checkpoints_are_safe(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "README.md").write_text("mine")
    with pytest.raises(ArtifactError, match="is not an ltuning folder"):
        save(tmp_path / "run", **NEW, overwrite=True)


def test_an_unfinished_run_wants_resume_or_overwrite(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    message = (
        r"holds an unfinished run \(in checkpoints/\): go on with it with --resume, or start a"
    )
    with pytest.raises(ArtifactError, match=message):
        check_output(tmp_path / "run")
    check_output(tmp_path / "run", overwrite=True)
    assert names(tmp_path / "run") == {"checkpoints"}


def test_saving_a_run_keeps_its_checkpoints_and_what_came_in_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "run" / "train.log").write_text("log")
    save(tmp_path / "run", **NEW)
    assert holds(tmp_path / "run", NEW)
    assert names(tmp_path / "run") == FILES | {"checkpoints", "train.log"}
    assert names(tmp_path / "run" / "checkpoints") == {"step-1"}
    assert names(tmp_path) == {"run"}


def test_a_missing_and_an_empty_folder_are_free(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing" / "deep"):
        check_output(folder)
        check_output(folder, overwrite=True)
    assert names(tmp_path) == {"empty"}
    save(tmp_path / "empty", **NEW)
    assert holds(tmp_path / "empty", NEW)


def test_overwriting_drops_the_old_run_and_keeps_what_is_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    save(folder, **OLD, files={"metrics.json": "old", "config.yaml": "old"})
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoints").mkdir()
    folder.chmod(0o750)
    save(folder, **NEW, overwrite=True, files={"config.yaml": "new"})
    assert names(folder) == FILES | {"config.yaml", "notes.txt", "checkpoints"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "config.yaml").read_text() == "new"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


PARTS = {"lora/adapter_config.json": b"{}"}


def test_overwriting_keeps_a_folder_that_is_only_called_as_a_part(saved: Path) -> None:
    (saved / "lora").mkdir()
    (saved / "lora" / "mine.txt").write_text("mine")
    save(saved, **NEW, overwrite=True)
    assert holds(saved, NEW)
    assert names(saved) == FILES | {"lora"}
    with pytest.raises(
        ArtifactError,
        match="expected .* without a folder lora/, where a part of the artifact goes, got one that "
        "the artifact there does not name; rename it, or choose another folder, and save again",
    ):
        save(saved, **OLD, overwrite=True, parts=PARTS)
    assert holds(saved, NEW)
    assert (saved / "lora" / "mine.txt").read_text() == "mine"
    assert names(saved.parent) == {"run"}


def test_parts_go_with_their_artifact(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for number in range(2):
        save(folder, **OLD, overwrite=number > 0, parts=PARTS)
        assert names(folder) == FILES | {"lora"}
    save(folder, **NEW, overwrite=True)
    assert names(folder) == FILES


def test_a_link_is_followed_and_stays(saved: Path) -> None:
    link = saved.parent / "link"
    link.symlink_to(saved)
    save(link, **NEW, overwrite=True)
    assert link.is_symlink()
    assert holds(saved, NEW)
    assert holds(link, NEW)


def test_the_working_directory_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    for folder in (Path(), tmp_path):
        with pytest.raises(
            ArtifactError, match="is the working directory or above it, .*inside it"
        ):
            check_output(folder)


def test_a_mount_point_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "run")
    for refused in (check_output, lambda folder: save(folder, **NEW)):
        with pytest.raises(ArtifactError, match="is a mount point, .*choose a folder inside it"):
            refused(tmp_path / "run")


def test_places_where_no_folder_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ArtifactError, match="expected a folder to write to, got the file .*/file: "
    ):
        check_output(tmp_path / "file")
    with pytest.raises(
        ArtifactError, match="cannot be made: .*/file is a file; choose another fol"
    ):
        check_output(tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ArtifactError, match="cannot be made: no right to write to "):
        check_output(tmp_path / "a" / "run")


# --- failures and crashes while saving


def start_missing(folder: Path) -> None:
    pass


def start_unfinished(folder: Path) -> None:
    (folder / "checkpoints" / "step-1").mkdir(parents=True)


def start_saved(folder: Path) -> None:
    save(folder, **OLD)
    (folder / "notes.txt").write_text("mine")
    (folder / "checkpoints" / "step-1").mkdir(parents=True)


def kept(folder: Path, start: Callable[[Path], None]) -> bool:
    """Whether everything is there that was no part of the artifact."""
    strangers = {
        start_missing: set(),
        start_unfinished: {"checkpoints"},
        start_saved: {"checkpoints", "notes.txt"},
    }[start]
    return strangers <= (names(folder) if folder.exists() else set())


STARTS = pytest.mark.parametrize("start", [start_missing, start_unfinished, start_saved])


@STARTS
def test_a_full_disk_at_any_step_leaves_the_old_state_or_the_new(
    tmp_path: Path, start: Callable[[Path], None]
) -> None:
    for number in range(100):
        parent = tmp_path / str(number)
        parent.mkdir()
        folder = parent / "run"
        start(folder)
        before = names(folder) if folder.exists() else None
        faults = Faults(number, OSError(errno.ENOSPC, "No space left on device"))
        try:
            faults.during(lambda folder=folder: save(folder, **NEW, overwrite=True))
        except ArtifactError as error:
            untouched = "the earlier artifact is untouched" if start is start_saved else "nothing"
            if ".run.ltuning, which " not in str(error):
                assert str(error).startswith(f"saving to {folder} failed: [Errno 28] No space left")
                assert f"; {untouched}" in str(error)
            assert (names(folder) if folder.exists() else None) == before
            assert names(parent) <= {"run"}
            assert start is not start_saved or holds(folder, OLD)
        else:
            assert holds(folder, NEW)
        settle(folder)
        assert kept(folder, start)
        if not faults.struck:
            break
    assert number > 10, "the faults struck nothing"


@STARTS
def test_a_power_cut_at_any_step_leaves_the_old_state_or_the_new(
    tmp_path: Path, start: Callable[[Path], None]
) -> None:
    seen = set()
    for number in range(100):
        parent = tmp_path / str(number)
        parent.mkdir()
        folder = parent / "run"
        start(folder)
        faults = Faults(number, PowerCut())
        try:
            faults.during(lambda folder=folder: save(folder, **NEW, overwrite=True))
        except PowerCut:
            settle(folder)
        has_artifact = folder.exists() and "ltuning_config.json" in names(folder)
        assert has_artifact or start is not start_saved
        seen.add("new" if has_artifact and holds(folder, NEW) else "old")
        assert kept(folder, start)
        save(folder, **NEW, overwrite=True)
        assert holds(folder, NEW)
        assert kept(folder, start)
        if not faults.struck:
            break
    assert seen == {"old", "new"}


def cut_off_between_the_renames(folder: Path) -> None:
    renames = iter([os.rename])

    def rename(source: Path, target: Path) -> None:
        next(renames, cut)(source, target)

    def cut(source: Path, target: Path) -> None:
        raise PowerCut

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(os, "rename", rename)
        save(folder, **NEW, overwrite=True)
    assert not folder.exists()


def test_load_reads_the_folder_of_a_save_that_was_cut_off_and_renames_nothing(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut_off_between_the_renames(saved)
    before = names(saved.parent)
    assert load(saved)[1] == OLD["config"]
    assert "the folder from before it; the next save or training puts it back" in caplog.text
    assert names(saved.parent) == before and "run" not in before
    settle(saved)
    assert "was cut off: the folder from before it is back in place" in caplog.text
    assert holds(saved, OLD)
    assert names(saved.parent) == {"run"}


def test_what_came_in_since_a_save_was_cut_off_is_not_taken_for_the_new_folder(saved: Path) -> None:
    cut_off_between_the_renames(saved)
    saved.mkdir()
    (saved / "thesis.tex").write_text("mine")
    before = names(saved.parent)
    for refused in (lambda: save(saved, **NEW, overwrite=True), lambda: check_output(saved, True)):
        with pytest.raises(
            ArtifactError,
            match=r"^a save of .*/run was cut off, and what is there now came in since: the folder "
            r"from before the save is .*/\.run\.old-\w+; move one of the two away$",
        ):
            refused()
    assert names(saved.parent) == before
    assert names(saved) == {"thesis.tex"}
    shutil.rmtree(saved)
    settle(saved)
    assert holds(saved, OLD)
    assert names(saved.parent) == {"run"}


@pytest.mark.parametrize("content", ["thesis.tex", "ltuning_config.json"])
def test_a_folder_of_the_users_own_beside_the_artifact_is_left_alone(
    tmp_path: Path, content: str
) -> None:
    for name in (".run.old", ".run.tmp-1a2b3c4d", ".run.old-1a2b3c4d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / content).write_text("mine")
    before = names(tmp_path)
    check_output(tmp_path / "run")
    save(tmp_path / "run", **OLD)
    save(tmp_path / "run", **NEW, overwrite=True)
    assert names(tmp_path) == before | {"run"}
    shutil.rmtree(tmp_path / "run")
    hint = ", and rename .*/.run.old to it if an earlier version left that in a save cut off"
    with pytest.raises(ArtifactError, match=f"check the path{hint * (content != 'thesis.tex')}$"):
        load(tmp_path / "run")
    assert {(tmp_path / name / content).read_text() for name in before} == {"mine"}


def test_the_folder_says_where_the_earlier_one_is_when_it_cannot_be_put_back(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off_between_the_renames(saved)

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(
        ArtifactError, match=r"whole, is in .*/\.run\.old-\w+, but renaming it back fai"
    ):
        settle(saved)


def test_a_record_that_cannot_be_read_is_not_taken_for_empty(saved: Path) -> None:
    cut_off_between_the_renames(saved)
    opened = Path.open

    def refuse(path: Path, *given: Any, **named: Any) -> Any:
        if path.name == ".run.ltuning":
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, *given, **named)

    message = (
        r"\.run\.ltuning, which says what is under way in .*/run, cannot be read \(Too many open "
        r"files\); make it readable, and try again$"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        for refused in (lambda: settle(saved), lambda: load(saved)):
            with pytest.raises(ArtifactError, match=message):
                refused()
    settle(saved)
    assert holds(saved, OLD)


def test_check_output_sees_the_folder_of_a_save_that_was_cut_off(saved: Path) -> None:
    cut_off_between_the_renames(saved)
    with pytest.raises(ArtifactError, match="holds a trained classifier already"):
        check_output(saved)


def test_a_save_succeeds_when_only_clearing_up_fails(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (saved / "notes.txt").write_text("mine")
    rename = os.rename

    def refuse_notes(source: Path, target: Path) -> None:
        if source.name == "notes.txt":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse_notes)
        save(saved, **NEW, overwrite=True)
    assert holds(saved, NEW)
    assert "run is saved, but " in caplog.text
    assert "move what you need from there and remove it" in caplog.text
    settle(saved)
    assert (saved / "notes.txt").read_text() == "mine"
    assert names(saved.parent) == {"run"}


# --- reading what is missing, changed or foreign


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "ltuning_config.json"
    config = json.loads(path.read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    path.write_text(json.dumps(kept))


def sign(folder: Path, **changes: Any) -> None:
    """As who changes a configuration on purpose would write it."""
    path = folder / "ltuning_config.json"
    path.write_bytes(store.signed(json.loads(path.read_text()) | changes))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def flip_a_bit(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "the folder of a saved classifier, but .*/run does not exist: "),
    "no tensors": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "is not a whole saved classifier: adapter_model.safetensors missing; copy the whole folder",
    ),
    "no config": (
        lambda folder: (folder / "ltuning_config.json").unlink(),
        "is not a whole saved classifier: ltuning_config.json missing; copy the whole folder",
    ),
    "broken JSON": (
        lambda folder: (folder / "ltuning_config.json").write_text('{"format": 1'),
        r"ltuning_config.json is not valid JSON \(.*line 1.*\): restore the file or train again",
    ),
    "not UTF-8": (
        lambda folder: (folder / "ltuning_config.json").write_bytes(b'{"a": "\xff"}'),
        "ltuning_config.json is not valid JSON .*: restore the file",
    ),
    "no object": (
        lambda folder: (folder / "ltuning_config.json").write_text("[]"),
        "ltuning_config.json is no configuration of ltuning",
    ),
    "no format": (lambda folder: change_config(folder, format=...), "it has no format"),
    "later format": (
        lambda folder: change_config(folder, format=2),
        "has format 2, this version of ltuning reads format 1: install the version that saved it",
    ),
    "no checksum": (
        lambda folder: change_config(folder, adapter_sha256=...),
        "ltuning_config.json lacks adapter_sha256: restore the file or train again",
    ),
    "deeply nested": (
        lambda folder: (folder / "ltuning_config.json").write_text("[" * 10**5),
        "ltuning_config.json is not valid JSON .*: restore the file",
    ),
    "nested": (
        lambda folder: sign(folder, v=json.loads("[" * 200 + "]" * 200)),
        r"ltuning_config.json is not valid JSON \(nested too deeply\): restore the file",
    ),
    "no number": (
        lambda folder: sign(folder, v=float("nan")),
        r"ltuning_config.json is not valid JSON \(the number NaN\): restore the file",
    ),
    "too long": (
        lambda folder: os.truncate(folder / "ltuning_config.json", 2**33),
        "expected a file of at most 67,108,864 bytes, got a longer one: .*ltuning_config.json",
    ),
    "a pipe": (
        lambda folder: pipe(folder / "ltuning_config.json"),
        "expected a file, got something else in its place: .*ltuning_config.json; restore",
    ),
    "tensors from a pipe": (
        lambda folder: pipe(folder / "adapter_model.safetensors"),
        "expected a file, got something else in its place: .*adapter_model.safetensors; restore",
    ),
    "a device": (
        lambda folder: sign(folder, parts_sha256={"/dev/zero": "0" * 64}),
        "in calibration/ or lora/ with parts_sha256 in .*, got '/dev/zero'; restore",
    ),
    "a file outside": (
        lambda folder: sign(folder, parts_sha256={"lora/../../x": "0" * 64}),
        r"in calibration/ or lora/ with parts_sha256 in .*, got 'lora/\.\./\.\./x';",
    ),
    "the folder above": (
        lambda folder: sign(folder, parts_sha256={"lora/..": "0" * 64}),
        r"in calibration/ or lora/ with parts_sha256 in .*, got 'lora/\.\.';",
    ),
    "no checksums": (
        lambda folder: sign(folder, parts_sha256=[1]),
        "expected checksums of 64 hexadecimal digits in .*ltuning_config.json, got others; restore",
    ),
    "changed config": (
        lambda folder: change_config(folder, v="forged"),
        r"ltuning_config.json was changed or damaged since .*\(.*does not match config_sha256\)",
    ),
    "changed tensors": (
        flip_a_bit,
        r"adapter_model.safetensors was changed or damaged .*\(.*does not match adapter_sha256\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_says_what_is_wrong(saved: Path, damage: str) -> None:
    harm, message = DAMAGES[damage]
    harm(saved)
    with pytest.raises(ArtifactError, match=message):
        load(saved)


def test_load_wants_a_folder_that_is_finished(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="of a saved classifier, but .*/file is a file: check"):
        load(tmp_path / "file")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        ArtifactError, match="holds an unfinished run .*finish it with --resume fir"
    ):
        load(tmp_path / "run")


def test_load_reports_tensors_that_cannot_be_read(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content: bytes) -> None:
        raise safetensors.SafetensorError("header too small")

    monkeypatch.setattr(safetensors.torch, "load", fail)
    with pytest.raises(ArtifactError, match="cannot read .*safetensors: header too small; restore"):
        load(saved)


def test_a_reformatted_configuration_is_not_a_changed_one(saved: Path) -> None:
    path = saved / "ltuning_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert holds(saved, OLD)


def test_the_format_is_one(saved: Path) -> None:
    assert json.loads((saved / "ltuning_config.json").read_text())["format"] == store.FORMAT == 1


# --- several at a time


def test_who_reads_while_another_overwrites_gets_one_save_whole(saved: Path) -> None:
    # Each save says its number in both files.
    def write(number: int) -> None:
        tensors, parts = {"w": torch.tensor([number])}, {"lora/number": str(number).encode()}
        save(saved, tensors, {"v": number}, "", overwrite=True, parts=parts)

    write(0)
    done, found = threading.Event(), []

    def read() -> None:
        while not done.is_set():
            artifact = store.read(saved)
            part = int(artifact.parts["lora/number"])
            found.append((int(artifact.tensors["w"]), artifact.config["v"], part))

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for number in range(1, 12):
                write(number)
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert len(found) >= 3
    assert [numbers for numbers in found if len(set(numbers)) > 1] == []
    assert names(saved.parent) == {"run"}


OCCUPIED = (
    "^expected .*/run without another process at work in it, got one; wait for it or end it, or "
    "choose another folder$"
)


def test_one_process_writes_at_a_time(saved: Path) -> None:
    code = "import sys; from ltuning.artifacts.folders import claim\n"
    code += "with claim(sys.argv[1]): print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, saved], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None and other.stdout.readline()
        for refused in (lambda: save(saved, **NEW, overwrite=True), lambda: check_output(saved)):
            with pytest.raises(ArtifactError, match=OCCUPIED):
                refused()
        assert holds(saved, OLD)
        other.kill()
    # The lock of a dead process holds nobody up, and what it left is cleared.
    assert names(saved.parent) == {"run", ".run.ltuning"}
    save(saved, **NEW, overwrite=True)
    assert holds(saved, NEW)
    assert names(saved.parent) == {"run"}


def test_who_has_claimed_a_folder_may_save_to_it(saved: Path) -> None:
    with claim(saved), claim(saved):
        save(saved, **NEW, overwrite=True)
        assert names(saved.parent) == {"run", ".run.ltuning"}
    assert names(saved.parent) == {"run"}


def test_a_claim_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with claim(tmp_path / "deep" / "run"):
        pass
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("~nosuchuser/run", "^expected a folder, got '~nosuchuser/run': Could not determine home"),
        ("a\0b", "^expected a folder, got 'a\0b': .*embedded null .*"),
        (
            "é" * 121,
            "^expected a folder with a name of at most 241 bytes, got one of 242: 'é{20}...'; "
            "choose a shorter one$",
        ),
        ("n" * 300 + "/run", "cannot be made: .*File name too long"),
    ],
)
def test_what_is_no_name_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, message: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for refused in (check_output, lambda folder: save(folder, **NEW)):
        with pytest.raises(ArtifactError, match=message):
            refused(folder)
    with pytest.raises(ArtifactError):
        load(folder)
    assert names(tmp_path / "here") == set()


def test_the_longest_name_of_a_folder_is_saved_to(tmp_path: Path) -> None:
    for _ in range(2):
        save(tmp_path / ("n" * 241), **NEW, overwrite=True)
    assert names(tmp_path) == {"n" * 241}
