"""Kinds of FAISS indexes: what each stores, which one a corpus of some size gets, and how many shards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import faiss

from pipeline.errors import RayrieverError
from pipeline.recipe import IndexSection

Kind = Literal["flat", "ivf_flat", "ivf_pq", "hnsw"]

# Exact search of so many vectors takes some 30 ms for one query on one core: nothing approximate is worth its build.
_EXACT_ROWS = 200_000
# Vectors per centroid that k-means sees: Faiss warns below 39 and ignores those beyond 256.
ROWS_PER_CENTROID = 64
_SCALAR = {
    "float16": faiss.ScalarQuantizer.QT_fp16,
    "bfloat16": faiss.ScalarQuantizer.QT_bf16,
    "int8": faiss.ScalarQuantizer.QT_8bit,
}
_FLOAT32_BYTES = 4
_MIN_LISTS = 16
LEAST_CODED = 16  # values of a code of four bits
# Candidates that ivf_pq scores exactly, per hit asked for
CANDIDATES = 5


@dataclass(frozen=True)
class Spec:
    """Everything that decides what the shards of an index hold."""

    kind: Kind
    precision: str  # of what flat stores
    dimension: int
    shards: int
    lists: int  # centroids of ivf_*, the same in every shard; 0 for other kinds
    neighbours: int  # links per vector of hnsw; 0 for other kinds
    build_depth: int  # breadth of hnsw's search for neighbours; 0 for other kinds

    @property
    def is_exact(self) -> bool:
        """Whether a search finds the best of what is stored."""
        return self.kind == "flat"

    @property
    def needs_training(self) -> bool:
        return self.kind in ("ivf_flat", "ivf_pq") or self.precision == "int8"

    @property
    def keeps_vectors(self) -> bool:
        """Whether the vectors lie beside the index, for exact scores of its candidates."""
        return self.kind == "ivf_pq"

    def new_index(self) -> faiss.Index:
        """An empty index of inner products."""
        metric, d = faiss.METRIC_INNER_PRODUCT, self.dimension
        if self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(d, self.neighbours, metric)
            index.hnsw.efConstruction = self.build_depth
            return index
        if self.kind == "flat":
            scalar = _SCALAR.get(self.precision)
            return faiss.IndexFlatIP(d) if scalar is None else faiss.IndexScalarQuantizer(d, scalar, metric)
        codes = "Flat" if self.kind == "ivf_flat" else f"PQ{sub_quantizers(d)}x4fs"
        return faiss.index_factory(d, f"IVF{self.lists},{codes}", metric)

    def new_quantizer(self) -> faiss.Index:
        """An empty index of the same kind as the one that finds a vector's list."""
        return faiss.IndexFlatIP(self.dimension)


@dataclass(frozen=True)
class Choice:
    """A specification, and why it was chosen where the recipe left it open."""

    spec: Spec
    why: str


def choose(section: IndexSection, rows: int, dimension: int) -> Choice:
    """The index for so many vectors. `auto` weighs size, memory and the target recall, and says so."""
    kind, why = (
        (section.kind, "named in the recipe") if section.kind != "auto" else _automatic(section, rows, dimension)
    )
    if kind != "flat" and section.precision != "float32":
        raise RayrieverError(
            f"index.precision {section.precision} is for index.kind flat; {kind} does not use it. Take it out."
        )
    shards = max(1, min(section.shards or _shards(section, rows, dimension), rows))
    if kind == "ivf_pq" and rows < LEAST_CODED:
        raise RayrieverError(f"index.kind ivf_pq needs {LEAST_CODED} vectors, there are {rows:,}. Use flat.")
    inverted, hnsw = kind.startswith("ivf"), kind == "hnsw"
    lists = (section.lists or _lists(math.ceil(rows / shards))) if inverted else 0
    if lists > rows:
        raise RayrieverError(f"index.lists = {lists:,} is more than the {rows:,} vectors. Lower it or leave it out.")
    return Choice(
        Spec(
            kind=kind,
            precision=section.precision,
            dimension=dimension,
            shards=shards,
            lists=lists,
            neighbours=section.neighbours if hnsw else 0,
            build_depth=section.build_depth if hnsw else 0,
        ),
        why,
    )


def _automatic(section: IndexSection, rows: int, dimension: int) -> tuple[Kind, str]:
    if section.precision != "float32":
        return "flat", f"index.precision {section.precision} is for flat"
    megabytes = rows * dimension * _FLOAT32_BYTES / 1e6
    size = f"{rows:,} vectors of {dimension} dimensions, {megabytes:,.0f} MB"
    if megabytes > section.memory_mb:
        return "ivf_pq", f"{size}, more than index.memory_mb = {section.memory_mb:,}: codes in memory, vectors on disk"
    if rows <= _EXACT_ROWS:
        return "flat", f"{size}: exact search is fast enough"
    if section.recall >= 1:
        return "flat", f"{size}: index.recall = 1 asks for exact search"
    return "ivf_flat", f"{size}, within index.memory_mb: lists searched until recall {section.recall:g}"


def _shards(section: IndexSection, rows: int, dimension: int) -> int:
    return math.ceil(rows * dimension * _FLOAT32_BYTES / 1e6 / section.shard_mb)


def _lists(rows: int) -> int:
    """The power of two nearest to 4 sqrt(rows), Faiss's own advice, with enough vectors to train each."""
    wanted: int = 2 ** round(math.log2(4 * math.sqrt(max(rows, 1))))
    return max(min(wanted, rows // ROWS_PER_CENTROID), min(_MIN_LISTS, rows), 1)


def sub_quantizers(dimension: int) -> int:
    """Codes of four bits per vector: the most of them that are even in number and cover two dimensions or more each.

    Raises RayrieverError where the dimension allows none.
    """
    fitting = [m for m in range(2, dimension // 2 + 1, 2) if dimension % m == 0]
    if not fitting:
        raise RayrieverError(
            f"index.kind ivf_pq needs an even divisor of the dimension, and {dimension} has none from 2 to "
            f"{dimension // 2}. Use flat or ivf_flat."
        )
    return fitting[-1]
