"""What a client is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ltuning.cli.serve import named
from ltuning.serving.batcher import Batcher, TooLate
from ltuning.serving.bounds import Bounds
from ltuning.serving.registry import without, without_paths

from ..conformance.tiny import FAMILIES

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from ..conftest import Toy

Serve = Callable[..., "TestClient"]


def ask(client: TestClient, name: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post(f"/v1/classifiers/{name}/predict", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["classifier"] == name
    return answer.json()["predictions"]


def chances(said: list[dict[str, Any]], classes: list[Any]) -> np.ndarray:
    rows = []
    for one in said:
        by_label = {item["label"]: item["probability"] for item in one["probabilities"]}
        rows.append([by_label[label] for label in classes])
    return np.array(rows)


# --- answers --------------------------------------------------------------------------------------


@pytest.fixture
def client(serve: Serve, saved: Path, doors: dict[str, Any]) -> TestClient:
    return serve(*(saved / name for name in [*doors, "broken"]))


def test_answers_are_those_of_predict_for_every_task(
    client: TestClient, doors: dict[str, Any], toy: Toy
) -> None:
    texts = toy.test_texts[:5]
    given = {name: texts for name in doors} | {"pairs": [["bread", text] for text in texts]}
    with ThreadPoolExecutor(8) as pool:  # so that they share passes
        asked = {name: pool.submit(ask, client, name, texts=given[name]) for name in given}
        said = {name: one.result() for name, one in asked.items()}
    for name in ("topics", "plain", "lora", "pairs", "numbers", "several"):
        door, classes = doors[name], doors[name].classes_.tolist()
        expected = door.predict_proba(given[name])
        np.testing.assert_allclose(chances(said[name], classes), expected, atol=1e-5)
        key = "labels" if name == "several" else "label"
        assert [one[key] for one in said[name]] == list(door.predict(given[name]))
        assert not any(one["truncated"] for one in said[name])
    expected = [
        [asdict(entity) for entity in of_text] for of_text in doors["tagger"].predict(texts)
    ]
    found = [one["entities"] for one in said["tagger"]]
    for several, others in zip(found, expected, strict=True):
        for one, other in zip(several, others, strict=True):
            assert one == {**other, "probability": pytest.approx(other["probability"], abs=1e-5)}


def test_top_k_and_abstain(client: TestClient, doors: dict[str, Any], toy: Toy) -> None:
    texts = toy.test_texts[:6]
    highest = doors["topics"].predict_proba(texts).max(1)
    middle = float(np.sort(highest)[2:4].mean())
    said = ask(client, "topics", texts=texts, top_k=2, abstain=middle)
    assert [one["label"] for one in said] == list(doors["topics"].predict(texts, abstain=middle))
    assert sum(one["label"] is None for one in said) == 3
    assert [len(one["probabilities"]) for one in said] == [2] * 6
    first = [one["probabilities"][0]["probability"] for one in said]
    np.testing.assert_allclose(first, highest, atol=1e-5)


def test_the_end_of_a_text_that_is_not_read_is_told(client: TestClient, toy: Toy) -> None:
    said = ask(client, "topics", texts=["bread", "bread " * 500])
    assert [one["truncated"] for one in said] == [False, True]


def test_long_texts_are_read_as_in_training(
    serve: Serve,
    saved: Path,
    tiny_bert: Path,
    load: Callable[..., Any],
    classifier: Callable[..., Any],
    toy: Toy,
    tmp_path: Path,
) -> None:
    rows = toy.texts[:12], toy.labels[:12]
    short = load(tiny_bert, max_length=16)
    made = {
        "whole": classifier(load(tiny_bert), steps=1, data__long_texts="windows").fit(*rows),
        "short": classifier(short, "prefix", steps=1, num_tokens=3).fit(*rows),
    }
    for name, door in made.items():
        door.save_pretrained(tmp_path / name)
    client = serve(tmp_path / "whole", tmp_path / "short", saved / "topics")
    texts = [" ".join(toy.test_texts), "bread"]
    for name, door in made.items():
        said = ask(client, name, texts=texts)
        np.testing.assert_allclose(chances(said, toy.names), door.predict_proba(texts), atol=1e-5)
        assert [one["truncated"] for one in said] == [name == "short", False]
    assert len(client.app.state.registry.batchers) == 1  # type: ignore[attr-defined]


def test_texts_out_of_scope_have_its_label(
    serve: Serve, bert: Any, toy: Toy, tmp_path: Path
) -> None:
    from ltuning import LabelClassifier

    held_out = toy.test_texts, toy.test_labels
    door = LabelClassifier(bert, toy.label_texts, "lt-prefix", steps=1, oos_label="none")
    door.fit(toy.texts[:12], toy.labels[:12], held_out)
    door.save_pretrained(tmp_path / "scope")
    texts = [*toy.test_texts, "the of and is was", "drum piano choir", "violin"]
    expected = list(door.predict(texts))
    assert "none" in expected
    said = ask(serve(tmp_path / "scope"), "scope", texts=texts)
    assert [one["label"] for one in said] == expected


def test_facts_of_classifiers(client: TestClient, toy: Toy) -> None:
    listed = {one["name"]: one for one in client.get("/v1/classifiers").json()["classifiers"]}
    assert listed["topics"] == {
        "name": "topics",
        "status": "ready",
        "task": "classes",
        "method": "lt-prefix",
    }
    assert listed["broken"]["status"] == "failed"
    facts = client.get("/v1/classifiers/topics").json()
    assert [one["label"] for one in facts["labels"]] == toy.names
    assert facts["labels"][1] == {"label": "sport", "texts": ["ball and team"], "added": False}
    assert facts["figures"]["training"]["steps"] == 1
    assert facts["takes_new_labels"] is False
    assert client.get("/v1/classifiers/tagger").json()["labels"] == [{"label": "thing"}]


def test_a_broken_folder_stops_nobody(client: TestClient, saved: Path, doors: Any) -> None:
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["classifiers"]) == (200, len(doors))
    assert ready.json()["failed"] == 1
    listed = {one["name"]: one for one in client.get("/v1/classifiers").json()["classifiers"]}
    error = listed["broken"]["error"]
    assert error.startswith("adapter_model.safetensors was changed or damaged")
    assert str(saved) not in error
    for answer in (
        client.get("/v1/classifiers/broken"),
        client.post("/v1/classifiers/broken/predict", json={"texts": ["bread"]}),
    ):
        assert answer.status_code == 503
        assert answer.json() == {"error": f"the classifier could not be loaded: {error}"}
    assert client.get("/healthz").json() == {"status": "ok"}


def test_what_nobody_expected_of_a_folder_stops_nobody(
    serve: Serve, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning import TokenClassifier

    def fails(*_: object, **__: object) -> None:
        raise KeyError("of /home/user")

    monkeypatch.setattr(TokenClassifier, "from_pretrained", fails)
    client = serve(saved / "topics", saved / "tagger")
    failed = client.get("/v1/classifiers").json()["classifiers"][1]
    words = "it cannot be loaded (KeyError)"
    assert failed == {"name": "tagger", "status": "failed", "error": words}


def test_where_nothing_loads_the_first_error_is_raised(serve: Serve, saved: Path) -> None:
    from ltuning.errors import ArtifactError

    with pytest.raises(ArtifactError, match="adapter_model.safetensors was changed or damaged"):
        serve(saved / "broken")


def test_metrics_count_answers_and_texts(client: TestClient) -> None:
    ask(client, "topics", texts=["bread", "ball"])
    client.get("/v1/classifiers/topic")
    shown = client.get("/metrics").text
    assert 'ltuning_texts_total{classifier="topics"} 2.0' in shown
    route = "/v1/classifiers/{name}"
    assert f'ltuning_answers_total{{route="{route}/predict",status="200"}} 1.0' in shown
    assert f'ltuning_answers_total{{route="{route}",status="404"}} 1.0' in shown
    assert "ltuning_waiting_texts 0.0" in shown


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        (
            "topic",
            {"texts": ["a"]},
            404,
            "unknown classifier 'topic': expected one of 'topics'; did",
        ),
        ("topics", {"texts": []}, 422, "body.texts: List should have at least 1 item"),
        ("topics", {"texts": ["a"] * 5}, 422, "expected at most 4 texts, got 5; send fewer"),
        ("topics", {"texts": ["a" * 51]}, 422, "expected texts of at most 50 characters, got 51"),
        ("topics", {"texts": ["a"], "abstain": 2}, 422, "body.abstain: Input should be less than"),
        ("topics", {"texts": ["a"], "secret": 1}, 422, "body: Extra inputs are not permitted"),
        ("topics", {"texts": [["a", "b"]]}, 422, "the classifier reads single texts"),
        ("pairs", {"texts": ["a"]}, 422, "the classifier reads pairs of texts, as lists of two"),
        (
            "several",
            {"texts": ["a"], "abstain": 0.5},
            422,
            "abstain is for a classifier that gives",
        ),
        ("tagger", {"texts": ["a"], "top_k": 1}, 422, "top_k is for a classifier of texts"),
    ],
)
def test_requests_are_refused_in_words(
    serve: Serve, saved: Path, name: str, body: dict[str, Any], status: int, words: str
) -> None:
    bounds = Bounds(texts=4, characters=50)
    used = saved / (name if (saved / name).exists() else "topics")
    client = serve(used, bounds=bounds)
    answer = client.post(f"/v1/classifiers/{name}/predict", json=body)
    assert answer.status_code == status
    assert answer.json()["error"].startswith(words)
    assert set(answer.json()) == {"error"}


def test_a_body_that_is_too_long_or_no_json(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics", bounds=Bounds(body=100))
    place = "/v1/classifiers/topics/predict"
    long = client.post(place, content=b"x" * 101)
    assert long.status_code == 413
    words = "expected a body of at most 100 bytes; send fewer texts"
    assert long.json() == {"error": words}
    pieces = client.post(place, content=iter([b"x" * 60, b"x" * 60]))
    assert (pieces.status_code, pieces.json()) == (413, {"error": words})
    json_type = {"content-type": "application/json"}
    for content in (b"{", b"\xff", b"[" * 90, b'{"texts": [NaN]}'):
        answer = client.post(place, content=content, headers=json_type)
        assert answer.status_code in (400, 422), content
        assert set(answer.json()) == {"error"}
    # What a page elsewhere may send without asking first is not read.
    half = client.post(place, content=b'{"texts": ["\\ud800"]}', headers=json_type)
    words = "expected texts of characters, got half of a surrogate pair"
    assert (half.status_code, half.json()) == (422, {"error": words})
    for headers, got in (({"content-type": "text/plain"}, "text/plain"), ({}, "none")):
        answer = client.post(place, content=b'{"texts": ["a"]}', headers=headers)
        assert answer.status_code == 415
        assert answer.json() == {"error": f"expected Content-Type: application/json, got {got}"}


def test_a_text_is_in_no_error_and_no_log(
    serve: Serve, saved: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.scoring import Scorer

    def fails(*_: object) -> None:
        raise RuntimeError("of the secret text")

    client = serve(saved / "lora")
    monkeypatch.setattr(Scorer, "score_tokens", fails)
    with caplog.at_level(logging.DEBUG, "ltuning"):
        answer = client.post("/v1/classifiers/lora/predict", json={"texts": ["the secret text"]})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed; its log has what kind of error it was"}
    assert [record.getMessage() for record in caplog.records] == ["a request failed: RuntimeError"]


def test_keys_hosts_and_other_origins(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics", keys=["first", "second"])
    body, place = {"texts": ["bread"]}, "/v1/classifiers/topics/predict"
    for path in ("/healthz", "/readyz", "/"):
        assert client.get(path).status_code == 200
    for headers in (
        {},
        {"x-api-key": "third"},
        {"authorization": "Basic first"},
        {"x-api-key": ""},
    ):
        answer = client.post(place, json=body, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"].startswith("expected a key, as Authorization: Bearer KEY")
    for headers in ({"x-api-key": "first"}, {"authorization": "Bearer second"}):
        assert client.post(place, json=body, headers=headers).status_code == 200
    assert client.get("/metrics").status_code == client.get("/openapi.json").status_code == 401
    elsewhere = client.get("/healthz", headers={"host": "evil.example"})
    assert elsewhere.status_code == 400
    assert elsewhere.json()["error"].startswith("expected a Host that this server answers to")
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    preflight = client.options(place, headers={**asked, "x-api-key": "first"})
    assert "access-control-allow-origin" not in preflight.headers
    assert preflight.status_code == 405


def test_names_that_it_answers_to(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics", hosts=["[::1]", "*.example", "2001:DB8:0::1", "b.org."])
    found = {
        host: client.get("/healthz", headers={"host": host}).status_code
        for host in (
            *("[::1]:8000", "[0:0::1]", "A.example:80", "[2001:db8::1]", "B.org", "b.org.:8000"),
            *("example", "localhost", "", "::1:8000", "[localhost]", "x/.example", "b.org:80@c.de"),
        )
    }
    assert [host for host, status in found.items() if status == 200] == [*found][:6]
    assert {found[host] for host in [*found][6:]} == {400}


def test_head_is_answered_as_get(client: TestClient) -> None:
    for path in ("/", "/healthz", "/readyz", "/metrics", "/v1/classifiers"):
        assert client.head(path).status_code == client.get(path).status_code == 200
    assert client.head("/v1/classifiers/topics/predict").status_code == 405


def test_no_more_texts_wait_than_may(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics", bounds=Bounds(waiting=4, texts=3, seconds=20))
    batcher = client.app.state.registry.batchers[0]  # type: ignore[attr-defined]
    held = _held(batcher)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(_status, client, 3) for _ in range(3)]
        while sum(one.done() for one in waiting) < 2:
            time.sleep(0.01)
        refused = [one.result() for one in waiting if one.done()]
        held.set()
        statuses = sorted(one.result()[0] for one in waiting)
    assert statuses == [200, 429, 429]
    assert refused[0][1] == "too many texts wait already; come again in 1 s"
    assert refused[0][2] == "1"


def test_who_would_not_be_begun_in_time_is_told_at_once(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics", bounds=Bounds(seconds=20))
    batcher = client.app.state.registry.batchers[0]  # type: ignore[attr-defined]
    batcher._full_turn = 1e6  # seconds
    held = _held(batcher)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_status, client, 3)
        while not batcher.num_waiting:
            time.sleep(0.01)
        status, words, seconds = _status(client, 1)
        assert (status, words) == (429, f"too many texts wait already; come again in {seconds} s")
        assert int(seconds or 0) > 20
        held.set()
        assert first.result()[0] == 200


# --- requests in pieces ---------------------------------------------------------------------------


def test_a_long_request_lets_others_have_their_turn(
    serve: Serve, saved: Path, doors: dict[str, Any], toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.serving import batcher as module

    monkeypatch.setattr(module, "_TOKENS", 24)
    client = serve(*(saved / name for name in ("topics", "tagger", "lora")))
    registry = client.app.state.registry  # type: ignore[attr-defined]
    loaded = {name: registry.entries[name].loaded for name in registry.entries}
    batcher, texts = registry.batchers[0], toy.test_texts * 3
    held, order = _held(batcher), []
    futures = {}
    for name, several in [(one, texts) for one in loaded] + [("topics", texts[:1])]:
        key = name, len(several)
        futures[key] = batcher.ask(loaded[name].classifier, several, 20)
        futures[key].add_done_callback(lambda _, key=key: order.append(key))
    held.set()
    found = {key: future.result(20) for key, future in futures.items()}
    assert order[0] == ("topics", 1)
    for name in ("topics", "lora"):
        scores = doors[name].scores(texts)
        np.testing.assert_allclose(found[name, len(texts)].scores, scores, atol=1e-5)
    expected = doors["tagger"].predict(texts)
    said = [[(one.start, one.end) for one in several] for several in expected]
    of_pieces = found["tagger", len(texts)].scores
    assert [[(one.start, one.end) for one in several] for several in of_pieces] == said
    assert batcher.num_waiting == 0


def test_nobody_goes_on_with_what_is_cancelled_or_too_late(
    serve: Serve, saved: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.serving import batcher as module

    monkeypatch.setattr(module, "_TOKENS", 1)  # a text at a time
    client = serve(saved / "topics")
    loaded = client.app.state.registry.entries["topics"].loaded  # type: ignore[attr-defined]
    batcher, ran = loaded.batcher, []
    futures: list[Any] = []

    def observe(requests: int, texts: int) -> None:
        ran.append((requests, texts))
        if len(ran) == 3:
            futures[0].cancel()
        if len(ran) == 6:
            batcher._requests[-1].deadline = 0.0

    batcher._observe = observe
    held = _held(batcher)
    futures += [batcher.ask(loaded.classifier, ["bread"] * 5, 20) for _ in range(2)]
    held.set()
    with pytest.raises(TooLate):
        futures[1].result(20)
    batcher.call(lambda: None)
    assert futures[0].cancelled()
    # Two and one of the first, one and three of the second.
    assert ran == [(1, 1)] * 6
    assert batcher.num_waiting == 0


def test_only_turns_that_are_nearly_full_tell_how_long_one_takes(
    serve: Serve, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltuning.serving import batcher as module

    monkeypatch.setattr(module, "_TOKENS", 400)
    client = serve(saved / "topics")
    loaded = client.app.state.registry.entries["topics"].loaded  # type: ignore[attr-defined]
    batcher = loaded.batcher
    for _ in range(3):
        assert _status(client, 1)[0] == 200
    assert batcher._full_turn == 0.0
    assert _status(client, 100)[0] == 200
    batcher.call(lambda: None)  # after the turn
    assert batcher._full_turn > 0.0
    batcher._full_turn = 1e6  # as of a machine that slept
    found = batcher.ask(loaded.classifier, ["bread"], 1e9).result(20)
    batcher.call(lambda: None)
    assert batcher._full_turn < 1e3
    assert found.scores.shape == (1, 3)


def test_who_went_away_takes_nobodys_place(serve: Serve, saved: Path) -> None:
    loaded = (
        serve(saved / "topics", bounds=Bounds(waiting=4, texts=3))
        .app.state.registry.entries["topics"]
        .loaded
    )  # type: ignore[attr-defined]
    held = _held(loaded.batcher)
    for _ in range(3):
        loaded.batcher.ask(loaded.classifier, ["bread"] * 4, 20).cancel()
    future = loaded.batcher.ask(loaded.classifier, ["bread"] * 4, 20)
    held.set()
    assert future.result(20).scores.shape == (4, 3)
    loaded.batcher.call(lambda: None)
    assert loaded.batcher.num_waiting == 0


def test_calls_without_end_leave_turns_to_requests(serve: Serve, saved: Path) -> None:
    import threading

    loaded = serve(saved / "topics").app.state.registry.entries["topics"].loaded  # type: ignore[attr-defined]
    batcher, ended = loaded.batcher, threading.Event()

    def calls() -> None:
        while not ended.is_set():
            batcher.call(lambda: time.sleep(0.01))

    threads = [threading.Thread(target=calls) for _ in range(3)]
    for thread in threads:
        thread.start()
    found = batcher.ask(loaded.classifier, ["bread"], 20).result(20)
    ended.set()
    for thread in threads:
        thread.join(20)
    assert found.scores.shape == (1, 3)


def test_whatever_is_raised_the_thread_goes_on(
    serve: Serve, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        pass

    def fails(*_: object) -> None:
        raise Panic

    loaded = serve(saved / "topics").app.state.registry.entries["topics"].loaded  # type: ignore[attr-defined]
    for place, name in ((type(loaded.classifier), "windows"), (module_of_batcher(), "Asked")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, fails)
            with pytest.raises(Panic):
                loaded.batcher.ask(loaded.classifier, ["bread"], 20).result(20)
    with pytest.raises(Panic):
        loaded.batcher.call(fails)
    assert loaded.batcher.ask(loaded.classifier, ["bread"], 20).result(20).scores.shape == (1, 3)
    loaded.batcher.call(lambda: None)
    assert loaded.batcher.num_waiting == 0


def module_of_batcher() -> Any:
    from ltuning.serving import batcher

    return batcher


def test_nobody_works_for_a_client_that_went_away(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics")
    batcher = client.app.state.registry.batchers[0]  # type: ignore[attr-defined]
    held, ran = _held(batcher), []
    batcher._observe = lambda requests, texts: ran.append(texts)
    body = b'{"texts": ["bread"]}'
    messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        pass

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    place = "/v1/classifiers/topics/predict"
    scope = {"type": "http", "method": "POST", "path": place, "raw_path": place.encode()}
    scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http"}
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    held.set()
    while batcher.num_waiting:
        time.sleep(0.01)
    batcher.call(lambda: None)
    assert ran == []


def test_a_call_that_does_not_begin_in_time_never_does() -> None:
    batcher = Batcher(4)
    held, ran = _held(batcher), []
    with pytest.raises(TooLate):
        batcher.call(lambda: ran.append(1), 0.05)
    held.set()
    assert batcher.call(lambda: 7, 20) == 7
    assert ran == []
    batcher.stop()


def _held(batcher: Any) -> Any:
    """Keeps the thread of a batcher busy until it is set."""
    import threading

    begun, done = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        done.wait(20)

    threading.Thread(target=batcher.call, args=[busy], daemon=True).start()
    begun.wait(20)
    return done


def _status(client: TestClient, texts: int) -> tuple[int, str, str | None]:
    body = {"texts": ["bread"] * texts}
    answer = client.post("/v1/classifiers/topics/predict", json=body)
    return answer.status_code, answer.json().get("error", ""), answer.headers.get("retry-after")


def test_who_waited_too_long_is_not_computed(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics", bounds=Bounds(seconds=0.05))
    batcher = client.app.state.registry.batchers[0]  # type: ignore[attr-defined]
    held = _held(batcher)
    answer = _status(client, 1)
    held.set()
    assert answer == (503, "no answer within 0.05 s; come again", "1")
    while batcher.num_waiting:
        time.sleep(0.01)
    batcher.call(lambda: None)  # after what was taken
    assert "ltuning_texts_together_count 0.0" in client.get("/metrics").text


def test_requests_that_wait_together_run_together(
    serve: Serve, saved: Path, doors: dict[str, Any], toy: Toy
) -> None:
    names = ("topics", "plain", "several", "lora")
    client = serve(*(saved / name for name in names))
    batcher = client.app.state.registry.batchers[0]  # type: ignore[attr-defined]
    held = _held(batcher)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, client, name, texts=toy.test_texts[:2]) for name in names]
        while batcher.num_waiting < 8:
            time.sleep(0.01)
        held.set()
        assert [len(one.result()) for one in asked] == [2] * 4
    shown = client.get("/metrics").text
    assert "ltuning_requests_together_sum 4.0" in shown
    assert "ltuning_texts_together_count 1.0" in shown


# --- labels, and folders that are replaced --------------------------------------------------------


def test_labels_are_added_and_taken_out(
    serve: Serve, saved: Path, doors: dict[str, Any], toy: Toy
) -> None:
    client = serve(saved / "topics", saved / "several", saved / "plain", allow_label_changes=True)
    texts, place = toy.test_texts[:4], "/v1/classifiers/topics/labels"
    before = ask(client, "topics", texts=texts)
    music = {"music": ["the song"], "a/b c": "drum"}
    facts = client.post(place, json={"labels": music}).json()
    assert [one["label"] for one in facts["labels"]] == [*toy.names, "music", "a/b c"]
    assert [one["added"] for one in facts["labels"]] == [False, False, False, True, True]
    extended = doors["topics"].with_labels(music)
    said = ask(client, "topics", texts=texts)
    expected = extended.predict_proba(texts)
    np.testing.assert_allclose(chances(said, [*extended.classes_]), expected, atol=1e-5)
    assert doors["topics"].classes_.tolist() == toy.names  # `with_labels` left it as it was
    again = client.post(place, json={"labels": {"music": "a song"}})
    assert again.status_code == 409
    assert "there is a label 'music' already" in again.json()["error"]
    assert client.delete(f"{place}/food").json() == {
        "error": "the classifier was trained with this label: only added ones can go"
    }
    assert client.delete(f"{place}/musik").status_code == 404
    assert client.delete(f"{place}/music").status_code == 200
    left = client.delete(f"{place}/a%2Fb%20c").json()
    assert [one["label"] for one in left["labels"]] == toy.names
    assert ask(client, "topics", texts=texts) == before
    plain = client.post("/v1/classifiers/plain/labels", json={"labels": music})
    assert plain.status_code == 409
    assert "whose head has one output for each class" in plain.json()["error"]
    several = client.post("/v1/classifiers/several/labels", json={"labels": music}).json()
    assert len(several["labels"]) == 5


def test_labels_that_are_added_have_bounds(serve: Serve, saved: Path) -> None:
    client = serve(saved / "several", allow_label_changes=True, bounds=Bounds(seconds=0.2))
    place = "/v1/classifiers/several/labels"
    for many in (["a drum"] * 1025, ["a drum"] * 70 + ["a drum " * 200]):
        answer = client.post(place, json={"labels": {"music": many}})
        assert answer.status_code == 409
        assert answer.json()["error"].startswith("expected at most 1,024 texts of labels that are")
    for name in (".", "..", "a/../b", "a\x9bb"):
        assert client.post(place, json={"labels": {name: "a drum"}}).status_code == 422
    assert client.post(place, json={"labels": {"music": "a drum"}}).status_code == 200
    twice = client.post(place, json={"labels": {"music": "a drum too"}})
    assert (twice.status_code, twice.json()) == (409, {"error": "there is a label 'music' already"})
    held = _held(client.app.state.registry.batchers[0])  # type: ignore[attr-defined]
    words = "it was not begun within 0.2 s, and nothing is changed; come again"
    for answer in (
        client.post(place, json={"labels": {"rain": "wet"}}),
        client.delete(f"{place}/music"),
    ):
        assert (answer.status_code, answer.json()) == (503, {"error": words})
    held.set()
    labels = client.get("/v1/classifiers/several").json()["labels"]
    assert [one["label"] for one in labels if one["added"]] == ["music"]


def test_labels_stay_where_changes_are_not_allowed(client: TestClient) -> None:
    place = "/v1/classifiers/topics/labels"
    for answer in (client.post(place, json={"labels": ["x"]}), client.delete(f"{place}/food")):
        assert answer.status_code in (403, 422)
    answer = client.post(place, json={"labels": {"x": "y"}})
    assert answer.json() == {"error": "labels stay as they are: --allow-label-changes is not set"}


def test_a_folder_that_is_replaced_is_loaded_anew(
    serve: Serve, saved: Path, doors: dict[str, Any], tmp_path: Path, toy: Toy
) -> None:
    shutil.copytree(saved / "topics", tmp_path / "run")
    client = serve(tmp_path / "run")
    registry, texts = client.app.state.registry, toy.test_texts[:3]  # type: ignore[attr-defined]
    first = registry.entries["run"].loaded
    (tmp_path / "run" / "predictions.csv").write_text("of no concern")
    registry.renew()
    assert registry.entries["run"].loaded is first
    # Who asked before is answered by the classifier of before.
    held = _held(first.batcher)
    asked = first.batcher.ask(first.classifier, texts, 20)
    held.set()
    doors["plain"].save_pretrained(tmp_path / "run", overwrite=True)
    registry.renew()
    np.testing.assert_allclose(asked.result(20).scores, doors["topics"].scores(texts), atol=1e-5)
    said = chances(ask(client, "run", texts=texts), toy.names)
    np.testing.assert_allclose(said, doors["plain"].predict_proba(texts), atol=1e-5)


def test_a_folder_that_is_damaged_leaves_the_one_before(
    serve: Serve, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(saved / "topics", tmp_path / "run")
    client = serve(tmp_path / "run")
    before = ask(client, "run", texts=["bread"])
    (tmp_path / "run" / "adapter_model.safetensors").write_bytes(b"nothing")
    client.app.state.registry.renew()  # type: ignore[attr-defined]
    assert ask(client, "run", texts=["bread"]) == before
    assert "was changed or damaged" in client.get("/v1/classifiers/run").json()["error"]
    assert caplog.messages[-1].endswith("; the one before goes on")
    assert str(tmp_path) not in caplog.text
    shutil.rmtree(tmp_path / "run")
    client.app.state.registry.renew()  # type: ignore[attr-defined]
    assert ask(client, "run", texts=["bread"]) == before
    shutil.copytree(saved / "topics", tmp_path / "run")
    client.app.state.registry.renew()  # type: ignore[attr-defined]
    assert "error" not in client.get("/v1/classifiers/run").json()


def test_what_could_not_be_loaded_is_tried_again(
    serve: Serve,
    saved: Path,
    tiny_bert: Path,
    load: Callable[..., Any],
    classifier: Callable[..., Any],
    toy: Toy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from ltuning.serving import registry as module

    place = tmp_path / "model"
    shutil.copytree(tiny_bert, place)
    door = classifier(load(place), "probe", steps=1).fit(toy.texts[:12], toy.labels[:12])
    door.save_pretrained(tmp_path / "run")
    shutil.rmtree(place)
    client = serve(saved / "plain", tmp_path / "run")
    registry = client.app.state.registry  # type: ignore[attr-defined]
    entry, said = registry.entries["run"], len(caplog.messages)
    error = entry.error
    assert error is not None
    assert str(tmp_path) not in error
    shutil.copytree(tiny_bert, place)
    registry.renew()
    assert entry.error == error
    assert entry.again > time.monotonic() + module._AGAIN - 5
    entry.again = 0.0
    registry.renew()
    assert entry.error is None
    assert entry.loaded is not None
    assert caplog.messages[said:] == ["classifier run could be loaded now"]


def test_a_backbone_that_nobody_uses_any_more_goes(
    serve: Serve, saved: Path, llama: Any, classifier: Callable[..., Any], toy: Toy, tmp_path: Path
) -> None:
    shutil.copytree(saved / "topics", tmp_path / "run")
    client = serve(tmp_path / "run")
    registry = client.app.state.registry  # type: ignore[attr-defined]
    (first,) = registry.batchers
    door = classifier(llama, "probe", steps=1).fit(toy.texts[:12], toy.labels[:12])
    door.save_pretrained(tmp_path / "run", overwrite=True)
    registry.renew()
    assert len(registry.batchers) == 2  # who has just found it may ask it yet
    registry.renew()
    assert first not in registry.batchers
    assert not first.is_alive
    said = chances(ask(client, "run", texts=["bread"]), toy.names)
    np.testing.assert_allclose(said, door.predict_proba(["bread"]), atol=1e-5)


def test_backbones_that_have_moved(
    serve: Serve, saved: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    from ltuning.serving.registry import Registry

    shutil.copytree(tiny_bert, tmp_path / "model")
    folders = {name: saved / name for name in ("topics", "tagger")}
    registry = Registry(folders, backbone=str(tmp_path / "model"))
    registry.load()
    assert {
        entry.loaded.classifier.config.backbone.name for entry in registry.entries.values()
    } == {str(tmp_path / "model")}
    registry.stop()


def test_classifiers_of_one_backbone_share_it(client: TestClient, doors: dict[str, Any]) -> None:
    registry = client.app.state.registry  # type: ignore[attr-defined]
    assert len(registry.batchers) == 1
    loaded = [registry.entries[name].loaded for name in doors]
    assert len({id(one.classifier.backbone) for one in loaded}) == 1


@pytest.mark.parametrize(("family", "backbones"), [("llama", 1), ("gpt2", 2)])
def test_texts_with_and_without_a_start_token_share_where_both_read_alike(
    toy: Toy, tmp_path: Path, family: str, backbones: int
) -> None:
    from ltuning import Backbone, LabelClassifier
    from ltuning.config import BackboneOptions
    from ltuning.serving.registry import Registry

    FAMILIES[family].save(tmp_path / "model")
    for start in ("none", "auto"):
        options = BackboneOptions(name=str(tmp_path / "model"), start_token=start)
        made = LabelClassifier(Backbone.load(options), method="probe", steps=1)
        made.fit(toy.texts[:12], toy.labels[:12])
        made.save_pretrained(tmp_path / start)
    folders = {name: tmp_path / name for name in ("none", "auto")}
    for order in (folders, dict(reversed(folders.items()))):
        registry = Registry(order)
        registry.load()
        assert len(registry.batchers) == backbones
        assert all(entry.loaded for entry in registry.entries.values())
        registry.stop()


def test_what_is_taken_is_finished_at_the_end(serve: Serve, saved: Path) -> None:
    client = serve(saved / "topics")
    registry = client.app.state.registry  # type: ignore[attr-defined]
    loaded = registry.entries["topics"].loaded
    held = _held(loaded.batcher)
    asked = [loaded.batcher.ask(loaded.classifier, ["bread"], 20) for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(registry.stop)
        while not loaded.batcher._is_stopped:
            time.sleep(0.01)
        assert _status(client, 1)[0] == 503
        held.set()
        stopped.result(20)
    assert [one.result(0).scores.shape for one in asked] == [(1, 3)] * 3
    assert client.get("/readyz").status_code == 503


# --- names and words ------------------------------------------------------------------------------


def test_names_of_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ltuning.errors import ConfigError

    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named(["runs/x/", "y=runs/x", "a=b"]) == {
        "x": Path("runs/x/"),
        "y": Path("runs/x"),
        "a=b": Path("a=b"),
    }
    assert named(["~no one/x", "./a/b"]) == {"x": Path("~no one/x"), "b": tmp_path / "a" / "b"}
    with pytest.raises(ConfigError) as error:
        named(["one/x", "two/x", "a/b=one"])
    assert [problem.message for problem in error.value.problems] == [
        "expected each name once, got 'x' for one/x and two/x; write NAME=RUN to give one of them "
        "another name",
        "expected a name without /, got 'a/b'; write NAME=RUN",
    ]


def test_paths_are_taken_out_of_messages() -> None:
    message = "cannot read /a/b c/run/x.json: in '/a/b c/run', of '/models/bert' and lt/prefix"
    words = "cannot read x.json: in 'run', of 'bert' and lt/prefix"
    assert without_paths(message, Path("/a/b c/run")) == words
    assert without_paths("http://x/y and ~/runs/a") == "http://x/y and a"
    others = "in '/a b/c d' and /a/b/c, of user/name, org-1/x@main, label '/food' and read/write"
    words = "in 'c d' and c, of user/name, org-1/x@main, label '/food' and read/write"
    assert without_paths(others, Path("user/name")) == words
    many = "at:/h/u/x, file:///h/u/y, ~bob/s/z, ../s/m/v, './m/s t/w', https://a.org/b and 1/2"
    assert without_paths(many) == "at:x, y, z, v, 'w', https://a.org/b and 1/2"
    assert without("a file. See x.json of e", Path("."), Path("e")) == "a file. See x.json of e"
    assert without("label '/a/b' of /x/run", Path("/x/run")) == "label '/a/b' of run"
    assert json.loads(json.dumps(words)) == words
