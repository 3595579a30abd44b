"""Metrics against figures worked out by hand and against trec_eval on the written run."""

import math
import random

import pyarrow as pa
import pytest
import pytrec_eval

from pipeline import records
from pipeline.evaluation.metrics import PER_QUERY, Means, Scores, judgments_of, paired_ndcg, score
from pipeline.rankings import Hit, to_table
from pipeline.trec import to_run


def judged(**queries: dict[str, int]) -> pa.Table:
    rows = [
        {"query_id": query_id, "passage_id": passage_id, "grade": grade}
        for query_id, grades in queries.items()
        for passage_id, grade in grades.items()
    ]
    return pa.Table.from_pylist(rows, schema=records.JUDGMENT)


def evaluate(rankings: dict[str, list[str]], judgments: pa.Table) -> Scores:
    hits = {query_id: [Hit(each, 1.0) for each in ranking] for query_id, ranking in rankings.items()}
    return score(to_table("system", hits), judgments, "system")


def of_query(scores: Scores, query_id: str) -> dict[str, float]:
    return next(row for row in scores.per_query.to_pylist() if row["query_id"] == query_id)


def test_grades_are_gains_not_powers_of_two():
    """Grade 3 second, 1 third, 2 missed: (3/log2(3) + 1/log2(4)) / (3 + 2/log2(3) + 1/log2(4))."""
    scores = evaluate({"q": ["x", "a", "c", "z"]}, judged(q={"a": 3, "b": 2, "c": 1, "x": 0}))
    ndcg = (3 / math.log2(3) + 1 / 2) / (3 + 2 / math.log2(3) + 1 / 2)
    assert of_query(scores, "q") == {
        "system": "system",
        "query_id": "q",
        "ndcg_at_10": pytest.approx(ndcg),
        "rr_at_10": 0.5,
        "recall_at_100": pytest.approx(2 / 3),
    }
    assert scores.per_query.schema == PER_QUERY


