"""The stage and the search on Ray, with a tiny masked language model."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.records import full_text
from pipeline.sharded.folder import ShardFolder
from pipeline.sharded.found import merge
from pipeline.sharded.rows import Rows, bounds_of
from pipeline.sparse import stage
from pipeline.sparse.model import SparseModel
from pipeline.sparse.search import open_sparse
from pipeline.sparse.shard import TermShard, Weighted, open_term_shard
from pipeline.stage import Estimate
from pipeline.workspace import Workspace
from tests.artifacts import Shelf
from tests.sparse.conftest import NOTHING

WORDS = ["red", "apple", "green", "wing", "tail", "seven", "x9", "owl"]
QUERIES = ["red apple", "owl", NOTHING, ""]


def passages(count: int) -> list[dict[str, str]]:
    """Texts of very unequal length, in no order of their ids."""
    draw = random.Random(0)
    names = [f"p{number}" for number in draw.sample(range(1000), count)]
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in names]
    return [{"passage_id": name, "title": "t", "text": text} for name, text in zip(names, texts, strict=True)]


def shelf_of(folder: Path, model: Path | str, rows: list[dict[str, str]], **values: object) -> Shelf:
    sparse = {"model": str(model), "dtype": "float32", "cpus_per_actor": 1, "max_terms": 20, **values}
    recipe = {"workspace": str(folder), "corpus": {"path": "x"}, "sparse": sparse}
    shelf = Shelf(Recipe.model_validate(recipe))
    shelf.corpus(rows, {})
    return shelf


def in_process(shelf: Shelf, folder: Path, shards: int) -> list[TermShard]:
    """The shards as the stage's actors write them, without Ray."""
    rows = Rows.of(shelf.finished["corpus"], "passages")
    terms = ShardFolder(str(folder), str(folder / f"in-{shards}"))
    encode = stage.EncodeShard(shelf.recipe.sparse, rows, terms)
    for number, (start, stop) in enumerate(bounds_of(rows.total, shards)):
        encode(pa.table({"name": [f"term-shard-{number}"], "start": [start], "stop": [stop]}))
    return [open_term_shard(terms, terms.noted(f"term-shard-{number}")) for number in range(shards)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """What an actor sets for its process must not outlive a test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def three_shards(tiny_masked: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster) -> Shelf:
    shelf = shelf_of(tmp_path_factory.mktemp("three"), tiny_masked, passages(40), shard_passages=14, batch_size=4)
    shelf.run("sparse", stage.run, ["corpus"])
    return shelf


def test_shards_on_ray_rank_as_a_dense_product(three_shards: Shelf):
    recipe, artifact = three_shards.recipe, three_shards.finished["sparse"]
    generation = ShardFolder.of(artifact, stage.DIRECTORY).current()
    assert (len(generation.shards["terms"]), generation.rows("terms")) == (3, 40)
    assert not list(Path(recipe.workspace, "building").rglob("*"))
    with open_sparse(recipe, artifact) as search:
        found = search(QUERIES, 15)
        assert search([], 5) == []
        with pytest.raises(ValueError, match="top-K"):
            search(QUERIES, 0)
    assert found[2] == [] and len(found[0]) == 15
    rows, model = passages(40), SparseModel(recipe.sparse)
    weights = model.encode_passages([full_text(row["title"], row["text"]) for row in rows]).toarray()
    scores = model.encode_queries(QUERIES).toarray().astype(np.float64) @ weights.T
    for hits, row in zip(found, scores, strict=True):
        of_id = {passage["passage_id"]: score for passage, score in zip(rows, row, strict=True)}
        assert [hit.score for hit in hits] == pytest.approx(sorted(row[row > 0], reverse=True)[:15], rel=1e-4)
        assert [hit.score for hit in hits] == pytest.approx([of_id[hit.passage_id] for hit in hits], rel=1e-4)


def test_number_of_shards_changes_no_score_at_all(tiny_masked: Path, tmp_path: Path):
    """Encoded in batches of a shard's own, a passage would get other last bits in every sharding."""
    shelf = shelf_of(tmp_path, tiny_masked, passages(40), batch_size=4)
    weights = SparseModel(shelf.recipe.sparse).encode_queries(QUERIES)
    queries = [Weighted(row.indices, row.data) for row in weights]
    whole, halves, thirds = (
        merge([shard.search(queries, 15) for shard in in_process(shelf, tmp_path, shards)], 15).hits()
        for shards in (1, 2, 3)
    )
    assert whole == halves == thirds
    assert len(whole[0]) == 15


def test_slices_do_not_depend_on_the_range_that_asks(tiny_masked: Path, tmp_path: Path, monkeypatch):
    """A passage encoded among others gets other last bits: scores would change with sparse.shard_passages."""
    monkeypatch.setattr(stage, "_SLICE_ROWS", 8)
    rows = Rows.of(shelf_of(tmp_path, tiny_masked, passages(30)).finished["corpus"], "passages")
    parts = Rows(rows.uri, rows.parts * 2, rows.counts * 2)  # the second part begins inside a slice

    def cut(start: int, stop: int) -> list[tuple[int, int]]:
        return [(first, table.num_rows) for first, table in stage.slices(parts, start, stop)]

    whole = [(0, 8), (8, 8), (16, 8), (24, 6), (30, 2), (32, 8), (40, 8), (48, 8), (56, 4)]
    assert cut(0, 60) == whole
    assert cut(8, 16) == [(8, 8)]
    assert cut(9, 31) == whole[1:5]
    assert cut(31, 59) == whole[4:]
    assert cut(25, 27) == [(24, 6)]
    assert cut(0, 0) == []


def test_interrupted_build_goes_on_with_the_shards_that_are_there(tiny_masked: Path, tmp_path: Path, ray_cluster):
    shelf = shelf_of(tmp_path, tiny_masked, passages(12), shard_passages=4)
    folder = ShardFolder(str(tmp_path), str(tmp_path / "building" / "test"))
    rows, section = Rows.of(shelf.finished["corpus"], "passages"), shelf.recipe.sparse
    first = stage.build_terms(Silent(), rows, section, folder, 3)
    kept, lost = (Path(folder.path) / first[number].files["data"].path for number in (0, 1))
    before = kept.stat().st_mtime_ns
    lost.unlink()
    assert stage.build_terms(Silent(), rows, section, folder, 3) == first
    assert kept.stat().st_mtime_ns == before and lost.exists()
    gone = section.model_copy(update={"model": "nobody/nothing"})
    assert stage.build_terms(Silent(), rows, gone, folder, 3) == first, "with all shards there, no model is needed"


def test_corpus_without_passages_has_an_empty_shard(tiny_masked: Path, tmp_path: Path):
    (shard,) = in_process(shelf_of(tmp_path, tiny_masked, []), tmp_path, 1)
    assert shard.search([Weighted(np.array([3], np.int32), np.ones(1, np.float32))], 5).hits() == [[]]


def test_damaged_shard_is_refused_by_name(three_shards: Shelf, tmp_path: Path):
    shutil.copytree(three_shards.recipe.workspace, tmp_path / "copy")
    artifact = Artifact.find(Workspace(str(tmp_path / "copy")), "sparse", "0")
    (Path(artifact.folder) / "sparse" / "term-shard-0001.indices.npy").unlink()
    with (
        open_sparse(three_shards.recipe, artifact) as search,
        pytest.raises(RayrieverError, match=r"term-shard-0001.indices.npy: is missing"),
    ):
        search(["red"], 1)


def test_unknown_model_reaches_the_user_as_a_readable_error(tmp_path: Path, ray_cluster):
    shelf = shelf_of(tmp_path, "nobody/nothing", passages(4))
    with pytest.raises(RayrieverError, match=r"^sparse.model nobody/nothing: cannot be loaded"):
        shelf.run("sparse", stage.run, ["corpus"])


def test_estimate_and_fingerprint_go_by_the_section(tiny_masked: Path, tmp_path: Path):
    recipe = shelf_of(tmp_path, tiny_masked, []).recipe
    foreseen = stage.estimate(recipe, {"corpus": Estimate(rows=100, disk_bytes=0)})
    assert (foreseen.rows, foreseen.disk_bytes) == (100, 100 * 20 * 8)
    assert stage.external(recipe).startswith("folder:")
