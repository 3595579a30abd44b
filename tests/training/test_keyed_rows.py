"""Looking rows up by key, and the join of examples in blocks that rests on it."""

from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pytest

from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.records import JUDGMENT
from pipeline.stage import StageContext
from pipeline.training import join
from pipeline.training.join import Sources
from pipeline.training.keyed_rows import KeyedRows
from pipeline.workspace import Workspace
from tests.artifacts import ABOUT, Shelf

PARTS = ([("b", "1"), ("a", "2"), ("b", "3")], [("c", "4"), ("b", "5")], [("a", "6")])


def judgments(folder: Path, parts: tuple[list[tuple[str, str]], ...]) -> Artifact:
    out = ArtifactWriter(Workspace(str(folder)), "queries", "0")
    tables = [
        pa.Table.from_pylist([{"query_id": q, "passage_id": p, "grade": 1} for q, p in part], schema=JUDGMENT)
        for part in parts
    ]
    out.table("judgments", tables, JUDGMENT)
    return out.commit(**ABOUT)


def passages_of(rows: KeyedRows, keys: list[str]) -> dict[str, list[str]]:
    return {key: [row["passage_id"] for row in found] for key, found in rows.of(keys).items()}


def test_rows_of_a_key_are_found_in_every_part_and_in_order(tmp_path: Path):
    """A label missed in the second part would train its passage as a negative."""
    rows = KeyedRows(judgments(tmp_path, PARTS), "judgments", "query_id")
    assert passages_of(rows, ["b", "x", "a", "b"]) == {"a": ["2", "6"], "b": ["1", "3", "5"]}
    assert passages_of(rows, ["c"]) == {"c": ["4"]}
    assert rows.of([]) == {} and rows.of(["x"]) == {}


def test_key_with_the_hash_of_another_brings_no_strange_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Among a hundred million keys two with one hash are likely."""
    monkeypatch.setattr("pipeline.training.keyed_rows.hash", lambda key: 7, raising=False)
    rows = KeyedRows(judgments(tmp_path, PARTS), "judgments", "query_id")
    assert passages_of(rows, ["a", "x"]) == {"a": ["2", "6"]}


def test_empty_table_has_no_rows(tmp_path: Path):
    rows = KeyedRows(judgments(tmp_path, ()), "judgments", "query_id", ["query_id"])
    assert rows.of(["a"]) == {}


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    recipe = Recipe.model_validate({"workspace": str(tmp_path), "corpus": {"path": "unused"}})
    shelf = Shelf(recipe)
    shelf.corpus([{"passage_id": f"p{n}", "title": "", "text": f"text {n}"} for n in range(9)], {"p8": "p7"})
    dev = {"query_id": "c", "text": "for dev", "split": "dev"}
    shelf.queries(
        [*({"query_id": name, "text": f"query {name}"} for name in "edab"), dev],
        [("a", "p1", 1), ("b", "p2", 0), ("e", "p8", 1), ("a", "p0", 2), ("d", "p9", 1), ("c", "p3", 1)],
    )
    out = ArtifactWriter(shelf.workspace, "distill", "0")
    return StageContext(recipe, MappingProxyType(shelf.finished), out, shelf.workspace, Silent())


@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_every_train_query_comes_once_with_its_own_labels(
    at_once: int, context: StageContext, monkeypatch: pytest.MonkeyPatch
):
    """The order decides which queries share a batch: it must not depend on the blocks."""
    monkeypatch.setattr(join, "QUERIES_AT_ONCE", at_once)
    blocks = list(Sources(context, (), graded=False, pairs=False).examples())
    assert max(map(len, blocks)) <= at_once
    found = {each.query_id: (each.query, each.labelled_ids, each.labelled) for block in blocks for each in block}
    assert list(found.items()) == [
        ("a", ("query a", ("p0", "p1"), ("text 0", "text 1"))),
        ("b", ("query b", (), ())),
        ("d", ("query d", (), ())),
        ("e", ("query e", ("p7",), ("text 8",))),
    ]


def test_without_labels_no_judgment_is_read(context: StageContext):
    """An arm that claims to need no judgment must not see one."""
    blocks = Sources(context, (), graded=False, pairs=False, labels=False).examples()
    examples = [each for block in blocks for each in block]
    assert [each.query_id for each in examples] == ["a", "b", "d", "e"]
    assert not any(each.labelled or each.labelled_ids for each in examples)


def test_recipe_without_train_queries_has_no_examples(tmp_path: Path):
    shelf = Shelf(Recipe.model_validate({"workspace": str(tmp_path), "corpus": {"path": "unused"}}))
    shelf.corpus([{"passage_id": "p", "title": "", "text": "text"}], {})
    shelf.queries([], [])
    out = ArtifactWriter(shelf.workspace, "distill", "0")
    ctx = StageContext(shelf.recipe, MappingProxyType(shelf.finished), out, shelf.workspace, Silent())
    assert list(Sources(ctx, (), graded=False, pairs=False).examples()) == []
