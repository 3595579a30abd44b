"""The permutations stage: the fusion, a file or an LLM as the teacher of candidates that were written by hand."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.llm.prompts import TEMPLATES
from pipeline.rankings import Hit
from pipeline.recipe import Recipe
from pipeline.reranking import stage
from pipeline.reranking.candidates import SOURCES
from pipeline.reranking.lists import Query
from pipeline.reranking.merging import one_source, to_table
from pipeline.reranking.queries import queries_table
from pipeline.stage import Estimate, StageContext
from pipeline.stages import relevant_section, stages_of
from tests.artifacts import Shelf

INPUTS = ("corpus", "queries", "candidates")
PASSAGES = [{"passage_id": f"p{n}", "title": f"on {n}", "text": f"a passage of relevance {n}"} for n in range(6)]
TRAIN = [
    {"query_id": "given", "text": "what is given"},
    {"query_id": "copied", "text": "what has a copy"},
    {"query_id": "plain", "text": "what has no label"},
    {"query_id": "sentence", "text": "a sentence among the train queries", "kind": "crop"},
]
JUDGMENTS = [("given", "p4", 1), ("given", "p2", 0), ("copied", "p5", 2), ("sentence", "p3", 1), ("dev", "p0", 1)]
CUT = Query("cut", "a sentence of p1", "crop")
IDS = "p0 p1 p2 p3 p4"
LISTS = {name: IDS for name in ("given", "copied", "plain", "sentence", "cut")}


@pytest.fixture
def rank(tmp_path: Path, chat_server, monkeypatch) -> Callable[..., Artifact]:
    """Rank lists of query id -> passages in fused order; p5 repeats p2, and 'cut' was cut from `cut_from`."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")

    def of(lists: Mapping[str, str] = LISTS, cut_from: str = "p1", **permutations: Any) -> Artifact:
        values = {
            "workspace": str(tmp_path / "w"),
            "corpus": {"path": "x"},
            "llm": {"engine": "openai", "model": "m", "base_url": chat_server.url, "max_retries": 0},
            "candidates": {"list_size": 5, "floor": 1},
            "permutations": permutations,
        }
        shelf = Shelf(Recipe.model_validate(values))
        shelf.corpus(PASSAGES, {"p5": "p2"})
        shelf.queries([*TRAIN, {"query_id": "dev", "text": "what is dev", "split": "dev"}], JUDGMENTS)
        texts = {row["query_id"]: Query(row["query_id"], row["text"], row.get("kind", "given")) for row in TRAIN}
        asked = {name: (texts | {"cut": CUT})[name] for name in lists}

        def candidates(ctx: StageContext) -> None:
            merged = [
                (q, one_source("bm25", [Hit(p, 9.0 - n) for n, p in enumerate(ids.split())], 9))
                for q, ids in lists.items()
            ]
            table = to_table(merged)
            # Rows come back in any order: ranks say which is first.
            ctx.out.table("candidates", table.take(list(range(table.num_rows))[::-1]), records.CANDIDATE)
            ctx.out.table("queries", queries_table(asked, records.QUERY), records.QUERY)
            cut = [{"query_id": "cut", "passage_id": cut_from, "grade": 1}] if "cut" in lists else []
            ctx.out.table(SOURCES, pa.Table.from_pylist(cut, schema=records.JUDGMENT), records.JUDGMENT)

        shelf.run("candidates", candidates, [])
        return shelf.run("permutations", stage.run, INPUTS)

    return of


def orders(done: Artifact) -> dict[str, str]:
    return {row["query_id"]: " ".join(row["passage_ids"]) for row in done.table("lists").to_pylist()}


