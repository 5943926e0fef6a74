"""Two processes come to the weights of one; each test looks at the same two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from ltuning import processes
from ltuning.backbones.backbone import Backbone
from ltuning.config import BackboneOptions
from ltuning.errors import BackboneError
from ltuning.training.arguments import Chosen, trainer_problems
from ltuning.training.checkpoints import fault

from ..processes import Ended, run_distributed
from . import fits
from .compared import assert_as_alone, write_given


def as_one_of(monkeypatch: pytest.MonkeyPatch, number: int, rank: int = 0) -> None:
    for name, value in {"WORLD_SIZE": number, "RANK": rank, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(name, str(value))


@pytest.fixture(scope="module")
def both(
    plain: dict[str, Any],
    tiny_models: dict[str, Path],
    bert: Backbone,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[Ended]]:
    """The folder of what two processes did together, and how they ended."""
    folder = tmp_path_factory.mktemp("both")
    models = {family: str(tiny_models[family]) for family in ("bert", "llama")}
    write_given(folder, plain, models)
    fits.interrupted(bert, plain, folder / "one", stop=4, resume=False)
    return folder, run_distributed(Path(fits.__file__), folder, folder=folder)


@pytest.mark.parametrize("name", fits.FITS)
def test_two_processes_come_to_the_weights_of_one(
    both: tuple[Path, list[Ended]],
    backbones: dict[str, Backbone],
    plain: dict[str, Any],
    tmp_path: Path,
    name: str,
) -> None:
    family, fit = fits.FITS[name]
    assert_as_alone(both[0], name, fit(backbones[family], plain), tmp_path / "alone")


def test_a_run_of_one_process_is_gone_on_with_by_two_and_one_of_two_by_one(
    both: tuple[Path, list[Ended]], bert: Backbone, plain: dict[str, Any], tmp_path: Path
) -> None:
    folder = both[0]
    whole = fits.interrupted(bert, plain, None, stop=99, resume=False)
    assert whole.result_.steps == 9
    assert_as_alone(folder, "resumed", whole, tmp_path / "alone")
    assert fault(folder / "two" / "checkpoint-4") is None
    files = {path.name for path in (folder / "two" / "checkpoint-4").iterdir()}
    assert {name for name in files if name.startswith("rng")} == {"rng_state_0.pth"}
    resumed = fits.interrupted(bert, plain, folder / "two", stop=99, resume=True)
    assert_as_alone(folder, "resumed", resumed, tmp_path / "resumed")


def test_the_main_process_alone_writes_and_speaks(
    both: tuple[Path, list[Ended]], tiny_bert: Path, tmp_path: Path
) -> None:
    folder, (main, other) = both
    assert main.code == 0, main.stderr
    assert (other.stdout, other.stderr) == ("", "")
    assert "33 texts to train on, 30 to validate on" in main.stderr
    assert [(folder / f"rank-{rank}" / "left").exists() for rank in (0, 1)] == [True, True]
    assert f"saved        {folder / 'run'}" in main.stdout
    words = fits.command(folder / "data", tiny_bert, tmp_path / "run")
    from ltuning.cli.main import app

    assert CliRunner().invoke(app, words).exit_code == 0
    names = [{path.name for path in (one / "run").iterdir()} for one in (folder, tmp_path)]
    assert names[0] == names[1]
    together, alone = (
        load_file(one / "run" / "adapter_model.safetensors") for one in (folder, tmp_path)
    )
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, atol=1e-5, rtol=0, msg=name)


def test_checkpoints_are_written_by_the_clock_of_the_main_process(
    both: tuple[Path, list[Ended]],
) -> None:
    # At the first step at which it is asked, and at the end.
    written = {path.name for path in (both[0] / "clock").iterdir()}
    assert written == {"checkpoint-10", "checkpoint-11"}


def test_texts_that_differ_between_processes_are_refused(both: tuple[Path, list[Ended]]) -> None:
    for rank in (0, 1):
        assert (both[0] / f"rank-{rank}" / "refused.txt").read_text() == (
            "expected the same texts and labels in every process, each of which sees to its part "
            "of a batch, got others in process 1 than in process 0; give all of them to each"
        )


def test_a_process_that_is_killed_ends_the_others_with_words(
    both: tuple[Path, list[Ended]],
) -> None:
    assert both[1][1].code == -9
    words = (both[0] / "rank-0" / "lost.txt").read_text()
    assert words == (
        "expected 2 processes that train together, got one that ended or no longer answers: its "
        "own words, or those of what started it, say why. Start all again, with --resume (of fit: "
        "resume=True) where there are checkpoints"
    )


# --- what a process knows by its environment alone ---------------------------------------------


@settings(max_examples=50, deadline=None)
@given(size=st.integers(0, 40), number=st.integers(1, 9))
def test_the_parts_of_all_processes_are_the_whole(size: int, number: int) -> None:
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(number):
            as_one_of(patch, number, rank)
            parts.append(processes.part(size))
    assert [place for part in parts for place in part] == [*range(size)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_that_is_told_of_no_place_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    as_one_of(monkeypatch, 4, 3)
    assert (processes.number(), processes.rank(), processes.is_main()) == (4, 3, False)
    # As a cluster may set it for any program.
    monkeypatch.delenv("LOCAL_RANK")
    assert (processes.number(), processes.rank(), processes.is_main()) == (1, 0, True)
    assert processes.part(7) == range(7)
    assert processes.of_main("mine") == "mine"


def test_a_batch_has_a_text_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.config import StoppingOptions

    as_one_of(monkeypatch, 3)
    chosen = Chosen({"per_device_train_batch_size": 2}, StoppingOptions(), False, on_cpu=True)
    assert [str(problem) for problem in trainer_problems(chosen)] == [
        "training.per_device_train_batch_size: expected 3 or more, a text for each of 3 processes, "
        "which share a batch, got 2; raise it, or start fewer"
    ]


def test_one_model_is_not_laid_over_the_gpus_of_several_processes(
    monkeypatch: pytest.MonkeyPatch, tiny_bert: Path
) -> None:
    as_one_of(monkeypatch, 2)
    with pytest.raises(BackboneError, match="^expected a device for each of 2 processes, got dev"):
        Backbone.load(BackboneOptions(name=str(tiny_bert), device="split"))
