"""Where and with what a cell was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "ltuning", "torch", "transformers", "peft", "scikit-learn", "numpy", "optuna", "setfit",
)  # fmt: skip
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def versions() -> dict[str, str]:
    """Of the libraries that a figure depends on, where they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_hash() -> str | None:
    """The commit of ltuning's own source, with `-dirty` where it was changed; None outside git.

    It is what a process began with: a commit made while it runs is not the code that runs.
    """
    source = Path(__file__).resolve()
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def machine() -> dict[str, Any]:
    """Processor, cores, threads and accelerator."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
    }


class PeakMemory:
    """The most memory that was in use since it was made: of the GPU, or else of the process."""

    def __init__(self) -> None:
        self._on_gpu = torch.cuda.is_available()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._is_known = self._on_gpu or _reset_peak()

    def read(self) -> dict[str, Any] | None:
        """`{"bytes", "of"}`; None where the system does not say."""
        if self._on_gpu:
            return {"bytes": torch.cuda.max_memory_allocated(), "of": "GPU"}
        found = _status("VmHWM") if self._is_known else None
        return None if found is None else {"bytes": found, "of": "process"}


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text("5")  # Linux: the peak is counted from now on
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _git(folder: Path, *words: str) -> str | None:
    try:
        ran = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    except OSError:
        return None
    return ran.stdout.strip() or None if ran.returncode == 0 else None
