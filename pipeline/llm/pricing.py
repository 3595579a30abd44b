"""What tokens cost."""

from __future__ import annotations

from pipeline.recipe import PriceSection

_PER_MILLION = 1_000_000


def cost(price: PriceSection, tokens_in: int, tokens_cached: int, tokens_out: int) -> float:
    """Money, in the currency of the price; `tokens_cached` are among `tokens_in`."""
    cached = price.input if price.cached_input is None else price.cached_input
    millionfold = (tokens_in - tokens_cached) * price.input + tokens_cached * cached + tokens_out * price.output
    return millionfold / _PER_MILLION
