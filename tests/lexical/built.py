"""BM25 shards of some passages in memory, without Ray."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline.lexical.bm25 import WordShard, index_words
from pipeline.lexical.statistics import count, total
from pipeline.lexical.words import query_words, words_of
from pipeline.rankings import Hit
from pipeline.recipe import LexicalSection
from pipeline.records import full_text
from pipeline.sharded.found import merge
from pipeline.sharded.rows import bounds_of


class Built:
    """An index of `shards` parts over rows of passage_id, title, text."""

    def __init__(self, passages: pa.Table, section: LexicalSection, shards: int = 1) -> None:
        self.section = section
        parts = [passages.slice(low, high - low) for low, high in bounds_of(passages.num_rows, shards)]
        words = [
            words_of([list(map(full_text, part["title"].to_pylist(), part["text"].to_pylist()))], section.stemmer)
            for part in parts
        ]
        statistics = total([count(each) for each in words])
        self.shards: list[WordShard] = [
            index_words(each, part["passage_id"].cast(pa.string()).combine_chunks(), statistics, section)
            for part, each in zip(parts, words, strict=True)
        ]

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        words = query_words(queries, self.section.stemmer)
        return merge([shard.search(words, k) for shard in self.shards], k).hits()
