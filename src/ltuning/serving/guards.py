"""What stands between a connection and the application: sizes, clocks, keys, a word for each error.

All are plain ASGI, the outermost first: `Watched`, `Hosted`, `Keyed`, `Whole`.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ltuning.serving.bounds import Bounds

# Whether it is alive is nobody's secret, and the page holds nothing of a classifier.
_OPEN = frozenset({"/healthz", "/readyz", "/"})

logger = logging.getLogger("ltuning")


def refusal(status: int, words: str, **headers: str) -> JSONResponse:
    """An answer that says why there is none."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return JSONResponse({"error": words}, status, named)


class Watched:
    """Counts answers, and makes one of an error that nobody expected; its text is nowhere.

    HEAD is answered as GET: the server leaves out what it says.

    Args:
        app: what answers.
        observe: told the route, the status and the seconds of each.
    """

    def __init__(self, app: ASGIApp, observe: Callable[[str, int, float], None]):
        self.app = app
        self.observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        began, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            logger.error("a request failed: %s", type(error).__name__)
            if not status:
                words = "the server failed; its log has what kind of error it was"
                await refusal(500, words)(scope, receive, sending)
        route = getattr(scope.get("route"), "path", "none")
        self.observe(route, status, time.monotonic() - began)


class Hosted:
    """Answers to its own names alone: a page of another site could give its name to this address.

    Args:
        app: what answers.
        names: in the Host header; `*.NAME` is every name below it, `*` any.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]):
        self.app = app
        self.names = [host_name(name) for name in names]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http" or self._has(Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send)
            return
        words = "expected a Host that this server answers to; --allow-host NAME adds one"
        await refusal(400, words)(scope, receive, send)

    def _has(self, given: str) -> bool:
        parts = _HOST.fullmatch(given)
        if parts is None:
            return False
        name = host_name(parts[1])
        return any(
            known in ("*", name) or (known.startswith("*.") and name.endswith(known[1:]))
            for known in self.names
        )


# A name, or an address of IPv6 in brackets, and a port.
_HOST = re.compile(r"(\[[\da-fA-F:.]+\]|[\w.-]+)(?::\d*)?")


def host_name(given: str) -> str:
    """A name of a host as all ways of writing it have it; an address without brackets."""
    name = given.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        return ipaddress.ip_address(name).compressed
    except ValueError:
        return name


class Keyed:
    """Asks for a key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

    Args:
        app: what answers who has one.
        keys: that open it.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str]):
        self.app = app
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http" or scope["path"] in _OPEN or self._opens(Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        words = "expected a key, as Authorization: Bearer KEY or X-API-Key: KEY"
        await refusal(401, words, www_authenticate="Bearer")(scope, receive, send)

    def _opens(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # Every key is compared, and each in constant time.
        return any([hmac.compare_digest(given.encode(), key) for key in self.keys])


class Whole:
    """Reads the body of a request before anyone works for it: not too long, and not for too long.

    Args:
        app: what answers.
        bounds: bytes and seconds.
    """

    def __init__(self, app: ASGIApp, bounds: Bounds):
        self.app = app
        self.bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        body: bytes | None = None
        if not length.isdecimal() or int(length[:20]) <= self.bounds.body:
            try:
                async with asyncio.timeout(self.bounds.seconds):
                    body = await self._read(receive)
            except TimeoutError:
                words = f"expected the whole request within {self.bounds.seconds:g} s"
                await refusal(408, words, connection="close")(scope, receive, send)
                return
            except _Gone:
                return
        if body is None:
            words = f"expected a body of at most {self.bounds.body:,} bytes; send fewer texts"
            await refusal(413, words, connection="close")(scope, receive, send)
            return
        await self.app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body; None where it is too long."""
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            more, size = message.get("more_body", False), size + len(part)
            if size > self.bounds.body:
                return None
            parts.append(part)
        return b"".join(parts)


class _Gone(Exception):
    """The client went away."""


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Any]]:
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
