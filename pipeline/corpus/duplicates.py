"""Exact and near-duplicate texts: MinHash finds candidates, the real Jaccard similarity decides."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasketch import MinHash

from pipeline import records

Shingle = Callable[[str], Set[str]]
Advance = Callable[[int, int], None]

_PERMUTATIONS = 128
_RECALL = 0.999
_COMPARISONS_PER_BUCKET = 4_096
_FEWEST_COMPARED = 4
_CACHED_SETS = 256
_ADVANCE_EVERY = 2_000
_STANDARD_ERRORS = 4


def word_shingles(text: str) -> Set[str]:
    """Return the runs of three words, ignoring case; the words themselves where there are fewer."""
    words = text.casefold().split()
    return set(words) if len(words) < 3 else {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}


def character_shingles(text: str) -> Set[str]:
    """Return the runs of four characters, ignoring case and runs of white space; a shorter text as it is."""
    line = _normalised(text)
    return {line[i : i + 4] for i in range(max(1, len(line) - 3))} if line else set()


def jaccard(one: Set[str], other: Set[str]) -> float:
    """Return the share of common elements among all; 1.0 for two empty sets."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if one or other else 1.0


def find_duplicates(
    ids: Sequence[str],
    texts: Sequence[str],
    threshold: float,
    shingle: Shingle,
    advance: Advance = lambda done, total: None,
) -> pa.Table:
    """Return a records.DUPLICATE row for every text that repeats an earlier one, in the order of the texts.

    Texts that agree but for case and white space are exact duplicates with similarity 1.0. Two texts with a
    Jaccard similarity of at least `threshold` are found with probability >= 0.999 and belong to one group;
    groups are transitive, so `similarity`, always to the first text of the group, may be below the threshold.
    Texts are read by position, a few times, and not kept. Time grows linearly with their number: in a bucket
    of more than 64 candidates a text is compared with its nearest only. `advance(done, total)` is told the
    progress.
    """
    groups = _Groups(len(texts))
    distinct = _join_exact(texts, groups)
    signatures = _signatures(texts, distinct, shingle, advance)
    pairs = ((distinct[one], distinct[other]) for one, other in _candidates(signatures, threshold))
    _join_near(texts, pairs, threshold, shingle, groups)
    return _rows(ids, texts, shingle, groups)


