"""Self-verification: the LLM says whether its own passages answer the query, and a policy acts on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.llm.ask import ask
from pipeline.llm.parsers import VERDICTS
from pipeline.llm.prompts import Prompt, load
from pipeline.llm.requests import Messages, Request
from pipeline.stage import StageContext

Verdict = Literal["yes", "no", "unparseable", "error", "absent", "unverified"]
Outcome = Literal["kept", "relabelled", "dropped"]
Policy = Literal["relabel", "drop", "keep"]


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
    if not ctx.recipe.synthesis.verify:
        return adopt(ctx, queries, positives, {})
    verdicts = _ask_twice(ctx, queries, positives, "positives verified")
    ctx.out.outcomes["verdict_retried"] += verdicts.retried
    return _decide_all(ctx, queries, verdicts.by_query)


def adopt(
    ctx: StageContext, queries: Iterable[str], positives: Iterable[str], verified: Mapping[str, bool]
) -> dict[str, Verification]:
    """A verification per query from verdicts that are known already (query id -> passed); nobody is asked.

    A positive without one, and every positive where `synthesis.verify` is off, is 'unverified'.
    """
    known = verified if ctx.recipe.synthesis.verify else {}
    words: dict[bool | None, Verdict] = {True: "yes", False: "no", None: "unverified"}
    return _decide_all(ctx, queries, {query_id: words[known.get(query_id)] for query_id in positives})


def relevant_negatives(ctx: StageContext, queries: Mapping[str, str], negatives: Mapping[str, str]) -> set[str]:
    """Ids of queries whose negative answers them, according to the LLM: a false negative. Verdicts are counted.

    A negative whose verdict cannot be read or never came is not among them: it was written to be irrelevant.
    """
    verdicts = _ask_twice(ctx, queries, negatives, "negatives checked")
    ctx.out.outcomes["negative_verdict_retried"] += verdicts.retried
    for verdict in verdicts.by_query.values():
        ctx.out.outcomes[f"negative_verdict_{verdict}"] += 1
    return {query_id for query_id, verdict in verdicts.by_query.items() if verdict == "yes"}


def _decide_all(ctx: StageContext, queries: Iterable[str], verdicts: Mapping[str, Verdict]) -> dict[str, Verification]:
    policy = ctx.recipe.synthesis.on_failure
    every: dict[str, Verdict] = {query_id: verdicts.get(query_id, "absent") for query_id in queries}
    decided = {query_id: Verification(verdict, decide(verdict, policy)) for query_id, verdict in every.items()}
    for verification in decided.values():
        ctx.out.outcomes[f"verdict_{verification.verdict}"] += 1
        ctx.out.outcomes[f"positive_{verification.outcome}"] += 1
    return decided


@dataclass(frozen=True)
class _Verdicts:
    by_query: dict[str, Verdict]
    retried: int


def _ask_twice(
    ctx: StageContext, queries: Mapping[str, str], passages: Mapping[str, str], description: str
) -> _Verdicts:
    """Ask whether each query's passage is relevant, and once more where the answer is neither yes nor no."""
    once, again = load("verdict", ctx.recipe.llm), load("verdict_again", ctx.recipe.llm)

    def question(query_id: str) -> list[dict[str, str]]:
        return once.messages(query=queries[query_id], passage=passages[query_id])

    def insistence(query_id: str) -> list[dict[str, str]]:
        # The same request at temperature 0 would be answered from the store: quote the answer and insist.
        return [*question(query_id), {"role": "assistant", "content": first[query_id].text}, *again.messages()]

    first = _ask(ctx, once, [query_id for query_id in queries if query_id in passages], question, description)
    unclear = [query_id for query_id, answer in first.items() if answer.verdict == "unparseable"]
    second = _ask(ctx, again, unclear, insistence, description)
    return _Verdicts({query_id: answer.verdict for query_id, answer in (first | second).items()}, len(unclear))


@dataclass(frozen=True)
class _Answer:
    text: str
    verdict: Verdict


def _ask(
    ctx: StageContext,
    prompt: Prompt,
    query_ids: Sequence[str],
    conversation: Callable[[str], Messages],
    description: str,
) -> dict[str, _Answer]:
    """Answers by query id."""
    if not query_ids:
        return {}
    parse, sampling = VERDICTS[prompt.about.parser], prompt.sampling()
    requests = (Request("verdict", conversation(query_id), sampling) for query_id in query_ids)
    responses = ask(ctx, requests, description)
    words: dict[bool | None, Verdict] = {True: "yes", False: "no", None: "unparseable"}
    return {
        query_id: _Answer(row["text"], "error" if row["error"] else words[parse(row["text"], row["finish_reason"])])
        for query_id, row in zip(query_ids, responses, strict=True)
    }
