"""A server on a port of this machine: slow clients, the page in a browser, signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from ltuning.serving import server as server_module
from ltuning.serving.bounds import Bounds
from ltuning.serving.server import listening, server_of

if TYPE_CHECKING:
    from starlette.testclient import TestClient

Listen = Callable[..., int]


@pytest.fixture
def listen(serve: Callable[..., TestClient]) -> Iterator[Listen]:
    """Serves folders on a free port, which it gives."""
    running: list[tuple[Any, threading.Thread, socket.socket]] = []

    def start(*folders: Path, **options: Any) -> int:
        seconds = options.get("bounds", Bounds()).seconds
        server = server_of(serve(*folders, **options).app, seconds)  # type: ignore[arg-type]
        place = listening("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        running.append((server, thread, place))
        while not server.started:
            time.sleep(0.01)
        return int(place.getsockname()[1])

    yield start
    for server, thread, place in running:
        server.should_exit = True
        thread.join(20)
        place.close()
        assert not thread.is_alive()


def talk(port: int, *parts: bytes) -> bytes:
    """What comes back to bytes that are sent one after the other, until the server hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for part in parts:
            line.sendall(part)
        found = b""
        while part := line.recv(65536):
            found += part
    return found


def predict(port: int) -> dict[str, Any]:
    body = json.dumps({"texts": ["bread"], "top_k": 1}).encode()
    headers = {"content-type": "application/json"}
    place = f"http://127.0.0.1:{port}/v1/classifiers/topics/predict"
    with urllib.request.urlopen(urllib.request.Request(place, body, headers), timeout=20) as answer:
        return json.load(answer)