def test_fusion_puts_labelled_passages_first_and_keeps_the_fused_order_of_the_others(rank, chat_server):
    done = rank(method="fusion")
    assert orders(done) == {
        "given": "p4 p0 p1 p2 p3",
        "copied": "p2 p0 p1 p3 p4",  # its label p5 goes by the name of p2 in every list
        "plain": IDS,
        "sentence": "p3 p0 p1 p2 p4",
        "cut": "p1 p0 p2 p3 p4",
    }
    outcomes = done.manifest.outcomes
    assert (outcomes["lists_fusion"], outcomes["lists_with_labelled_passage"]) == (5, 4)
    assert done.rows("permutations") == 0 == chat_server.total
    rows = {row["query_id"]: row for row in done.table("lists").to_pylist()}
    assert rows["given"]["scores"] == [1.0, 0.75, 0.5, 0.25, 0.0] and set(rows["given"]["confidence"]) == {1.0}
    assert (rows["cut"]["query"], rows["cut"]["kind"], rows["cut"]["teacher"]) == (CUT.text, "crop", "fusion")


def test_without_labels_only_the_passage_that_a_sentence_was_cut_from_comes_first(rank):
    """That needs no judge: sentences among the train queries are no other than those cut for the reranker."""
    done = rank(method="fusion", labels=False)
    assert orders(done) == {
        "given": IDS,
        "copied": IDS,
        "plain": IDS,
        "sentence": "p3 p0 p1 p2 p4",
        "cut": "p1 p0 p2 p3 p4",
    }


def test_sentence_of_a_near_duplicate_counts_for_the_passage_that_is_listed(rank):
    assert orders(rank({"cut": IDS}, cut_from="p5", method="fusion")) == {"cut": "p2 p0 p1 p3 p4"}


def test_label_that_no_source_has_found_is_not_put_into_the_list(rank):
    done = rank({"given": "p0 p1 p2"}, method="fusion")
    assert orders(done) == {"given": "p0 p1 p2"} and done.manifest.outcomes["lists_with_labelled_passage"] == 0


def test_recorded_query_is_not_ranked_again(rank, tmp_path: Path, chat_server):
    """Ranked twice, it would be paid for, and learnt twice with two orders."""
    path = tmp_path / "r.jsonl"
    lines = [
        {"query_id": "given", "ranking": ["p3", "p1"]},
        {"query_id": "plain", "ranking": ["p2", "p0"], "grades": {"p2": 2, "p0": 0}},
        {"query_id": "dev", "ranking": ["p1", "p0"]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    done = rank({name: IDS for name in ("given", "cut")}, method="fusion", path=str(path))
    assert orders(done) == {"given": "p3 p1", "plain": "p2 p0", "cut": "p1 p0 p2 p3 p4"}
    teachers = {row["query_id"]: row["teacher"] for row in done.table("lists").to_pylist()}
    assert teachers == {"given": "recorded", "plain": "recorded", "cut": "fusion"}
    assert (done.manifest.outcomes["lists_recorded"], done.manifest.outcomes["lists_fusion"]) == (2, 1)
    assert [row["outcome"] for row in done.table("permutations").to_pylist()] == ["recorded"] * 2
    everything = rank({"given": IDS}, path=str(path))  # listwise, with nothing left to ask about
    assert orders(everything) == {"given": "p3 p1", "plain": "p2 p0"} and chat_server.total == 0


def answered(text: str) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"body": json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage})}


def by_relevance(content: str, attempt: int) -> dict[str, Any]:
    """The passages say how relevant they are; of one query nothing can be said."""
    if "Question: what has no label" in content or "Answer with one line only" in content:
        return answered("I would rather not.")
    shown: Sequence[int] = [int(each) for each in re.findall(r"relevance (\d)", content)]
    return answered(" > ".join(f"[{n + 1}]" for n in sorted(range(len(shown)), key=lambda n: -shown[n])))


