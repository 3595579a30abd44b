"""What an engine gives back for a request: an answer, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import LLM_RESPONSE

OVER_BUDGET = "over budget"  # begins the error of a request that was never sent because a limit was reached
_LONGEST_ERROR = 500  # characters; some servers answer with a whole web page


@dataclass(frozen=True)
class Answer:
    """One LLM_RESPONSE row."""

    request_id: str
    text: str
    finish_reason: str  # stop | length | content_filter | error, or what else a server says
    tokens_in: int  # 0 where a server does not tell
    tokens_out: int
    attempts: int  # requests put on the wire for it
    error: str | None = None
    tokens_cached: int = 0  # of tokens_in; 0 where a server does not tell


def failure(request_id: str, error: str, attempts: int) -> Answer:
    """No answer, and why."""
    return Answer(request_id, "", "error", 0, 0, attempts, error[:_LONGEST_ERROR])


def to_table(answers: Iterable[Answer]) -> pa.Table:
    """LLM_RESPONSE rows in the order given."""
    return pa.Table.from_pylist([asdict(answer) for answer in answers], schema=LLM_RESPONSE)


def answered(responses: pa.Table) -> pa.Array:
    """True where a row holds an answer, False where it holds an error."""
    return pc.not_equal(responses["finish_reason"], "error")