class _Groups:
    """Union-find over positions; the first position of a group is its root."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, position: int) -> int:
        root = position
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[position] != root:
            self._parent[position], position = root, self._parent[position]
        return root

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.find(one), self.find(other)))
        self._parent[second] = first


def representatives(duplicates: pa.Table) -> dict[str, str]:
    """Id -> first of its group, from rows of `records.DUPLICATE`; ids that are absent stand for themselves."""
    return dict(zip(duplicates["passage_id"].to_pylist(), duplicates["duplicate_of"].to_pylist(), strict=True))


def known_ids(passage_ids: Iterable[str], same: Mapping[str, str]) -> dict[str, str]:
    """Id that a file may name -> id in the corpus: its own, or that of the passage it is a dropped duplicate of.

    Args:
        passage_ids: of the corpus.
        same: as `representatives` returns them.
    """
    present = {passage_id: passage_id for passage_id in passage_ids}
    return {dropped: kept for dropped, kept in same.items() if dropped not in present} | present


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _join_exact(texts: Sequence[str], groups: _Groups) -> list[int]:
    """Group the exact duplicates; return the positions of the distinct texts."""
    first: dict[bytes, int] = {}
    for position, text in enumerate(texts):
        digest = hashlib.blake2b(_normalised(text).encode(errors="surrogatepass"), digest_size=16).digest()
        groups.join(first.setdefault(digest, position), position)
    return list(first.values())


def _signatures(
    texts: Sequence[str], positions: Sequence[int], shingle: Shingle, advance: Advance
) -> npt.NDArray[np.uint32]:
    """MinHash signatures `[len(positions), 128]`."""
    signatures = np.empty((len(positions), _PERMUTATIONS), dtype=np.uint32)
    encoded = ([each.encode(errors="surrogatepass") for each in shingle(texts[p])] for p in positions)
    # datasketch mixes the bits of the hash itself; its default, SHA-1, doubles the time.
    sketches = MinHash.generator(encoded, num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
    for row, sketch in enumerate(sketches):
        signatures[row] = sketch.hashvalues
        if row % _ADVANCE_EVERY == 0:
            advance(row, len(positions))
    advance(len(positions), len(positions))
    return signatures


def _bands(threshold: float) -> tuple[int, int]:
    """The number of bands and of rows per band that find a pair at the threshold in 999 of 1,000 cases."""
    for rows in range(_PERMUTATIONS, 1, -1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return bands, rows
    return _PERMUTATIONS, 1


def _buckets(signatures: npt.NDArray[np.uint32], bands: int, rows: int) -> Iterator[npt.NDArray[np.intp]]:
    """Rows of `signatures` that agree in a band, the likely nearest beside each other.

    datasketch's MinHashLSH keeps the bands of every text in dictionaries, several kilobytes a text; sorting
    one band after the other needs sixteen bytes.
    """
    keys = _band_keys(signatures, bands - 1, rows)
    for band in range(bands):
        # The band before orders the members of a bucket: those that agree in two bands come together.
        keys, neighbours = _band_keys(signatures, band, rows), keys
        order = np.lexsort((neighbours, keys))
        edges = np.flatnonzero(np.diff(keys[order])) + 1
        starts, ends = np.concatenate(([0], edges)), np.concatenate((edges, [len(order)]))
        for bucket in np.flatnonzero(ends - starts > 1):
            yield order[starts[bucket] : ends[bucket]]


def _band_keys(signatures: npt.NDArray[np.uint32], band: int, rows: int) -> npt.NDArray[np.uint64]:
    keys = np.zeros(len(signatures), dtype=np.uint64)
    for column in range(band * rows, (band + 1) * rows):
        keys = (keys ^ signatures[:, column]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _candidates(signatures: npt.NDArray[np.uint32], threshold: float) -> Iterator[tuple[int, int]]:
    """Pairs of rows of `signatures` that may be as similar as `threshold`; a pair may come more than once."""
    # A pair at the threshold falls below this estimate of its similarity once in 30,000 times.
    error = _STANDARD_ERRORS * math.sqrt(threshold * (1 - threshold) / _PERMUTATIONS)
    for bucket in _buckets(signatures, *_bands(threshold)):
        compared = max(_FEWEST_COMPARED, _COMPARISONS_PER_BUCKET // len(bucket))
        for place in range(1, len(bucket)):
            row, others = bucket[place], bucket[max(0, place - compared) : place]
            agreement = (signatures[others] == signatures[row]).mean(axis=1)
            for other in others[agreement >= threshold - error]:
                yield int(other), int(row)


def _join_near(
    texts: Sequence[str],
    pairs: Iterable[tuple[int, int]],
    threshold: float,
    shingle: Shingle,
    groups: _Groups,
) -> None:
    """Group the pairs of positions whose texts are as similar as `threshold`."""
    shingles = lru_cache(_CACHED_SETS)(lambda position: shingle(texts[position]))
    for one, other in pairs:
        if groups.find(one) == groups.find(other):
            continue
        if jaccard(shingles(one), shingles(other)) >= threshold:
            groups.join(one, other)


def _rows(ids: Sequence[str], texts: Sequence[str], shingle: Shingle, groups: _Groups) -> pa.Table:
    shingles = lru_cache(_CACHED_SETS)(lambda position: shingle(texts[position]))
    found = [(position, root) for position in range(len(texts)) if (root := groups.find(position)) != position]
    columns = {
        "passage_id": [ids[position] for position, _ in found],
        "duplicate_of": [ids[root] for _, root in found],
        "similarity": [jaccard(shingle(texts[position]), shingles(root)) for position, root in found],
    }
    return cast(pa.Table, pa.table(columns, schema=records.DUPLICATE))
