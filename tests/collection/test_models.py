"""The models inside a collection: it must answer, and refuse, without the run that it was published from."""

import json
from pathlib import Path

import pytest

from pipeline.collection.about import About, collection_folder
from pipeline.collection.models import ENCODER, RERANKER, fetch_model, model_key, store_model
from pipeline.collection.operate import add_file
from pipeline.collection.publish import publish
from pipeline.encoder.identity import identify
from pipeline.encoder.model import load_model
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe, ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.sharded.folder import ShardFolder
from pipeline.workspace import Workspace
from tests.artifacts import Shelf
from tests.collection.small import BASE


def write_rows(path: Path) -> str:
    """A file of one passage."""
    path.write_text(json.dumps({"_id": "new", "text": "harbour wall"}) + "\n")
    return str(path)


def test_passages_are_added_with_the_collection_s_own_encoder_after_the_run_is_gone(
    folder: ShardFolder,
    recipe: Recipe,
    tmp_path: Path,
):
    new = write_rows(tmp_path / "new.jsonl")
    gone = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"model": "./not/there"})})
    changed = add_file(gone, new, "live")
    assert changed.number == 2
    assert model_key(changed, ENCODER) == model_key(folder.generation(1), ENCODER)


def test_the_stored_encoder_is_the_one_that_made_the_vectors(folder: ShardFolder, recipe: Recipe):
    generation = folder.current()
    stored = load_model(recipe.encoder, fetch_model(folder, generation, ENCODER))
    assert identify(stored) == About.of(generation.about).index.encoder


def test_a_changed_model_file_is_refused_by_name(folder: ShardFolder, recipe: Recipe):
    weights = next(Path(folder.path).rglob("model.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # a link to what others read
    weights.write_bytes(content)
    with pytest.raises(RayrieverError, match=r"model\.safetensors: its checksum"):
        fetch_model(folder, folder.current(), ENCODER)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "1_Pooling/extra.pkl", "modeling_own.py", "weights.PT"])
def test_files_that_may_run_code_never_enter_a_collection(folder: ShardFolder, tmp_path: Path, name: str):
    model = tmp_path / "model"
    (model / name).parent.mkdir(parents=True)
    (model / name).write_bytes(b"\x80\x04.")
    with pytest.raises(RayrieverError, match="may run code when it is loaded"):
        store_model(folder, RERANKER, model, "x-")


def test_without_a_reranker_none_is_given(folder: ShardFolder):
    generation = folder.current()
    assert About.of(generation.about).reranking is None and model_key(generation, RERANKER) is None
    with pytest.raises(RayrieverError, match="generation 1 holds no reranker"):
        fetch_model(folder, generation, RERANKER)


def test_a_named_reranker_is_published_and_gives_the_scores_of_its_own_folder(
    recipe: Recipe,
    tiny_encoder: Path,
    tmp_path: Path,
    ray_cluster: None,
):
    section = ScorerSection(model=str(tiny_encoder), max_tokens=64, dtype="float32")
    model = load_scorer_model(section, seed=0)
    model.save(tmp_path / "reranker")
    served = recipe.serve.model_copy(update={"reranker": str(tmp_path / "reranker"), "rerank_depth": 7})
    recipe = recipe.model_copy(update={"serve": served})
    shelf = Shelf(recipe)
    shelf.corpus([{"passage_id": f"p{n}", "title": "", "text": f"page {n}"} for n in range(4)], {})
    shelf.words()
    shelf.base_index()
    generation = publish(recipe, shelf.finished, BASE)
    about = About.of(generation.about)
    assert about.reranking is not None and about.reranking.depth == 7
    published = collection_folder(Workspace(recipe.workspace))
    stored = load_scorer_model(section, fetch_model(published, generation, RERANKER))
    scores = [Scorer(each, "float32", 512).score("page", ["page 1", "sail"]).tolist() for each in (model, stored)]
    assert scores[0] == scores[1]
