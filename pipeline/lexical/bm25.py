"""BM25 over title and text of every passage, by bm25s and Snowball stemmers."""

from __future__ import annotations

from dataclasses import dataclass

import bm25s
import numpy as np
import pyarrow as pa
import Stemmer
from numpy.typing import NDArray

from pipeline.errors import RayrieverError
from pipeline.rankings import Hit
from pipeline.recipe import LexicalSection
from pipeline.records import full_text

NONE = "none"
# Snowball names some algorithms after their author; their stop words are those of the language.
_LANGUAGE_OF_ALGORITHM = {"porter": "english", "dutch_porter": "dutch"}


def check_stemmer(name: str) -> None:
    """Raise RayrieverError, listing the languages, unless `name` is 'none' or a Snowball stemmer.

    Cheap, so that a recipe can be refused before anything is computed.
    """
    known = Stemmer.algorithms()
    if name == NONE or name in known:
        return
    with_stop_words = [each for each in known if _stop_words(each)]
    stemmer_only = [each for each in known if not _stop_words(each)]
    raise RayrieverError(
        f"lexical.stemmer: no Snowball stemmer is called {name!r}.\n"
        f"  with stop words: {', '.join(with_stop_words)}\n"
        f"  stemmer only:    {', '.join(stemmer_only)}\n"
        f"Choose one of them, or {NONE!r} for neither stemmer nor stop words."
    )


@dataclass(frozen=True)
class Lexical:
    """A BM25 index in memory; it can be pickled."""

    passage_ids: list[str]
    id_order: NDArray[np.int64]  # [passages] place of each passage among the sorted ids
    index: bm25s.BM25 | None  # None where no passage has a word
    stemmer: str

    def search(self, queries: list[str], top_k: int) -> list[list[Hit]]:
        """The best passages of each query: by score, equal scores by passage id, also at the cut-off.

        Only passages that share a word with the query are hits: a list may be shorter than `top_k`, or empty.
        Raises ValueError when `top_k` is below 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}.")
        if self.index is None or not queries:
            return [[] for _ in queries]
        words = bm25s.tokenization.convert_tokenized_to_string_list(_tokenize(queries, self.stemmer))
        return [self._best(self.index, self.index.get_tokens_ids(each), top_k) for each in words]

    def _best(self, index: bm25s.BM25, token_ids: list[int], top_k: int) -> list[Hit]:
        scores = index.get_scores_from_ids(token_ids)
        places = np.flatnonzero(scores > 0)
        if len(places) > top_k:
            # bm25s cuts ties at random places; keep all that tie with the last one until they are sorted.
            last = np.partition(scores[places], -top_k)[-top_k]
            places = places[scores[places] >= last]
        order = np.lexsort((self.id_order[places], -scores[places]))[:top_k]
        return [Hit(self.passage_ids[place], float(scores[place])) for place in places[order]]


def build(passages: pa.Table, section: LexicalSection) -> Lexical:
    """Index rows of `records.PASSAGE`: Lucene's BM25 (Kamphuis et al. 2020) with the section's k1 and b.

    Words are runs of two or more word characters in lower case. Raises RayrieverError for an unknown stemmer.
    """
    check_stemmer(section.stemmer)
    passage_ids: list[str] = passages["passage_id"].to_pylist()
    id_order = np.empty(len(passage_ids), dtype=np.int64)
    id_order[sorted(range(len(passage_ids)), key=passage_ids.__getitem__)] = np.arange(len(passage_ids))
    pairs = zip(passages["title"].to_pylist(), passages["text"].to_pylist(), strict=True)
    corpus = _tokenize([full_text(title, text) for title, text in pairs], section.stemmer)
    index = None
    if corpus.vocab:
        index = bm25s.BM25(k1=section.k1, b=section.b, method="lucene", backend="numpy")
        index.index(corpus, create_empty_token=False, show_progress=False)
    return Lexical(passage_ids, id_order, index, section.stemmer)


def _tokenize(texts: list[str], stemmer: str) -> bm25s.tokenization.Tokenized:
    # A Stemmer cannot be pickled, so an index carries its name and a stemmer is made for each batch.
    return bm25s.tokenize(
        texts,
        stopwords=_stop_words(stemmer),
        stemmer=None if stemmer == NONE else Stemmer.Stemmer(stemmer),
        return_ids=True,
        show_progress=False,
    )


def _stop_words(stemmer: str) -> list[str]:
    language = _LANGUAGE_OF_ALGORITHM.get(stemmer, stemmer)
    suffix = "EN" if language == "english" else language.upper()
    return list(getattr(bm25s.stopwords, f"STOPWORDS_{suffix}", ()))
