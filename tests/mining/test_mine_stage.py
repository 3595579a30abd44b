"""The mine stage over Ray, against a ranking computed in one matrix product."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from pipeline.mining import hits, stage
from pipeline.rankings import from_table
from pipeline.recipe import Recipe
from tests.artifacts import Shelf
from tests.small_run import recipe_values

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt", "sail", "mast", "anchor", "keel", "rudder", "tide"]
PASSAGES = [{"passage_id": f"p{n:02d}", "title": "", "text": f"{word} number {n}"} for n, word in enumerate(WORDS)]
QUERIES = [{"query_id": f"q{n}", "text": f"what is {word}"} for n, word in enumerate(WORDS[:6])]
JUDGMENTS = [("q0", "p00", 1), ("q1", "p01", 2), ("q1", "p02", 1), ("q2", "p02", 0), ("q3", "p03", 1), ("q5", "p05", 1)]


@pytest.fixture
def shelf(tmp_path: Path, tiny_encoder: Path, ray_cluster) -> Shelf:
    values = recipe_values(tmp_path, tiny_encoder, "http://unused")
    values["encoder"]["dtype"] = "float32"
    values["negatives"] = {"per_query": 4, "ranks": (2, 12), "max_share_of_positive": None, "margin": 0.0}
    shelf = Shelf(Recipe.model_validate(values))
    shelf.corpus(PASSAGES, {})
    shelf.queries([*QUERIES, {"query_id": "dev", "text": "what is yeast", "split": "dev"}], JUDGMENTS)
    shelf.base_index()
    return shelf


def expected(encoder: Path) -> dict[str, list[str]]:
    """The rules once more, without an index: scores of all passages, ranks 2 to 12, below the worst positive."""
    model = SentenceTransformer(str(encoder), device="cpu")
    vectors = model.encode_document([passage["text"] for passage in PASSAGES], normalize_embeddings=True)
    found = {}
    for query in QUERIES:
        known = {p for q, p, grade in JUDGMENTS if q == query["query_id"] and grade > 0}
        scores = vectors @ model.encode_query([query["text"]], normalize_embeddings=True)[0]
        ranked = [PASSAGES[place]["passage_id"] for place in np.argsort(-scores)]
        worst = max((ranked.index(passage_id) for passage_id in known), default=0)
        others = [passage_id for passage_id in ranked if passage_id not in known][1:12]
        if known:
            found[query["query_id"]] = [p for p in others if ranked.index(p) > worst][:4]
    return found


def test_mined_negatives_are_those_of_one_exact_ranking(shelf: Shelf, tiny_encoder: Path, monkeypatch):
    """Three blocks of queries, two shards: neither may change what is mined, and no query may be lost between them."""
    monkeypatch.setattr(hits, "_SLICE", 2)
    mined = shelf.run("mine", stage.run, ["corpus", "queries", "index_base"])
    rows = mined.table("negatives").to_pylist()
    wanted = expected(tiny_encoder)
    found = {query_id: [row["passage_id"] for row in rows if row["query_id"] == query_id] for query_id in wanted}
    assert found == wanted and sum(map(len, wanted.values())) == len(rows) > 0
    kept = from_table(mined.table("hits"), "index_base")
    assert list(kept) == sorted(wanted), "the hits that negatives were chosen from"
    outcomes = mined.manifest.outcomes
    assert outcomes["queries_without_positive"] == 2, "q2 is judged irrelevant only, q4 not at all"
    assert outcomes["queries_mined"] == sum(bool(ids) for ids in wanted.values())
    assert outcomes["queries_mined"] + outcomes.get("queries_without_negative", 0) == 4


def test_without_any_label_nothing_is_mined_and_the_count_says_why(shelf: Shelf):
    shelf.queries(QUERIES, [])
    mined = shelf.run("mine", stage.run, ["corpus", "queries", "index_base"])
    assert mined.rows("negatives") == 0
    assert mined.manifest.outcomes["queries_without_positive"] == len(QUERIES)
