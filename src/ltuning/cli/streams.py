"""Standard input, output and error of the command, each with words for what fails there."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from ltuning.errors import DataError

CLOSED_PIPE = 141


def guard() -> None:
    """Put streams in the place of Python's own that end the command as a user expects.

    A character that the terminal's encoding lacks is shown as its number. A reader that goes away
    ends the command with 141 and no words, a full disk or a closed output with an error. What
    cannot be written to standard error is lost: there is nobody to tell.
    """
    _open_closed()
    sys.stdin = _text(sys.stdin, io.BufferedReader(_Input(sys.stdin)))
    sys.stdout = _text(sys.stdout, io.BufferedWriter(_Output(sys.stdout)))
    sys.stderr = _text(sys.stderr, io.BufferedWriter(_Messages(sys.stderr)))


def _open_closed() -> None:
    """Open what the caller closed, so that no file that is opened later gets its number.

    Input and output are opened the wrong way round, so that their use fails.
    """
    ways = (("stdin", "r", os.O_WRONLY), ("stdout", "w", os.O_RDONLY), ("stderr", "w", os.O_WRONLY))
    for name, mode, way in ways:
        if getattr(sys, name) is None:
            opened = open(os.open(os.devnull, way), mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, opened)
            setattr(sys, f"__{name}__", opened)  # kept, or the descriptor would be closed again


def _text(stream: Any, buffer: Any) -> io.TextIOWrapper:
    errors = stream.errors if stream.readable() else "backslashreplace"
    return io.TextIOWrapper(
        buffer,
        stream.encoding,
        errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Raw(io.RawIOBase):
    """The raw stream below a text stream."""

    def __init__(self, stream: Any):
        self._raw = getattr(stream.buffer, "raw", stream.buffer)  # unbuffered it is raw already
        self.name = stream.name

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())


class _Input(_Raw):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            return self._raw.readinto(buffer)
        except OSError as error:
            raise DataError(f"standard input: cannot be read ({error.strerror})") from error


class _Output(_Raw):
    _failed = False  # Python flushes once more at its end, which is no news

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int | None:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return self._raw.write(data)
        except BrokenPipeError:
            self._failed = True
            raise SystemExit(CLOSED_PIPE) from None
        except OSError as error:
            self._failed = True
            raise DataError(f"standard output: cannot be written ({error.strerror})") from error


class _Messages(_Output):
    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except (SystemExit, DataError):
            return memoryview(data).nbytes
