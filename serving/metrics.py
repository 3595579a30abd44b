"""Figures for Prometheus: each process counts its own, a gateway that is asked collects those of all.

Ray Serve exports figures of its own about replicas and its queues beside these.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from serving.generations import Ref

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Figures:
    """What a process counts, in the exposition format."""

    replica: str
    text: bytes


class _Metrics:
    """Of one process. Everything is labelled by what there are few of; never by what a client sends."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._replica = uuid.uuid4().hex[:8]

    def figures(self) -> Figures:
        return Figures(self._replica, generate_latest(self._registry))


class PartMetrics(_Metrics):
    """Of a replica behind the gateway."""

    def __init__(self) -> None:
        super().__init__()
        here: dict[str, Any] = {"registry": self._registry}
        self._asked = Gauge("rayriever_part_requests", "Requests at work and waiting.", **here)
        self._sizes = Histogram("rayriever_batch_requests", "Requests of a batch.", buckets=_SIZES, **here)
        self._seconds = Histogram("rayriever_batch_seconds", "Work on a batch.", buckets=_SECONDS, **here)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Around a request from when it comes to its answer."""
        with self._asked.track_inprogress():
            yield

    @contextmanager
    def batch(self, requests: int) -> Iterator[None]:
        """Around the work on requests that are computed together."""
        began = time.perf_counter()
        yield
        self._sizes.observe(requests)
        self._seconds.observe(time.perf_counter() - began)


class Metrics(_Metrics):
    """Of a gateway."""

    def __init__(self) -> None:
        super().__init__()
        here: dict[str, Any] = {"registry": self._registry}
        timed: dict[str, Any] = {"buckets": _SECONDS, **here}
        self._requests = Counter("rayriever_requests", "Requests answered.", ["route", "status"], **here)
        self._seconds = Histogram("rayriever_request_seconds", "From head to end of the answer.", ["route"], **timed)
        self._stages = Histogram("rayriever_stage_seconds", "Stages of a search.", ["stage"], **timed)
        self._tokens = Counter("rayriever_tokens", "Tokens that models read.", ["kind"], **here)
        self._generation = Gauge("rayriever_generation", "Generation that is searched.", ["collection"], **here)
        self._failures = Counter("rayriever_backend_failures", "Calls of parts that failed.", ["called"], **here)

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


def merged(figures: Mapping[str, Sequence[Figures]]) -> bytes:
    """The figures of all replicas of all parts, told apart by the labels `part` and `replica`."""
    registry = CollectorRegistry()
    registry.register(_Merged(figures))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, figures: Mapping[str, Sequence[Figures]]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        replicas = Metric("rayriever_replicas", "Replicas of a part that answer; 0: it is away.", "gauge")
        families = {replicas.name: replicas}
        for part, of_replicas in self._figures.items():
            replicas.add_sample(replicas.name, {"part": part}, len(of_replicas))
            for each in of_replicas:
                for family in text_string_to_metric_families(each.text.decode()):
                    if family.name.endswith("_created"):
                        continue  # when counting began: the label of the replica says as much
                    known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    for sample in family.samples:
                        known.add_sample(
                            sample.name, {**sample.labels, "part": part, "replica": each.replica}, sample.value
                        )
        return families.values()
