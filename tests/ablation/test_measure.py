"""Figures kept in the workspace: used again for the same queries, never for others."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from pipeline.ablation.measure import (
    Trial,
    check_comparable,
    judged_queries,
    measure_encoder,
    measure_first_stage,
    measure_lexical,
    measure_reranked,
)
from pipeline.errors import RayrieverError
from pipeline.lexical.search import open_words
from pipeline.progress import Silent
from pipeline.recipe import Recipe, ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.stage import StageContext
from tests.artifacts import Shelf
from tests.small_run import recipe_values

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt"]
PASSAGES = [{"passage_id": f"p{n}", "title": "", "text": f"{word} number {n}"} for n, word in enumerate(WORDS)]
QUERIES = [
    {"query_id": "t", "text": "flour"},
    {"query_id": "d", "text": "dough yeast", "split": "dev"},
    {"query_id": "e", "text": "salt", "split": "test"},
]
JUDGMENTS = [("t", "p2", 1), ("d", "p1", 1), ("e", "p0", 1)]


@pytest.fixture
def shelf(tmp_path: Path, ray_cluster: None) -> Shelf:
    shelf = Shelf(Recipe.model_validate({"workspace": str(tmp_path / "w"), "corpus": {"path": "x"}}))
    shelf.corpus(PASSAGES, {})
    shelf.words()
    shelf.queries(QUERIES, JUDGMENTS)
    return shelf


def lexical(shelf: Shelf) -> dict[str, float]:
    return dict(measure_lexical(shelf.recipe, shelf.finished, judged_queries(shelf.finished)).ndcg)


def stored(shelf: Shelf) -> int:
    return len(shelf.workspace.list_files("ablation"))


def test_values_are_computed_once_and_again_when_judgments_change(shelf: Shelf):
    """An index of the base encoder does not change with the queries: its figures alone would be out of date."""
    assert lexical(shelf) == pytest.approx({"d": 1 / math.log2(3), "e": 0.0})
    assert lexical(shelf) == pytest.approx({"d": 1 / math.log2(3), "e": 0.0}) and stored(shelf) == 1
    shelf.queries(QUERIES, [("t", "p2", 1), ("d", "p0", 1), ("e", "p5", 1)])
    assert lexical(shelf) == {"d": 1.0, "e": 1.0} and stored(shelf) == 2


def test_an_arm_may_have_other_train_queries_but_no_other_dev_or_test_queries(shelf: Shelf):
    """Means over different queries would be shown as a difference between encoders."""
    judged = judged_queries(shelf.finished)
    shelf.queries([*QUERIES, {"query_id": "t2", "text": "oven"}], [*reversed(JUDGMENTS), ("t2", "p3", 1)])
    assert shelf.finished["queries"].manifest.identity != judged.identity
    check_comparable(shelf.finished, judged)
    shelf.queries(QUERIES, [*JUDGMENTS, ("d", "p0", 1)])
    shelf.finished["index_base"] = shelf.finished["corpus"]
    with pytest.raises(RayrieverError, match="not the recipe's"):
        measure_encoder(shelf.recipe, shelf.finished, judged)


def test_without_judged_queries_nothing_can_be_compared(shelf: Shelf):
    shelf.queries(QUERIES, [("t", "p2", 1)])
    with pytest.raises(RayrieverError, match="dev_share"):
        judged_queries(shelf.finished)


MANY = [
    {"passage_id": f"m{n:02d}", "title": "", "text": f"{WORDS[n % 6]} thing {'and more ' * (n % 4)}number {n}"}
    for n in range(18)
]
TEXTS = {passage["passage_id"]: passage["text"] for passage in MANY}
ASKED = {f"d{n}": f"{word} thing number" for n, word in enumerate(WORDS)}
ANSWERS = {name: f"m{n + 6:02d}" for n, name in enumerate(ASKED)}


@pytest.fixture
def reranker(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path, ray_cluster: None) -> Shelf:
    """Six dev queries, eighteen passages, and a reranker that was trained once."""
    values = recipe_values(tmp_path, tiny_encoder, "http://unused")
    values["encoder"]["dtype"] = "float32"
    values["scorer"] = {"dtype": "float32", "cpus_per_actor": 1, "max_tokens": 64}
    shelf = Shelf(Recipe.model_validate(values))
    shelf.corpus(MANY, {})
    dev = [{"query_id": name, "text": text, "split": "dev"} for name, text in ASKED.items()]
    shelf.queries([{"query_id": "t", "text": "flour"}, *dev], [(q, p, 1) for q, p in ANSWERS.items()])
    shelf.words()
    shelf.base_index()

    def trained(ctx: StageContext) -> None:
        with ctx.out.directory("model") as model:
            shutil.copytree(tiny_cross_encoder, model, dirs_exist_ok=True)

    shelf.run("rerank", trained, [])
    return shelf


def fused(shelf: Shelf, encoder: Path, depth: int) -> dict[str, list[str]]:
    """So many hits of both sides fused by rank, with one matrix product and one dictionary for each query."""
    model = SentenceTransformer(str(encoder), device="cpu")
    vectors = model.encode_document(list(TEXTS.values()), normalize_embeddings=True)
    with open_words(shelf.recipe, shelf.finished["words"]) as search:
        lexical = search(list(ASKED.values()), depth)
    found = {}
    for (name, text), words in zip(ASKED.items(), lexical, strict=True):
        scores = dict(zip(TEXTS, vectors @ model.encode_query([text], normalize_embeddings=True)[0], strict=True))
        dense = sorted(TEXTS, key=lambda i: (-scores[i], i))[:depth]
        sums: dict[str, float] = {}
        for ranked in (dense, [hit.passage_id for hit in words]):
            for rank, passage_id in enumerate(ranked, start=1):
                sums[passage_id] = sums.get(passage_id, 0) + 1 / (60 + rank)
        found[name] = sorted(sums, key=lambda i: (-sums[i], i))[:depth]
    return found


def ndcg(lists: dict[str, list[str]]) -> dict[str, float]:
    """With one relevant passage: 1 / log2(1 + rank) among the first ten."""
    ranks = {name: ids.index(ANSWERS[name]) + 1 if ANSWERS[name] in ids else 99 for name, ids in lists.items()}
    return {name: 1 / math.log2(1 + rank) if rank <= 10 else 0.0 for name, rank in ranks.items()}


def test_reranked_and_its_first_stage_start_from_the_very_same_hits(
    reranker: Shelf, tiny_encoder: Path, tiny_cross_encoder: Path
):
    """Fused from fewer hits, the first stage would be a weaker one, and any reranker would seem to gain."""
    judged = judged_queries(reranker.finished)
    model = load_scorer_model(ScorerSection(model=str(tiny_cross_encoder), max_tokens=64))
    scorer = Scorer(model, "float32", 4096)
    for depth, fused_depth in ((18, 18), (4, 10)):
        lists = fused(reranker, tiny_encoder, fused_depth)
        first = measure_first_stage(reranker.recipe, reranker.finished, judged, depth)
        assert first.ndcg == pytest.approx(ndcg(lists)) and first.train_seconds == 0
        for name, ids in lists.items():
            scores = dict(zip(ids, scorer.score(ASKED[name], [TEXTS[i] for i in ids]), strict=True))
            lists[name] = [*sorted(ids[:depth], key=lambda i: -scores[i]), *ids[depth:]]
        done = measure_reranked(reranker.recipe, reranker.finished, judged, first, depth, Silent())
        assert done is not None and done.ndcg == pytest.approx(ndcg(lists))
        assert done.ndcg != first.ndcg and done.index == reranker.finished["rerank"].manifest.identity
        assert stored(reranker) == (2 if depth == 18 else 4)
    first = measure_first_stage(reranker.recipe, reranker.finished, judged, 4)
    measure_reranked(reranker.recipe, reranker.finished, judged, first, 4, Silent())
    assert stored(reranker) == 4
    with pytest.raises(RayrieverError, match="its encoder is not the recipe's"):
        measure_reranked(reranker.recipe, reranker.finished, judged, replace(first, index="other"), 4, Silent())


def test_run_without_a_reranker_has_no_such_figures_and_other_queries_are_refused(shelf: Shelf):
    judged = judged_queries(shelf.finished)
    first = Trial("index", 0.0, {})
    assert measure_reranked(shelf.recipe, shelf.finished, judged, first, 5, Silent()) is None
    shelf.finished["rerank"] = shelf.finished["index_base"] = shelf.finished["corpus"]
    shelf.queries(QUERIES, [*JUDGMENTS, ("d", "p0", 1)])
    with pytest.raises(RayrieverError, match="not the recipe's"):
        measure_reranked(shelf.recipe, shelf.finished, judged, first, 5, Silent())
