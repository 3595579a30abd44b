"""The candidates stage on real Ray: every source against its own ranking, computed here once more."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from pipeline import records
from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.lexical.search import open_words
from pipeline.rankings import Hit, best, rerank
from pipeline.recipe import Recipe, ScorerSection
from pipeline.reranking import candidates
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.sparse import stage as sparse
from pipeline.sparse.model import SparseModel
from pipeline.stage import Estimate, StageContext
from tests.artifacts import Shelf
from tests.small_run import recipe_values
from tests.sparse.conftest import NOTHING

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt", "sail", "mast", "anchor", "keel", "rudder", "tide"]
PASSAGES = [
    {"passage_id": f"p{n:02d}", "title": "", "text": f"{word} thing number {n} here" + " and more" * (n % 5)}
    for n, word in enumerate(WORDS)
]
# p12 repeats p03
PASSAGES.append({"passage_id": "p12", "title": "", "text": "oven thing number 3 here and more and more and more too"})
TEXTS = {passage["passage_id"]: passage["text"] for passage in PASSAGES}
QUERIES = {f"q{n}": f"{word} thing" for n, word in enumerate(WORDS[:5])} | {"nothing": NOTHING}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_encoder: Path, tiny_masked: Path, tiny_cross_encoder: Path, ray_cluster) -> Shelf:
    """Words, an index, terms, and the reranker of an earlier round."""
    folder = tmp_path_factory.mktemp("candidates")
    values = recipe_values(folder, tiny_encoder, "http://unused")
    values["encoder"]["dtype"] = "float32"
    values["scorer"] = {"dtype": "float32", "cpus_per_actor": 1, "max_tokens": 64}
    values["sparse"] = {"model": str(tiny_masked), "dtype": "float32", "cpus_per_actor": 1}
    shelf = Shelf(Recipe.model_validate(values))
    shelf.corpus(PASSAGES, {"p12": "p03"})
    queries = [{"query_id": name, "text": text} for name, text in QUERIES.items()]
    shelf.queries([*queries, {"query_id": "dev", "text": "what is yeast", "split": "dev"}], [("dev", "p00", 1)])
    shelf.words()
    shelf.base_index()
    shelf.run("sparse", sparse.run, ["corpus"])

    def trained(ctx: StageContext) -> None:
        with ctx.out.directory("model") as model:
            shutil.copytree(tiny_cross_encoder, model, dirs_exist_ok=True)

    shelf.finished["rerank"] = shelf.run("rerank_round_1", trained, [])
    return shelf


Found = Callable[..., Artifact]


@pytest.fixture
def found(made: Shelf) -> Found:
    def of(*inputs: str, **section: Any) -> Artifact:
        """Find candidates; section rerank, of two rounds, where its artifact is among the inputs."""
        values = made.recipe.model_dump(exclude_unset=True) | {"candidates": {"crop_share": 0.0, **section}}
        if "rerank" in inputs:
            values |= {"rerank": {"rounds": 2}, "permutations": {"method": "fusion"}}
        shelf = Shelf(Recipe.model_validate(values))
        shelf.finished = dict(made.finished)
        return shelf.run("candidates", candidates.run, ["corpus", "queries", "words", "index_base", *inputs])

    return of


def lists_of(done: Artifact) -> dict[str, list[dict[str, Any]]]:
    """Rows by query, whose ranks must count from 1 and whose passages must differ."""
    lists: dict[str, list[dict[str, Any]]] = {}
    for row in done.table("candidates").to_pylist():
        lists.setdefault(row["query_id"], []).append(row)
    for rows in lists.values():
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        assert len({row["passage_id"] for row in rows}) == len(rows)
        assert "p12" not in {row["passage_id"] for row in rows}, "it is p03"
    return lists


def of_source(rows: list[dict[str, Any]], source: str) -> list[tuple[int, str, float]]:
    """(rank, passage, score), best first, of what a source has found."""
    found = [(row, row["sources"].index(source)) for row in rows if source in row["sources"]]
    return sorted((row["ranks"][place], row["passage_id"], row["scores"][place]) for row, place in found)


def without_copies(hits: list[Hit]) -> list[tuple[str, float]]:
    named = [("p03" if hit.passage_id == "p12" else hit.passage_id, hit.score) for hit in hits]
    return [each for n, each in enumerate(named) if each[0] not in {earlier for earlier, _ in named[:n]}]


def check(rows: list[dict[str, Any]], source: str, hits: list[Hit], size: int) -> None:
    """The source's first hits are what it has found, in its order and with its scores, without gaps."""
    got, expected = of_source(rows, source), without_copies(hits)[:size]
    assert [(rank, passage_id) for rank, passage_id, _ in got] == [
        (rank, passage_id) for rank, (passage_id, _) in enumerate(expected, start=1)
    ]
    assert [score for _, _, score in got] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-5)