def test_llm_ranks_what_has_two_passages_and_every_list_is_accounted_for(rank, chat_server, ray_cluster):
    chat_server.reply = by_relevance
    lists = {"given": IDS, "copied": "p2", "plain": IDS, "sentence": "", "cut": "p1 p3"}
    done = rank(lists)
    first = orders(done)
    assert first == {"given": "p4 p3 p2 p1 p0", "cut": "p3 p1"}, "the teacher decides, not the label"
    said = {(row["query_id"], row["outcome"]) for row in done.table("permutations").to_pylist()}
    assert said == {("given", "ok"), ("cut", "ok"), ("plain", "wrong_format")}
    outcomes = done.manifest.outcomes
    assert outcomes["lists_too_short"] == 2 and outcomes["lists_listwise"] == outcomes["queries_ranked"] == 2
    assert outcomes["queries_without_ranking"] == 1 and chat_server.total == 2 + 2
    shown = next(body["messages"][-1]["content"] for body in chat_server.bodies if CUT.text in str(body))
    assert "on 1 a passage of relevance 1" in shown, "title and text"
    assert orders(rank(lists)) == first and chat_server.total == 4, "asked again for what is stored"

    with pytest.raises(RayrieverError, match=r"permutations: no list is ranked \(.*1 queries without"):
        rank({"plain": IDS})


def test_nothing_to_rank_is_an_error_with_its_reason(rank):
    with pytest.raises(RayrieverError, match=r"no list is ranked \(2 lists too short"):
        rank({"given": "p0", "cut": ""}, method="fusion")


def test_key_changes_with_what_decides_the_order_and_with_nothing_else(tmp_path: Path):
    own = tmp_path / "own.jinja"
    own.write_text((TEMPLATES / "permutation.jinja").read_text() + "Think well.\n")
    recorded = tmp_path / "r.jsonl"
    recorded.write_text("{}")

    def key(permutations: dict[str, Any] | None = None, **llm: Any) -> str:
        llm = {"engine": "openai", "model": "m", "base_url": "http://x", **llm}
        values = {"corpus": {"path": "x"}, "candidates": {}, "llm": llm, "permutations": permutations or {}}
        recipe = Recipe.model_validate(values)
        (found,) = (each for each in stages_of(recipe) if each.name == "permutations")
        return json.dumps(relevant_section(found, recipe), sort_keys=True)

    keys = [
        key(),
        key(model="other"),
        key(prompts={"permutation": str(own)}),
        key(max_context_tokens=9000),
        key({"method": "fusion"}),
        key({"passes": 2}),
        key({"path": str(recorded)}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(concurrency=7) == key()
    fusion = {"method": "fusion"}
    assert key(fusion, model="other") == key(fusion), "no LLM is asked"
    with pytest.raises(RayrieverError, match="gives no likelihoods"):
        key({"method": "setwise"})


def test_plan_foresees_the_requests_of_each_method(tmp_path: Path):
    def foreseen(permutations: dict[str, Any], candidates: bool = True, **llm: Any) -> Estimate:
        values = {"workspace": str(tmp_path), "corpus": {"path": "x"}, "permutations": permutations}
        values |= {"llm": {"engine": "openai", "model": "m", "base_url": "http://x", **llm}}
        upstream = {"queries": Estimate(50, 0), "corpus": Estimate(900, 0)}
        if candidates:
            values["candidates"], upstream["candidates"] = {"list_size": 30}, Estimate(300, 0)
        return stage.estimate(Recipe.model_validate(values), upstream)

    assert foreseen({"window": 20, "passes": 3}).llm_requests == 10 * 3 * 2
    assert foreseen({}, max_context_tokens=100_000).llm_requests == 10
    setwise = foreseen({"method": "setwise"}, engine="vllm", base_url=None)
    assert (setwise.llm_requests, setwise.llm_tokens_out) == (10 * 5, 10 * 5)
    assert foreseen({"method": "fusion"}) == Estimate(10, 40_000, note="no LLM: the fused order")
    assert foreseen({"path": "r.jsonl"}, candidates=False).llm_requests == 0
    assert foreseen({"window": 20}).rows == 10 and foreseen({"window": 20}).llm_tokens_in > 10 * 20 * 100
