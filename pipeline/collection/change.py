"""Add, replace and delete passages of a collection: each change is a new generation beside the old one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.collection.about import About
from pipeline.collection.naming import new_prefix, next_number
from pipeline.collection.passages import living, write_shard
from pipeline.encoder.identity import EncoderIdentity
from pipeline.errors import RayrieverError
from pipeline.index.builder import TRAINED, build_from
from pipeline.index.manifest import check_encoder
from pipeline.lexical.bm25 import index_words, save
from pipeline.lexical.stage import STATISTICS
from pipeline.lexical.statistics import Statistics
from pipeline.lexical.words import words_of
from pipeline.records import PASSAGE, full_text
from pipeline.sharded.folder import PASSAGES, VECTORS, WORDS, Generation, ShardFiles, ShardFolder
from pipeline.sharded.ids import without

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]  # texts -> unit vectors [n, d]


def add(folder: ShardFolder, passages: pa.Table, encode: Encode, encoder: EncoderIdentity) -> Generation:
    """Add rows of `records.PASSAGE`; a passage whose id is there already is replaced. Only these are encoded.

    New passages are scored with the word statistics that the others have been scored with, until `compact`.
    Raises RayrieverError for repeated ids and for another encoder than the collection's.
    """
    current = folder.current()
    about = About.of(current.about)
    check_encoder(about.index, encoder, folder.path)
    ids = passages["passage_id"].combine_chunks()
    if len(pc.unique(ids)) < len(ids):
        raise RayrieverError("collection: a passage id is given twice; which text is meant? Keep one.")
    if not passages.num_rows:
        return current
    number = next_number(folder)
    prefix = new_prefix(number)
    name = f"{prefix}added"
    texts = list(map(full_text, passages["title"].to_pylist(), passages["text"].to_pylist()))
    spec, trained = about.index.spec, current.extra.get(TRAINED)
    vectors = build_from(ids, encode(texts), spec, trained, folder, f"{name}-vectors")
    words = _word_shard(folder, current, about, ids, texts, f"{name}-words")
    kept = _without(folder, current, ids.to_pylist(), prefix)
    shards = {
        VECTORS: (*kept[VECTORS], vectors),
        WORDS: (*kept[WORDS], words),
        PASSAGES: (*kept[PASSAGES], write_shard(passages.cast(PASSAGE), folder, f"{name}-passages")),
    }
    grown = replace(about, additions=about.additions + 1)
    return _commit(folder, current, number, shards, grown, f"{passages.num_rows:,} passages added or replaced")


def delete(folder: ShardFolder, passage_ids: Sequence[str]) -> Generation | None:
    """Delete passages; ids that are not there are no error, and without any other nothing changes (None).

    Their rows stay on disk until `compact`.
    """
    current = folder.current()
    number = next_number(folder)
    shards = _without(folder, current, passage_ids, new_prefix(number))
    if shards == dict(current.shards):
        return None
    changed = Generation(number, current.about, shards, current.extra)
    gone = living(folder, current) - living(folder, changed)
    return _commit(folder, current, number, shards, About.of(current.about), f"{gone:,} passages deleted")


def _word_shard(
    folder: ShardFolder, current: Generation, about: About, ids: pa.Array, texts: list[str], name: str
) -> ShardFiles:
    statistics = Statistics.open(folder.fetch([current.extra[STATISTICS]])[0])
    section = about.words.lexical
    shard = index_words(words_of([texts], section.stemmer), ids, statistics, section)
    with folder.scratch() as scratch:
        return folder.add_shard(len(ids), name, save(shard, scratch))


def _without(
    folder: ShardFolder, current: Generation, passage_ids: Iterable[str], prefix: str
) -> dict[str, tuple[ShardFiles, ...]]:
    gone = list(passage_ids)
    return {
        kind: tuple(without(folder, shard, gone, f"{prefix}{kind}-{place:04d}") for place, shard in enumerate(shards))
        for kind, shards in current.shards.items()
    }


def _commit(
    folder: ShardFolder,
    current: Generation,
    number: int,
    shards: dict[str, tuple[ShardFiles, ...]],
    about: About,
    change: str,
) -> Generation:
    changed = Generation(number, replace(about, change=change).values(), shards, current.extra)
    folder.commit(changed)
    return changed
