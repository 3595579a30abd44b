"""Retrieval metrics per query and in the mean, by ir_measures over trec_eval's own code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import ir_measures
import pyarrow as pa
import pyarrow.compute as pc
from ir_measures import RR, R, nDCG

from pipeline.rankings import Hit, from_table
from pipeline.records import PER_QUERY

_MEASURES = {"ndcg_at_10": nDCG @ 10, "rr_at_10": RR @ 10, "recall_at_100": R @ 100}
_DEEPEST = 100
# Named, or ir_measures would choose by what else is installed; trec_eval has no RR with a cut-off.
_PROVIDER = ir_measures.providers.FallbackProvider([ir_measures.pytrec_eval, ir_measures.msmarco])


@dataclass(frozen=True)
class Means:
    """Arithmetic means over all judged queries, each in [0, 1]."""

    ndcg_at_10: float
    mrr_at_10: float
    recall_at_100: float
    queries: int  # averaged over
    without_relevant: int  # of them, with all judgments zero: nobody can score on these


@dataclass(frozen=True)
class Scores:
    """What one system reaches on one set of judgments."""

    system: str
    per_query: pa.Table  # rows of PER_QUERY in ascending order of query id
    means: Means | None  # None where no query is judged


def score(hits: pa.Table, judgments: pa.Table, system: str) -> Scores:
    """Evaluate the rankings of `system` in rows of `records.HIT` against rows of `records.JUDGMENT`.

    nDCG@10 takes grades as gains (Jarvelin & Kekalainen 2002, as trec_eval's ndcg_cut), RR@10 and recall@100
    take grades of 1 and more as relevant, grades below 0 count as 0. The rank column alone decides the order.
    A judged query without hits counts 0, as with trec_eval's option -c. A query whose judgments are all 0
    counts 0 too and stays in the mean: that is what trec_eval does, and leaving it out would raise our
    figures above published ones; `Means.without_relevant` says how many there are. Queries without judgments
    are ignored.

    Raises ValueError when a query holds a rank or passage twice, or a passage is judged twice for a query.
    """
    grades = _grades(judgments)
    run = {query_id: _surrogate(ranking) for query_id, ranking in from_table(hits, system, _DEEPEST).items()}
    values: dict[str, dict[str, float]] = {name: {} for name in _MEASURES}
    names = {measure: name for name, measure in _MEASURES.items()}
    if grades:
        for metric in _PROVIDER.iter_calc(list(names), grades, run):
            values[names[metric.measure]][metric.query_id] = metric.value
    query_ids = sorted(grades)
    measured = [[values[name][query_id] for query_id in query_ids] for name in _MEASURES]
    columns = [[system] * len(query_ids), query_ids, *measured]
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, PER_QUERY, strict=True)]
    per_query = pa.Table.from_arrays(arrays, schema=PER_QUERY)
    return Scores(system, per_query, _means(per_query, grades))


def judgments_of(judgments: pa.Table, query_ids: Iterable[str]) -> pa.Table:
    """The judgments of these queries, such as those of one split."""
    wanted = pa.array(list(query_ids), type=pa.string())
    return judgments.filter(pc.is_in(judgments["query_id"], value_set=wanted))


def paired_ndcg(baseline: Scores, system: Scores) -> tuple[list[float], list[float]]:
    """Per-query nDCG@10 of both, in the same order; raises ValueError when their queries differ."""
    if baseline.per_query["query_id"].to_pylist() != system.per_query["query_id"].to_pylist():
        raise ValueError(f"{baseline.system} and {system.system} were not measured on the same queries.")
    return baseline.per_query["ndcg_at_10"].to_pylist(), system.per_query["ndcg_at_10"].to_pylist()


def _grades(judgments: pa.Table) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    columns = (judgments[name].to_pylist() for name in ("query_id", "passage_id", "grade"))
    for query_id, passage_id, grade in zip(*columns, strict=True):
        of_query = grades.setdefault(query_id, {})
        if passage_id in of_query:
            raise ValueError(f"passage {passage_id!r} is judged twice for query {query_id!r}.")
        # trec_eval reserves memory by the highest grade of a query and fails where all are negative.
        of_query[passage_id] = max(grade, 0)
    return grades


def _surrogate(ranking: list[Hit]) -> dict[str, float]:
    # trec_eval sorts by score and breaks ties by descending id, MS MARCO's script by ascending id: with the
    # rank as the score there are no ties, and both keep our order.
    return {hit.passage_id: -float(rank) for rank, hit in enumerate(ranking, start=1)}


def _means(per_query: pa.Table, grades: dict[str, dict[str, int]]) -> Means | None:
    if not grades:
        return None
    ndcg, rr, recall = (float(pc.mean(per_query[name]).as_py()) for name in _MEASURES)
    without = sum(1 for of_query in grades.values() if not any(of_query.values()))
    return Means(ndcg, rr, recall, len(grades), without)
