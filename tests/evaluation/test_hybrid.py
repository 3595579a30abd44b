"""The fusion that is deployed: chosen on dev, and on nothing else."""

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.evaluation.hybrid import WEIGHTS, fuse
from pipeline.rankings import Hit


def judgments(*pairs: tuple[str, str]) -> pa.Table:
    rows = [{"query_id": query, "passage_id": passage, "grade": 1} for query, passage in pairs]
    return pa.Table.from_pylist(rows, schema=records.JUDGMENT)


DENSE = {"q": [Hit("a", 0.9), Hit("b", 0.8)], "r": [Hit("a", 0.9), Hit("c", 0.85)]}
LEXICAL = {"q": [Hit("b", 9.0)], "r": [Hit("c", 9.0), Hit("a", 8.0)]}


def test_the_weight_is_the_least_that_dev_likes_best():
    """b passes a when 0.8 + w > 0.9; larger weights gain nothing more."""
    found = fuse(LEXICAL, DENSE, judgments(("q", "b")), rrf_k=60, top_k=10)
    assert found.fusion.lexical_weight == min(weight for weight in WEIGHTS if weight > 0.1)
    assert [hit.passage_id for hit in found.weighted["q"]] == ["b", "a"]
    assert found.fusion.dev_ndcg_at_10["weighted"] == pytest.approx(1.0)


def test_where_words_mislead_they_get_no_weight():
    found = fuse(LEXICAL, DENSE, judgments(("r", "a"), ("q", "a")), rrf_k=60, top_k=10)
    assert (found.fusion.method, found.fusion.lexical_weight) == ("weighted", 0.0)
    assert found.fusion.dev_ndcg_at_10 == {"weighted": 1.0, "rrf": pytest.approx((1 + 0.6309) / 2, abs=1e-3)}


def test_equal_figures_leave_it_to_ranks():
    assert fuse(LEXICAL, DENSE, judgments(("q", "b")), 60, 10).fusion.method == "rrf"


def test_without_dev_judgments_ranks_decide():
    found = fuse(LEXICAL, DENSE, judgments(), rrf_k=60, top_k=10)
    assert found.fusion.method == "rrf" and found.fusion.dev_ndcg_at_10 == {}
    assert set(found.by_rank) == set(found.weighted) == {"q", "r"}
