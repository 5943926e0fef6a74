"""Serving: forty classifiers on one backbone, their answers under load and when things go wrong.

    python benchmarks/serving.py prepare --data DATA --runs FOLDER
    python benchmarks/serving.py memory --runs FOLDER --output serving.jsonl
    python benchmarks/serving.py load --runs FOLDER --output serving.jsonl
    python benchmarks/serving.py compare --runs FOLDER --output serving.jsonl
    python benchmarks/serving.py faults --runs FOLDER --output serving.jsonl
    python benchmarks/serving.py malformed --runs FOLDER --output serving.jsonl

prepare: forty classifiers of several methods and 2 to 77 labels, of training texts, two steps each:
what they say matters here, and not whether it is right. Beside them what `predict_proba` says of
five texts each, against which every answer is held.

memory: resident memory of a server of one of them and of all.

load: requests of one text each, to classifiers and with texts drawn at random. First as fast as 32
clients get answers, which is the capacity; then open loop, at times drawn beforehand whatever the
answers take, at .3, .6, .9 and 10 times that. Times are from when a request was to be sent.

compare: capacity again, of the server as it is (`shared`), with a pass for each classifier
(`apart`), and with SetFit's model in the place of the classifiers (`setfit`): one encoder for all
of them, of the same weights, and a head each. The three take turns.

faults: kill -9 and a restart under load, a run folder that is replaced under load, clients that
send one byte a second.

malformed: 10,000 requests by hypothesis, of the addresses in /openapi.json.

All traffic stays on this machine, and the generator of the load runs on the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import numpy as np
from rows import add_row, circumstances

from ltuning import Backbone, LabelClassifier
from ltuning.backbones.loading import source_of
from ltuning.config import BackboneOptions
from ltuning.data.sources import read_splits

BACKBONE = "builtin:minilm"
TEXTS = 5
CLIENTS = 32
LEVELS = (0.3, 0.6, 0.9, 10.0)
HOW = ("shared", "apart", "setfit")
TOLERANCE = 1e-5
# Method, options, and the most labels.
METHODS: list[tuple[str, dict[str, Any], int]] = [
    *[("lt-prefix", {}, 77)] * 16,
    *[("lt-prefix", {"method.labels": "apart"}, 6)] * 4,
    *[("prefix", {}, 77)] * 8,
    *[("probe", {}, 77)] * 8,
    *[("ls-lora", {}, 77)] * 3,
    ("prompt", {}, 77),
]
SETS = ("sst2_sentence", "twitter_financial_news", "sst5", "trec6", "banking77")
NUMBERS = (2, 3, 5, 6, 10, 20, 40, 77)


# --- the classifiers ------------------------------------------------------------------------------


def prepare(options: argparse.Namespace) -> None:
    """Forty run folders, and what they say."""
    backbone = Backbone.load(BACKBONE)
    draw = random.Random(0)
    train = {name: read_splits(options.data / name)["train"] for name in SETS}
    expected = {}
    for number, (method, given, most) in enumerate(METHODS):
        known = [size for size in NUMBERS if size <= most]
        size = known[number % len(known)]
        data = next((train[name] for name in SETS if len(set(train[name].labels)) == size), None)
        data = train["banking77"] if data is None else data
        labels = draw.sample(sorted(set(data.labels)), size)
        rows = [row for row, label in enumerate(data.labels) if label in set(labels)]
        chosen = [row for label in labels for row in _first(data.labels, rows, label, 2)]
        door = LabelClassifier(backbone, None, method, seed=number, steps=2, options=given)
        door.fit(*_columns(data, chosen), progress=False)
        name = f"{number:02}-{method}-{size}"
        door.save_pretrained(options.runs / name, overwrite=True)
        texts = [data.texts[row] for row in draw.sample(rows, TEXTS)]
        chances = door.predict_proba(texts)
        expected[name] = {
            "texts": texts,
            "classes": list(door.classes_),
            "probabilities": chances.tolist(),
        }
        print(name, flush=True)
        if number == 0:
            other = LabelClassifier(backbone, None, method, seed=1000, steps=2, options=given)
            other.fit(*_columns(data, chosen), progress=False)
            other.save_pretrained(options.runs / "other", overwrite=True)
    (options.runs / "expected.json").write_text(json.dumps(expected))


def _first(labels: Sequence[str], rows: Sequence[int], label: str, number: int) -> list[int]:
    return [row for row in rows if labels[row] == label][:number]


def _columns(data: Any, rows: Sequence[int]) -> tuple[list[Any], list[str]]:
    return [data.texts[row] for row in rows], [data.labels[row] for row in rows]


# --- the server -----------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> None:
    """The server, with another way to score where one is asked for."""
    from ltuning.cli.main import run
    from ltuning.serving import batcher

    if options.how == "apart":
        batcher.score_together = _each_by_itself
    elif options.how == "setfit":
        batcher.Batcher._score = _by_setfit  # type: ignore[method-assign, assignment]
    names = json.loads((options.runs / "expected.json").read_text())
    folders = [str(options.runs / name) for name in [*names][: options.number]]
    place = ["--port", str(options.port), "--max-waiting", str(options.waiting)]
    sys.argv = ["ltuning", "serve", *folders, *place]
    run()


def _each_by_itself(asked: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Those who ask one classifier together, and no two classifiers."""
    from ltuning.serving.shared_pass import _alone

    numbers: dict[Any, list[int]] = {}
    for number, one in enumerate(asked):
        numbers.setdefault(one.scorer, []).append(number)
    for scorer, several in numbers.items():
        yield from _alone(scorer, asked, several)


