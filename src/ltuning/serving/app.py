"""The HTTP interface of the classifiers of a registry."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from ltuning.config import TASK_FACTS
from ltuning.errors import DataError, LTuningError
from ltuning.serving.answers import facts_of, predictions
from ltuning.serving.batcher import Found, QueueFull, TooLate
from ltuning.serving.bodies import Failure, NewLabels, PredictRequest, PredictResponse
from ltuning.serving.bounds import Bounds
from ltuning.serving.guards import Hosted, Keyed, Watched, Whole, refusal
from ltuning.serving.measures import Measures
from ltuning.serving.registry import Entry, Loaded, Registry, without
from ltuning.suggestions import unknown
from ltuning.texts import Text, num_characters

_PAGE = Path(__file__).with_name("page.html")
# Scores that are put into words at once; of more another thread does it, and others are answered.
_FEW = 10_000
# Names of fields that an error may name; what else a body holds may be a text.
_FIELDS = frozenset({"body", "texts", "top_k", "abstain", "labels", "path", "name", "label"})


def create_app(
    registry: Registry,
    measures: Measures,
    *,
    bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    keys: Sequence[str] = (),
    hosts: Sequence[str] = ("127.0.0.1", "localhost"),
    allow_label_changes: bool = False,
) -> FastAPI:
    """The application.

    Args:
        registry: with its classifiers loaded.
        measures: what `/metrics` shows.
        bounds: of requests.
        keys: that open it; without any it is open.
        hosts: names that it answers to.
        allow_label_changes: whether labels may be added and taken out.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        registry.watch()
        yield
        await run_in_threadpool(registry.stop)

    words = {"model": Failure, "description": "Why there is no answer, in words."}
    responses: dict[int | str, dict[str, Any]] = {
        status: words for status in (400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503)
    }
    app = FastAPI(
        title="ltuning",
        version=version("ltuning"),
        lifespan=lifespan,
        responses=responses,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect has no words
    )
    _add_facts(app, registry, allow_label_changes)
    _add_predictions(app, registry, measures, bounds)
    _add_labels(app, registry, bounds.seconds, allow_label_changes)
    _add_state(app, registry, measures)
    _add_page(app)
    app.add_exception_handler(StarletteHTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_body)
    # The last one is the outermost.
    app.add_middleware(Whole, bounds=bounds)
    if keys:
        app.add_middleware(Keyed, keys=keys)
    app.add_middleware(Hosted, names=hosts)
    app.add_middleware(Watched, observe=measures.answered)
    return app


def _add_facts(app: FastAPI, registry: Registry, is_open: bool) -> None:
    @app.get("/v1/classifiers")
    async def classifiers() -> dict[str, Any]:
        """The classifiers, and which of them do not answer."""
        return {"classifiers": [_listed(entry) for entry in registry.entries.values()]}

    @app.get("/v1/classifiers/{name}")
    async def classifier(name: str) -> dict[str, Any]:
        """Labels with their texts, the method, and figures of the training."""
        return _facts(*_found(registry, name), is_open)


def _add_predictions(app: FastAPI, registry: Registry, measures: Measures, bounds: Bounds) -> None:
    @app.post("/v1/classifiers/{name}/predict", response_model=PredictResponse)
    async def predict(name: str, asked: PredictRequest, request: Request) -> JSONResponse:
        """What the classifier says of texts, as `ltuning predict` says it."""
        _, loaded = _found(registry, name)
        _check(asked, loaded, bounds)
        measures.asked(name, len(asked.texts))
        try:
            future = loaded.batcher.ask(loaded.classifier, asked.texts, bounds.seconds)
        except QueueFull as full:
            seconds = {"Retry-After": str(full.seconds)}
            message = f"too many texts wait already; come again in {full.seconds} s"
            raise HTTPException(429, message, seconds) from None
        except TooLate:
            raise HTTPException(503, "the server ends") from None
        try:
            found = await _waited_for(future, request, bounds.seconds)
        except (TooLate, TimeoutError):
            message = f"no answer within {bounds.seconds:g} s; come again"
            raise HTTPException(503, message, {"Retry-After": "1"}) from None
        except DataError:
            message = "of a pair, the shorter text is too long for the classifier; shorten it"
            raise HTTPException(422, message) from None

        def answer() -> JSONResponse:
            said = predictions(loaded.classifier, found, asked.top_k, asked.abstain)
            return JSONResponse({"classifier": name, "predictions": said})

        if isinstance(found.scores, np.ndarray) and found.scores.size >= _FEW:
            return await run_in_threadpool(answer)
        return answer()


