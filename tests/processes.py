"""Processes that train together on this machine, started as torchrun would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Seconds that the others have when one has ended with an error, and that all have.
_GRACE, _LONGEST = 30.0, 200.0


@dataclass(frozen=True)
class Ended:
    """A process that is over: its exit status, and what it wrote."""

    code: int
    stdout: str
    stderr: str


def run_distributed(
    script: Path, *arguments: object, folder: Path, processes: int = 2
) -> list[Ended]:
    """Run a script in several processes that know of each other; by their ranks.

    Args:
        script: of Python.
        arguments: of each process.
        folder: for what they write.
        processes: how many.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, str(script), *map(str, arguments)]
    started = []
    for rank in range(processes):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{name: str(of) for name, of in (own | where).items()}}
        with (
            _file(folder, rank, "out").open("w") as out,
            _file(folder, rank, "err").open("w") as err,
        ):
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))
    _wait(started)
    return [
        Ended(one.returncode, *(_file(folder, rank, kind).read_text() for kind in ("out", "err")))
        for rank, one in enumerate(started)
    ]


def _wait(started: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + _LONGEST
    try:
        while time.monotonic() < end and any(one.poll() is None for one in started):
            if any(one.returncode for one in started):
                end = min(end, time.monotonic() + _GRACE)
            time.sleep(0.05)
    finally:
        for one in started:
            one.kill()
            one.wait()


def _file(folder: Path, rank: int, kind: str) -> Path:
    return folder / f"{rank}.{kind}"
