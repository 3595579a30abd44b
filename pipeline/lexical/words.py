"""Text to words: bm25s's tokeniser with Snowball stemmers and the stop words of their language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from pipeline.errors import RayrieverError

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
class Words:
    """The words of some texts, as numbers into their vocabulary."""

    vocabulary: list[str]  # ascending
    tokens: npt.NDArray[np.int32]  # of all texts, one after the other
    lengths: npt.NDArray[np.int32]  # tokens per text


def words_of(batches: Iterable[Sequence[str]], stemmer: str) -> Words:
    """Words are runs of two or more word characters in lower case, stemmed, without stop words."""
    numbers: dict[str, int] = {}
    tokens, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for texts in batches:
        found = _tokenize(list(texts), stemmer)
        known = np.array([numbers.setdefault(word, len(numbers)) for word in _by_id(found)], dtype=np.int32)
        flat = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in found.ids] or [np.empty(0, np.int64)])
        tokens.append(known[flat] if len(known) else flat.astype(np.int32))
        lengths.append(np.array([len(ids) for ids in found.ids], dtype=np.int32))
    # bm25s numbers words as they come out of a set: in order of the words, nothing depends on the process.
    vocabulary = sorted(numbers)
    place = np.empty(len(numbers), dtype=np.int32)
    place[[numbers[word] for word in vocabulary]] = np.arange(len(numbers), dtype=np.int32)
    return Words(vocabulary, place[np.concatenate(tokens)], np.concatenate(lengths))


def query_words(queries: Sequence[str], stemmer: str) -> list[list[str]]:
    """The words of each query, in its order."""
    if not queries:
        return []
    found: list[list[str]] = bm25s.tokenization.convert_tokenized_to_string_list(_tokenize(list(queries), stemmer))
    return found


def _by_id(tokenized: bm25s.tokenization.Tokenized) -> list[str]:
    return [word for word, _ in sorted(tokenized.vocab.items(), key=lambda item: item[1])]


def _tokenize(texts: list[str], stemmer: str) -> bm25s.tokenization.Tokenized:
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
