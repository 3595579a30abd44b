"""Self-verification: the LLM says whether its own positive answers the query, and a policy acts on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.llm.complete import complete
from pipeline.llm.prompts import render
from pipeline.llm.requests import Messages, Sampling, build, model_identity
from pipeline.stage import StageContext
from pipeline.synthesis.parsing import Outcome, parse_verdict

Verdict = Literal["yes", "no", "unparseable", "error", "absent", "unverified"]
Policy = Literal["relabel", "drop", "keep"]

_SAMPLING = Sampling(temperature=0.0, max_tokens=8)


@dataclass(frozen=True)
class Verification:
    """What the LLM said about a synthetic positive and what follows from it."""

    verdict: Verdict
    outcome: Outcome


def decide(verdict: Verdict, policy: Policy) -> Outcome:
    """A failed positive is relabelled as a hard negative by default, not dropped (Kim & Baek 2025, section 2.2).

    An unparseable or missing verdict says nothing about the passage: it is dropped whatever the policy.
    """
    if verdict in ("yes", "unverified"):
        return "kept"
    if verdict in ("unparseable", "error", "absent"):
        return "dropped"
    outcomes: dict[Policy, Outcome] = {"relabel": "relabelled", "drop": "dropped", "keep": "kept"}
    return outcomes[policy]


def verify(ctx: StageContext, queries: Mapping[str, str], positives: Mapping[str, str]) -> dict[str, Verification]:
    """A verification per query; queries without a positive are 'absent'. Outcomes are counted."""
    section = ctx.recipe.synthesis
    verdicts: dict[str, Verdict] = dict.fromkeys(queries, "absent")
    if section.verify:
        verdicts |= _ask_twice(ctx, queries, positives)
    else:
        verdicts |= dict.fromkeys(positives, "unverified")
    decided = {query_id: Verification(v, decide(v, section.on_failure)) for query_id, v in verdicts.items()}
    for verification in decided.values():
        ctx.out.outcomes[f"verdict_{verification.verdict}"] += 1
        ctx.out.outcomes[f"positive_{verification.outcome}"] += 1
    return decided


def _ask_twice(ctx: StageContext, queries: Mapping[str, str], positives: Mapping[str, str]) -> dict[str, Verdict]:
    """Ask once, and once more where the answer is neither yes nor no."""
    ids = [query_id for query_id in queries if query_id in positives]
    prompts: dict[str, Messages] = {i: render("verdict", query=queries[i], passage=positives[i]) for i in ids}
    first = _ask(ctx, prompts, ids)
    unclear = [i for i in ids if (answer := first[i]) is not None and parse_verdict(answer) is None]
    for query_id in unclear:
        # The same request at temperature 0 would be answered from the store: quote the answer and insist.
        again = render("verdict_again")
        prompts[query_id] = [*prompts[query_id], {"role": "assistant", "content": first[query_id] or ""}, *again]
    second = _ask(ctx, prompts, unclear)
    ctx.out.outcomes["verdict_retried"] += len(unclear)
    return {query_id: _verdict((first | second)[query_id]) for query_id in ids}


def _verdict(answer: str | None) -> Verdict:
    if answer is None:
        return "error"
    words: dict[bool | None, Verdict] = {True: "yes", False: "no", None: "unparseable"}
    return words[parse_verdict(answer)]


def _ask(ctx: StageContext, prompts: Mapping[str, Messages], ids: Sequence[str]) -> dict[str, str | None]:
    """Answers by query id; None where the request has failed."""
    if not ids:
        return {}
    recipe = ctx.recipe
    requests = build(model_identity(recipe.llm), "verdict", [prompts[i] for i in ids], _SAMPLING)
    responses = complete(requests, recipe.llm, ctx.workspace, recipe.ray, ctx.progress, "positives verified")
    rows = zip(ids, responses["text"].to_pylist(), responses["error"].to_pylist(), strict=True)
    return {query_id: text if error is None else None for query_id, text, error in rows}
