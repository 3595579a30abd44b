"""A collection that changes while it is read: what is found, what is encoded, who holds what."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.collection.about import About, collection_folder
from pipeline.collection.change import add, delete
from pipeline.collection.compact import compact, prune
from pipeline.collection.leases import Lease, held
from pipeline.collection.reader import CollectionReader
from pipeline.encoder.identity import EncoderIdentity
from pipeline.errors import RayrieverError
from pipeline.progress import Silent
from pipeline.sharded.folder import VECTORS
from pipeline.workspace import Workspace
from tests.collection.small import FLAT, TEXTS, WORDS, Counting, table


def nearest(reader: CollectionReader, encode: Counting, text: str, k: int = 100) -> list[str]:
    with reader.snapshot() as snapshot:
        return [hit.passage_id for hit in snapshot.index.search(encode.vectors([text]), k)[0]]


def brute_force(encode: Counting, texts: dict[str, str], text: str) -> list[str]:
    scores = encode.vectors(list(texts.values())) @ encode.vectors([text])[0]
    return [list(texts)[place] for place in np.argsort(-scores)]


def worded(reader: CollectionReader, text: str) -> list[str]:
    with reader.snapshot() as snapshot:
        return [hit.passage_id for hit in snapshot.words.search([text], 20)[0]]


def texts_of(reader: CollectionReader, ids: Sequence[str]) -> dict[str, object]:
    with reader.snapshot() as snapshot:
        return {passage_id: row["text"] for passage_id, row in snapshot.passages.lookup(ids).items()}


@pytest.mark.parametrize("index", [FLAT, FLAT | {"kind": "ivf_pq", "lists": 2, "probes": 2}])
def test_changes_are_seen_whole_after_a_refresh_and_not_before(folder, reader, recipe, encode):
    texts = dict(TEXTS)
    assert nearest(reader, encode, "oven number 3") == brute_force(encode, texts, "oven number 3")

    new = {"p03": "harbour wall", "zz": "dough again"}
    add(folder, table(new), encode, encode.identity)
    assert encode.texts == list(new.values()), "only new passages are encoded"
    assert nearest(reader, encode, "harbour wall")[0] != "p03" and worded(reader, "harbour") == []
    assert reader.refresh() and not reader.refresh()
    texts |= new
    assert nearest(reader, encode, "harbour wall") == brute_force(encode, texts, "harbour wall")
    assert len(nearest(reader, encode, "oven")) == len(texts), "the old text of p03 is gone"
    assert worded(reader, "oven") == [] and set(worded(reader, "dough")) == {"p00", "zz"}
    assert texts_of(reader, ["p03", "p00", "none"]) == {"p03": "harbour wall", "p00": TEXTS["p00"]}

    delete(folder, ["p00", "p05", "unknown"])
    assert reader.refresh()
    gone = {i: text for i, text in texts.items() if i not in ("p00", "p05")}
    assert nearest(reader, encode, "salt") == brute_force(encode, gone, "salt")
    assert worded(reader, "dough") == ["zz"] and texts_of(reader, ["p00"]) == {}

    number = reader.generation.number
    compacted = compact(folder, recipe, Silent())
    assert compacted.number == number + 1 and compacted.rows(VECTORS) == len(gone)
    measured = About.of(compacted.about).index.recall
    assert measured is None if recipe.index.kind == "flat" else measured == 1.0, "effort found for other lists"
    assert reader.refresh()
    assert nearest(reader, encode, "salt") == brute_force(encode, gone, "salt")
    assert worded(reader, "harbour") == ["p03"] and texts_of(reader, list(texts)) == gone
    assert encode.texts == list(new.values()), "compaction encoded again"


def test_after_compaction_scores_are_those_of_a_fresh_corpus(folder, reader, recipe, encode):
    """Until then, new passages are scored with the frequencies of the old ones."""
    from tests.lexical.built import Built

    new = {f"n{n}": f"tide and {word}" for n, word in enumerate(WORDS)}
    add(folder, table(new), encode, encode.identity)
    compact(folder, recipe, Silent())
    assert reader.refresh()
    whole = table(TEXTS | new)
    with reader.snapshot() as snapshot:
        found = snapshot.words.search(["tide salt"], 30)
    assert found == Built(whole, recipe.lexical).search(["tide salt"], 30)


def test_what_a_reader_holds_is_not_deleted(folder, reader, recipe, encode):
    first = reader.generation.number
    compact(folder, recipe, Silent())
    assert prune(folder, grace_s=0) == [] and held(folder) == {first}
    assert nearest(reader, encode, "oven number 3")
    with CollectionReader(folder, recipe.index) as late:
        assert late.generation.number == first + 1
        assert reader.refresh()
        assert prune(folder, grace_s=0) == [first]
        assert nearest(late, encode, "oven") == nearest(reader, encode, "oven")
    files = {str(path.relative_to(folder.path)) for path in Path(folder.path).rglob("*") if path.is_file()}
    assert {file for file in files if not file.startswith("readers/")} == {
        file.path for file in folder.current().files()
    } | {f"generation-{first + 1:06d}.json"}


def test_a_generation_stays_for_a_while_after_the_next_one_came(folder, recipe):
    """A reader may be about to say that it holds it."""
    compact(folder, recipe, Silent())
    assert prune(folder) == [] and len(folder.generations()) == 2


def test_a_reader_that_died_lets_go_after_its_lease(folder):
    lease = Lease(folder, 1, lease_s=1.0)
    lease._released.set()  # its process has died: nobody renews it, nobody releases it
    assert held(folder) == {1}
    time.sleep(1.2)
    assert held(folder) == set() and not list(Path(folder.path, "readers").iterdir())


def test_a_living_reader_renews_its_lease(folder):
    with Lease(folder, 1, lease_s=2.0):
        time.sleep(3.0)
        assert held(folder) == {1}
    assert held(folder) == set()


@pytest.mark.parametrize("damage", ["vectors", "words", "manifest"])
def test_a_broken_new_generation_is_refused_and_the_last_good_one_keeps_serving(
    folder, reader, recipe, encode, damage: str
):
    before = nearest(reader, encode, "oven number 3")
    changed = add(folder, table({"zz": "dough again"}), encode, encode.identity)
    if damage == "manifest":
        path = Path(folder.path) / f"generation-{changed.number:06d}.json"
        path.write_text(path.read_text()[:100])
    else:
        role = {"vectors": "index", "words": "data"}[damage]
        path = Path(folder.path) / changed.shards[damage][-1].files[role].path
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RayrieverError, match=path.name):
        reader.refresh()
    assert reader.generation.number == changed.number - 1
    assert nearest(reader, encode, "oven number 3") == before and worded(reader, "dough") == ["p00"]
    assert held(folder) == {reader.generation.number}


def test_another_encoder_may_not_add(folder, encode):
    other = EncoderIdentity(**(vars(encode.identity) | {"weights": "other"}))
    with pytest.raises(RayrieverError, match="weights"):
        add(folder, table({"zz": "dough"}), encode, other)
    assert encode.texts == [] and len(folder.generations()) == 1


def test_an_id_given_twice_is_refused_before_it_is_encoded(folder, encode):
    twice = pa.concat_tables([table({"zz": "dough"}), table({"zz": "salt"})])
    with pytest.raises(RayrieverError, match="given twice"):
        add(folder, twice, encode, encode.identity)
    assert encode.texts == []


def test_the_collection_says_whose_it_is(folder):
    assert About.of(folder.current().about).encoder == "base"


def test_the_writer_that_loses_does_not_touch_the_generation_that_won(folder, reader, encode):
    """Both prepare generation 2; with equal file names the loser would have overwritten the winner's."""

    def overtaken(texts: Sequence[str]) -> np.ndarray:
        add(folder, table({"won": "harbour wall"}), encode, encode.identity)
        return encode(texts)

    with pytest.raises(RayrieverError, match="somebody else writes"):
        add(folder, table({"lost": "tide table"}), overtaken, encode.identity)
    assert reader.refresh() and nearest(reader, encode, "harbour wall")[0] == "won"
    assert "lost" not in nearest(reader, encode, "tide table") and worded(reader, "wall") == ["won"]


