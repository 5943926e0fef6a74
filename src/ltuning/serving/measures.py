"""What `/metrics` shows, in a registry of its own."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ltuning.serving.batcher import Batcher

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Measures:
    """Counts and times of a server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answers = Counter(
            "ltuning_answers", "Answers.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "ltuning_answer_seconds", "Seconds to an answer.", ["route"], registry=self._registry
        )
        self._texts = Counter(
            "ltuning_texts", "Texts asked about.", ["classifier"], registry=self._registry
        )
        self._together = Histogram(
            "ltuning_texts_together",
            "Texts that were run together.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self._requests = Histogram(
            "ltuning_requests_together",
            "Requests that were run together.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self._waiting = Gauge(
            "ltuning_waiting_texts", "Texts that wait for a backbone.", registry=self._registry
        )

    def answered(self, route: str, status: int, seconds: float) -> None:
        """An answer of a route."""
        self._answers.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def asked(self, classifier: str, texts: int) -> None:
        """Texts for a classifier that there is."""
        self._texts.labels(classifier).inc(texts)

    def ran(self, requests: int, texts: int) -> None:
        """So many run together."""
        self._together.observe(texts)
        self._requests.observe(requests)

    def shown(self, batchers: Sequence[Batcher]) -> tuple[bytes, str]:
        """All of them as Prometheus reads them, and the type of that."""
        self._waiting.set(sum(batcher.num_waiting for batcher in batchers))
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
