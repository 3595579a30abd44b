"""The order of a call's requests: equal ones are asked once, and every one of them gets its own answer."""

import tempfile

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RayrieverError
from pipeline.llm import order
from pipeline.llm.order import Order, Spool, ids_of
from pipeline.llm.requests import Request, Sampling, tables
from pipeline.llm.responses import Answer, failure, to_table
from tests.asked import build


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_ROWS_AT_A_TIME", 7)


def rows(*texts: str) -> pa.Table:
    return build("m", "p", [[{"role": "user", "content": text}] for text in texts], Sampling(0, 8))


def answer(request_id: str, text: str) -> Answer:
    return Answer(request_id, text, "stop", 1, 1, 1)


def test_only_the_first_of_equal_requests_is_asked():
    assert Order(ids_of(rows("b", "a", "b", "c", "a"))).first().tolist() == [True, True, False, True, False]
    assert Order(ids_of(rows())).first().tolist() == []


def test_spool_gives_the_same_chunks_however_the_requests_came():
    """A local model's answers depend on what is generated together."""
    whole = rows(*(f"topic {number}" for number in range(30)))
    at_once = Spool([whole])
    in_pieces = Spool([whole.slice(0, 3), whole.slice(3, 0), whole.slice(3, 20), whole.slice(23)])
    assert [chunk.num_rows for chunk in at_once.chunks()] == [7, 7, 7, 7, 2]
    assert list(at_once.chunks()) == list(in_pieces.chunks())
    assert pa.concat_tables(at_once.chunks()) == whole
    assert at_once.ids.tolist() == [each.encode() for each in whole["request_id"].to_pylist()]
    assert list(Spool([]).chunks()) == []


def test_full_disk_for_temporary_files_names_the_variable_that_moves_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(RayrieverError, match=r"temporary files in /proc/nowhere: .*TMPDIR"):
        Spool([rows("a")])


@pytest.mark.parametrize("files", [256, 3])
def test_every_request_gets_its_answer_whatever_order_they_come_in(files: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(order, "_MOST_FILES", files)
    drawn = np.random.default_rng(0)
    ids = [f"{number:064x}" for number in drawn.integers(0, 60, size=100)]
    answers = [answer(each, f"to {each}") for each in sorted(set(ids))] + [answer("f" * 64, "of another call")]
    drawn.shuffle(answers)
    given = [to_table(answers[begin : begin + 9]) for begin in range(0, len(answers), 9)]
    arranged = list(Order(np.array(ids, np.bytes_)).arrange(given))
    assert pa.concat_tables(arranged)["request_id"].to_pylist() == ids
    assert pa.concat_tables(arranged)["text"].to_pylist() == [f"to {each}" for each in ids]


def test_an_answer_goes_before_a_failure_and_two_answers_are_one():
    ids = np.array(["a", "b"], np.bytes_)
    given = [
        to_table([failure("a", "no", 1), answer("b", "later")]),
        to_table([answer("a", "yes"), answer("b", "earlier")]),
    ]
    (found,) = Order(ids).arrange(given)
    assert found["text"].to_pylist() == ["yes", "earlier"]


def test_answer_that_has_vanished_is_an_error_and_no_gap():
    """Shifted by one, every later answer would belong to another question."""
    with pytest.raises(RayrieverError, match="1 answers cannot be read back"):
        list(Order(np.array(["a", "b"], np.bytes_)).arrange([to_table([answer("b", "x")])]))


def test_requests_are_made_when_they_are_read():
    made = []

    def requests():
        for number in range(5000):
            made.append(number)
            yield Request("p", [{"role": "user", "content": str(number)}], Sampling(0, 8))

    next(tables("m", requests()))
    assert len(made) == 1000
