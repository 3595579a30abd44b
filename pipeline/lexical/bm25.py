"""BM25 over the words of passages: a bm25s index per shard, scored with the statistics of the whole corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from pipeline.errors import RayrieverError
from pipeline.lexical.statistics import Statistics
from pipeline.lexical.words import Words
from pipeline.recipe import LexicalSection
from pipeline.sharded.folder import ShardFiles, ShardFolder
from pipeline.sharded.found import Found, best_rows
from pipeline.sharded.ids import IDS, IdMap, dead_rows

# bm25s's own files by role, and the ids beside them
FILES: Mapping[str, str] = {
    "data": "data.csc.index.npy",
    "indices": "indices.csc.index.npy",
    "indptr": "indptr.csc.index.npy",
    "vocab": "vocab.index.json",
    "params": "params.index.json",
}


@dataclass
class WordShard:
    """`ids` of row i is that of document i of the index; rows are in ascending order of id."""

    index: bm25s.BM25
    ids: IdMap
    dead: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # deleted rows

    def search(self, queries: Sequence[Sequence[str]], k: int, only: Iterable[str] | None = None) -> Found:
        """The top k of each query's words by score, equal scores by passage id; padded where there are fewer.

        Only passages that share a word with the query are found.

        Args:
            only: ids of the passages that may be found; None: all.
        """
        hidden = self._hidden(only)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for query, words in enumerate(queries):
            values, places = self._best(words, k, hidden)
            scores[query, : len(values)], rows[query, : len(places)] = values, places
        return Found(scores, self.ids.of(rows.ravel()))

    def _hidden(self, only: Iterable[str] | None) -> npt.NDArray[np.bool_]:
        hidden = np.zeros(len(self.ids), dtype=bool)
        if only is not None:
            hidden[:] = True
            hidden[self.ids.rows(only)] = False
        hidden[self.dead] = True
        return hidden

    def _best(
        self, words: Sequence[str], k: int, hidden: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        tokens = self.index.get_tokens_ids(list(words))
        if not tokens:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        scores = self.index.get_scores_from_ids(tokens)
        scores[hidden] = 0
        return best_rows(scores, k)


def index_words(words: Words, ids: pa.Array, statistics: Statistics, section: LexicalSection) -> WordShard:
    """Lucene's BM25 (Kamphuis et al. 2020, table 1, "accurate") with the section's k1 and b.

    Scores are those of one index over the whole corpus when `statistics` are the corpus's.

    Args:
        ids: of the texts that the words are from, in their order; any order.
    """
    order = pa.compute.array_sort_indices(ids).to_numpy()
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    lengths = words.lengths[order].astype(np.float32)
    shape = (len(order), len(words.vocabulary))
    documents = np.repeat(place, words.lengths)
    counts = sparse.csc_matrix((np.ones(len(documents), np.float32), (documents, words.tokens)), shape=shape)
    counts.sum_duplicates()
    inverse = _inverse_frequencies(statistics, words.vocabulary)
    norm = section.k1 * (1 - section.b + section.b * lengths / np.float32(statistics.mean_length or 1))
    per_word = np.diff(counts.indptr)
    scores = np.repeat(inverse, per_word) * (counts.data / (counts.data + norm[counts.indices]))
    index = bm25s.BM25(k1=section.k1, b=section.b, method="lucene", backend="numpy")
    index.vocab_dict = {word: number for number, word in enumerate(words.vocabulary)}
    index.nonoccurrence_array = None
    index.scores = {
        "data": scores.astype(np.float32),
        "indices": counts.indices.astype(np.int32),
        "indptr": counts.indptr.astype(np.int64),
        "num_docs": len(order),
    }
    return WordShard(index, IdMap(ids.take(pa.array(order))))


def _inverse_frequencies(statistics: Statistics, vocabulary: Sequence[str]) -> npt.NDArray[np.float32]:
    """log(1 + (N - n + 0.5) / (n + 0.5)) of every word."""
    having = statistics.of(vocabulary).astype(np.float64)
    values: npt.NDArray[np.float32] = np.log1p((statistics.passages - having + 0.5) / (having + 0.5)).astype(np.float32)
    return values


def save(shard: WordShard, folder: Path) -> dict[str, Path]:
    """The shard's files by role, as bm25s writes them and `bm25s.BM25.load` reads them."""
    shard.index.save(folder, show_progress=False)
    shard.ids.save(folder / "shard.ids.arrow")
    files = {}
    for role, name in FILES.items():
        files[role] = folder / f"shard.{name}"
        (folder / name).rename(files[role])
    return files | {IDS: folder / "shard.ids.arrow"}


def open_word_shard(folder: ShardFolder, files: ShardFiles) -> WordShard:
    """A finished shard, its files checked and mapped. Raises RayrieverError naming what is wrong."""
    roles = [*FILES, IDS]
    local = dict(zip(roles, folder.fetch([files.files[role] for role in roles]), strict=True))
    names = {f"{role}_name": local[role].name for role in FILES}
    try:
        index = bm25s.BM25.load(local["data"].parent, mmap=True, show_progress=False, **names)
        ids = IdMap.open(local[IDS])
    except (OSError, ValueError, KeyError) as error:
        raise RayrieverError(f"{folder.path}: a shard of words cannot be read ({error}). Build it again.") from error
    if index.scores["num_docs"] != len(ids):
        raise RayrieverError(
            f"{folder.path}: a shard of words has {index.scores['num_docs']:,} passages but {len(ids):,} ids. "
            "Build it again."
        )
    return WordShard(index, ids, dead_rows(folder, files))