def lexical(made: Shelf, text: str) -> list[Hit]:
    with open_words(made.recipe, made.finished["words"]) as search:
        return search([text], 50)[0]


def dense(encoder: Path, text: str) -> list[Hit]:
    model = SentenceTransformer(str(encoder), device="cpu")
    vectors = model.encode_document(list(TEXTS.values()), normalize_embeddings=True)
    scores = vectors @ model.encode_query([text], normalize_embeddings=True)[0]
    return best(dict(zip(TEXTS, map(float, scores), strict=True)), 50)


def terms(made: Shelf, text: str) -> list[Hit]:
    assert made.recipe.sparse is not None
    model = SparseModel(made.recipe.sparse)
    scores = (model.encode_passages(list(TEXTS.values())) @ model.encode_queries([text]).T).toarray()[:, 0]
    return best({i: float(score) for i, score in zip(TEXTS, scores, strict=True) if score > 0}, 50)


def by_reranker(folder: Path, text: str, hits: list[Hit]) -> list[Hit]:
    scorer = Scorer(load_scorer_model(ScorerSection(model=str(folder), max_tokens=64)), "float32", 4096)
    return rerank(hits, scorer.score(text, [TEXTS[hit.passage_id] for hit in hits]))


def test_four_sources_fill_every_list_and_each_says_what_it_has_found(
    found: Found, made: Shelf, tiny_encoder: Path, tiny_cross_encoder: Path
):
    """Lists are as long as all passages, so that nothing of a source is cut away."""
    sources = ["bm25", "sparse", "dense", "cross_encoder"]
    section = {"sources": sources, "list_size": 13, "cross_encoder": str(tiny_cross_encoder), "depth": 5}
    done = found("sparse", **section)
    lists = lists_of(done)
    assert set(lists) == set(QUERIES)
    for name in ("q0", "q3", "nothing"):
        text = QUERIES[name]
        words = lexical(made, text)
        check(lists[name], "bm25", words, 13)
        check(lists[name], "dense", dense(tiny_encoder, text)[:13], 13)
        check(lists[name], "sparse", terms(made, text)[:13], 13)
        check(lists[name], "cross_encoder", by_reranker(tiny_cross_encoder, text, words[:5]), 5)
    of_words = ("bm25", "sparse", "cross_encoder")
    counts = {"lists_with_dense": 6, **{f"lists_with_{source}": 5 for source in of_words}}
    assert counts.items() <= done.manifest.outcomes.items()
    assert done.table("candidates").schema == records.CANDIDATE
    assert {row["query_id"]: row["text"] for row in done.table("queries").to_pylist()} == QUERIES
    assert done.table(candidates.SOURCES).num_rows == 0


def test_later_round_reads_as_deep_as_the_recipe_says_though_lists_are_short(
    found: Found, made: Shelf, tiny_cross_encoder: Path
):
    """With BM25's hits of a list alone, the reranker of the round before would find nothing that was not there."""
    done = found("rerank", sources=["bm25"], list_size=4, floor=2, depth=50)
    lists, beyond = lists_of(done), 0
    for name, text in list(QUERIES.items())[:4]:
        head = without_copies(by_reranker(tiny_cross_encoder, text, lexical(made, text)))[:4]
        got = {(rank, passage_id) for rank, passage_id, _ in of_source(lists[name], "cross_encoder")}
        assert got <= {(rank, passage_id) for rank, (passage_id, _) in enumerate(head, start=1)}
        assert {1, 2} <= {rank for rank, _ in got}, "its floor"
        assert all(rank <= 4 for rank, _, _ in of_source(lists[name], "bm25")), "a list takes the first hits of each"
        beyond += sum("bm25" not in row["sources"] for row in lists[name])
    assert beyond > 0
    assert set(lists) == set(QUERIES) - {"nothing"} and done.rows("queries") == len(QUERIES)
    assert done.manifest.outcomes["queries_with_one_candidate_or_none"] == 1, "nothing has a word of that query"