def test_a_search_under_way_ends_in_the_generation_in_which_it_began(folder, reader, encode):
    """Closed under it, its actors would be gone; and words and texts would be of another generation."""
    with reader.snapshot() as snapshot:
        delete(folder, ["p03"])
        assert reader.refresh()
        (hits,) = snapshot.index.search(encode.vectors(["oven number 3"]), 1)
        assert hits[0].passage_id == "p03" and "p03" in snapshot.passages.lookup(["p03"])
        assert held(folder) == {1, 2}
    assert held(folder) == {2} and "p03" not in nearest(reader, encode, "oven number 3")


def test_a_reader_that_starts_takes_the_last_good_generation(folder, recipe, encode):
    changed = add(folder, table({"zz": "dough again"}), encode, encode.identity)
    path = Path(folder.path) / changed.shards[VECTORS][-1].files["index"].path
    path.write_bytes(path.read_bytes()[:-1])
    with CollectionReader(folder, recipe.index) as reader:
        assert reader.generation.number == 1


def test_a_vector_that_is_not_finite_is_no_generation(folder, encode):
    """Committed, its passage could never be found, and no compaction could succeed."""
    with pytest.raises(RayrieverError, match="'zz' is not finite"):
        add(folder, table({"zz": "dough"}), lambda texts: encode(texts) * np.nan, encode.identity)
    assert folder.generations() == [1]


def test_deleting_nothing_changes_nothing(folder):
    assert delete(folder, ["unknown"]) is None and folder.generations() == [1]
    changed = delete(folder, ["p00", "unknown"])
    assert changed is not None and About.of(changed.about).change == "1 passages deleted"


def test_leftovers_of_a_failed_change_go_after_a_day(folder):
    old, new = Path(folder.path) / "000009-old.faiss", Path(folder.path) / "000009-new.faiss"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 100_000,) * 2)
    needed = {file.path for file in folder.current().files()}
    for name in needed:
        os.utime(Path(folder.path) / name, (time.time() - 100_000,) * 2)
    prune(folder)
    assert not old.exists() and new.exists() and all((Path(folder.path) / name).exists() for name in needed)


def test_a_full_disk_is_said_and_costs_no_generation(folder, recipe, encode, tmp_path):
    """Half a shard, or a manifest that names one, would be worse than no change."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        shutil.copytree(recipe.workspace, small / "workspace")
        there = collection_folder(Workspace(str(small / "workspace")))
        with CollectionReader(there, recipe.index) as reader:
            filler = small / "filler"
            free = shutil.disk_usage(small).free
            for left in (0, 8_000, 30_000):
                filler.write_bytes(b"x" * max(0, free - left - 4096))
                with pytest.raises(RayrieverError, match="disk is full"):
                    add(there, table({f"n{n:04d}": f"page {n} of many" for n in range(900)}), encode, encode.identity)
                assert not reader.refresh() and there.generations() == [1]
                assert nearest(reader, encode, "oven number 3") == brute_force(encode, TEXTS, "oven number 3")
            filler.unlink()
            add(there, table({"zz": "dough again"}), encode, encode.identity)
            assert reader.refresh() and worded(reader, "dough") == ["p00", "zz"]
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
