"""A corpus that is being encoded when the run dies."""

from pathlib import Path

import pytest

from pipeline.encoder import corpus
from pipeline.progress import Silent
from pipeline.recipe import Recipe
from pipeline.stage import StageContext
from pipeline.workspace import Artifact, ArtifactWriter
from tests.artifacts import ABOUT, Shelf

PASSAGES, ROWS = 1_100, 256  # five calls of an actor


pytestmark = pytest.mark.usefixtures("ray_cluster", "small_calls")


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_SLICE_ROWS", ROWS)


class Killed(Exception):
    pass


class Kill(Silent):
    """Ends a run once so many passages are encoded; remembers what it was told."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.told: list[int] = []

    def update(self, what: str, done: int, total: int) -> None:
        self.told.append(done)
        if done >= self.at:
            raise Killed


def _shelf(folder: Path, encoder: Path, same: str = "") -> Shelf:
    values = {"model": str(encoder), "cpus_per_actor": 1}
    shelf = Shelf(Recipe.model_validate({"workspace": str(folder), "corpus": {"path": "."}, "encoder": values}))
    texts = [f"passage of number {n} {same}" for n in range(PASSAGES)]
    shelf.corpus([{"passage_id": f"p{n}", "title": "", "text": text} for n, text in enumerate(texts)], {})
    return shelf


def _encode(shelf: Shelf, progress: Silent, made_of: str = "made") -> Artifact:
    out = ArtifactWriter(shelf.workspace, "encode_base", "0", made_of)
    corpus.run_base(StageContext(shelf.recipe, {"corpus": shelf.finished["corpus"]}, out, shelf.workspace, progress))
    return out.commit(**ABOUT)


def _part_times(shelf: Shelf) -> dict[str, int]:
    folder = Path(shelf.workspace.path("stages", "encode_base"))
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("vectors/*.parquet")}


def test_a_run_that_died_goes_on_where_it_was_to_the_same_vectors(tmp_path: Path, tiny_encoder: Path) -> None:
    """Hours of encoding would be lost with the last passage."""
    shelf, quiet = _shelf(tmp_path / "killed", tiny_encoder), _shelf(tmp_path / "quiet", tiny_encoder)
    with pytest.raises(Killed):
        _encode(shelf, Kill(at=500))
    for name in ("part-000002.parquet", "part-000003.parquet"):  # actors are ahead of what the run knows
        for path in Path(shelf.workspace.path("stages")).rglob(name):
            path.unlink()
    before, resumed = _part_times(shelf), Kill(at=PASSAGES + 1)
    vectors = _encode(shelf, resumed).table("vectors")
    kept = {name for name, at in _part_times(shelf).items() if before.get(name) == at}
    assert kept == {"part-000000.parquet", "part-000001.parquet"} and resumed.told[0] > 2 * ROWS
    assert vectors.equals(_encode(quiet, Silent()).table("vectors"))


def test_what_was_begun_for_other_passages_is_not_gone_on_with(tmp_path: Path, tiny_encoder: Path) -> None:
    with pytest.raises(Killed):
        _encode(_shelf(tmp_path, tiny_encoder), Kill(at=500), "one corpus")
    changed = Kill(at=PASSAGES + 1)
    _encode(_shelf(tmp_path, tiny_encoder, "changed"), changed, "another")
    assert changed.told[0] <= ROWS
    assert len(list(Path(tmp_path, "stages/encode_base/0").glob("*/"))) == 1, "the other attempt is still there"
