"""The application on a port, until it is told to end."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ltuning.errors import ConfigError, Problem

# For the line and the headers of a request, which are few bytes.
_HEADERS_WITHIN = 10.0


class _Protocol(H11Protocol):
    """uvicorn's, and a connection ends that does not ask anything in time.

    uvicorn itself waits without end for the first request of a connection.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._timer is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._timer = self.loop.call_later(_HEADERS_WITHIN, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            message = f"expected one that is free on {host}, got {port} ({error.strerror})"
            raise ConfigError([Problem("--port", f"{message}; choose another")]) from error
        message = f"expected an address of this machine, got {host!r} ({error.strerror})"
        raise ConfigError([Problem("--host", f"{message}; choose another")]) from error


def server_of(app: FastAPI, seconds: float) -> uvicorn.Server:
    """A server; at SIGTERM it finishes what it has taken.

    Args:
        app: what answers.
        seconds: for a request to be read, and for it to be answered.
    """
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(2 * seconds),
    )
    return uvicorn.Server(config)
