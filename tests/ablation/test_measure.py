"""Figures kept in the workspace: used again for the same queries, never for others."""

import math
from pathlib import Path

import pytest

from pipeline.ablation.measure import check_comparable, judged_queries, measure_encoder, measure_lexical
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from tests.artifacts import Shelf

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
