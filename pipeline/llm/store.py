"""Answers by content address, and the ledger of what was sent: an answer is paid for once, whoever dies when.

`llm/responses/` holds answers; `llm/sent/` one row per request put on the wire, a further attempt included, written
before it goes. What was sent and never answered is what a kill, or a server's failure, has cost; after a kill some rows
may be of requests that had no place yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.llm.order import Order, first_of_each, ids_of
from pipeline.llm.parts import PartFolder, PartWriter
from pipeline.llm.responses import answered
from pipeline.records import LLM_RESPONSE
from pipeline.workspace import Workspace

STORED_RESPONSE = LLM_RESPONSE.append(pa.field("purpose", pa.string())).append(pa.field("model", pa.string()))

SENT = pa.schema(
    [
        ("request_id", pa.string()),
        ("purpose", pa.string()),
        ("model", pa.string()),
        ("run_id", pa.string()),  # one call of `complete`
        ("sent_at", pa.timestamp("us", tz="UTC")),
        ("requests", pa.int64()),  # 1, but in workspaces of earlier versions
    ]
)


class ResponseStore:
    """Answers received so far. Errors are no answers and are not kept."""

    def __init__(self, workspace: Workspace) -> None:
        self._parts = PartFolder(workspace, ("llm", "responses"), STORED_RESPONSE)
        self._newest = PartWriter(self._parts)

    def add(self, responses: pa.Table, purposes: pa.Array, model: str) -> None:
        """Store LLM_RESPONSE rows, durable on return. `purposes` has one value per row."""
        rows = responses.append_column("purpose", purposes)
        rows = rows.append_column("model", pa.array([model] * rows.num_rows, pa.string()))
        self._newest.append(rows.filter(answered(rows)))

    def scan(self, columns: list[str]) -> Iterator[pa.Table]:
        """These columns of all answers, some 10,000 at a time; two answers to one request may both come."""
        return self._parts.scan(columns)

    def lookup(self, request_ids: pa.ChunkedArray) -> pa.Table:
        """LLM_RESPONSE rows of the ids that have an answer, ordered by id; all in memory."""
        wanted = request_ids.combine_chunks().unique()
        found = self._parts.read(LLM_RESPONSE.names, lambda rows: rows.filter(pc.is_in(rows["request_id"], wanted)))
        return _one_per_request(found, ["text"])

    def rows(self) -> Iterator[dict[str, Any]]:
        """STORED_RESPONSE, one row per request that has an answer, in the order of their ids."""
        ids = [np.empty(0, np.bytes_), *(np.unique(ids_of(rows)) for rows in self.scan(["request_id"]))]
        every = self.scan(STORED_RESPONSE.names)
        for rows in Order(np.unique(np.concatenate(ids))).arrange(every, STORED_RESPONSE):
            yield from rows.to_pylist()

    def compact(self) -> None:
        self._parts.compact()

    def read(self, columns: list[str]) -> pa.Table:
        """These columns and the id of every answer; one row per request that has an answer."""
        return _one_per_request(self._parts.read(["request_id", *columns]), columns)


def _one_per_request(rows: pa.Table, by: list[str]) -> pa.Table:
    """Two answers to one request exist when a run died in between; which one counts must not depend on file names."""
    rows = rows.sort_by([(name, "ascending") for name in ("request_id", *by)])
    return rows.filter(pa.array(first_of_each(ids_of(rows))))


class Ledger:
    """What was put on the wire, by every run."""

    def __init__(self, workspace: Workspace) -> None:
        self._parts = PartFolder(workspace, ("llm", "sent"), SENT)
        self._newest = PartWriter(self._parts)

    def record(self, request_ids: pa.Array, purposes: pa.Array, model: str, run_id: str) -> None:
        """Note that these requests go out; durable on return."""
        count = len(request_ids)
        columns = {
            "request_id": request_ids,
            "purpose": purposes,
            "model": pa.array([model] * count, pa.string()),
            "run_id": pa.array([run_id] * count, pa.string()),
            "sent_at": pa.array([datetime.now(UTC)] * count, SENT.field("sent_at").type),
            "requests": pa.array([1] * count, pa.int64()),
        }
        self._newest.append(pa.table(columns, schema=SENT))

    def compact(self) -> None:
        self._parts.compact()

    def read(self) -> pa.Table:
        """Every SENT row once."""
        return self._parts.read(SENT.names).group_by(SENT.names).aggregate([])

    def sent_by(self, run_id: str) -> dict[str, int]:
        """How many rows one run has written for each request it sent, by request id."""
        rows = self._parts.read(SENT.names, lambda rows: rows.filter(pc.equal(rows["run_id"], run_id)))
        counts = rows.group_by(SENT.names).aggregate([]).group_by("request_id").aggregate([("requests", "count")])
        return dict(zip(counts["request_id"].to_pylist(), counts["requests_count"].to_pylist(), strict=True))


@dataclass(frozen=True)
class Usage:
    """What one purpose has asked of one model over all runs, and got."""

    purpose: str
    model: str
    sent: int  # requests put on the wire, repeated attempts included
    answered: int
    tokens_in: int  # of the answers stored
    tokens_out: int
    tokens_cached: int  # of tokens_in


@dataclass(frozen=True)
class LlmTotals:
    """All traffic of a workspace."""

    usages: tuple[Usage, ...]  # by purpose and model

    @property
    def sent(self) -> int:
        return sum(usage.sent for usage in self.usages)

    @property
    def answered(self) -> int:
        return sum(usage.answered for usage in self.usages)

    @property
    def tokens_in(self) -> int:
        return sum(usage.tokens_in for usage in self.usages)

    @property
    def tokens_out(self) -> int:
        return sum(usage.tokens_out for usage in self.usages)

    @property
    def tokens_cached(self) -> int:
        return sum(usage.tokens_cached for usage in self.usages)

    def of_model(self, model: str) -> LlmTotals:
        """What was asked of one model."""
        return LlmTotals(tuple(usage for usage in self.usages if usage.model == model))


def totals(workspace: Workspace) -> LlmTotals:
    """Requests sent, answers and tokens over all runs in a workspace, per purpose and model."""
    keys = ["purpose", "model"]
    sent = Ledger(workspace).read().group_by(keys).aggregate([("requests", "sum")])
    tokens = ["tokens_in", "tokens_out", "tokens_cached"]
    stored = ResponseStore(workspace).read([*keys, *tokens])
    counted = stored.group_by(keys).aggregate([("request_id", "count"), *((name, "sum") for name in tokens)])
    joined = sent.join(counted, keys, join_type="full outer").sort_by(
        [("purpose", "ascending"), ("model", "ascending")]
    )
    return LlmTotals(
        tuple(
            Usage(
                row["purpose"],
                row["model"],
                row["requests_sum"] or 0,
                row["request_id_count"] or 0,
                row["tokens_in_sum"] or 0,
                row["tokens_out_sum"] or 0,
                row["tokens_cached_sum"] or 0,
            )
            for row in joined.to_pylist()
        )
    )