async def _waited_for(future: Future[Found], request: Request, seconds: float) -> Found:
    """What a batcher finds; nobody works on for a client that went away.

    Raises:
        TimeoutError: there is nothing in time.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    found, left = asyncio.wrap_future(future), asyncio.ensure_future(gone())
    try:
        await asyncio.wait((found, left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise TimeoutError
        return found.result()
    finally:
        left.cancel()
        found.cancel()


def _add_labels(app: FastAPI, registry: Registry, seconds: float, is_allowed: bool) -> None:
    def changeable(name: str) -> tuple[Entry, Loaded]:
        if not is_allowed:
            raise HTTPException(403, "labels stay as they are: --allow-label-changes is not set")
        return _found(registry, name)

    # They may wait long, and others are answered by threads meanwhile.
    changes = CapacityLimiter(8)

    async def changed(change: Callable[..., None], entry: Entry, what: Any) -> None:
        try:
            await to_thread.run_sync(change, entry, what, seconds, limiter=changes)
        except LTuningError as error:
            raise HTTPException(409, without(str(error), entry.folder)) from None
        except TooLate:
            message = f"it was not begun within {seconds:g} s, and nothing is changed; come again"
            raise HTTPException(503, message, {"Retry-After": "1"}) from None

    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": Failure} for status in (403, 409)
    }

    @app.post("/v1/classifiers/{name}/labels", responses=responses)
    async def add_labels(name: str, new: NewLabels) -> dict[str, Any]:
        """Add labels from their texts, in memory; nothing is trained."""
        entry, loaded = changeable(name)
        if TASK_FACTS[loaded.classifier.config.task].of_words:
            raise HTTPException(409, "a tagger has the types that it was trained on, and no others")
        texts = {of: [one] if isinstance(one, str) else one for of, one in new.labels.items()}
        await changed(registry.add_labels, entry, texts)
        return _facts(entry, _at_work(entry), is_allowed)

    @app.delete("/v1/classifiers/{name}/labels/{label:path}", responses=responses)
    async def remove_label(name: str, label: str) -> dict[str, Any]:
        """Take out a label that was added since the server began."""
        entry, loaded = changeable(name)
        if label not in loaded.added:
            if label in _names(loaded.classifier):
                message = "the classifier was trained with this label: only added ones can go"
                raise HTTPException(409, message)
            raise HTTPException(404, unknown("label", label, _names(loaded.classifier)))
        await changed(registry.remove_label, entry, label)
        return _facts(entry, _at_work(entry), is_allowed)


def _add_state(app: FastAPI, registry: Registry, measures: Measures) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether classifiers answer; `/v1/classifiers` says which do not, and why."""
        entries = registry.entries.values()
        is_ready = any(entry.loaded for entry in entries)
        is_ready = is_ready and all(batcher.is_alive for batcher in registry.batchers)
        content = {
            "status": "ready" if is_ready else "not ready",
            "classifiers": sum(entry.loaded is not None for entry in entries),
            "failed": sum(entry.error is not None for entry in entries),
        }
        return JSONResponse(content, 200 if is_ready else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        content, media_type = measures.shown(registry.batchers)
        return Response(content, headers={"content-type": media_type})


def _add_page(app: FastAPI) -> None:
    html = _PAGE.read_text(encoding="utf-8")
    hashes = {
        tag: base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        for tag, inside in re.findall(r"<(script|style)>(.*?)</\1>", html, re.DOTALL)
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; "
        f"style-src 'sha256-{hashes['style']}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers=headers)


def _found(registry: Registry, name: str) -> tuple[Entry, Loaded]:
    if name not in registry.entries:
        raise HTTPException(404, unknown("classifier", name, [*registry.entries]))
    entry = registry.entries[name]
    return entry, _at_work(entry)


def _at_work(entry: Entry) -> Loaded:
    if entry.loaded is None:
        raise HTTPException(503, f"the classifier could not be loaded: {entry.error}")
    return entry.loaded


def _names(classifier: Any) -> list[str]:
    if TASK_FACTS[classifier.config.task].of_words:
        return [*classifier.types_]
    return [*classifier.labels_.names]


def _listed(entry: Entry) -> dict[str, Any]:
    listed: dict[str, Any] = {"name": entry.name, "status": "failed"}
    if entry.loaded is not None:
        config = entry.loaded.classifier.config
        listed |= {"status": "ready", "task": config.task, "method": config.method.name}
    return listed | ({"error": entry.error} if entry.error else {})


def _facts(entry: Entry, loaded: Loaded, is_open: bool) -> dict[str, Any]:
    facts = facts_of(entry.name, loaded.classifier, loaded.pairs, [*loaded.added])
    facts["takes_new_labels"] &= is_open
    return facts | ({"error": entry.error} if entry.error else {})


def _check(asked: PredictRequest, loaded: Loaded, bounds: Bounds) -> None:
    """Refuse what the classifier does not answer."""
    if len(asked.texts) > bounds.texts:
        message = f"expected at most {bounds.texts:,} texts, got {len(asked.texts):,}; send fewer"
        raise HTTPException(422, message)
    if not all(_is_unicode(text) for text in asked.texts):
        raise HTTPException(422, "expected texts of characters, got half of a surrogate pair")
    longest = max(map(num_characters, asked.texts))
    if longest > bounds.characters:
        message = f"expected texts of at most {bounds.characters:,} characters, got {longest:,}"
        raise HTTPException(422, message)
    facts = TASK_FACTS[loaded.classifier.config.task]
    reads = False if facts.of_words else loaded.pairs
    if reads is not None and any(isinstance(text, tuple) != reads for text in asked.texts):
        kinds = ("pairs of texts, as lists of two", "single texts")
        raise HTTPException(422, f"the classifier reads {kinds[not reads]}")
    if asked.abstain is not None and not facts.one_of_each:
        raise HTTPException(422, "abstain is for a classifier that gives each text one label")
    if asked.top_k is not None and facts.of_words:
        raise HTTPException(422, "top_k is for a classifier of texts, and this one is a tagger")


def _is_unicode(text: Text) -> bool:
    """Whether it is made of characters: JSON can hold half of one."""
    try:
        "".join(text).encode()
    except UnicodeEncodeError:
        return False
    return True


async def _of_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    answer = refusal(error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _of_body(asked: Request, error: Exception) -> Response:
    """Which field is wrong and how, without what it holds."""
    assert isinstance(error, RequestValidationError)
    given = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json" and not (given[:12] == "application/" and given[-5:] == "+json"):
        return refusal(415, f"expected Content-Type: application/json, got {given[:80] or 'none'}")
    found = []
    for one in error.errors()[:5]:
        known = [str(part) for part in one["loc"] if isinstance(part, int) or part in _FIELDS]
        found.append(f"{'.'.join(known)}: {one['msg']}")
    return refusal(422, "; ".join(dict.fromkeys(found)))
