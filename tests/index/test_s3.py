"""Index, words and collection on an object store, through a real S3 server: boto3 sees what pyarrow wrote."""

from pathlib import Path
from urllib.parse import parse_qs

import boto3
import numpy as np
import pyarrow as pa
import pytest

from pipeline.collection.about import collection_folder
from pipeline.collection.change import add, delete
from pipeline.collection.compact import compact, prune
from pipeline.collection.models import ENCODER, fetch_model
from pipeline.collection.publish import publish
from pipeline.collection.reader import CollectionReader
from pipeline.encoder.encode import Encoder
from pipeline.encoder.identity import identify
from pipeline.encoder.model import load_model
from pipeline.encoder.systems import DenseSystem
from pipeline.errors import RayrieverError
from pipeline.index.search import ShardedIndex, folder_of
from pipeline.progress import Silent
from pipeline.recipe import IndexSection, Recipe
from pipeline.records import PASSAGE
from tests.artifacts import Shelf
from tests.index.test_build import build, encoded
from tests.index.vectors import brute_force, ids_of, mixture, shuffled_ids


@pytest.fixture
def client(bucket: str):
    host = parse_qs(bucket)["endpoint_override"][0]
    return boto3.client("s3", endpoint_url=f"http://{host}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_cluster: None) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".cache/rayriever/shards"


def test_an_index_in_a_bucket_is_built_fetched_once_and_checked(bucket: str, client, own_cache: Path):
    vectors, queries = mixture(2000, 32, 0), mixture(20, 32, 5)
    artifact = build(encoded(f"s3://library/run?{bucket}", vectors), kind="flat", shards=2)
    folder = folder_of(artifact)
    expected = brute_force(vectors, shuffled_ids(2000), queries, 10)
    for _ in range(2):
        with ShardedIndex(folder, IndexSection()) as index:
            assert ids_of(index.search(queries, 10)) == expected
    shard = folder.current().shards["vectors"][0].files["index"]
    key = f"{folder.path.removeprefix('library/')}/{shard.path}"
    content = client.get_object(Bucket="library", Key=key)["Body"].read()
    assert len(content) == shard.bytes
    client.put_object(Bucket="library", Key=key, Body=content[:-4] + b"\0\0\0\1")
    with pytest.raises(RayrieverError, match="checksum"):
        folder_in_new_cache(folder, own_cache)
    client.delete_object(Bucket="library", Key=key)
    with pytest.raises(RayrieverError, match="is missing"):
        folder_in_new_cache(folder, own_cache)


def folder_in_new_cache(folder, cache: Path) -> None:
    for path in cache.glob("*"):
        path.unlink()
    folder.fetch([folder.current().shards["vectors"][0].files["index"]])


def everything(reader: CollectionReader, query: np.ndarray) -> list[str]:
    with reader.snapshot() as snapshot:
        return [hit.passage_id for hit in snapshot.index.search(query, 100)[0]]


def test_a_collection_in_a_bucket_lives_through_its_whole_cycle(bucket: str, client, tiny_encoder: Path):
    texts = {f"p{n:02d}": f"page number {n * 7919 % 1000}" for n in range(20)}
    values = {
        "workspace": f"s3://library/live?{bucket}",
        "corpus": {"path": "x"},
        "encoder": {"model": str(tiny_encoder), "dtype": "float32", "cpus_per_actor": 1},
    }
    recipe = Recipe.model_validate(values)
    shelf = Shelf(recipe)
    shelf.corpus([{"passage_id": i, "title": "", "text": text} for i, text in texts.items()], {})
    shelf.words()
    shelf.base_index()
    publish(recipe, shelf.finished, DenseSystem("base", "index_base", None))
    folder = collection_folder(shelf.workspace)
    model = load_model(recipe.encoder)
    identity = identify(model)
    encoder = Encoder(model, "float32", 512)
    with CollectionReader(folder, recipe.index) as reader:
        new = pa.Table.from_pylist(
            [{"passage_id": "zz", "title": "", "text": "harbour", "source": "test"}], schema=PASSAGE
        )
        add(folder, new, encoder.encode_passages, identity)
        delete(folder, ["p00"])
        assert reader.refresh() and reader.generation.number == 3
        query = encoder.encode_passages(["harbour"])
        found = everything(reader, query)
        assert found[0] == "zz" and set(found) == {*texts, "zz"} - {"p00"}
        compact(folder, recipe, Silent())
        kept = load_model(recipe.encoder, fetch_model(folder, folder.current(), ENCODER))
        assert identify(kept) == identity
        assert reader.refresh() and everything(reader, query) == found
        assert prune(folder, grace_s=0) == [1, 2, 3]
    keys = [each["Key"] for each in client.list_objects_v2(Bucket="library", Prefix="live/collections")["Contents"]]
    gone = [key for key in keys if not key.endswith("/") and "000004" not in key and "-encoder/" not in key]
    assert gone == [], "only the encoder stays as it was published"
    assert np.isfinite(query).all()
