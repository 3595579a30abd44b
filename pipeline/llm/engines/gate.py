"""What all actors of a call share: what may still be spent, and how fast the server allows.

Every actor asks before requests go out, and tells what answers have used. So limits hold over all of them, and are
overrun by no more than what is in flight when one is reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.llm.pricing import cost
from pipeline.llm.responses import OVER_BUDGET
from pipeline.recipe import BudgetSection, LlmSection, PriceSection

_BURST_S = 1.0  # seconds' worth of a rate that may go out at once


@dataclass
class Spent:
    """What has been used so far, over all runs."""

    requests: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0  # of tokens_in
    tokens_out: int = 0

    def add(self, other: Spent) -> None:
        self.requests += other.requests
        self.tokens_in += other.tokens_in
        self.tokens_cached += other.tokens_cached
        self.tokens_out += other.tokens_out

    def cost(self, price: PriceSection) -> float:
        """Money, in the currency of the price."""
        return cost(price, self.tokens_in, self.tokens_cached, self.tokens_out)


@dataclass(frozen=True)
class Admitted:
    """An answer of the gate to a number of requests that want to go out."""

    count: int  # the first so many may go
    wait_s: float = 0.0  # after which the others may ask again
    closed: str = ""  # why no other will ever go


@dataclass
class Rate:
    """A token bucket: an amount that refills with time."""

    per_minute: float | None
    clock: Callable[[], float]
    _level: float = field(init=False)
    _seen: float = field(init=False)

    def __post_init__(self) -> None:
        self._seen, self._level = self.clock(), self._capacity

    @property
    def _capacity(self) -> float:
        return 0.0 if self.per_minute is None else max(1.0, self.per_minute * _BURST_S / 60)

    def wait_s(self, amount: float) -> float:
        """Seconds until so much may go. More than the bucket holds may go when it is full: it is owed afterwards."""
        if self.per_minute is None:
            return 0.0
        now = self.clock()
        self._level = min(self._capacity, self._level + (now - self._seen) * self.per_minute / 60)
        self._seen = now
        missing = min(amount, self._capacity) - self._level
        return max(0.0, missing * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        self._level -= amount


class Gate:
    """Admits requests in the order in which actors ask. Knows neither Ray nor HTTP."""

    def __init__(self, section: LlmSection, spent: Spent, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget, self._price, self._spent = section.budget, section.price, spent
        self._promised = Spent()
        self._requests, self._tokens = Rate(section.requests_per_minute, clock), Rate(section.tokens_per_minute, clock)

    def admit(self, tokens: list[int], together: bool = False) -> Admitted:
        """Let out as many as the limits allow.

        Args:
            tokens: of each request that wants to go out, in order: its prompt and its longest answer.
            together: all of them or none, also where fewer were left.
        """
        if together:
            closed = self.closed()
            wait_s = max(self._requests.wait_s(len(tokens)), self._tokens.wait_s(sum(tokens)))
            if closed or wait_s:
                return Admitted(0, wait_s, closed)
            self._take(len(tokens), sum(tokens))
            return Admitted(len(tokens))
        for count, amount in enumerate(tokens):
            closed = self.closed()
            if closed:
                return Admitted(count, closed=closed)
            wait_s = max(self._requests.wait_s(1), self._tokens.wait_s(amount))
            if wait_s:
                return Admitted(count, wait_s)
            self._take(1, amount)
        return Admitted(len(tokens))

    def _take(self, requests: int, tokens: int) -> None:
        self._requests.take(requests)
        self._tokens.take(tokens)
        self._spent.requests += requests

    def closed(self) -> str:
        """Which limit has been reached, in words; empty for none."""
        return reached(self._budget, self._price, self._spent, self._promised)

    def used(self, tokens_in: int, tokens_cached: int, tokens_out: int) -> None:
        """Note what answers have used."""
        self._spent.add(Spent(0, tokens_in, tokens_cached, tokens_out))

    def promise(self, tokens_in: int, tokens_out: int) -> None:
        """Count what a request may take, where nothing can be stopped any more once answers tell what it took."""
        self._promised.add(Spent(0, tokens_in, 0, tokens_out))


def reached(budget: BudgetSection, price: PriceSection | None, used: Spent, promised: Spent) -> str:
    """Which limit has been reached, in words; empty for none."""
    spent, waits = replace(used), ""
    spent.add(promised)
    if promised.tokens_in + promised.tokens_out:
        waits = ", what waits for results counted at its longest"
    if budget.max_requests is not None and spent.requests >= budget.max_requests:
        return f"{OVER_BUDGET}: {spent.requests:,} requests sent; llm.budget.max_requests is {budget.max_requests:,}"
    tokens = spent.tokens_in + spent.tokens_out
    if budget.max_tokens is not None and tokens >= budget.max_tokens:
        return f"{OVER_BUDGET}: {tokens:,} tokens used{waits}; llm.budget.max_tokens is {budget.max_tokens:,}"
    if budget.max_cost is not None and price is not None and spent.cost(price) >= budget.max_cost:
        money = f"{spent.cost(price):,.2f} spent{waits}"
        return f"{OVER_BUDGET}: {money}; llm.budget.max_cost is {budget.max_cost:,.2f}"
    return ""


def is_needed(section: LlmSection) -> bool:
    """Whether the section limits anything over all actors."""
    budget = section.budget
    limits = (budget.max_requests, budget.max_tokens, budget.max_cost)
    return any(limit is not None for limit in (*limits, section.requests_per_minute, section.tokens_per_minute))
