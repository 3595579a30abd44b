"""What BM25 must know of the whole corpus: how many passages have a word, and how long passages are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.lexical.words import Words
from pipeline.sharded.arrow_file import read_arrow, write_arrow

_SCHEMA = pa.schema([pa.field("word", pa.string(), False), pa.field("passages", pa.int64(), False)])


@dataclass(frozen=True)
class Statistics:
    """Of a corpus or a part of it; parts add up."""

    frequencies: pa.Table  # word, number of passages that have it
    passages: int
    tokens: int

    @property
    def mean_length(self) -> float:
        """Words per passage."""
        return self.tokens / self.passages if self.passages else 0.0

    def of(self, vocabulary: Sequence[str]) -> npt.NDArray[np.int64]:
        """In how many passages each word of the vocabulary is; 0 for an unknown one."""
        places = pc.index_in(pa.array(vocabulary, pa.string()), value_set=self.frequencies["word"])
        found: npt.NDArray[np.int64] = pc.fill_null(self.frequencies["passages"].take(places), 0).to_numpy()
        return found

    def save(self, path: Path) -> None:
        counts = {b"passages": str(self.passages), b"tokens": str(self.tokens)}
        table = self.frequencies.combine_chunks().cast(_SCHEMA).replace_schema_metadata(counts)
        write_arrow(path, table)

    @classmethod
    def open(cls, path: Path) -> Statistics:
        table = read_arrow(path)
        counts = table.schema.metadata
        return cls(table, int(counts[b"passages"]), int(counts[b"tokens"]))


def count(words: Words) -> Statistics:
    """The statistics of some texts."""
    texts = np.repeat(np.arange(len(words.lengths), dtype=np.int64), words.lengths)
    pairs = np.unique(texts * max(1, len(words.vocabulary)) + words.tokens)
    frequencies = np.bincount(pairs % max(1, len(words.vocabulary)), minlength=len(words.vocabulary))
    table = pa.table([pa.array(words.vocabulary, pa.string()), pa.array(frequencies, pa.int64())], schema=_SCHEMA)
    return Statistics(table, len(words.lengths), len(words.tokens))


def total(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of all parts together, words ascending."""
    grouped = pa.concat_tables([each.frequencies.cast(_SCHEMA) for each in parts]).group_by("word")
    summed = grouped.aggregate([("passages", "sum")]).sort_by("word").rename_columns(["word", "passages"])
    return Statistics(summed.cast(_SCHEMA), sum(each.passages for each in parts), sum(each.tokens for each in parts))
