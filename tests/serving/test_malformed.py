"""Requests of any form at every route of the interface: none is a fault of the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from starlette.testclient import TestClient

WORDS = st.text(max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(["texts", "top_k", "abstain", "labels", "more"])
LIKELY = st.fixed_dictionaries(
    {"texts": st.lists(WORDS | st.lists(WORDS, max_size=3), max_size=3)},
    optional={"top_k": st.integers(-1, 4), "abstain": st.floats(), "more": VALUES},
)
LABELS = st.fixed_dictionaries({"labels": st.dictionaries(WORDS, WORDS | st.lists(WORDS))})
BODIES = st.one_of(
    st.binary(max_size=20),
    st.one_of(VALUES, LIKELY, LABELS, st.dictionaries(FIELDS, VALUES)).map(
        lambda value: json.dumps(value).encode()
    ),
)


@pytest.fixture
def client(saved: Path, serve: Callable[..., TestClient]) -> TestClient:
    names = ("topics", "several", "tagger", "broken")
    return serve(*(saved / name for name in names), allow_label_changes=True)


def requests(schema: dict[str, Any]) -> st.SearchStrategy[tuple[str, str]]:
    """Methods and addresses of the routes that the interface says it has, and others."""
    routes = [(method, path) for path, of in schema["paths"].items() for method in of]
    names = st.sampled_from(["topics", "several", "tagger", "broken"]) | WORDS
    encoded = names.map(lambda name: quote(name, safe=""))

    def filled(route: tuple[str, str]) -> st.SearchStrategy[tuple[str, str]]:
        method, path = route
        return st.tuples(encoded, encoded).map(
            lambda two: (method, path.replace("{name}", two[0]).replace("{label}", two[1]))
        )

    others = st.tuples(
        st.sampled_from(["put", "patch", "head", "options"]), encoded.map("/".__add__)
    )
    return st.sampled_from(routes).flatmap(filled) | others


def test_no_request_is_a_fault_of_the_server(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert "/v1/classifiers/{name}/predict" in schema["paths"]
    types = st.sampled_from(["application/json", "text/plain", "application/json; charset=x"])

    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(schema), BODIES, types)
    def asked(request: tuple[str, str], body: bytes, content_type: str) -> None:
        method, path = request
        answer = client.request(method, path, content=body, headers={"content-type": content_type})
        # 503 is the broken one's.
        assert answer.status_code < 500 or "broken" in path, (request, body, answer.text)
        if answer.status_code >= 400 and method != "head":
            assert set(answer.json()) == {"error"}, (request, body)

    asked()
