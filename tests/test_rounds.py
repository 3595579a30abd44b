"""Trainings in rounds: what an encoder or a reranker has learnt finds the negatives, or candidates, of the next."""

import json
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from pipeline.recipe import Recipe
from pipeline.runner import run
from pipeline.stage import Estimate, Stage
from pipeline.stages import stages_of
from tests.small_run import Recorder, recipe_values, write_corpus


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path, ray_cluster: None) -> Recipe:
    """Twenty labelled train queries and ten dev ones, no LLM."""
    write_corpus(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text().splitlines()]
    queries = [{"_id": f"q{n}", "text": f"what is {row['title']}"} for n, row in enumerate(rows[:30])]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (tmp_path / "qrels").mkdir()
    for split, chosen in (("train", range(20)), ("dev", range(20, 30))):
        pairs = "".join(f"q{n}\t{rows[n]['_id']}\t1\n" for n in chosen)
        (tmp_path / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{pairs}")
    values = recipe_values(tmp_path, tiny_encoder, "http://unused")
    values |= {
        "corpus": {"path": str(tmp_path)},
        "queries": {"generate": 0, "dev_share": 0, "test_share": 0},
        "synthesis": {"max_queries": 0},
        "negatives": {"rounds": 2, "per_query": 5, "max_share_of_positive": None},
    }
    return Recipe.model_validate(values)


def test_each_round_mines_with_the_encoder_of_the_one_before_and_goes_on_from_it(recipe: Recipe):
    """Mined with the base encoder again, or trained from it, the rounds would be the same training twice."""
    listener = Recorder()
    finished = run(recipe, listener, until="distill")
    made = [f"{stage}_round_1" for stage in ("distill", "encode_tuned", "index_tuned", "mine")]
    assert listener.ran[-6:] == ["mine", *made, "distill"]
    passages = {row["passage_id"]: row for row in finished["corpus"].table("passages").to_pylist()}
    texts = {row["query_id"]: row["text"] for row in finished["queries"].table("queries").to_pylist()}
    round_1 = SentenceTransformer(str(finished["distill_round_1"].directory("model")), device="cpu")
    rows = finished["mine_round_1"].table("negatives").to_pylist()
    for row in rows[:10]:
        query = round_1.encode_query([texts[row["query_id"]]])[0]
        passage = passages[row["passage_id"]]
        vector = round_1.encode_document([f"{passage['title']} {passage['text']}"])[0]
        assert float(query @ vector) == pytest.approx(row["score"], abs=1e-2)
    before, after = (
        {row["query_id"]: row["mined_ids"] for row in finished[name].table("examples").to_pylist()}
        for name in ("distill_round_1", "distill")
    )
    mined: dict[str, list[str]] = {}
    for row in rows:
        mined.setdefault(row["query_id"], []).append(row["passage_id"])
    assert after == mined != before
    chosen = max(finished["distill_round_1"].table("curve")["dev_ndcg_at_10"].to_pylist()[1:])
    assert finished["distill"].table("curve")["dev_ndcg_at_10"][0].as_py() == pytest.approx(chosen)

    again = Recorder()
    run(recipe, again, until="distill")
    assert again.ran == []


def test_one_round_is_the_plain_row_of_stages(recipe: Recipe):
    """A recipe that does not ask for rounds keeps the stages, and so the results, that it has."""
    plain = recipe.model_copy(update={"negatives": recipe.negatives.model_copy(update={"rounds": 1})})
    assert not any("round" in stage.name for stage in stages_of(plain))
    three = recipe.model_copy(update={"negatives": recipe.negatives.model_copy(update={"rounds": 3})})
    inputs = {stage.name: stage.inputs for stage in stages_of(three)}
    assert {"mine_round_1", "distill_round_1"} <= set(inputs["distill_round_2"])
    assert {"mine_round_2", "distill_round_2"} <= set(inputs["distill"])
    assert inputs["mine_round_2"] == ("corpus", "queries", "distill_round_2", "index_tuned_round_2")


def reranker_stages(rounds: int, **sections: object) -> dict[str, Stage]:
    """Of a recipe with a reranker, by name, in order."""
    reranker = {"candidates": {}, "permutations": {"method": "fusion"}, "rerank": {"rounds": rounds}}
    values = {"corpus": {"path": "x"}, **reranker, **sections}
    return {stage.name: stage for stage in stages_of(Recipe.model_validate(values))}


FIRST = ("corpus", "words", "queries", "index_base", "distill", "index_tuned")


def test_one_round_of_the_reranker_is_the_plain_row_of_stages():
    stages = reranker_stages(1)
    assert list(stages)[-5:] == ["candidates", "permutations", "rerank", "evaluate", "evaluate_reranker"]
    assert stages["candidates"].inputs == FIRST and not any("round" in name for name in stages)


@pytest.mark.parametrize("rounds", [2, 3])
def test_each_round_finds_candidates_with_the_reranker_of_the_one_before(rounds: int):
    """Without it among their inputs, all rounds would have the same candidates and end in the same reranker."""
    stages = reranker_stages(rounds)
    made = [f"{name}_round_{n}" for n in range(1, rounds) for name in ("candidates", "permutations", "rerank")]
    last = ["candidates", "permutations", "rerank", "evaluate", "evaluate_reranker"]
    assert list(stages)[-len(made) - 5 :] == [*made, *last]
    assert stages["candidates_round_1"].inputs == FIRST
    if rounds == 3:
        assert stages["candidates_round_2"].inputs == (*FIRST, "rerank_round_1")
    assert stages["candidates"].inputs == (*FIRST, f"rerank_round_{rounds - 1}")
    for suffix in ("", *(f"_round_{n}" for n in range(1, rounds))):
        assert stages[f"permutations{suffix}"].inputs == ("corpus", "queries", f"candidates{suffix}")
        learnt_from = ("corpus", "words", "queries", f"permutations{suffix}", "index_base", "distill", "index_tuned")
        assert stages[f"rerank{suffix}"].inputs == learnt_from
    assert {"candidates", "permutations", "rerank"} <= set(stages["evaluate_reranker"].inputs)
    assert "round 1" in stages["rerank_round_1"].summary
    names = list(stages)
    for number, stage in enumerate(stages.values()):
        assert set(stage.inputs) <= set(names[:number]), stage.name


def test_rounds_of_both_end_with_the_encoder_of_the_last():
    sections = {"candidates": {"sources": ["bm25", "sparse", "dense"]}, "sparse": {"model": "x"}}
    stages = reranker_stages(2, negatives={"rounds": 2}, preferences={}, align={}, **sections)
    found_by = (
        "corpus",
        "words",
        "queries",
        "sparse",
        "index_base",
        "distill",
        "index_tuned",
        "align",
        "index_aligned",
    )
    assert stages["candidates_round_1"].inputs == found_by
    assert stages["candidates"].inputs == (*found_by, "rerank_round_1")
    assert set(stages["distill"].inputs) >= {"mine_round_1", "distill_round_1"}
    names = list(stages)
    assert names.index("distill_round_1") < names.index("distill") < names.index("candidates_round_1")


def test_plan_of_a_later_round_knows_its_inputs_by_their_own_names():
    stages = reranker_stages(2)
    recipe = Recipe.model_validate(
        {"corpus": {"path": "x"}, "candidates": {}, "permutations": {"method": "fusion"}, "rerank": {"rounds": 2}}
    )
    upstream = {"candidates_round_1": Estimate(900, 0), "queries": Estimate(5, 0), "corpus": Estimate(5, 0)}
    assert stages["permutations_round_1"].estimate(recipe, upstream).rows == 30
    assert stages["permutations"].estimate(recipe, {**upstream, "candidates": Estimate(60, 0)}).rows == 2
    assert stages["rerank_round_1"].estimate(recipe, {"permutations_round_1": Estimate(30, 0)}).rows == 30