@pytest.mark.parametrize("ranking", [["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]])
@pytest.mark.parametrize("relevant", ["a", "b", "c"])
def test_our_rank_is_evaluated_where_scores_tie(ranking: list[str], relevant: str):
    """trec_eval and MS MARCO's script each re-sort equal scores by id, in opposite directions."""
    scores = evaluate({"q": ranking}, judged(q={relevant: 1}))
    rank = ranking.index(relevant) + 1
    assert of_query(scores, "q")["rr_at_10"] == pytest.approx(1 / rank)
    assert of_query(scores, "q")["ndcg_at_10"] == pytest.approx(1 / math.log2(rank + 1))


def test_our_rank_is_evaluated_where_scores_rise_with_it():
    hits = to_table("system", {"q": [Hit("a", 0.1), Hit("b", 0.9)]})
    assert of_query(score(hits, judged(q={"a": 1}), "system"), "q")["rr_at_10"] == 1.0


def test_cut_offs_are_at_ten_and_a_hundred():
    ranking = [f"n{place}" for place in range(120)]
    ranking[9], ranking[10], ranking[99], ranking[100] = "tenth", "eleventh", "hundredth", "beyond"
    judgments = judged(q={"tenth": 1, "eleventh": 1, "hundredth": 1, "beyond": 1}, late={"eleventh": 1})
    scores = evaluate({"q": ranking, "late": ranking}, judgments)
    assert of_query(scores, "q")["rr_at_10"] == pytest.approx(0.1)
    assert of_query(scores, "q")["recall_at_100"] == 0.75
    assert of_query(scores, "late")["rr_at_10"] == of_query(scores, "late")["ndcg_at_10"] == 0


def test_a_query_without_hits_counts_zero_in_the_mean():
    """Averaging over answered queries only rewards a system for staying silent."""
    scores = evaluate({"hit": ["a"]}, judged(hit={"a": 1}, missed={"a": 1}))
    assert scores.means == Means(0.5, 0.5, 0.5, queries=2, without_relevant=0)
    assert scores.per_query["query_id"].to_pylist() == ["hit", "missed"]


def test_a_system_without_any_hit_counts_zero():
    assert evaluate({}, judged(q={"a": 1})).means == Means(0, 0, 0, queries=1, without_relevant=0)


def test_queries_with_zero_judgments_only_are_treated_as_by_trec_eval():
    """They stay in the mean with 0, and are counted; a query without judgments is ignored."""
    rankings = {"good": ["a"], "barren": ["a"], "unjudged": ["a"]}
    scores = evaluate(rankings, judged(good={"a": 1}, barren={"a": 0, "b": 0}))
    reference = pytrec_eval.RelevanceEvaluator({"good": {"a": 1}, "barren": {"a": 0, "b": 0}}, {"ndcg_cut_10"})
    assert reference.evaluate({query: {"a": 1.0} for query in rankings}).keys() == {"good", "barren"}
    assert scores.means == Means(0.5, 0.5, 0.5, queries=2, without_relevant=1)


def test_negative_grades_are_not_relevant_and_do_no_harm():
    scores = evaluate({"q": ["a", "b"], "only": ["a"]}, judged(q={"a": -1, "b": 2}, only={"a": -2}))
    assert of_query(scores, "q")["ndcg_at_10"] == pytest.approx(1 / math.log2(3))
    assert scores.means is not None and scores.means.without_relevant == 1


def test_without_judgments_there_is_no_mean():
    scores = evaluate({"q": ["a"]}, judged())
    assert scores.means is None and scores.per_query.num_rows == 0


def test_a_passage_judged_twice_is_refused():
    with pytest.raises(ValueError, match="judged twice"):
        evaluate({}, pa.concat_tables([judged(q={"a": 1}), judged(q={"a": 0})]))


def test_only_the_named_system_is_evaluated():
    hits = pa.concat_tables([to_table("good", {"q": [Hit("a", 1.0)]}), to_table("bad", {"q": [Hit("b", 1.0)]})])
    judgments = judged(q={"a": 1})
    assert [score(hits, judgments, name).per_query["rr_at_10"][0].as_py() for name in ("good", "bad")] == [
        1,
        0,
    ]


def test_figures_are_those_of_trec_eval_on_the_written_run():
    """Random rankings full of ties, graded judgments, ids of several lengths."""
    draw = random.Random(7)
    passages = [str(number) for number in range(150)]
    grades = {f"q{n}": {p: draw.choice([0, 0, 1, 2, 4]) for p in draw.sample(passages, 30)} for n in range(20)}
    hits = {
        query: [Hit(p, float(-(place // 5))) for place, p in enumerate(draw.sample(passages, 120))] for query in grades
    }
    table = to_table("a system", hits)
    ours = score(table, judged(**grades), "a system")
    run = pytrec_eval.parse_run(to_run(table).splitlines())
    theirs = pytrec_eval.RelevanceEvaluator(grades, {"ndcg_cut_10", "recall_100", "recip_rank"}).evaluate(run)
    for row in ours.per_query.to_pylist():
        reference = theirs[row["query_id"]]
        assert row["ndcg_at_10"] == pytest.approx(reference["ndcg_cut_10"])
        assert row["recall_at_100"] == pytest.approx(reference["recall_100"])
        assert row["rr_at_10"] == pytest.approx(reference["recip_rank"] if reference["recip_rank"] >= 0.1 else 0)


def test_judgments_of_one_split():
    judgments = judged(q1={"a": 1}, q2={"a": 1, "b": 0})
    assert judgments_of(judgments, {"q2"}) == judged(q2={"a": 1, "b": 0})
    assert judgments_of(judgments, []).num_rows == 0


def test_systems_measured_on_different_queries_are_not_paired():
    one, other = evaluate({}, judged(q1={"a": 1})), evaluate({}, judged(q2={"a": 1}))
    assert paired_ndcg(one, one) == ([0.0], [0.0])
    with pytest.raises(ValueError, match="same queries"):
        paired_ndcg(one, other)
