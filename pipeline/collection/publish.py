"""Make a collection of a finished run: its passages, one encoder and its index, its words, and its reranker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.artifact import Artifact
from pipeline.collection.about import DEFAULT, RUN_REPORT, About, Mode, Reranking, collection_folder
from pipeline.collection.models import ENCODER, RERANKER, store_model
from pipeline.collection.naming import new_prefix, next_number
from pipeline.collection.passages import write_shards
from pipeline.encoder.systems import DenseSystem
from pipeline.errors import RayrieverError
from pipeline.evaluation.stage import BM25, RELEASE, REPORT, last_evaluation
from pipeline.index.manifest import About as IndexAbout
from pipeline.index.manifest import check_encoder
from pipeline.index.search import folder_of as index_folder
from pipeline.lexical.search import folder_of as words_folder
from pipeline.lexical.stage import About as WordsAbout
from pipeline.recipe import Recipe
from pipeline.sharded.folder import PASSAGES, VECTORS, WORDS, File, Generation, ShardFiles, ShardFolder


def publish(recipe: Recipe, finished: Mapping[str, Artifact], system: DenseSystem, name: str = DEFAULT) -> Generation:
    """Commit a generation that holds what the run made, as the newest of the collection.

    Files are linked where the disk allows it, else copied: a later run may delete its artifacts, and the collection
    stays. Raises RayrieverError when words or passages are missing, or the index is another encoder's.
    """
    missing = [stage for stage in ("corpus", "words", system.index) if stage not in finished]
    if missing:
        raise RayrieverError(f"collection {name}: not finished yet: {', '.join(missing)}. First: rayriever run RECIPE.")
    corpus = finished["corpus"]
    folder = collection_folder(corpus.workspace, name)
    number = next_number(folder)
    prefix = new_prefix(number)
    index, words = index_folder(finished[system.index]), words_folder(finished["words"])
    of_index, of_words = index.current(), words.current()
    shards = {
        VECTORS: _copied(folder, index, of_index.shards[VECTORS], prefix),
        WORDS: _copied(folder, words, of_words.shards[WORDS], prefix),
        PASSAGES: tuple(write_shards(corpus.batches("passages"), folder, prefix)),
    }
    extra: dict[str, File] = {}
    for source, generation in ((index, of_index), (words, of_words)):
        copies = folder.copy_from(source, generation.extra.values(), prefix)
        extra |= {role: copies[file.path] for role, file in generation.extra.items()}
    about_index = IndexAbout.of(of_index.about)
    extra |= _encoder(recipe, finished, system, about_index, folder, prefix)
    extra |= _report(finished, folder, prefix)
    reranker, reranking = _reranker(recipe, finished, system, folder, prefix)
    extra |= reranker
    fusion = _fusion(finished, system)
    dimensions = () if system.training is None else getattr(recipe, system.training).matryoshka
    about = About(about_index, WordsAbout.of(of_words.about), system.name, fusion, "published", reranking, dimensions)
    generation = Generation(number, about.values(), shards, extra)
    folder.commit(generation)
    return generation


def _encoder(
    recipe: Recipe,
    finished: Mapping[str, Artifact],
    system: DenseSystem,
    index: IndexAbout,
    folder: ShardFolder,
    prefix: str,
) -> dict[str, File]:
    from pipeline.encoder.identity import identify
    from pipeline.encoder.model import load_model, save_model

    model = load_model(recipe.encoder, system.model(finished))
    check_encoder(index, identify(model), folder.path)
    with folder.scratch() as scratch:
        save_model(model, scratch)  # with the recipe's prompts and limits, which a base model has not in its own folder
        return store_model(folder, ENCODER, scratch, prefix)


def _reranker(
    recipe: Recipe, finished: Mapping[str, Artifact], system: DenseSystem, folder: ShardFolder, prefix: str
) -> tuple[dict[str, File], Reranking | None]:
    """The model that the recipe names for serving; else the run's, where its gate ships it behind this encoder."""
    named, released = recipe.serve.reranker, _released(finished) or {}
    ships = released.get("chosen") == system.name and bool((released.get("reranker") or {}).get("path"))
    if named is None and not ships:
        return {}, None
    if named is None:
        about = released["reranker"]
        stored = store_model(folder, RERANKER, finished["rerank"].directory("model"), prefix)
        return stored, Reranking(_mode(about["first_stage"], system), about["depth"])
    from pipeline.scorer.load import load_scorer_model

    model = load_scorer_model(recipe.scorer.model_copy(update={"model": named}))
    with folder.scratch() as scratch:
        model.save(scratch)
        return store_model(folder, RERANKER, scratch, prefix), Reranking("hybrid", recipe.serve.rerank_depth)


def _report(finished: Mapping[str, Artifact], folder: ShardFolder, prefix: str) -> dict[str, File]:
    evaluated = last_evaluation(finished)
    if evaluated is None:
        return {}
    with folder.scratch() as scratch:
        copy = scratch / "report"
        shutil.copyfile(evaluated.file(REPORT, RUN_REPORT), copy)
        return {RUN_REPORT: folder.add(copy, f"{prefix}{RUN_REPORT}")}


def _mode(first_stage: str, system: DenseSystem) -> Mode:
    return "bm25" if first_stage == BM25 else "dense" if first_stage == system.name else "hybrid"


def released_encoder(finished: Mapping[str, Artifact]) -> str | None:
    """The encoder that the run's gate has chosen; None where it has not evaluated any."""
    released = _released(finished)
    return None if released is None else str(released["chosen"])


def _released(finished: Mapping[str, Artifact]) -> dict[str, Any] | None:
    evaluated = last_evaluation(finished)
    if evaluated is None:
        return None
    found: dict[str, Any] = json.loads(evaluated.file(REPORT, RELEASE).read_text(encoding="utf-8"))
    return found


def _fusion(finished: Mapping[str, Artifact], system: DenseSystem) -> dict[str, Any] | None:
    released = _released(finished)
    return released["fusion"] if released is not None and released["chosen"] == system.name else None


def _copied(
    folder: ShardFolder, source: ShardFolder, shards: tuple[ShardFiles, ...], prefix: str
) -> tuple[ShardFiles, ...]:
    copies = folder.copy_from(source, (file for shard in shards for file in shard.files.values()), prefix)
    return tuple(
        replace(shard, files={role: copies[file.path] for role, file in shard.files.items()}) for shard in shards
    )
