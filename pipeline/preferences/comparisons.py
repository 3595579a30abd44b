"""Ask the LLM which of two passages is more relevant, and read its answers as preferences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from pipeline.llm.ask import ask
from pipeline.llm.parsers import CHOICES
from pipeline.llm.prompts import load
from pipeline.llm.requests import Request
from pipeline.preferences.pairs import as_shown, choose_pairs
from pipeline.recipe import PreferencesSection
from pipeline.stage import StageContext

TASK = "preference"

Outcome = Literal["first", "second", "none", "unparseable", "error", "label_first", "label_second"]
_WINNERS: dict[Outcome, Literal["first", "second"]] = {
    "first": "first",
    "second": "second",
    "label_first": "first",
    "label_second": "second",
}


@dataclass(frozen=True)
class Comparison:
    """One row of `records.COMPARISON`: two passages in the order shown, and what was said about them."""

    query_id: str
    first_id: str
    second_id: str
    answer: str | None
    model: str | None
    outcome: Outcome

    @property
    def preferred(self) -> tuple[str, str] | None:
        """(better, worse), or None without a winner."""
        winner = _WINNERS.get(self.outcome)
        if winner is None:
            return None
        return (self.first_id, self.second_id) if winner == "first" else (self.second_id, self.first_id)


@dataclass(frozen=True)
class Question:
    """Two passages of a query in the order in which they are to be shown; `label` names the one that labels prefer."""

    query_id: str
    first_id: str
    second_id: str
    label: Literal["label_first", "label_second"] | None = None


def questions(
    candidates: Mapping[str, Sequence[str]], labelled: Mapping[str, Set[str]], section: PreferencesSection, seed: int
) -> list[Question]:
    """What is compared, by query.

    Args:
        candidates: query id -> passages, best first.
        labelled: query id -> those of its candidates that are labelled relevant. Where exactly one of a pair is, the
            label decides; empty where the LLM is to decide everything.
    """
    asked = []
    for query_id, ids in candidates.items():
        relevant = labelled.get(query_id, set())
        of_query = f"{seed}\n{query_id}"
        for pair in choose_pairs(ids, section.pairs, of_query):
            if len(relevant & set(pair)) == 1:
                # A label needs no second opinion in the other order.
                one, other = as_shown(pair, "coin", of_query)[0]
                asked.append(Question(query_id, one, other, "label_first" if one in relevant else "label_second"))
            else:
                asked += [Question(query_id, *shown) for shown in as_shown(pair, section.order, of_query)]
    return asked


def compare(
    ctx: StageContext, asked: Sequence[Question], queries: Mapping[str, str], passages: Mapping[str, str]
) -> list[Comparison]:
    """A comparison per question, in order.

    Args:
        queries, passages: id -> text; passages as they are shown.
    Raises RayrieverError as `pipeline.llm.complete` does.
    """
    open_questions = [question for question in asked if question.label is None]
    outcomes = iter(_ask(ctx, open_questions, queries, passages))
    model = ctx.recipe.llm.model
    comparisons = []
    for question in asked:
        ids = (question.query_id, question.first_id, question.second_id)
        if question.label is not None:
            comparisons.append(Comparison(*ids, None, None, question.label))
        else:
            answer, outcome = next(outcomes)
            comparisons.append(Comparison(*ids, answer, model, outcome))
    return comparisons


def _ask(
    ctx: StageContext, asked: Sequence[Question], queries: Mapping[str, str], passages: Mapping[str, str]
) -> list[tuple[str | None, Outcome]]:
    """Answers in order, None where the request has failed, and what they say."""
    if not asked:
        return []
    prompt = load(TASK, ctx.recipe.llm)
    parse = CHOICES[prompt.about.parser]
    conversations = (
        prompt.messages(query=queries[each.query_id], first=passages[each.first_id], second=passages[each.second_id])
        for each in asked
    )
    sampling = prompt.sampling()
    responses = ask(ctx, (Request(TASK, each, sampling) for each in conversations), "passages compared")
    return [
        (None, "error") if row["error"] else (row["text"], parse(row["text"], row["finish_reason"]) or "unparseable")
        for row in responses
    ]


def preferences_of(comparisons: Sequence[Comparison]) -> tuple[dict[str, list[tuple[str, str]]], Counter[str]]:
    """Query id -> (better, worse) of every pair that is decided, and counts of outcomes.

    Answers in both orders count once, when they agree. How often the passage that was shown first wins is
    `answer_first` against `answer_second`.
    """
    outcomes = Counter[str]()
    verdicts: dict[tuple[str, str, str], list[tuple[str, str] | None]] = defaultdict(list)
    for each in comparisons:
        outcomes[each.outcome if each.outcome.startswith("label") else f"answer_{each.outcome}"] += 1
        one, other = sorted((each.first_id, each.second_id))
        verdicts[each.query_id, one, other].append(each.preferred)
    preferences: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for (query_id, _, _), found in verdicts.items():
        if len(found) > 1 and None not in found:
            outcomes["pairs_agreeing" if len(set(found)) == 1 else "pairs_disagreeing"] += 1
        if (winner := found[0]) is not None and len(set(found)) == 1:
            preferences[query_id].append(winner)
        else:
            outcomes["no_preference"] += 1
    outcomes["pairs"] = len(verdicts)
    return dict(preferences), outcomes
