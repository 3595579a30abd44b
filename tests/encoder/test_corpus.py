"""A corpus that is being encoded when the run dies."""

import shutil
from pathlib import Path

import pytest

from pipeline.artifact import ArtifactWriter
from pipeline.encoder import corpus
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import StageContext
from tests.artifacts import ABOUT, Shelf

PASSAGES, ROWS = 1_100, 256  # five calls of an actor


pytestmark = pytest.mark.usefixtures("ray_cluster", "small_calls")


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_SLICE_ROWS", ROWS)


class Told(Silent):
    def __init__(self) -> None:
        self.done: list[int] = []

    def update(self, what: str, done: int, total: int) -> None:
        self.done.append(done)


def _shelf(folder: Path, encoder: Path, same: str = "") -> Shelf:
    values = {"model": str(encoder), "cpus_per_actor": 1}
    shelf = Shelf(Recipe.model_validate({"workspace": str(folder), "corpus": {"path": "."}, "encoder": values}))
    texts = [f"passage of number {n} {same}" for n in range(PASSAGES)]
    shelf.corpus([{"passage_id": f"p{n}", "title": "", "text": text} for n, text in enumerate(texts)], {})
    return shelf


def _begin(shelf: Shelf, progress: Silent, made_of: str = "made") -> ArtifactWriter:
    out = ArtifactWriter(shelf.workspace, "encode_base", "0", made_of)
    corpus.run_base(StageContext(shelf.recipe, {"corpus": shelf.finished["corpus"]}, out, shelf.workspace, progress))
    return out


def _parts(shelf: Shelf) -> dict[str, Path]:
    folder = Path(shelf.workspace.path("stages", "encode_base"))
    return {path.name: path for path in folder.rglob("vectors/*.parquet")}


def test_a_run_that_died_goes_on_where_it_was_to_the_same_vectors(tmp_path: Path, tiny_encoder: Path) -> None:
    """Hours of encoding would be lost with the last passage; a part that was cut short would stop it for ever."""
    shelf = _shelf(tmp_path, tiny_encoder)
    quiet = _begin(shelf, Silent()).commit(**ABOUT).table("vectors")
    shutil.rmtree(shelf.workspace.path("stages", "encode_base"))

    _begin(shelf, Silent())  # and dies before its commit; without the third part, and with half of the second
    parts = _parts(shelf)
    parts["part-000002.parquet"].unlink()
    parts["part-000001.parquet"].write_bytes(parts["part-000001.parquet"].read_bytes()[:-100])
    before = {name: path.stat().st_mtime_ns for name, path in _parts(shelf).items()}
    told = Told()
    vectors = _begin(shelf, told).commit(**ABOUT).table("vectors")
    kept = {name for name, path in _parts(shelf).items() if before.get(name) == path.stat().st_mtime_ns}
    assert kept == {"part-000000.parquet", "part-000003.parquet"} and told.done[0] > 2 * ROWS
    assert vectors.equals(quiet)


def test_what_was_begun_for_other_passages_is_not_gone_on_with(tmp_path: Path, tiny_encoder: Path) -> None:
    _begin(_shelf(tmp_path, tiny_encoder), Silent(), "one corpus")
    told = Told()
    _begin(_shelf(tmp_path, tiny_encoder, "changed"), told, "another")
    assert told.done[0] <= ROWS
    assert len(list(Path(tmp_path, "stages/encode_base/0").glob("*/"))) == 1, "the other attempt is still there"