def test_slow_clients_are_sent_away_and_hold_nobody_up(
    listen: Listen, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_HEADERS_WITHIN", 1.0)
    port = listen(saved / "topics", bounds=Bounds(seconds=2))
    head = b"POST /v1/classifiers/topics/predict HTTP/1.1\r\nHost: localhost\r\n"
    found: dict[str, bytes] = {}
    slow = {
        "silent": (),
        "in its headers": (head[:30],),
        "in its body": (head + b"Content-Length: 50\r\n\r\n{",),
    }
    threads = [
        threading.Thread(target=lambda name=name: found.update({name: talk(port, *slow[name])}))
        for name in slow
    ]
    for thread in threads:
        thread.start()
    assert predict(port)["predictions"][0]["label"]
    for thread in threads:
        thread.join(20)
    assert found["silent"] == found["in its headers"] == b""
    assert found["in its body"].startswith(b"HTTP/1.1 408 ")
    assert b'{"error":"expected the whole request within 2 s"}' in found["in its body"]


def test_a_long_body_is_refused_before_it_came(listen: Listen, saved: Path) -> None:
    port = listen(saved / "topics")
    head = b"POST /v1/classifiers/topics/predict HTTP/1.1\r\nHost: localhost\r\n"
    found = talk(port, head + b"Content-Length: 999999999999\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 413 ")


def test_what_is_no_http_is_answered_and_harms_nobody(listen: Listen, saved: Path) -> None:
    port = listen(saved / "topics")
    assert talk(port, b"\x16\x03\x01 no http\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    host = talk(port, b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert host.startswith(b"HTTP/1.1 400 ")
    assert predict(port)["classifier"] == "topics"


def test_what_was_taken_is_answered_when_the_server_is_told_to_end(
    serve: Callable[..., TestClient], saved: Path
) -> None:
    client = serve(saved / "topics")
    batcher = client.app.state.registry.batchers[0]  # type: ignore[attr-defined]
    server, place = server_of(client.app, 20), listening("127.0.0.1", 0)  # type: ignore[arg-type]
    port = place.getsockname()[1]
    running = threading.Thread(target=server.run, kwargs={"sockets": [place]})
    running.start()
    begun, held = threading.Event(), threading.Event()
    threading.Thread(
        target=batcher.call, args=[lambda: (begun.set(), held.wait(20))], daemon=True
    ).start()
    begun.wait(20)
    found: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: found.append(predict(port)))
    asking.start()
    while not batcher.num_waiting:
        time.sleep(0.01)
    server.handle_exit(signal.SIGTERM, None)
    while _is_open(port):
        time.sleep(0.01)
    held.set()
    asking.join(20)
    running.join(20)
    place.close()
    assert not running.is_alive()
    assert found[0]["classifier"] == "topics"


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# --- the page -------------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")


def page(port: int, fragment: str, tmp_path: Path) -> str:
    """The page's elements once it has asked what its address says."""
    assert BROWSER is not None
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}"]
    command += [f"http://127.0.0.1:{port}/#{fragment}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout


def element(html: str, name: str) -> str:
    found = re.search(rf'<(\w+)[^>]* id="{name}"[^>]*>(.*?)</\1>', html, re.DOTALL)
    assert found is not None, name
    return re.sub(r"<[^>]+>", " ", found[2])


@in_browser
def test_the_page_shows_probabilities(
    listen: Listen, saved: Path, doors: dict[str, Any], tmp_path: Path
) -> None:
    port = listen(saved / "plain", saved / "topics", allow_label_changes=True)
    text = "bread and <b>cheese</b>"
    html = page(port, f"classifier=topics&text={quote(text)}", tmp_path)
    (label,) = doors["topics"].predict([text])
    assert element(html, "answer") == label
    bars = element(html, "bars").split()
    percent = sorted((100 * doors["topics"].predict_proba([text])[0]).tolist(), reverse=True)
    assert [float(word) for word in bars if re.fullmatch(r"[\d.]+", word)] == pytest.approx(
        percent, abs=0.06
    )
    assert '<form id="more">' in html  # a label may be added
    assert "ball and team" in element(html, "labels")
    assert '<p class="soft wrong" id="wrong" role="alert" hidden="">' in html


@in_browser
def test_the_page_asks_for_pairs_and_shows_entities(
    listen: Listen, saved: Path, doors: dict[str, Any], tmp_path: Path
) -> None:
    port = listen(saved / "pairs", saved / "tagger")
    html = page(port, "classifier=pairs&text=bread&pair=the%20hotel", tmp_path)
    assert element(html, "answer") == doors["pairs"].predict([("bread", "the hotel")])[0]
    assert element(html, "first") == "first text"
    text = "bread ball hotel"
    (entities,) = doors["tagger"].predict([text])
    html = page(port, f"classifier=tagger&text={quote(text)}", tmp_path)
    assert element(html, "answer") == f"{len(entities)} entities"
    assert [one.text for one in entities] == re.findall(r"(\w+) \S thing", element(html, "bars"))


@in_browser
def test_the_page_says_what_is_wrong(listen: Listen, saved: Path, tmp_path: Path) -> None:
    port = listen(saved / "topics", keys=["secret"])
    html = page(port, "text=bread", tmp_path)
    assert element(html, "wrong").startswith("expected a key, as Authorization: Bearer KEY")


def test_the_page_is_one_file_that_loads_nothing_from_elsewhere(
    serve: Callable[..., TestClient], saved: Path
) -> None:
    answer = serve(saved / "topics").get("/")
    assert (
        re.findall(r"https?://|<link (?!rel=\"icon\" href=\"data:)|src=|@import", answer.text) == []
    )
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


# --- the verb -------------------------------------------------------------------------------------


def test_the_verb_serves_until_it_is_told_to_end(saved: Path) -> None:
    command = [sys.executable, "-m", "ltuning", "serve", "--port", "0"]
    runs = [str(saved / "topics"), str(saved / "broken"), f"other={saved / 'plain'}"]
    with subprocess.Popen([*command, *runs], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = [process.stderr.readline(), process.stderr.readline()]
            found = re.fullmatch(
                r"http://127\.0\.0\.1:(\d+) serves topics, other; Ctrl-C ends it\n", lines[1]
            )
            assert found is not None, lines
            assert lines[0].startswith("warning: classifier broken cannot be loaded: adapter_model")
            assert predict(int(found[1]))["classifier"] == "topics"
        finally:
            process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode in (0, -signal.SIGTERM)
    assert rest == ""
    assert str(saved) not in "".join(lines)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--timeout", "0"], "--timeout: expected seconds above 0 and below a day, got 0"),
        (["--max-texts", "0"], "--max-texts: expected 1 or more, got 0"),
        (
            ["--max-texts", "2000"],
            "--max-waiting: expected room for a request, which may have 2,000 texts, got 1,024; "
            "give more, or a smaller --max-texts",
        ),
        (
            ["--allow-host", "a.org:80"],
            "--allow-host: expected a name, *.NAME, or * for any, got 'a.org:80'",
        ),
        (["--allow-host", ""], "--allow-host: expected a name, *.NAME, or * for any, got ''"),
        (["--allow-host", "*."], "--allow-host: expected a name, *.NAME, or * for any, got '*.'"),
        (["--allow-host", "a.*"], "--allow-host: expected a name, *.NAME, or * for any, got 'a.*'"),
        (["--host", "192.0.2.1"], "--host: expected an address of this machine, got '192.0.2.1' ("),
        (["--port", "70000"], "--port: expected a port from 0 to 65,535, got 70000"),
        (
            ["--api-key-file", os.devnull],
            "--api-key-file: expected keys of ASCII letters and signs",
        ),
    ],
)
def test_the_verb_refuses_what_cannot_work(saved: Path, options: list[str], words: str) -> None:
    from typer.testing import CliRunner

    from ltuning.cli.main import app

    result = CliRunner().invoke(app, ["serve", str(saved / "topics"), *options])
    assert result.exit_code == 1
    assert words in result.stderr


def test_a_port_that_is_taken(saved: Path) -> None:
    from ltuning.errors import ConfigError

    with (
        listening("127.0.0.1", 0) as taken,
        pytest.raises(ConfigError, match="expected one that is free on 127.0.0.1, got"),
    ):
        listening("127.0.0.1", taken.getsockname()[1])


def test_without_the_extra_the_verb_says_what_to_install(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from ltuning.cli import serve as verb
    from ltuning.cli.main import app

    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["serve", str(saved / "topics")])
    assert result.exit_code == 1
    assert "ltuning serve needs an optional library: pip install 'ltuning[serve]'" in result.stderr
