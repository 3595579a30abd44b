"""The LLM as a teacher: it puts every list in order, window by window, as often as the recipe has passes.

The windows of a list follow from each other, so that all lists advance together: a round asks about one window of
every list that goes on.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from pipeline.errors import RayrieverError
from pipeline.llm.ask import ask
from pipeline.reranking.aggregation import Ranking, aggregate
from pipeline.reranking.lists import RankedList, Said, Taught, UnrankedList
from pipeline.reranking.prompting import Questions, Reading, Window, shown_text
from pipeline.stage import StageContext


def ranked_by_llm(ctx: StageContext, lists: Sequence[UnrankedList], texts: Mapping[str, str]) -> Taught:
    """Ask the recipe's LLM, which ranks as `permutations` says; answers that are stored already are taken.

    Args:
        lists: of one passage or more; of one, there is nothing to ask.
        texts: passage id -> title and text, of every passage in `lists`.

    A window whose answer cannot be read is asked for once more; where that does not help, or nobody answers, that pass
    over the list is dropped, and with all of its passes the list. Outcomes are counted: answers by their class, and
    what was dropped. Raises RayrieverError as `pipeline.llm.complete` does, for an engine without likelihoods, and for
    windows that cannot fit into the context.
    """
    questions = Questions.of(ctx.recipe)
    shown = {passage_id: shown_text(text, questions.section.max_words) for passage_id, text in texts.items()}
    passes = [
        each
        for unranked in lists
        if unranked.passage_ids
        for each in _passes(unranked, questions, shown, ctx.recipe.seed)
    ]
    _check_context(passes, questions, shown)
    said: list[Said] = []
    rounds = max((len(each.spans) for each in passes), default=0)
    for window in range(rounds):
        going_on = [each for each in passes if not each.is_dropped and window < len(each.spans)]
        what = f"lists ranked, window {window + 1} of {rounds}" if rounds > 1 else "lists ranked"
        said += _round(ctx, questions, going_on, shown, window, what)
    return Taught(_aggregated(ctx, questions, lists, passes), said)


class _Pass:
    """One ranking of a list in the making."""

    def __init__(self, unranked: UnrankedList, number: int, order: list[str], spans: Sequence[tuple[int, int]]) -> None:
        self.unranked, self.number, self.order, self.spans = unranked, number, order, spans
        self.is_dropped = False
        self._windows: list[tuple[str, ...]] = []

    def shown(self, window: int) -> tuple[str, ...]:
        """The passages of a window as they stand now."""
        start, end = self.spans[window]
        return tuple(self.order[start:end])

    def take(self, window: int, ranked: tuple[str, ...]) -> None:
        """Put a window's passages in order."""
        start, end = self.spans[window]
        self.order[start:end] = ranked
        self._windows.append(ranked)

    def ranking(self) -> Ranking:
        return Ranking(tuple(self.order), tuple(self._windows))


def _passes(unranked: UnrankedList, questions: Questions, shown: Mapping[str, str], seed: int) -> list[_Pass]:
    """All passes over a list, each with the order in which it begins."""
    query_id, ids = unranked.query.query_id, unranked.passage_ids
    spans = questions.spans(_window(unranked, ids, shown))
    passes = []
    for number in range(questions.section.passes):
        order = list(ids)
        if number or questions.section.order == "shuffle":
            random.Random(f"{seed}\n{query_id}\n{number}").shuffle(order)
        passes.append(_Pass(unranked, number, order, spans))
    return passes


def _window(unranked: UnrankedList, ids: Sequence[str], shown: Mapping[str, str]) -> Window:
    # A query may be a sentence of a passage.
    text = unranked.query.text
    return Window(shown_text(text, len(text)), tuple(shown[passage_id] for passage_id in ids))


def _check_context(passes: Sequence[_Pass], questions: Questions, shown: Mapping[str, str]) -> None:
    """Raise RayrieverError where a window has more words than the context has tokens, of which a word takes one."""
    if questions.llm.engine not in ("transformers", "vllm"):
        return  # only the server knows how much it takes
    words = {passage_id: len(text.split()) for passage_id, text in shown.items()}
    longest = 0
    for each in passes:
        size = max((end - start for start, end in each.spans), default=0)
        longest = max(longest, sum(sorted((words[passage_id] for passage_id in each.order), reverse=True)[:size]))
    if longest >= questions.llm.max_context_tokens:
        raise RayrieverError(
            f"permutations: {questions.section.window_size} passages of a list have up to {longest:,} words, but "
            f"llm.max_context_tokens is {questions.llm.max_context_tokens:,}. Raise it, or lower permutations.window "
            "or permutations.max_words."
        )


def _round(
    ctx: StageContext, questions: Questions, passes: Sequence[_Pass], texts: Mapping[str, str], window: int, what: str
) -> list[Said]:
    """Ask for one window of each pass, and take what can be read; all that was said."""
    shown = [each.shown(window) for each in passes]
    asked = [_window(each.unranked, ids, texts) for each, ids in zip(passes, shown, strict=True)]
    said = []
    for each, ids, readings in zip(passes, shown, _ask_twice(ctx, questions, asked, what), strict=True):
        for reading in readings:
            ctx.out.outcomes[f"permutations_{reading.outcome}"] += 1
            ranked = tuple(ids[place] for place in reading.places)
            said.append(
                Said(each.unranked.query.query_id, each.number, window, ids, ranked, reading.answer, reading.outcome)
            )
        if said[-1].ranked:
            each.take(window, said[-1].ranked)
        else:
            each.is_dropped = True
            ctx.out.outcomes["passes_dropped"] += 1
    return said


def _ask_twice(
    ctx: StageContext, questions: Questions, asked: Sequence[Window], description: str
) -> list[list[Reading]]:
    """What one answer or two say of each window; the last counts."""
    rows = ask(ctx, (questions.request(each) for each in asked), description)
    readings = [[questions.read(row, each)] for each, row in zip(asked, rows, strict=True)]
    unclear = [number for number, (first,) in enumerate(readings) if questions.insists(first)]
    if unclear:
        insistence = (questions.second_request(asked[n], readings[n][0].answer or "") for n in unclear)
        for number, row in zip(unclear, ask(ctx, insistence, f"{description}, again"), strict=True):
            readings[number].append(questions.read(row, asked[number], again=True))
        ctx.out.outcomes["permutations_asked_again"] += len(unclear)
    return readings


def _aggregated(
    ctx: StageContext, questions: Questions, lists: Sequence[UnrankedList], passes: Sequence[_Pass]
) -> list[RankedList]:
    rankings: dict[str, list[Ranking]] = defaultdict(list)
    for each in passes:
        if not each.is_dropped:
            rankings[each.unranked.query.query_id].append(each.ranking())
    ranked = [
        aggregate(each.query, questions.section.method, each.passage_ids, rankings[each.query.query_id])
        for each in lists
        if each.query.query_id in rankings
    ]
    ctx.out.outcomes["queries_ranked"] += len(ranked)
    ctx.out.outcomes["queries_without_ranking"] += len(lists) - len(ranked)
    return ranked
