"""Make a collection of a finished run: its passages, the index of one encoder, and its words."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.collection.about import DEFAULT, About, collection_folder
from pipeline.collection.passages import write_shards
from pipeline.encoder.systems import DenseSystem
from pipeline.errors import RayrieverError
from pipeline.evaluation.stage import RELEASE, REPORT
from pipeline.index.manifest import About as IndexAbout
from pipeline.index.search import folder_of as index_folder
from pipeline.lexical.search import folder_of as words_folder
from pipeline.lexical.stage import About as WordsAbout
from pipeline.sharded.folder import PASSAGES, VECTORS, WORDS, File, Generation, ShardFiles, ShardFolder
from pipeline.workspace import Artifact


def publish(finished: Mapping[str, Artifact], system: DenseSystem, name: str = DEFAULT) -> Generation:
    """Commit a generation that holds what the run made, as the newest of the collection.

    Files are linked where the disk allows it, else copied: a later run may delete its artifacts, and the collection
    stays. Raises RayrieverError when words or passages are missing.
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
    fusion = _fusion(finished, system)
    about = About(IndexAbout.of(of_index.about), WordsAbout.of(of_words.about), system.name, fusion, "published")
    generation = Generation(number, about.values(), shards, extra)
    folder.commit(generation)
    return generation


def released_encoder(finished: Mapping[str, Artifact]) -> str | None:
    """The encoder that the run's gate has chosen; None where it has not evaluated any."""
    released = _released(finished)
    return None if released is None else str(released["chosen"])


def _released(finished: Mapping[str, Artifact]) -> dict[str, Any] | None:
    if "evaluate" not in finished:
        return None
    found: dict[str, Any] = json.loads(finished["evaluate"].file(REPORT, RELEASE).read_text(encoding="utf-8"))
    return found


def _fusion(finished: Mapping[str, Artifact], system: DenseSystem) -> dict[str, Any] | None:
    released = _released(finished)
    return released["fusion"] if released is not None and released["chosen"] == system.name else None


def next_number(folder: ShardFolder) -> int:
    """Of the generation after the newest."""
    return max(folder.generations(), default=0) + 1


def new_prefix(number: int) -> str:
    """Of the files of a change. Two writers of the same number never write the same file."""
    return f"{number:06d}-{uuid.uuid4().hex[:8]}-"


def _copied(
    folder: ShardFolder, source: ShardFolder, shards: tuple[ShardFiles, ...], prefix: str
) -> tuple[ShardFiles, ...]:
    copies = folder.copy_from(source, (file for shard in shards for file in shard.files.values()), prefix)
    return tuple(
        replace(shard, files={role: copies[file.path] for role, file in shard.files.items()}) for shard in shards
    )
