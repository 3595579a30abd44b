"""The corpus stage as a whole: tables, quarantine, limits."""

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from pipeline import records
from pipeline.corpus import passages
from pipeline.errors import RayrieverError

if TYPE_CHECKING:
    from tests.corpus.conftest import Corpus


def test_too_many_bad_rows_fail_with_places_reasons_and_remedy(corpus: "Corpus"):
    rows: list[Any] = [corpus.passage(n) for n in range(500)]
    rows[20:32] = [{"_id": f"p{n}"} for n in range(20, 32)]
    corpus.jsonl("part-3.jsonl", rows)
    with pytest.raises(RayrieverError) as caught:
        corpus.run(max_bad_share=0.01)
    first, *places, where, remedy = str(caught.value).splitlines()
    assert first == "corpus: 12 of 500 rows (2.4 %) cannot be used, more than max_bad_share = 1 %."
    assert places == [f'  part-3.jsonl:{n}  no "text"' for n in range(21, 31)]
    quarantine = where.removeprefix("  ... all in ")
    assert pq.read_table(quarantine).num_rows == 12
    assert remedy == "Mend the rows, or raise corpus.max_bad_share."


def test_a_share_at_the_limit_passes(corpus: "Corpus"):
    corpus.jsonl("part.jsonl", [*(corpus.passage(n) for n in range(99)), "{"])
    assert corpus.run(max_bad_share=0.01).outcomes["passages"] == 99
    with pytest.raises(RayrieverError, match=r"1 of 100 rows \(1 %\) .*max_bad_share = 0\.9 %"):
        corpus.run(max_bad_share=0.009)


def test_a_corpus_of_bad_rows_only_fails_even_where_all_are_allowed(corpus: "Corpus"):
    corpus.jsonl("part.jsonl", ["{", "{"])
    with pytest.raises(RayrieverError, match=r"2 of 2 rows \(100 %\) cannot be used\.\n"):
        corpus.run(max_bad_share=1.0)


def test_parts_are_bounded_and_keep_the_order(corpus: "Corpus", monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passages, "ROWS_PER_PART", 40)
    corpus.jsonl("part.jsonl", [corpus.passage(n) for n in range(100)])
    outcome = corpus.run()
    parts = sorted((outcome.folder / "passages").iterdir())
    assert [pq.read_metadata(part).num_rows for part in parts] == [40, 40, 20]
    assert pq.read_schema(parts[0]).equals(records.PASSAGE)
    assert outcome.ids() == [f"p{n}" for n in range(100)]


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_duplicates_are_listed_and_dropped_only_when_asked(
    duplicates: str, corpus: "Corpus", monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(passages, "ROWS_PER_PART", 3)
    long = " ".join(f"w{n}" for n in range(100))
    texts = ["one text", long, "another text", "ONE  text", long + " more", "a third"]
    corpus.jsonl("part.jsonl", [{"_id": n, "text": text} for n, text in enumerate(texts)])
    outcome = corpus.run(duplicates=duplicates)
    assert [tuple(row.values()) for row in outcome.rows("duplicates")] == [
        ("3", "0", 1.0),
        ("4", "1", 98 / 99),
    ]
    dropped = {"3", "4"} if duplicates == "drop" else set()
    assert outcome.ids() == [str(n) for n in range(6) if str(n) not in dropped]
    assert outcome.outcomes == {
        "read": 6,
        "passages": 6 - len(dropped),
        "exact_duplicates": 1,
        "near_duplicates": 1,
        "dropped_duplicates": len(dropped),
    }


def test_the_title_tells_passages_with_the_same_text_apart(corpus: "Corpus"):
    corpus.jsonl("part.jsonl", [corpus.passage(1, text="See above."), corpus.passage(2, text="See above.")])
    assert corpus.run().rows("duplicates") == []
