"""The output folder of a run, at every point at which its process may be killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltuning.artifacts import store
from ltuning.cli.run_folder import RunFolder
from ltuning.config import BackboneOptions, Config, MethodOptions
from ltuning.errors import ArtifactError

from ..conformance.tiny import FAMILIES
from ..conftest import Faults, PowerCut

BEFORE, NOW = Config(seed=1), Config(seed=2)


def write_checkpoint(folder: RunFolder, step: int = 4, best: int | None = None) -> Path:
    """What transformers writes."""
    checkpoint = folder.checkpoints / f"checkpoint-{step}"
    checkpoint.mkdir()
    save_file({"w": torch.zeros(2)}, checkpoint / "model.safetensors")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"number": step}, checkpoint / name)
    state = {"global_step": step, "best_model_checkpoint": None}
    if best is not None:
        state["best_model_checkpoint"] = f"somewhere/checkpoints/checkpoint-{best}"
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    return checkpoint


def save(folder: RunFolder, seed: int) -> None:
    tensors = {"seed": torch.tensor(seed)}
    store.save(folder.folder, tensors, {}, "", overwrite=True, files={"config.yaml": f"{seed}"})


def a_run(folder: RunFolder, overwrite: bool) -> None:
    """What `train` writes, less what transformers does."""
    with folder.claimed():
        folder.check(overwrite)
        folder.begin(NOW, "digest")
        write_checkpoint(folder)
        assert folder.newest_step() == 4
        save(folder, NOW.seed)
        folder.finish()


def nothing(folder: RunFolder) -> None:
    pass


def both(folder: RunFolder) -> None:
    """An artifact, and an unfinished run that was to replace it."""
    save(folder, BEFORE.seed)
    folder.begin(BEFORE, "other")
    write_checkpoint(folder)


def goes_on(folder: RunFolder, verb: str) -> bool:
    """Whether a verb does something with the folder: its checks pass."""
    try:
        if verb == "--resume":
            folder.check_same(Config.from_dict(folder.options()))
        with folder.claimed():
            folder.check(overwrite=verb != "")
            folder.newest_step()
    except ArtifactError:
        return False
    return True


def test_a_divided_run_goes_on_with_a_whole_backbone_and_the_other_way_round(
    tmp_path: Path,
) -> None:
    whole, divided = (
        Config.from_dict({"backbone": {"device": device}}) for device in ("cpu", "shard")
    )
    other = Config.from_dict({"backbone": {"device": "cuda"}})
    for began, now in ((whole, divided), (divided, whole)):
        folder = RunFolder(tmp_path / str(began.backbone.device))
        folder.begin(began, "data")
        folder.check_same(now)
    with pytest.raises(ArtifactError, match="backbone.device: 'cpu' -> 'cuda'"):
        RunFolder(tmp_path / "cpu").check_same(other)


def said(folder: RunFolder) -> str:
    with pytest.raises(ArtifactError) as caught:
        folder.check(overwrite=False)
    return str(caught.value)


@pytest.mark.parametrize("start", [nothing, both])
def test_whenever_a_run_is_killed_a_verb_goes_on_that_the_error_names(
    tmp_path: Path, start: Callable[[RunFolder], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    had_artifact = start is both
    seen = set()
    # Every third operation, for the sake of time.
    for number in range(0, 300, 3):
        folder = RunFolder(tmp_path / str(number) / "run")
        start(folder)
        faults = Faults(number, PowerCut())
        with suppress(PowerCut):
            faults.during(lambda folder=folder: a_run(folder, overwrite=start is not nothing))
        if goes_on(folder, ""):
            assert not had_artifact
            verbs = [""]
        else:
            message = said(folder)
            verbs = [verb for verb in ("--resume", "--overwrite") if verb in message]
            assert "--overwrite" in verbs
        assert all(goes_on(folder, verb) for verb in verbs), (number, verbs)
        try:
            seed = int(store.read(folder.folder).tensors["seed"])
        except ArtifactError:
            assert not had_artifact
        else:
            seen.add(seed)
            text = (folder.folder / "config.yaml").read_text()
            assert text == str(seed), "half of one and half of another"
        a_run(folder, overwrite=True)
        assert {path.name for path in folder.folder.parent.iterdir()} == {"run"}
        assert not folder.checkpoints.exists()
        shutil.rmtree(folder.folder.parent)
        if not faults.struck:
            break
    assert not faults.struck and number > 30
    assert seen >= {NOW.seed} | ({BEFORE.seed} if had_artifact else set())


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: (checkpoint / "scheduler.pt").write_bytes(b""),
        lambda checkpoint: (checkpoint / "scheduler.pt").unlink(),
        lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
        lambda checkpoint: (checkpoint / "rng_state.pth").write_bytes(b"PK"),
        lambda checkpoint: (checkpoint / "optimizer.pt").unlink(),
        lambda checkpoint: (checkpoint / "model.safetensors").write_bytes(b""),
        lambda checkpoint: (checkpoint / "trainer_state.json").write_bytes(b""),
        lambda checkpoint: (checkpoint / "trainer_state.json").write_bytes(b"[]"),
        shutil.rmtree,
    ],
)
def test_a_checkpoint_is_whole_with_every_file(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(NOW, "digest")
    first, second = write_checkpoint(folder, 2), write_checkpoint(folder, 4)
    assert folder.newest_step() == 4
    damage(second)
    assert folder.newest_step() == 2
    assert first.exists() and not second.exists()
    damage(first)
    assert folder.newest_step() is None
    assert {path.name for path in folder.checkpoints.iterdir()} == {"config.yaml", "data.sha256"}


def test_a_checkpoint_whose_best_weights_are_gone_is_not_gone_on_with(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(NOW, "digest")
    best = write_checkpoint(folder, 2, best=2)
    write_checkpoint(folder, 6, best=2)
    assert folder.newest_step() == 6
    (best / "model.safetensors").unlink()
    assert folder.newest_step() is None


def test_what_a_killed_run_kept_of_its_layers_goes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(NOW, "digest")
    (folder.checkpoints / "lower-layers-abc").write_bytes(b"GB")
    folder.newest_step()
    assert not (folder.checkpoints / "lower-layers-abc").exists()


@pytest.mark.parametrize("left", [[], ["data.sha256"]])
def test_what_earlier_versions_left_of_a_beginning_is_nothing(
    tmp_path: Path, left: list[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    for name in left:
        (folder.checkpoints / name).write_text("")
    assert all(goes_on(folder, verb) for verb in ("", "--overwrite"))
    assert not goes_on(folder, "--resume")
    a_run(folder, overwrite=False)


@pytest.mark.parametrize("content", ["", "3\n", "a: [\n"])
def test_a_configuration_that_was_cut_off_is_said(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(NOW, "digest")
    (folder.checkpoints / "config.yaml").write_text(content)
    message = "checkpoints/config.yaml cannot be read .*: start the run anew with --overwrite$"
    with pytest.raises(ArtifactError, match=message):
        folder.options()
    assert goes_on(folder, "--overwrite")


def test_a_second_run_in_the_folder_is_refused(
    run: Callable[..., Any], ltuning: Callable[..., Any], trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    RunFolder(folder).begin(NOW, "digest")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code = "import sys; from pathlib import Path; from ltuning.cli.run_folder import RunFolder\n"
    code += "with RunFolder(Path(sys.argv[1])).claimed(): print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None and other.stdout.readline()
        for words in (("--overwrite",), ("--resume",), ()):
            outcome = run("--output", folder, *words)
            assert (outcome.code, outcome.stdout) == (1, "")
            assert outcome.stderr == (
                f"error: expected {folder} without another process at work in it, got one; wait "
                "for it or end it, or choose another folder\n"
            )
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        other.kill()
    assert run("--output", folder, "--overwrite", "--steps", 1).code == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("é" * 121, "expected a folder with a name of at most 241 bytes, got one of 242: "),
        ("~nosuchuser/run", "expected a folder, got '~nosuchuser/run': Could not determine home"),
    ],
)
def test_what_is_no_folder_is_said_before_anything_is_read(
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--overwrite",)):
        outcome = run("--output", name, "--data", "nowhere.csv", *words)
        assert (outcome.code, outcome.stdout) == (1, "")
        assert message in outcome.stderr
    assert [*tmp_path.iterdir()] == []


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("decoder") / "gpt2"
    FAMILIES["gpt2"].save(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("task", "name", "pooling", "expected"),
    [
        ("classes", "ls-lora", None, "last"),
        ("classes", "ls-lora", "mean", "mean"),
        ("classes", "ls-unmask", None, None),
        ("tags", "ls-lora", None, None),
    ],
)
def test_a_run_on_a_decoder_of_before_start_tokens_goes_on_as_it_began(
    tmp_path: Path, decoder: str, task: Any, name: Any, pooling: Any, expected: str | None
) -> None:
    method = MethodOptions(name=name, pooling=pooling)
    begun = Config(task=task, backbone=BackboneOptions(name=decoder), method=method)
    folder = begun_before_start_tokens(tmp_path / "run", begun)
    options = folder.options()
    assert options["backbone"]["start_token"] == "none"
    assert options["method"].get("pooling") == expected
    folder.check_same(Config.from_dict(options))
    with pytest.raises(ArtifactError, match=r"\n  backbone.start_token: 'none' -> 'auto'\n"):
        folder.check_same(begun)


def test_a_run_on_an_encoder_of_before_start_tokens_stays_as_it_is(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    encoder = tmp_path_factory.mktemp("encoder")
    FAMILIES["bert"].save(encoder)
    begun = Config(backbone=BackboneOptions(name=str(encoder)))
    begun_before_start_tokens(tmp_path / "run", begun).check_same(begun)


def begun_before_start_tokens(path: Path, config: Config) -> RunFolder:
    folder = RunFolder(path)
    folder.begin(config, "digest")
    file = folder.checkpoints / "config.yaml"
    lines = file.read_text().splitlines(keepends=True)
    (line,) = [line for line in lines if "start_token:" in line]
    file.write_text("".join(other for other in lines if other != line))
    return folder