def test_sources_take_turns_and_their_lists_are_their_own(found: Found, tiny_cross_encoder: Path):
    section = {"sources": ["dense", "bm25", "cross_encoder"], "cross_encoder": str(tiny_cross_encoder)}
    done = found(merge="per_query_source", list_size=4, depth=13, max_queries=12, crop_share=0.5, **section)
    lists = lists_of(done)
    queries = done.table("queries").to_pylist()
    order = [row["query_id"] for row in queries]
    assert [lists[name][0]["sources"] for name in order] == [["dense"], ["bm25"], ["cross_encoder"]] * 4
    for rows in lists.values():
        assert len({tuple(row["sources"]) for row in rows}) == 1 and len(rows) in (3, 4)
        assert [row["ranks"] for row in rows] == [[row["rank"]] for row in rows]
        assert [row["scores"] for row in rows] == [[row["score"]] for row in rows]
    assert {done.manifest.outcomes[f"lists_with_{each}"] for each in section["sources"]} == {4}
    cut_from = {row["query_id"]: row["passage_id"] for row in done.table(candidates.SOURCES).to_pylist()}
    assert set(cut_from) == {row["query_id"] for row in queries if row["kind"] == "crop"} and len(cut_from) == 6
    assert "p00" not in cut_from.values(), "dev's passage"
    assert all(row["text"] in TEXTS[cut_from[row["query_id"]]] for row in queries if row["kind"] == "crop")


def test_source_whose_turn_never_comes_is_not_searched(found: Found):
    done = found(merge="per_query_source", sources=["bm25", "dense"], max_queries=1)
    assert {row["query_id"] for row in done.table("candidates").to_pylist()} <= set(QUERIES)
    assert "hits" not in done.manifest.tables and done.manifest.outcomes.get("lists_with_dense", 0) == 0


def test_no_query_at_all_is_an_error_that_says_so(tmp_path: Path):
    values = {"workspace": str(tmp_path), "corpus": {"path": "x"}, "candidates": {"crop_share": 0.0}}
    shelf = Shelf(Recipe.model_validate(values))
    shelf.corpus(PASSAGES, {})
    shelf.queries([{"query_id": "dev", "text": "what is yeast", "split": "dev"}], [])
    with pytest.raises(RayrieverError, match=r"candidates: there is no query .* Raise candidates.max_queries"):
        shelf.run("candidates", candidates.run, ["corpus", "queries"])


def test_key_and_plan_go_by_the_section_and_the_named_reranker(made: Shelf, tiny_cross_encoder: Path):
    def recipe(**values: Any) -> Recipe:
        return Recipe.model_validate(made.recipe.model_dump(exclude_unset=True) | values)

    section = {"sources": ["bm25", "cross_encoder"], "cross_encoder": str(tiny_cross_encoder)}
    assert candidates.external(recipe(candidates={})) is None
    named = candidates.external(recipe(candidates=section))
    assert named["model"].startswith("folder:")
    shorter = recipe(candidates=section, scorer={"max_tokens": 32})
    assert candidates.external(shorter) != named, "it would read less of each passage"
    other = recipe(candidates=section, scorer=made.recipe.scorer.model_dump(exclude_unset=True) | {"model": "other"})
    assert candidates.external(other) == named, "that is what is trained, not who finds candidates"
    foreseen = {"queries": Estimate(6, 0), "corpus": Estimate(13, 0)}
    for values, lists in (
        ({"max_queries": 100, "crop_share": 0.5}, 6 + 13),
        ({"max_queries": 8, "crop_share": 0.5}, 8),
        ({"max_queries": 100, "crop_share": 1.0}, 13),
    ):
        assert candidates.estimate(recipe(candidates=values), foreseen).rows == lists * 30
