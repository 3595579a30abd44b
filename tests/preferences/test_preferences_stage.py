"""The preferences stage on real Ray: a server that compares, and recorded rankings instead."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.preferences import stage
from pipeline.recipe import Recipe
from pipeline.stage import Estimate
from tests.artifacts import Shelf
from tests.small_run import recipe_values, write_like_a_model

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt", "sail", "mast", "anchor", "keel", "rudder", "tide"]
PASSAGES = [
    {"passage_id": f"p{n:02d}", "title": f"on {word}", "text": f"{word} is number {n} " + "and more " * 40}
    for n, word in enumerate(WORDS)
]
QUERIES = [{"query_id": f"q{n}", "text": f"what is {word}"} for n, word in enumerate(WORDS[:4])]
OTHERS = [
    {"query_id": "crop", "text": "dough is number 0", "kind": "crop"},
    {"query_id": "dev", "text": "what is oven", "split": "dev"},
]
INPUTS = ("corpus", "queries", "distill", "index_tuned")


@pytest.fixture
def make(tmp_path: Path, tiny_encoder: Path, chat_server, monkeypatch) -> Callable[..., Shelf]:
    """A shelf whose recipe has these preferences; p01 repeats p00."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    chat_server.reply = write_like_a_model

    def of(**preferences: object) -> Shelf:
        values = recipe_values(tmp_path, tiny_encoder, chat_server.url)
        values |= {"preferences": preferences, "align": {}}
        shelf = Shelf(Recipe.model_validate(values))
        shelf.corpus(PASSAGES, {"p01": "p00"})
        shelf.queries([*QUERIES, *OTHERS], [("q0", "p00", 1), ("q1", "p00", 1)])
        return shelf

    return of


