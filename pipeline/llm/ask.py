"""How a stage asks the LLM, and learns afterwards what that has cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.llm.complete import complete
from pipeline.llm.requests import Request, model_identity, tables
from pipeline.stage import StageContext

_COUNTED = ("tokens_in", "tokens_cached", "tokens_out")


def ask(ctx: StageContext, requests: Iterable[Request], description: str) -> Iterator[dict[str, Any]]:
    """One LLM_RESPONSE row per request, in order, as `complete` gives them.

    What the answers took is added to `ctx.out.llm`, as the rows are taken, also where an answer was there before: what
    the stage has used is what `rayriever plan` had to foresee.
    """
    recipe = ctx.recipe
    rows = tables(model_identity(recipe.llm), requests)
    answers = complete(rows, recipe.llm, ctx.workspace, recipe.ray, ctx.progress, description)
    return _counted(ctx, answers)


def _counted(ctx: StageContext, answers: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in answers:
        ctx.out.llm["requests"] += 1
        for name in _COUNTED:
            ctx.out.llm[name] += row[name]
        yield row
