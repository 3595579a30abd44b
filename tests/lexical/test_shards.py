"""BM25 over shards against one bm25s index of the whole corpus, in memory and through the stage on Ray."""

import random
from pathlib import Path

import bm25s
import pytest

from pipeline.errors import RayrieverError
from pipeline.lexical.search import ShardedWords, folder_of
from pipeline.recipe import LexicalSection, Recipe
from pipeline.records import full_text
from pipeline.sharded.folder import ShardFolder
from tests.artifacts import Shelf

WORDS = [f"word{number}" for number in range(300)]


def words_folder(shelf: Shelf) -> ShardFolder:
    shelf.words()
    return folder_of(shelf.finished["words"])


def passages(count: int) -> list[dict[str, str]]:
    """Words of very unequal frequency, some passages equal, some empty."""
    draw = random.Random(0)
    weights = [1 / (place + 1) for place in range(len(WORDS))]
    texts = [" ".join(draw.choices(WORDS, weights, k=draw.randint(0, 40))) for _ in range(count)]
    texts[10:20] = [texts[0]] * 10
    names = [f"p{number}" for number in draw.sample(range(10_000), count)]
    return [{"passage_id": name, "title": "t", "text": text} for name, text in zip(names, texts, strict=True)]


def one_index(rows: list[dict[str, str]], queries: list[str], k: int) -> list[list[tuple[str, float]]]:
    """The whole corpus in one bm25s index, ties by id."""
    texts = [full_text(row["title"], row["text"]) for row in rows]
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene", backend="numpy")
    index.index(bm25s.tokenize(texts, stopwords=[], show_progress=False), show_progress=False)
    found = []
    for query in queries:
        words = [word for word in query.split() if word in index.vocab_dict]
        scores = index.get_scores(words) if words else [0.0] * len(rows)
        ranked = sorted(((-score, row["passage_id"]) for row, score in zip(rows, scores, strict=True) if score > 0))
        found.append([(passage_id, -score) for score, passage_id in ranked[:k]])
    return found


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_together_equal_one_bm25s_index(shards: int, tmp_path: Path, ray_cluster):
    """With frequencies of its own, every shard would score on a scale of its own."""
    rows = passages(700)
    queries = [" ".join(random.Random(n).choices(WORDS, k=5)) for n in range(30)] + ["nothing here", ""]
    values = {
        "workspace": str(tmp_path),
        "corpus": {"path": "x"},
        "lexical": {"stemmer": "none", "shard_passages": -(-700 // shards)},
    }
    shelf = Shelf(Recipe.model_validate(values))
    shelf.corpus(rows, {})
    with ShardedWords(words_folder(shelf)) as words:
        assert len(words.generation.shards["words"]) == shards
        found = words.search(queries, 1000)
    expected = one_index(rows, queries, 1000)
    for hits, wanted in zip(found, expected, strict=True):
        assert dict(hits) == pytest.approx(dict(wanted), abs=1e-5)
        assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.passage_id))
    assert not list((tmp_path / "building").rglob("*"))


def test_the_sharding_changes_no_score_at_all(tmp_path: Path):
    import pyarrow as pa

    from tests.lexical.built import Built

    table, section = pa.Table.from_pylist(passages(500)), LexicalSection()
    queries = [" ".join(random.Random(n).choices(WORDS, k=8)) for n in range(50)]
    assert Built(table, section, 1).search(queries, 50) == Built(table, section, 6).search(queries, 50)


def test_a_filter_lets_nothing_else_through(tmp_path: Path, ray_cluster):
    shelf = Shelf(Recipe.model_validate({"workspace": str(tmp_path), "corpus": {"path": "x"}}))
    rows = passages(200)
    shelf.corpus(rows, {})
    with ShardedWords(words_folder(shelf)) as words:
        (everything,) = words.search(["word0 word1"], 200)
        only = [hit.passage_id for hit in everything[::3]]
        (answer,) = words.answers(["word0 word1"], 200, only=only)
        assert answer.found.hits() == [everything[::3]]
        with pytest.raises(ValueError, match="top-K"):
            words.search(["word0"], 0)


def test_a_damaged_part_is_refused_by_name(tmp_path: Path, ray_cluster):
    shelf = Shelf(Recipe.model_validate({"workspace": str(tmp_path), "corpus": {"path": "x"}}))
    shelf.corpus(passages(50), {})
    folder = words_folder(shelf)
    path = Path(folder.path) / "word-shard-0000.data.csc.index.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with (
        ShardedWords(folder) as words,
        pytest.raises(RayrieverError, match=r"word-shard-0000.data.csc.index.npy: its checksum"),
    ):
        words.search(["word0"], 1)
