"""Figures of one gateway for Prometheus. Ray Serve exports its own about replicas and queues beside these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.generations import Ref

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Everything is labelled by what there are few of: routes, stages, collections; never by what a client sends."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        here: dict[str, Any] = {"registry": self._registry}
        timed: dict[str, Any] = {"buckets": _SECONDS, **here}
        self._requests = Counter("rayriever_requests", "Requests answered.", ["route", "status"], **here)
        self._seconds = Histogram("rayriever_request_seconds", "From head to end of the answer.", ["route"], **timed)
        self._stages = Histogram("rayriever_stage_seconds", "Stages of a search.", ["stage"], **timed)
        self._tokens = Counter("rayriever_tokens", "Tokens that models read.", ["kind"], **here)
        self._generation = Gauge("rayriever_generation", "Generation that is searched.", ["collection"], **here)
        self._failures = Counter("rayriever_backend_failures", "Calls of parts that failed.", ["part"], **here)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def stages(self, milliseconds: Mapping[str, float]) -> None:
        for stage, value in milliseconds.items():
            self._stages.labels(stage).observe(value / 1000)

    def tokens(self, kind: str, count: int) -> None:
        self._tokens.labels(kind).inc(count)

    def released(self, ref: Ref) -> None:
        self._generation.labels(ref.collection).set(ref.number)

    def failure(self, part: str) -> None:
        self._failures.labels(part).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