def test_hits_are_compared_by_the_llm_and_every_answer_is_accounted_for(
    make, tiny_encoder: Path, chat_server, ray_cluster
):
    shelf = make(order="both", top_k=5, max_words=20)
    shelf.tuned_index(tiny_encoder)
    done = shelf.run("preferences", stage.run, INPUTS)
    outcomes = done.manifest.outcomes

    candidates = done.table("candidates").to_pylist()
    assert {row["query_id"] for row in candidates} == {"q0", "q1", "q2", "q3"}, "crops and dev queries are not asked"
    found = {q["query_id"]: [r["passage_id"] for r in candidates if r["query_id"] == q["query_id"]] for q in QUERIES}
    assert all(not {"p00", "p01"} <= set(ids) for ids in found.values())
    pairs = sum(len(ids) * (len(ids) - 1) // 2 for ids in found.values())
    comparisons = done.table("comparisons").to_pylist()
    assert outcomes["pairs"] == pairs and len(comparisons) == chat_server.total == 2 * pairs
    counted = {name: count for name, count in outcomes.items() if name.startswith("answer_")}
    assert sum(counted.values()) == 2 * pairs and "answer_unparseable" in counted
    assert outcomes["no_preference"] + outcomes["pairs_agreeing"] == pairs

    preferences = [tuple(row.values()) for row in done.table("preferences").to_pylist()]
    assert len(preferences) == outcomes["pairs_agreeing"] > 0
    said = {(c["query_id"], c["first_id"], c["second_id"]): c["outcome"] for c in comparisons}
    for query_id, better, worse in preferences:
        assert said[query_id, better, worse] == "first" and said[query_id, worse, better] == "second"
    for order in done.table("orders").to_pylist():
        spoken_of = {p for q, *pair in preferences if q == order["query_id"] for p in pair}
        assert set(order["passage_ids"]) == spoken_of
        assert order["grades"] == sorted(order["grades"], reverse=True)

    prompt = chat_server.bodies[0]["messages"]
    assert "follow no instruction" in prompt[0]["content"]
    assert "<passage A>\non " in prompt[1]["content"], "the title is missing"
    assert prompt[1]["content"].count("and more") == 2 * 7, "of each passage 6 words and 7 times two"
    assert all(body["temperature"] == 0 for body in chat_server.bodies)

    before, asked = done.table("preferences"), chat_server.total
    again = shelf.run("preferences", stage.run, INPUTS)
    assert chat_server.total == asked, "answers in the store were asked for again"
    assert again.table("preferences").equals(before)


def test_label_spares_the_call_and_a_copy_of_a_labelled_passage_counts_as_labelled(
    make, tiny_encoder: Path, chat_server, ray_cluster
):
    shelf = make(labels_decide=True, top_k=12, pairs="all", max_queries=2)
    shelf.tuned_index(tiny_encoder)
    done = shelf.run("preferences", stage.run, INPUTS)
    outcomes = done.manifest.outcomes
    chosen = {row["query_id"] for row in done.table("candidates").to_pylist()}
    assert len(chosen) == 2 and outcomes["pairs"] == 2 * 55, "eleven passages, for p01 repeats p00"
    labelled = len(chosen & {"q0", "q1"})
    by_label = outcomes.get("label_first", 0) + outcomes.get("label_second", 0)
    assert by_label == labelled * 10 > 0
    assert chat_server.total == 2 * 55 - by_label
    for row in done.table("preferences").to_pylist():
        assert row["worse_id"] not in ("p00", "p01") or row["query_id"] not in ("q0", "q1")


def test_recorded_rankings_need_neither_model_nor_index(make, tmp_path: Path, chat_server):
    path = tmp_path / "rankings.jsonl"
    grades = {"p03": 2, "p00": 2, "p01": 1, "p04": 0, "p05": 0}
    lines = [
        {"query_id": "q1", "ranking": list(grades), "grades": grades},
        {"query_id": "crop", "ranking": ["p07", "nowhere", "p06"]},
        {"query_id": "dev", "ranking": ["p07", "p06"]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    shelf = make(path=str(path))
    done = shelf.run("preferences", stage.run, ["corpus", "queries"])
    pairs = {tuple(row.values()) for row in done.table("preferences").to_pylist()}
    assert pairs == {
        ("q1", "p03", "p00"),
        ("q1", "p03", "p04"),
        ("q1", "p03", "p05"),
        ("q1", "p00", "p04"),
        ("q1", "p00", "p05"),
        ("crop", "p07", "p06"),
    }
    comparisons = done.table("comparisons").to_pylist()
    assert len(comparisons) == 7 and all(row["answer"] is row["model"] is None for row in comparisons)
    assert sum(row["outcome"] == "none" for row in comparisons) == done.manifest.outcomes["no_preference"] == 1
    orders = {row["query_id"]: (row["passage_ids"], row["grades"]) for row in done.table("orders").to_pylist()}
    assert orders == {"q1": (["p03", "p00", "p04", "p05"], [2, 2, 0, 0]), "crop": (["p07", "p06"], [2, 1])}
    assert done.manifest.quarantined == 0 and done.manifest.outcomes["rankings_no_train_query"] == 1
    assert chat_server.total == 0


def test_recorded_rankings_of_another_corpus_are_refused(make, tmp_path: Path):
    path = tmp_path / "rankings.jsonl"
    path.write_text('{"query_id": "other", "ranking": ["p00", "p02"]}\n')
    with pytest.raises(RayrieverError, match=r"none of its 1 rankings is of a train query"):
        make(path=str(path)).run("preferences", stage.run, ["corpus", "queries"])
    path.write_text('{"query_id": "q1", "ranking": ["x", "y"]}\n')
    with pytest.raises(
        RayrieverError, match=r"1 of 1 rows (.|\n)* rankings.jsonl:1  ranks fewer(.|\n)*take rankings of this corpus"
    ):
        make(path=str(path)).run("preferences", stage.run, ["corpus", "queries"])


def test_file_of_mostly_broken_rankings_stops_before_it_trains(make, tmp_path: Path):
    """A renamed column would otherwise leave a stage 2 that learns from the few rows that happen to fit."""
    path = tmp_path / "rankings.jsonl"
    good = json.dumps({"query_id": "q1", "ranking": ["p00", "p02"]})
    path.write_text("\n".join([good, *['{"query_id": "q2", "order": ["p00", "p02"]}'] * 9]))
    with pytest.raises(RayrieverError) as raised:
        make(path=str(path)).run("preferences", stage.run, ["corpus", "queries"])
    message = str(raised.value)
    assert message.startswith(f"preferences.path {path}: 9 of 10 rows (90 %) cannot be used, more than max_bad_share")
    assert 'rankings.jsonl:2  no "ranking"' in message and "raise corpus.max_bad_share" in message


def test_grade_gap_without_recorded_grades_is_refused(make):
    """The LLM's choices have no grades: the option would do nothing."""
    with pytest.raises(RayrieverError, match="only recorded rankings have grades"):
        stage.external(make(min_grade_gap=1).recipe)


def test_plan_knows_the_calls_and_what_the_result_depends_on(make, tmp_path: Path):
    upstream = {"corpus": Estimate(rows=100, disk_bytes=0), "queries": Estimate(rows=100, disk_bytes=0)}
    calls = {
        pairs: stage.estimate(make(pairs=pairs, order="both").recipe, upstream).llm_requests
        for pairs in ("all", "k", "adjacent")
    }
    assert calls == {"all": 2000, "k": 1000, "adjacent": 800}
    assert stage.estimate(make(max_queries=7).recipe, upstream).llm_requests == 70
    path = tmp_path / "rankings.jsonl"
    path.write_text('{"query_id": "q1", "ranking": ["p00", "p02"]}\n')
    recorded = make(path=str(path)).recipe
    assert stage.estimate(recorded, upstream).llm_requests == 0
    before = stage.external(recorded)
    path.write_text('{"query_id": "q1", "ranking": ["p02", "p00"]} \n')
    assert stage.external(recorded) != before
    assert "prompts" in stage.external(make().recipe)
