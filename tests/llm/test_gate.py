"""Limits over all actors, on a clock of our own."""

import pytest

from pipeline.llm.engines.gate import Gate, Spent, is_needed
from pipeline.recipe import LlmSection


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(clock: Clock | None = None, spent: Spent | None = None, **section: object) -> Gate:
    return Gate(LlmSection.model_validate(section), spent or Spent(), clock or Clock())


def test_requests_of_earlier_runs_count_and_the_last_one_is_exact():
    limited = gate(spent=Spent(requests=7), budget={"max_requests": 10})
    assert limited.admit([5] * 2).count == 2
    admitted = limited.admit([5] * 4)
    assert admitted.count == 1 and "max_requests is 10" in admitted.closed
    assert limited.admit([5]).count == 0


def test_tokens_and_money_close_the_gate_once_answers_have_used_them():
    limited = gate(budget={"max_tokens": 100})
    assert limited.admit([50] * 3).count == 3, "what answers will use is known only afterwards"
    limited.used(60, 0, 40)
    assert "100 tokens used" in limited.admit([50]).closed
    price = {"input": 2.0, "cached_input": 0.5, "output": 8.0}
    limited = gate(budget={"max_cost": 3.0}, price=price)
    limited.used(1_000_000, 400_000, 0)
    assert not limited.closed(), "1.20 for fresh tokens and 0.20 for cached ones"
    limited.used(0, 0, 200_000)
    assert limited.closed() == "over budget: 3.00 spent; llm.budget.max_cost is 3.00"


def test_batch_that_goes_together_is_never_cut():
    limited = gate(spent=Spent(requests=8), budget={"max_requests": 10})
    assert limited.admit([1] * 4, together=True).count == 4
    assert limited.admit([1] * 4, together=True).closed


@pytest.mark.parametrize("limit", [{"requests_per_minute": 120}, {"tokens_per_minute": 1200}])
def test_rates_hold_over_any_minute(limit: dict[str, float]):
    """120 requests, or 1,200 tokens in requests of ten, per minute, whoever asks and however often."""
    clock = Clock()
    limited, sent = gate(clock, **limit), []
    while clock.now < 400:
        admitted = limited.admit([10] * 50)
        sent += [clock.now] * admitted.count
        clock.now += admitted.wait_s or 0.01
    for start in range(100, 330, 7):
        within = sum(start <= at < start + 60 for at in sent)
        assert 115 <= within <= 123


def test_request_larger_than_the_rate_goes_alone_and_not_never():
    clock = Clock()
    limited = gate(clock, tokens_per_minute=60)
    assert limited.admit([600]).count == 1
    clock.now += 300
    assert limited.admit([600]).wait_s > 200, "it is owed"


def test_gate_is_there_only_for_limits():
    assert not is_needed(LlmSection())
    assert is_needed(LlmSection.model_validate({"budget": {"max_tokens": 1}}))
    assert is_needed(LlmSection(requests_per_minute=1))
