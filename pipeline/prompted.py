"""A prompt as the LLM would read it, filled in with a row of finished stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.llm.prompts import load
from pipeline.llm.requests import Request, Sampling
from pipeline.queries.generate import WRITTEN, assign, query_requests
from pipeline.recipe import PermutationsSection, Recipe
from pipeline.records import full_text
from pipeline.reranking.prompting import AGAIN, LISTWISE, SETWISE, Questions, Window, shown_text
from pipeline.synthesis.stage import document_requests, words_of


@dataclass(frozen=True)
class Example:
    """One conversation, and how its answer would be drawn."""

    task: str
    messages: list[dict[str, str]]
    sampling: Sampling


def example(task: str, recipe: Recipe, finished: Mapping[str, Artifact]) -> Example:
    """The conversation of a task about a passage that the recipe's seed draws, or about the first train query.

    Raises RayrieverError for an unknown task, and where the stage that has the values is not finished.
    """
    prompt = load(task, recipe.llm)
    if task in WRITTEN:
        kind = next(each for each in WRITTEN if each == task)
        drawn = assign(_needed(finished, "corpus").table("passages"), 1, (kind,), recipe.seed)
        return _shown(task, next(query_requests(recipe, drawn))) if drawn else _nothing("a passage that is long enough")
    if task == "verdict_again":
        return Example(task, prompt.messages(), prompt.sampling())
    corpus, queries = _needed(finished, "corpus"), _needed(finished, "queries")
    query, passages = _judged_query(queries, corpus)
    if task in (LISTWISE, AGAIN, SETWISE):
        return _ranked(task, recipe, query, passages)
    if task == "verdict":
        return Example(task, prompt.messages(query=query, passage=passages[0]), prompt.sampling())
    if task == "preference":
        return Example(task, prompt.messages(query=query, first=passages[0], second=passages[1]), prompt.sampling())
    document, _, variant = task.partition("_")
    if variant:
        chosen = recipe.synthesis.model_copy(update={"decomposition": variant})
        recipe = recipe.model_copy(update={"synthesis": chosen})
    asked = document_requests(recipe, [query], words_of(recipe, finished))
    return _shown(task, next(request for request in asked if request.purpose == document))


def _ranked(task: str, recipe: Recipe, query: str, passages: Sequence[str]) -> Example:
    """A window of two passages; an answer that is asked for again is one in prose."""
    section = recipe.permutations or PermutationsSection()
    method = "setwise" if task == SETWISE else "listwise"
    questions = Questions.with_method(recipe.llm, section.model_copy(update={"method": method}))
    window = Window(query, tuple(shown_text(passage, section.max_words) for passage in passages))
    asked = questions.second_request(window, "The first one.") if task == AGAIN else questions.request(window)
    return _shown(task, asked)


def _shown(task: str, request: Request) -> Example:
    return Example(task, [dict(message) for message in request.messages], request.sampling)


def _judged_query(queries: Artifact, corpus: Artifact) -> tuple[str, tuple[str, str]]:
    """The first train query with a relevant passage; that passage, and another."""
    judgments = queries.table("judgments").sort_by([("query_id", "ascending"), ("grade", "descending")])
    texts = queries.table("queries")
    train = texts.filter(pc.equal(texts["split"], "train"))
    judged = judgments.filter(pc.is_in(judgments["query_id"], train["query_id"].combine_chunks())).slice(0, 1)
    passages = corpus.table("passages", columns=["passage_id", "title", "text"])
    if not judged.num_rows or passages.num_rows < 2:
        _nothing("a train query with a labelled passage")
    found = judged.to_pylist()[0]
    is_relevant = pc.equal(passages["passage_id"], found["passage_id"])
    shown = [
        full_text(row["title"], row["text"])
        for rows in (passages.filter(is_relevant), passages.filter(pc.invert(is_relevant)))
        for row in rows.slice(0, 1).to_pylist()
    ]
    query = train.filter(pc.equal(train["query_id"], found["query_id"]))["text"][0].as_py()
    return query, (shown[0], shown[1])


def _needed(finished: Mapping[str, Artifact], stage: str) -> Artifact:
    if stage not in finished:
        raise RayrieverError(f"prompt: stage {stage} is not finished. First: rayriever run RECIPE --until {stage}")
    return finished[stage]


def _nothing(what: str) -> Example:
    raise RayrieverError(f"prompt: the finished stages have not {what} to show.")
