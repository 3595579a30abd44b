"""Ray actors that each hold one shard, and how a batch of queries is put to all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from types import TracebackType
from typing import Any, Protocol

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from pipeline.errors import RayrieverError
from pipeline.placement import Demand, require_room
from pipeline.ray_session import explained_ray_errors
from pipeline.sharded.found import Found, empty, merge

# Batches under way at once: the shards search the next one while the driver merges this one.
_BATCHES = 2
_RETRIES = 3  # of one search; an actor is started again as often as it dies


class Searchable(Protocol):
    """A shard that has been opened."""

    def search(self, queries: Any, k: int) -> Found: ...


@dataclass(frozen=True)
class Answer:
    """The ranking of some queries, and the shards that did not answer in time; their passages are missing in it."""

    found: Found
    missing: tuple[int, ...]

    @property
    def partial(self) -> bool:
        return bool(self.missing)

    def whole(self) -> Found:
        """The ranking. Raises RayrieverError when a shard is missing in it."""
        if self.missing:
            raise RayrieverError(f"shards {', '.join(map(str, self.missing))} did not answer in time.")
        return self.found


class ShardActor:
    """Opens a shard where it runs; Ray starts it again when it dies."""

    def __init__(self, open_shard: Callable[[], Searchable]) -> None:
        # Opened by a call: what a constructor raises reaches the driver as the death of the actor.
        self._open = lru_cache(maxsize=1)(open_shard)

    def ready(self) -> int:
        self._open()
        return os.getpid()

    def search(self, queries: Any, k: int, options: dict[str, Any]) -> Found:
        shard: Any = self._open()
        found: Found = shard.search(queries, k, **options)
        return found


class ShardActors:
    """Every shard of an index in `replicas` actors of its own; a context manager that ends them.

    Args:
        what: names the shards in errors, as in 'index'.
        open_shards: one function per shard that opens it in its actor.
        demand: what each actor reserves. Shards are mapped from files: the memory that they take is the disk's cache.
        timeout_s: how long to wait for the shards; None waits for ever and never gives a partial answer.

    Raises RayrieverError where the cluster has no room for all of them.
    """

    def __init__(
        self,
        what: str,
        open_shards: Sequence[Callable[[], Searchable]],
        demand: Demand,
        replicas: int = 1,
        timeout_s: float | None = None,
    ) -> None:
        self.what, self.timeout_s = what, timeout_s
        remedy = "Change index.replicas, index.gpus, index.placement, ray.labels"
        require_room(f"{what}: actors of shards", replicas * len(open_shards), demand, remedy)
        actor = ray.remote(**demand.options(), max_restarts=-1, max_task_retries=_RETRIES)(ShardActor)
        self.actors: list[list[Any]] = [[actor.remote(each) for _ in range(replicas)] for each in open_shards]
        self._turn = count()

    def wait_until_ready(self) -> list[list[int]]:
        """Process ids of the actors, once every shard is open. Raises RayrieverError where one cannot be opened."""
        with self._explained():
            return [ray.get([each.ready.remote() for each in replicas]) for replicas in self.actors]

    def search_all(self, batches: Iterable[Any], k: int, **options: Any) -> Iterator[Answer]:
        """Ask about batch after batch, the next one being searched while this one is merged."""
        waiting: list[tuple[list[Any], int]] = []
        queue = iter(batches)
        for batch in islice(queue, _BATCHES):
            waiting.append((self._ask(batch, k, options), len(batch)))
        while waiting:
            references, size = waiting.pop(0)
            answer = self._collect(references, size, k)
            for batch in islice(queue, 1):
                waiting.append((self._ask(batch, k, options), len(batch)))
            yield answer

    def _ask(self, queries: Any, k: int, options: dict[str, Any]) -> list[Any]:
        turn = next(self._turn)
        shared = ray.put(queries)  # once, not once per shard
        return [replicas[turn % len(replicas)].search.remote(shared, k, options) for replicas in self.actors]

    def _collect(self, references: list[Any], queries: int, k: int) -> Answer:
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        answers: list[Found] = []
        missing: list[int] = []
        for shard, reference in enumerate(references):
            found = self._get(reference, deadline)
            if found is None:
                missing.append(shard)
                ray.cancel(reference)  # if it has not begun: nobody waits for it any more
            else:
                answers.append(found)
        return Answer(merge(answers, k) if answers else empty(queries), tuple(missing))

    def _get(self, reference: Any, deadline: float | None) -> Found | None:
        """The answer; None when there is none in time."""
        with self._explained():
            if deadline is None:
                found: Found = ray.get(reference)
                return found
            try:
                answer: Found = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
                return answer
            except (GetTimeoutError, RayActorError):
                return None

    def _explained(self) -> Any:
        return explained_ray_errors(
            f"{self.what}: a shard", f"One killed for memory needs more {self.what} shards, each smaller."
        )

    def __enter__(self) -> ShardActors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replicas in self.actors:
            for each in replicas:
                ray.kill(each)
