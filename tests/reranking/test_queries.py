"""Which queries a reranker learns from: how many of each kind, and nothing that dev or test know."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import records
from pipeline.artifact import ArtifactWriter
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.reranking.queries import Chosen, choose, labels_of, queries_table, read_queries, train_queries
from pipeline.stage import StageContext
from tests.artifacts import Shelf

SENTENCE = "Sentence of passage number {} stands here."
PASSAGES = [{"passage_id": f"p{n}", "title": "", "text": SENTENCE.format(n)} for n in range(8)]
SHORT = [{"passage_id": f"s{n}", "title": "", "text": "Too short. No query. Is here."} for n in range(8)]
TRAIN = [
    {"query_id": f"t{n}", "text": f"train query {n}", "kind": kind} for n, kind in enumerate(("given", "claim") * 3)
]
OLD = {"query_id": "old", "text": "an old sentence of some passage", "kind": "crop"}
DEV = {"query_id": "d", "text": "what does dev ask", "split": "dev"}
TEST = {"query_id": "e", "text": SENTENCE.format(5).upper(), "split": "test"}
JUDGMENTS = [("d", "p0", 1), ("d", "p6", 0), ("e", "p3", 2), ("t0", "p7", 1), ("t1", "p6", 0)]
FREE = {"p2", "p4", "p6", "p7"}  # p0 is dev's, p1 repeats it, p3 is test's, p5 has the words of the test query

Choose = Callable[..., tuple[Chosen, dict[str, int], StageContext]]


@pytest.fixture
def chosen(tmp_path: Path) -> Choose:
    def of(
        seed: int = 0,
        on_leak: str = "drop",
        passages: list[dict[str, str]] = PASSAGES,
        queries: tuple[dict[str, str], ...] = (*TRAIN, OLD, DEV, TEST),
        **section: Any,
    ) -> tuple[Chosen, dict[str, int], StageContext]:
        values = {"workspace": str(tmp_path), "corpus": {"path": "x"}, "queries": {"on_leak": on_leak}, "seed": seed}
        shelf = Shelf(Recipe.model_validate(values | {"candidates": section}))
        shelf.corpus(passages, {"p1": "p0"})
        shelf.queries(queries, [each for each in JUDGMENTS if each[0] in {q["query_id"] for q in queries}])
        out = ArtifactWriter(shelf.workspace, "candidates", "0")
        ctx = StageContext(shelf.recipe, shelf.finished, out, shelf.workspace, Silent())
        assert shelf.recipe.candidates is not None
        return choose(ctx, shelf.recipe.candidates), dict(out.outcomes), ctx

    return of


def kinds(of: Chosen) -> list[str]:
    return [each.kind for each in of.queries.values()]


def test_sentences_come_from_passages_that_nobody_evaluates(chosen: Choose):
    """A sentence of a dev passage, or of its near-duplicate, would be learnt with that passage first."""
    found, counted, _ = chosen(max_queries=20, crop_share=1.0)
    assert set(found.sources.values()) == FREE
    assert {found.queries[q].text for q in found.sources} == {SENTENCE.format(p[1:]) for p in FREE}
    assert {found.queries[q].text: p for q, p in found.sources.items()} == {SENTENCE.format(p[1:]): p for p in FREE}
    assert set(found.queries) - set(found.sources) == {"old"} and counted == {"queries_crop": 5}


def test_recipe_that_keeps_leaks_keeps_these_but_not_the_very_words_of_test(chosen: Choose):
    found, _, _ = chosen(max_queries=20, crop_share=1.0, on_leak="keep")
    assert set(found.sources.values()) == FREE | {"p0", "p1", "p3"}


def test_share_is_of_all_and_kinds_are_counted(chosen: Choose):
    found, counted, _ = chosen(max_queries=8, crop_share=0.5)
    assert sorted(kinds(found)).count("crop") == 4 and len(found.queries) == 8
    assert "old" in found.queries, "sentences that are train queries come first"
    assert len(found.sources) == 3 and set(found.sources) <= set(found.queries)
    assert counted == {f"queries_{kind}": kinds(found).count(kind) for kind in set(kinds(found))}
    assert all(query_id == each.query_id for query_id, each in found.queries.items())


def test_too_few_of_one_kind_are_not_made_up_for_by_the_other(chosen: Choose):
    """The share would say one thing, and the lists another."""
    found, _, _ = chosen(max_queries=100, crop_share=0.9)
    assert len(found.sources) == len(FREE) and kinds(found).count("crop") == 5
    assert len(found.queries) == 5 + len(TRAIN)
    few, _, _ = chosen(max_queries=10, crop_share=0.5, queries=(TRAIN[0], DEV, TEST))
    assert kinds(few).count("crop") == 4 and kinds(few).count("given") == 1
    assert set(kinds(chosen(max_queries=10, crop_share=0.0)[0])) == {"given", "claim"}
    assert set(kinds(chosen(max_queries=10, crop_share=1.0)[0])) == {"crop"}


def test_dev_and_test_queries_are_never_among_them(chosen: Choose):
    found, _, ctx = chosen(max_queries=100)
    assert not {"d", "e"} & set(found.queries)
    assert list(train_queries(ctx)) == sorted(["old", *(each["query_id"] for each in TRAIN)])


def test_no_wording_is_there_twice(chosen: Choose):
    """Lists of one query twice count twice; the words of a train query are known as it is spelt elsewhere."""
    repeated = [{"passage_id": f"r{n}", "title": "", "text": "The very same words, again."} for n in range(3)]
    spelt = {"query_id": "spelt", "text": SENTENCE.format(2).upper()}
    found, _, _ = chosen(
        max_queries=100, crop_share=1.0, passages=[*PASSAGES, *repeated], queries=(OLD, DEV, TEST, spelt)
    )
    texts = [each.text.casefold() for each in found.queries.values()]
    assert len(set(texts)) == len(texts) and sum("very same" in text for text in texts) == 1
    assert "p2" not in found.sources.values()


def test_choice_is_seeded_and_does_not_move_with_the_order_of_rows(chosen: Choose):
    """A rerun with other sentences would pay for other answers."""
    first, _, _ = chosen(max_queries=4)
    assert chosen(max_queries=4)[0] == first
    turned, _, _ = chosen(max_queries=4, passages=PASSAGES[::-1], queries=(TEST, DEV, OLD, *TRAIN[::-1]))
    assert turned == first
    others = [chosen(seed=seed, max_queries=4)[0] for seed in range(1, 6)]
    assert any(other.sources != first.sources for other in others)
    assert any(other.queries.keys() - other.sources != first.queries.keys() - first.sources for other in others)


def test_passages_without_a_sentence_do_not_cost_a_query(chosen: Choose):
    """Half of them are too short: as many sentences as wanted come from the others."""
    found, _, _ = chosen(max_queries=3, crop_share=1.0, passages=[*PASSAGES, *SHORT[:4]], queries=(TRAIN[0], DEV, TEST))
    assert len(found.sources) == 3
    none, counted, _ = chosen(max_queries=4, crop_share=1.0, passages=SHORT, queries=(TRAIN[0], DEV))
    assert none.queries == {} == counted and none.sources == {}


def test_labels_are_what_is_relevant_to_the_queries_asked_about(chosen: Choose):
    _, _, ctx = chosen(max_queries=4)
    assert labels_of(ctx, train_queries(ctx)) == {"t0": {"p7"}}, "dev's are not read, grade 0 is no label"


def test_table_of_queries_reads_back_as_train_queries(chosen: Choose):
    found, _, _ = chosen(max_queries=4)
    table = queries_table(found.queries, records.QUERY)
    assert table.schema == records.QUERY and set(table["split"].to_pylist()) == {"train"}
    assert read_queries(table) == found.queries
