"""BM25 over passages."""

import math
import os
import random
import subprocess
import sys

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.errors import RayrieverError
from pipeline.lexical.words import check_stemmer
from pipeline.rankings import Hit
from pipeline.recipe import LexicalSection
from tests.lexical.built import Built

PLAIN = LexicalSection(stemmer="none")
ENGLISH = LexicalSection()


def passages(texts: dict[str, str], titles: dict[str, str] | None = None) -> pa.Table:
    rows = [
        {"passage_id": key, "title": (titles or {}).get(key, ""), "text": text, "source": "test"}
        for key, text in texts.items()
    ]
    return pa.Table.from_pylist(rows, schema=records.PASSAGE)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage_id for hit in hits]


def lucene(texts: dict[str, str], query: str, k1: float, b: float) -> dict[str, float]:
    """Kamphuis et al. 2020, table 1, 'Lucene (accurate)', straight from the formula."""
    words = {key: text.split() for key, text in texts.items()}
    mean_length = sum(map(len, words.values())) / len(words)
    scores = dict.fromkeys(texts, 0.0)
    for term in query.split():
        document_frequency = sum(term in each for each in words.values())
        idf = math.log(1 + (len(words) - document_frequency + 0.5) / (document_frequency + 0.5))
        for key, each in words.items():
            frequency = each.count(term)
            scores[key] += idf * frequency / (frequency + k1 * (1 - b + b * len(each) / mean_length))
    return {key: score for key, score in scores.items() if score > 0}


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 1.0), (0.1, 0.0)])
def test_k1_and_b_of_the_section_reach_the_formula(k1: float, b: float):
    texts = {
        "d1": "wing lift lift",
        "d2": "wing drag drag drag drag wing",
        "d3": "jet engine noise",
        "d4": "wing",
    }
    section = LexicalSection(stemmer="none", k1=k1, b=b)
    hits = Built(passages(texts), section).search(["lift wing wing"], 10)[0]
    assert dict(hits) == pytest.approx(lucene(texts, "lift wing wing", k1, b), rel=1e-5)
    assert hits == sorted(hits, key=lambda hit: -hit.score)


def test_ties_at_the_cut_off_do_not_depend_on_corpus_order():
    """argpartition keeps any of the equal scores: figures would change with the order of files."""
    keys = [f"p{number:03d}" for number in range(200)]
    random.Random(0).shuffle(keys)
    texts = dict.fromkeys(keys, "same words here") | {"zz": "same same same words words"}
    hits = Built(passages(texts), PLAIN).search(["same words"], 6)[0]
    assert ids(hits) == ["zz", "p000", "p001", "p002", "p003", "p004"]


def test_ids_are_ordered_as_text_not_as_numbers():
    hits = Built(passages({"9": "wing", "10": "wing"}), PLAIN).search(["wing"], 2)[0]
    assert ids(hits) == ["10", "9"]


def test_passages_without_a_common_word_are_no_hits():
    """Filling up to top_k with zero scores would feed fusion with passages that BM25 never found."""
    lexical = Built(passages({"d1": "wing lift", "d2": "jet noise"}), ENGLISH)
    assert [ids(hits) for hits in lexical.search(["wing", "submarine", "the of and", ""], 10)] == [
        ["d1"],
        [],
        [],
        [],
    ]


def test_the_title_is_searched():
    lexical = Built(passages({"d1": "text", "d2": "text"}, titles={"d2": "Propeller"}), ENGLISH)
    assert ids(lexical.search(["propellers"], 10)[0]) == ["d2"]


def test_stemmer_and_stop_words_go_together():
    texts = {"d1": "running the engines", "d2": "the"}
    assert ids(Built(passages(texts), ENGLISH).search(["the engine runs"], 10)[0]) == ["d1"]
    assert ids(Built(passages(texts), PLAIN).search(["the engine runs"], 10)[0]) == ["d2", "d1"]


def test_stop_words_are_those_of_the_stemmers_language():
    texts = {"d1": "und oder nicht", "d2": "the Häuser"}
    german = Built(passages(texts), LexicalSection(stemmer="german"))
    assert [ids(hits) for hits in german.search(["und", "the", "Haus"], 10)] == [[], ["d2"], ["d2"]]
    porter = Built(passages(texts), LexicalSection(stemmer="porter"))
    assert [ids(hits) for hits in porter.search(["und", "the"], 10)] == [["d1"], []]


def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(RayrieverError, match=r"'klingon'(.|\n)*english(.|\n)*finnish(.|\n)*'none'"):
        check_stemmer("klingon")


@pytest.mark.parametrize("texts", [{}, {"d1": "", "d2": "the"}])
def test_a_corpus_without_words_finds_nothing(texts: dict[str, str]):
    assert Built(passages(texts), ENGLISH).search(["wing"], 10) == [[]]


def test_a_passage_without_words_does_not_shift_the_others():
    hits = Built(passages({"a": "wing", "b": "", "c": "jet"}), ENGLISH).search(["jet"], 10)[0]
    assert ids(hits) == ["c"]


def test_scores_do_not_depend_on_the_hash_seed():
    """bm25s numbers stems in set order; sums in that order would differ from process to process."""
    program = (
        "import pyarrow as pa, random\n"
        "from tests.lexical.built import Built\n"
        "from pipeline.recipe import LexicalSection\n"
        "draw = random.Random(0)\n"
        "words = ['w%d' % i for i in range(60)]\n"
        "texts = [' '.join(draw.choices(words, k=20)) for _ in range(80)]\n"
        "names = ['p%d' % i for i in range(80)]\n"
        "table = pa.table({'passage_id': names, 'title': [''] * 80, 'text': texts})\n"
        "print(Built(table, LexicalSection()).search([' '.join(words)], 80))\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