def _by_setfit(batcher: Any, taken: Sequence[tuple[Any, slice]]) -> None:
    """What SetFit's model says, its encoder of the same weights and a head for each classifier.

    Texts are short here, so that each is one window.
    """
    by_classifier: dict[Any, list[tuple[Any, slice]]] = {}
    for one, piece in taken:
        by_classifier.setdefault(one.classifier, []).append((one, piece))
    for classifier, several in by_classifier.items():
        model = _setfit(len(classifier.classes_))
        texts = [text for one, piece in several for text in one.texts[piece]]
        chances = model.predict_proba(texts, as_numpy=True, show_progress_bar=False)
        scores = iter(np.log(chances + 1e-12))
        for one, piece in several:
            one.had(np.array([next(scores) for _ in one.texts[piece]]))


@cache
def _setfit(labels: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    model = copy.copy(_encoder())
    states = np.random.default_rng(0).normal(size=(2 * labels, 384))
    model.model_head = LogisticRegression().fit(states, [*range(labels)] * 2)
    return model


@cache
def _encoder() -> Any:
    import setfit

    setfit.logging.set_verbosity_error()
    return setfit.SetFitModel.from_pretrained(source_of(BackboneOptions(name=BACKBONE)))


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def resident(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    @property
    def seconds(self) -> float:
        """Processor time so far."""
        parts = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def start(
    runs: Path, how: str = "shared", number: int = 40, port: int = 0, waiting: int = 256
) -> Server:
    """A server that answers."""
    command = [sys.executable, __file__, "server", "--runs", str(runs), "--as", how]
    command += ["--number", str(number), "--port", str(port), "--waiting", str(waiting)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.match(r"http://127.0.0.1:(\d+) serves", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return Server(process, int(found[1]))
    raise RuntimeError("the server did not start")


@contextmanager
def running(*args: Any, **options: Any) -> Iterator[Server]:
    """A server while the block runs."""
    server = start(*args, **options)
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)


# --- the load -------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of requests.

    Attributes:
        statuses: how many of each; 0 is no answer.
        seconds: of right answers, from when they were to be sent.
        wrong: answers that differ from `predict_proba` by more than the tolerance.
        largest: the largest difference.
        of_each: where several answers are right, how many were each of them.
    """

    statuses: dict[int, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    largest: float = 0.0
    of_each: dict[int, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As a results file has it."""
        found: dict[str, Any] = {
            "requests": sum(self.statuses.values()),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "wrong": self.wrong,
            "largest_difference": self.largest,
            "of_each": [self.of_each[which] for which in sorted(self.of_each)],
        }
        if self.seconds:
            p50, p95, p99 = np.percentile(self.seconds, [50, 95, 99])
            found |= {"p50_ms": 1e3 * p50, "p95_ms": 1e3 * p95, "p99_ms": 1e3 * p99}
        return found


class Load:
    """Requests at random, each answer held against what is expected of it.

    Args:
        expected: by classifier `texts`, `classes` and `probabilities`; these may be several, of
            which one has to fit.
        is_compared: whether answers are compared.
    """

    def __init__(self, expected: dict[str, Any], is_compared: bool = True):
        self.expected = expected
        self.is_compared = is_compared
        self.names = [*expected]

    async def ask(
        self, session: aiohttp.ClientSession, url: str, draw: random.Random, tally: Tally
    ) -> None:
        """One request."""
        await self._ask(session, url, draw.choice(self.names), draw.randrange(TEXTS), tally, None)

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        url: str,
        name: str,
        row: int,
        tally: Tally,
        due: float | None,
    ) -> None:
        began = time.monotonic() if due is None else due
        of_one = self.expected[name]
        body = {"texts": [of_one["texts"][row]]}
        place = f"{url}/v1/classifiers/{quote(name)}/predict"
        try:
            async with session.post(place, json=body) as answer:
                content, status = await answer.read(), answer.status
        except (aiohttp.ClientError, TimeoutError, OSError):
            content, status = b"", 0
        tally.statuses[status] = tally.statuses.get(status, 0) + 1
        if status == 200:
            tally.seconds.append(time.monotonic() - began)
            if self.is_compared:
                self._compare(json.loads(content), of_one, row, tally)

    def _compare(self, said: Any, of_one: Any, row: int, tally: Tally) -> None:
        (prediction,) = said["predictions"]
        by_label = {one["label"]: one["probability"] for one in prediction["probabilities"]}
        found = np.array([by_label[label] for label in of_one["classes"]])
        several = of_one.get("several", [of_one["probabilities"]])
        differences = [float(np.abs(found - np.array(one[row])).max()) for one in several]
        tally.largest = max(tally.largest, min(differences))
        nearest = int(np.argmin(differences))
        tally.of_each[nearest] = tally.of_each.get(nearest, 0) + 1
        label = of_one["classes"][int(found.argmax())]
        tally.wrong += min(differences) > TOLERANCE or prediction["label"] != label

    async def closed(self, url: str, seconds: float) -> Tally:
        """As fast as so many clients get answers."""
        tally, end, draw = Tally(), time.monotonic() + seconds, random.Random(1)
        async with _session() as session:

            async def client() -> None:
                while time.monotonic() < end:
                    await self.ask(session, url, draw, tally)

            await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return tally

    async def open(self, url: str, rate: float, seconds: float, most: int = 20_000) -> Tally:
        """So many requests a second, at times that are drawn beforehand."""
        draw, tally = random.Random(2), Tally()
        times = np.cumsum([draw.expovariate(rate) for _ in range(min(most, int(rate * seconds)))])
        async with _session() as session:
            began = time.monotonic() + 0.1
            tasks = []
            for at in times:
                due = began + float(at)
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                name, row = draw.choice(self.names), draw.randrange(TEXTS)
                ask = self._ask(session, url, name, row, tally, due)
                tasks.append(asyncio.create_task(ask))
            await asyncio.gather(*tasks)
        return tally


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=60)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


def own_seconds() -> float:
    """Processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- the parts ------------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> None:
    """Resident memory with one classifier, and with all."""
    for number in (1, len(METHODS)):
        with running(options.runs, number=number) as server:
            load = Load(dict([*_expected(options.runs).items()][:number]))
            tally = asyncio.run(load.closed(server.url, 2))
            row = {"classifiers": number, "resident_mib": server.resident, **tally.row()}
            _add(options, "memory", **row)


def load(options: argparse.Namespace) -> None:
    """Capacity, and times at shares of it."""
    every = Load(_expected(options.runs))
    with running(options.runs) as server:
        asyncio.run(every.closed(server.url, 2))  # what is made when it is first needed
        rate = options.rate
        for level in (None, *LEVELS):
            with _measured(server) as row:
                if level is None:
                    tally = asyncio.run(every.closed(server.url, options.seconds))
                else:
                    tally = asyncio.run(every.open(server.url, rate * level, options.seconds))
                row |= {"level": level, "asked_per_s": rate * (level or 0), **tally.row()}
            _add(options, "load", **row)
            rate = rate or row["answered_per_s"]
        _add(options, "passes", **asyncio.run(_passes(server.url)))


def compare(options: argparse.Namespace) -> None:
    """Three servers, each as fast as it answers, in turns."""
    expected = _expected(options.runs)
    with ExitStack() as stack:
        servers = {how: stack.enter_context(running(options.runs, how)) for how in HOW}
        for repeat in range(options.repeats + 1):
            for how, server in servers.items():
                every = Load(expected, is_compared=how != "setfit")
                with _measured(server) as row:
                    tally = asyncio.run(every.closed(server.url, options.seconds))
                    row |= {"how": how, "repeat": repeat, **tally.row()}
                if repeat:  # in the first one much is made that is made once
                    _add(options, "compare", **row, resident_mib=server.resident)


@contextmanager
def _measured(server: Server) -> Iterator[dict[str, Any]]:
    """A row, to which the shares of processors that server and generator took are added."""
    used, own, began = server.seconds, own_seconds(), time.monotonic()
    row: dict[str, Any] = {}
    yield row
    seconds, taken = time.monotonic() - began, server.seconds - used
    answered = row["statuses"].get("200", 0)
    row |= {
        "answered_per_s": answered / seconds,
        "server_cpu_share": taken / seconds,
        "client_cpu_share": (own_seconds() - own) / seconds,
        "server_cpu_ms_per_answer": 1e3 * taken / max(1, answered),
    }


async def _passes(url: str) -> dict[str, float]:
    async with _session() as session, session.get(f"{url}/metrics") as answer:
        shown = await answer.text()
    names = ("ltuning_requests_together_sum", "ltuning_requests_together_count")
    found = [float(re.findall(rf"^{name} (\S+)", shown, re.MULTILINE)[0]) for name in names]
    return {"requests": found[0], "rounds": found[1]}


def faults(options: argparse.Namespace) -> None:
    """Killed and restarted, replaced, and beside slow clients."""
    expected = _expected(options.runs)
    every = Load(expected)
    _killed(options, every)
    with running(options.runs) as server:
        for slow in (0, 50):
            with _slow_clients(server.port, slow):
                tally = asyncio.run(every.open(server.url, options.rate, options.seconds))
            _add(options, "slow clients", clients=slow, rate=options.rate, **tally.row())
        _replaced(options, server, expected)


def _killed(options: argparse.Namespace, every: Load) -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    server = start(options.runs, port=port)
    seen: list[Server] = [server]

    def kill() -> None:
        time.sleep(2)
        server.process.kill()
        server.process.wait()
        seen.append(start(options.runs, port=port))

    thread = threading.Thread(target=kill)
    thread.start()
    tally = Tally()

    async def until_it_is_back() -> None:
        draw = random.Random(3)
        async with _session() as session:
            end = time.monotonic() + 90
            while time.monotonic() < end:
                tasks = [every.ask(session, server.url, draw, tally) for _ in range(4)]
                await asyncio.gather(*tasks, asyncio.sleep(4 / options.rate))
                if not thread.is_alive():
                    end = min(end, time.monotonic() + 2)
                    break
            for _ in range(20):
                await every.ask(session, server.url, draw, after)

    after = Tally()
    asyncio.run(until_it_is_back())
    thread.join()
    seen[-1].process.terminate()
    seen[-1].process.wait(60)
    _add(options, "kill -9", rate=options.rate, **tally.row())
    _add(options, "after the restart", rate=options.rate, **after.row())


def _replaced(options: argparse.Namespace, server: Server, expected: dict[str, Any]) -> None:
    """One run folder, by another classifier of the same labels and back, while it is asked."""
    name = next(iter(expected))
    folder = options.runs / name
    backbone = Backbone.load(BACKBONE)
    before = LabelClassifier.from_pretrained(folder, backbone=backbone)
    other = LabelClassifier.from_pretrained(options.runs / "other", backbone=backbone)
    texts = expected[name]["texts"]
    several = [before.predict_proba(texts).tolist(), other.predict_proba(texts).tolist()]
    tally = Tally()
    every = Load({name: {**expected[name], "several": several}})

    def replace() -> None:
        for door in (other, before, other, before):
            time.sleep(options.seconds / 5)
            door.save_pretrained(folder, overwrite=True)

    thread = threading.Thread(target=replace)
    thread.start()
    tally = asyncio.run(every.open(server.url, options.rate, options.seconds))
    thread.join()
    time.sleep(2)
    last = asyncio.run(Load({name: expected[name]}).open(server.url, options.rate, 1))
    _add(options, "replaced four times", rate=options.rate, **tally.row())
    _add(options, "after the last", rate=options.rate, **last.row())


@contextmanager
def _slow_clients(port: int, number: int) -> Iterator[None]:
    """Clients that send one byte a second."""
    stopped = threading.Event()
    head = (
        b"POST /v1/classifiers/x/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
    )
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    for line in lines[: number // 2]:
        line.sendall(head)

    def trickle() -> None:
        for byte in head:
            for line in lines:
                line.send(bytes([byte]))
            if stopped.wait(1):
                return

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        for line in lines:
            line.close()


def malformed(options: argparse.Namespace) -> None:
    """Requests by hypothesis, of the addresses that the interface names."""
    import http.client

    from hypothesis import HealthCheck, given, settings

    statuses: dict[int, int] = {}
    with running(options.runs) as server:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        line.request("GET", "/openapi.json")
        schema = json.loads(line.getresponse().read())

        @settings(
            max_examples=options.number_of_requests,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(*_strategies(schema, [*_expected(options.runs)]))
        def ask(request: tuple[str, str], body: bytes, content_type: str) -> None:
            # A connection of its own: the server hangs up on one that is idle for five seconds.
            line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            with closing(line):
                line.request(request[0], request[1], body, {"Content-Type": content_type})
                answer = line.getresponse()
                answer.read()
            statuses[answer.status] = statuses.get(answer.status, 0) + 1

        ask()
        every = Load(_expected(options.runs))
        after = asyncio.run(every.closed(server.url, 2))
    named = {str(status): count for status, count in sorted(statuses.items())}
    faults = sum(count for status, count in statuses.items() if status >= 500)
    _add(
        options,
        "malformed",
        requests=sum(statuses.values()),
        statuses=named,
        of_500_and_above=faults,
        wrong_after=after.wrong,
    )


def _strategies(schema: dict[str, Any], names: Sequence[str]) -> list[Any]:
    """Of a method and an address, of a body, and of its type."""
    from hypothesis import strategies as st

    words = st.text(max_size=8)
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
        max_leaves=6,
    )
    fields = st.sampled_from(["texts", "top_k", "abstain", "labels", "more"])
    texts = st.lists(words | st.lists(words, max_size=3), max_size=3)
    likely = st.fixed_dictionaries(
        {"texts": texts},
        optional={"top_k": st.integers(-1, 4), "abstain": st.floats(), "more": values},
    )
    content = st.one_of(values, likely, st.dictionaries(fields, values))
    bodies = st.binary(max_size=20) | content.map(lambda value: json.dumps(value).encode())
    routes = [(method, path) for path, of in schema["paths"].items() for method in of]
    filled = (st.sampled_from(names[:4]) | words).map(lambda name: quote(name, safe=""))

    def address(route: tuple[str, str]) -> Any:
        return st.tuples(filled, filled).map(
            lambda two: (
                route[0].upper(),
                route[1].replace("{name}", two[0]).replace("{label}", two[1]),
            )
        )

    types = st.sampled_from(["application/json", "text/plain", "application/json; charset=x"])
    return [st.sampled_from(routes).flatmap(address), bodies, types]


# --- the results ----------------------------------------------------------------------------------


def _expected(runs: Path) -> dict[str, Any]:
    return json.loads((runs / "expected.json").read_text())


def _add(options: argparse.Namespace, part: str, **row: Any) -> None:
    whole = {"part": part, **row, **circumstances(BACKBONE)}
    add_row(options.output, whole)
    print(json.dumps({"part": part, **row}), flush=True)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the run folders")
    parser.add_argument("--output", type=Path, default=Path("serving.jsonl"))
    parser.add_argument("--as", dest="how", default="shared", choices=HOW, help="of the server")
    parser.add_argument("--repeats", type=int, default=3, help="of a comparison")
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s; 0 is the capacity")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each level")
    parser.add_argument("--number-of-requests", type=int, default=10_000)
    parser.add_argument("--number", type=int, default=len(METHODS), help="of classifiers")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--waiting", type=int, default=256)
    options = parser.parse_args()
    PARTS[options.part](options)


PARTS = {
    "prepare": prepare,
    "server": serve,
    "memory": memory,
    "load": load,
    "compare": compare,
    "faults": faults,
    "malformed": malformed,
}

if __name__ == "__main__":
    main()
