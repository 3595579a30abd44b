"""Recorded rankings as lists: JSON lines with and without grades, and TREC runs as passes over one list."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import records
from pipeline.artifact import ArtifactWriter
from pipeline.errors import RayrieverError
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.reranking.lists import Query, Taught
from pipeline.reranking.recorded import merged, read_runs, recorded_fingerprint, recorded_lists
from pipeline.stage import StageContext
from tests.artifacts import Shelf

QUERIES = {name: Query(name, f"what is {name}", "given") for name in ("q1", "q2", "q3")}


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., tuple[Taught, dict[str, int], ArtifactWriter]]:
    """Lists of a corpus of a, b, c, d and e, in which e repeats d and 'gone' was dropped for a."""
    recipe = Recipe.model_validate({"workspace": str(tmp_path / "w"), "corpus": {"path": "x", "max_bad_share": 0.5}})
    shelf = Shelf(recipe)
    shelf.corpus([{"passage_id": name, "title": "", "text": name} for name in "abcde"], {"e": "d", "gone": "a"})

    def of(path: object) -> tuple[Taught, dict[str, int], ArtifactWriter]:
        out = ArtifactWriter(shelf.workspace, "permutations", "0")
        ctx = StageContext(recipe, shelf.finished, out, shelf.workspace, Silent())
        return recorded_lists(ctx, str(path), QUERIES), dict(out.outcomes), out

    return of


def write(path: Path, *rankings: tuple[str, str], tag: str = "run") -> Path:
    """Ranks in the rank column; the scores say the contrary."""
    lines = [
        f"{query} Q0 {passage} {rank} {rank}.0 {tag}\n"
        for query, ids in rankings
        for rank, passage in enumerate(ids.split(), start=1)
    ]
    path.write_text("".join(lines))
    return path


def test_runs_of_a_pattern_are_passes_over_one_list(take, tmp_path: Path):
    write(tmp_path / "1.trec", ("q1", "a b c"), ("q2", "b a"))
    write(tmp_path / "2.trec", ("q1", "b a c"))
    write(tmp_path / "3.trec", ("q1", "b a c"), ("dev", "a b"))
    taught, outcomes, _ = take(tmp_path / "*.trec")
    first, second = taught.lists
    assert (first.query.query_id, first.passage_ids) == ("q1", ("b", "a", "c")) and first.teacher == "recorded"
    assert first.scores == pytest.approx((5 / 6, 4 / 6, 0)) and first.confidence.tolist() == pytest.approx(
        [1 / 3, 1, 1]
    )
    assert (second.query, second.passage_ids) == (QUERIES["q2"], ("b", "a"))
    assert outcomes["rankings"] == 4 and outcomes["rankings_rows"] == 5 and outcomes["rankings_no_train_query"] == 1
    rows = taught.permutations().to_pylist()
    assert [(row["query_id"], row["number"], row["ranked"]) for row in rows][:2] == [
        ("q1", 0, ["a", "b", "c"]),
        ("q1", 1, ["b", "a", "c"]),
    ]
    assert {(row["outcome"], row["answer"]) for row in rows} == {("recorded", None)}
    assert taught.ranked_lists().schema == records.RANKED_LIST


def test_unknown_passages_and_near_duplicates_leave_the_rest_of_a_run(take, tmp_path: Path):
    path = write(tmp_path / "r.trec", ("q1", "gone nowhere d e b a"), ("q2", "d e"), ("q3", "a b"))
    taught, outcomes, out = take(path)
    assert [each.passage_ids for each in taught.lists] == [("a", "d", "b"), ("a", "b")]
    assert (outcomes["passages_unknown"], outcomes["near_duplicates_removed"]) == (1, 2)
    (row,) = out.quarantined
    assert (row["source"], row["row_id"]) == ("r", "q2") and "fewer than two distinct passages" in row["reason"]
    assert outcomes["rankings_unusable"] == 1


def test_tags_of_one_file_are_runs_of_their_own(tmp_path: Path):
    one, two = tmp_path / "one.trec", tmp_path / "both.trec"
    write(one, ("q1", "a b"), tag="x")
    two.write_text(one.read_text() + write(tmp_path / "rest.trec", ("q1", "b a"), tag="y").read_text())
    assert [(run.name, run.rankings) for run in read_runs([str(one), str(two)])] == [
        ("one", {"q1": ("a", "b")}),
        ("both x", {"q1": ("a", "b")}),
        ("both y", {"q1": ("b", "a")}),
    ]


def test_merged_run_takes_the_first_passages_and_only_runs_with_the_query(tmp_path: Path):
    runs = read_runs(
        [
            str(write(tmp_path / "1.trec", ("q1", "a b c"), ("q2", "a b"))),
            str(write(tmp_path / "2.trec", ("q1", "c b a"))),
        ]
    )
    assert {query: [hit.passage_id for hit in hits] for query, hits in merged(runs).items()} == {
        "q1": ["a", "b", "c"],
        "q2": ["a", "b"],
    }
    assert [hit.passage_id for hit in merged(runs, depth=1)["q1"]] == ["a", "c"]


def test_lines_with_grades_have_these_as_scores_and_no_order_among_zeros(take, tmp_path: Path):
    path = tmp_path / "r.jsonl"
    rows = [
        {"query_id": "q1", "ranking": ["a", "b", "c", "d"], "grades": {"a": 3, "b": 1, "c": 0, "d": 0}},
        {"query_id": "q2", "ranking": ["c", "a", "nowhere"]},
        {"query_id": "q3", "ranking": ["a", "a"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    taught, outcomes, out = take(path)
    graded, plain = taught.lists
    assert graded.scores == (3.0, 1.0, 0.0, 0.0) and graded.confidence.tolist() == [1, 1, 1, 1, 1, 0]
    assert plain.passage_ids == ("c", "a") and plain.scores == (1.0, 0.0) and plain.confidence.tolist() == [1.0]
    assert outcomes["rankings_unusable"] == 1 == len(out.quarantined) and outcomes["passages_unknown"] == 1


def test_too_many_unusable_rankings_and_none_of_ours_stop_the_stage(take, tmp_path: Path):
    with pytest.raises(RayrieverError, match=r"permutations.path .*2 of 3 rows .* cannot be used"):
        take(write(tmp_path / "bad.trec", ("q1", "x y"), ("q2", "d e"), ("q3", "a b")))
    with pytest.raises(RayrieverError, match=r"none of its 1 rankings is of a train query"):
        take(write(tmp_path / "dev.trec", ("dev", "a b")))
    with pytest.raises(RayrieverError, match="there is no such file"):
        take(tmp_path / "*.none.trec")


def test_any_changed_run_of_a_pattern_makes_the_stage_run_again(tmp_path: Path):
    write(tmp_path / "1.trec", ("q1", "a b"))
    before = recorded_fingerprint(str(tmp_path / "*.trec"))
    write(tmp_path / "2.trec", ("q1", "a b"))
    after = recorded_fingerprint(str(tmp_path / "*.trec"))
    assert after[:1] == before and len(after) == 2
