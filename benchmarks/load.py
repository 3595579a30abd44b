"""Requests against a running HTTP server, and what their latencies were: closed loop, or arrivals at a rate."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

Body = Callable[[], Any]  # what the next request sends
Right = Callable[[Any, Any], bool]  # whether an answer is the right one to what was sent
_TIMEOUT_S = 120.0
_RETRY_AFTER_S = 0.5  # doubled by every try, as OpenAI's client does


@dataclass
class Outcome:
    """Of all requests of one measurement."""

    seconds: float = 0.0
    answered: list[float] = field(default_factory=list)  # latencies of answers with status 200, in seconds
    refused: list[float] = field(default_factory=list)  # of those with 429 or 503
    statuses: Counter[int] = field(default_factory=Counter)  # 0: no answer
    wrong: int = 0  # of those with status 200
    sent_again: Counter[int] = field(default_factory=Counter)  # tries that were repeated, by status

    def add(self, status: int, latency: float) -> None:
        self.statuses[status] += 1
        if status == 200:
            self.answered.append(latency)
        elif status in (429, 503):
            self.refused.append(latency)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.answered) / self.seconds

    def failed(self) -> int:
        """Requests that were neither answered nor refused."""
        return sum(self.statuses.values()) - len(self.answered) - len(self.refused)

    def figures(self) -> dict[str, float]:
        """Milliseconds are those of answers."""
        return {"per_s": round(self.rate, 1), **percentiles(self.answered), "failed": self.failed()}


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    if not latencies:
        return {}
    return {f"p{q}_ms": round(1000 * float(np.percentile(latencies, q)), 2) for q in (50, 95, 99)}


def closed_loop(url: str, body: Body, clients: int, seconds: float, right: Right | None = None) -> Outcome:
    """Each client sends its next request when it has the answer to the one before."""

    async def work(send: Callable[[], Awaitable[None]]) -> None:
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                await send()

        await asyncio.gather(*(client() for _ in range(clients)))

    return _measured(url, body, work, right)


def open_loop(
    url: str, body: Body, per_s: float, seconds: float, right: Right | None = None, retries: int = 0
) -> Outcome:
    """Requests come as a Poisson process, whether or not those before are answered.

    Args:
        retries: times that a request without an answer, or with status 429 or 5xx, is sent again, as official clients
            do; its latency is that of all its tries.
    """

    async def work(send: Callable[[], Awaitable[None]]) -> None:
        chance, began, due = random.Random(0), time.perf_counter(), 0.0
        async with asyncio.TaskGroup() as group:
            while (due := due + chance.expovariate(per_s)) < seconds:
                await asyncio.sleep(max(0.0, began + due - time.perf_counter()))
                group.create_task(send())  # type: ignore[arg-type]

    return _measured(url, body, work, right, retries)


def _measured(
    url: str,
    body: Body,
    work: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]],
    right: Right | None,
    retries: int = 0,
) -> Outcome:
    async def run() -> Outcome:
        outcome = Outcome()
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

            async def once(sent: Any) -> tuple[int, bytes]:
                try:
                    async with session.post(url, json=sent) as answer:
                        return answer.status, await answer.read()
                except (aiohttp.ClientError, TimeoutError):
                    return 0, b""

            async def send() -> None:
                sent, began = body(), time.perf_counter()
                status, read = await once(sent)
                for number in range(retries):
                    if status not in (0, 429) and status < 500:
                        break
                    outcome.sent_again[status] += 1
                    await asyncio.sleep(_RETRY_AFTER_S * 2**number)
                    status, read = await once(sent)
                outcome.add(status, time.perf_counter() - began)
                if right is not None and status == 200 and not right(sent, json.loads(read)):
                    outcome.wrong += 1

            began = time.perf_counter()
            await work(send)
            outcome.seconds = time.perf_counter() - began
        return outcome

    return asyncio.run(run())
