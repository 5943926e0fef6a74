from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import pytest

import ltuning
from ltuning.experiments.machine import PeakMemory, git_hash, versions
from ltuning.memory import return_memory


def test_the_commit_is_that_of_the_source() -> None:
    here = Path(ltuning.__file__).parent
    ran = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    found = git_hash()
    if ran.returncode or found is None:
        pytest.skip("the source is not under git")
    assert found.removesuffix("-dirty") == ran.stdout.strip()


def test_peak_memory_is_of_what_came_since() -> None:
    first = PeakMemory()
    block = np.ones(30 * 2**20)  # 240 MiB
    high = first.read()
    if high is None:
        pytest.skip("the system does not say")
    del block
    low = PeakMemory().read()
    assert low is not None and high["bytes"] - low["bytes"] > 150 * 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what glibc keeps is given back")
def test_freed_memory_does_not_count_for_what_comes_after() -> None:
    blocks = [bytearray(8_000) for _ in range(25_000)]  # 200 MB, below a block that stays
    last = blocks[-1]
    high = PeakMemory().read()
    if high is None:
        pytest.skip("the system does not say")
    del blocks
    return_memory()
    low = PeakMemory().read()
    assert low is not None and last and high["bytes"] - low["bytes"] > 100 * 2**20


def test_versions_are_of_what_is_installed() -> None:
    assert {"ltuning", "torch", "transformers", "peft", "scikit-learn"} <= versions().keys()
