"""What every engine's actors share: the job they work on, and writing down what they send and receive."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.llm.engines.gate import Admitted
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import failure, to_table
from pipeline.llm.store import Ledger, ResponseStore
from pipeline.recipe import LlmSection
from pipeline.records import LLM_RESPONSE
from pipeline.workspace import Workspace

_CHARACTERS_PER_TOKEN = 4
MOST_DEATHS = 3  # of an actor over one request or one loading of its model; Ray alone would restart it for ever


@dataclass(frozen=True)
class Job:
    """One call of `complete`, as it travels to the actors. Ray logs such values: no key is in it."""

    section: LlmSection  # its `model` is absolute where it is a path
    identity: str  # what stands for the model in request ids
    workspace_uri: str
    run_id: str
    gate: Any = None  # handle of the actor that all others ask before they send; None where nothing is limited


class Recorder:
    """An actor's access to the response store and the ledger."""

    def __init__(self, job: Job) -> None:
        workspace = Workspace(job.workspace_uri)
        self._store, self._ledger, self._job = ResponseStore(workspace), Ledger(workspace), job
        self._restarts = actor_restarts()

    def may_send(self, requests: pa.Table) -> bool:
        """Whether the LLM_REQUEST rows, all of them, may go out; they count as sent then. Waits for its turn."""
        if self._job.gate is None:
            return True
        import ray

        tokens = list(map(expected_tokens, requests["messages"].to_pylist(), requests["sampling"].to_pylist()))
        while True:
            admitted: Admitted = ray.get(self._job.gate.admit.remote(tokens, together=True))
            if admitted.count or admitted.closed:
                return not admitted.closed
            time.sleep(admitted.wait_s)

    def sent(self, requests: pa.Table) -> None:
        """Call before the LLM_REQUEST rows go out."""
        ids, purposes = requests["request_id"], requests["purpose"]
        self._ledger.record(ids, purposes, self._job.identity, self._job.run_id)

    def received(self, requests: pa.Table, responses: pa.Table) -> None:
        """Store the answers to `requests`, row by row."""
        self._store.add(responses, requests["purpose"], self._job.identity)
        if self._job.gate is not None:
            used = (pc.sum(responses[name]).as_py() or 0 for name in ("tokens_in", "tokens_cached", "tokens_out"))
            self._job.gate.used.remote(*used)

    def dies_while_loading(self) -> bool:
        """Whether this actor has died again and again and no actor of the run has come to send anything."""
        return self._restarts >= MOST_DEATHS and not self._ledger.sent_by(self._job.run_id)

    def split(self, requests: pa.Table, attempts: int = 1) -> tuple[pa.Table, pa.Table]:
        """Responses that are certain already, and the requests still to be sent, each some `attempts` times.

        Ray gives a died actor's rows to its successor, which must not pay again for what the dead one has
        stored, nor die for ever of the same request.
        """
        if not self._restarts:
            return LLM_RESPONSE.empty_table(), requests
        ids = requests["request_id"]
        stored = self._store.lookup(ids)
        unanswered = set(ids.to_pylist()) - set(stored["request_id"].to_pylist())
        sent = self._ledger.sent_by(self._job.run_id)
        reason = f"its process died {MOST_DEATHS} times over this request or its batch; was it killed for memory?"
        # Attempts are counted, and not all of them end in a death.
        most = MOST_DEATHS * attempts if self._restarts >= MOST_DEATHS else math.inf
        deadly = [failure(each, reason, 0) for each in sorted(unanswered) if sent.get(each, 0) >= most]
        certain = pa.concat_tables([stored, to_table(deadly)])
        return certain, requests.filter(pc.invert(pc.is_in(ids, certain["request_id"].combine_chunks())))


def expected_tokens(messages: str, sampling: str) -> int:
    """Of a request's prompt, guessed, and of its longest answer."""
    return prompt_tokens(messages) + Sampling.from_json(sampling).max_tokens


def prompt_tokens(messages: str) -> int:
    """Of messages as JSON, some four characters to a token."""
    return len(messages) // _CHARACTERS_PER_TOKEN


def actor_restarts() -> int:
    """How often Ray has restarted the actor that this process is; 0 outside of actors."""
    import ray
    from ray._private.state import actors  # what the public `was_current_actor_reconstructed` reads

    actor_id = ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
    return int(actors(actor_id=actor_id)["NumRestarts"]) if actor_id else 0


def sampled_batches(requests: pa.Table, wanted: pa.Table, size: int) -> list[pa.Table]:
    """Requests to answer together: one purpose, one sampling, similar lengths; at most `size` each.

    The groups are cut from all `requests` of a call and then reduced to those of `wanted`. So a run that continues a
    killed one forms the very batches that the killed one had left to do.
    """
    order = requests.append_column("_length", pc.utf8_length(requests["messages"])).sort_by(
        [(name, "ascending") for name in ("purpose", "sampling", "_length", "request_id")]
    )
    rows = order.select(requests.column_names)
    missing = pc.is_in(rows["request_id"], wanted["request_id"])
    kinds = pc.binary_join_element_wise(rows["purpose"], rows["sampling"], "\x1f").to_pylist()
    starts = [0]
    for row in range(1, rows.num_rows):
        if row - starts[-1] == size or kinds[row] != kinds[row - 1]:
            starts.append(row)
    ends = [*starts[1:], rows.num_rows]
    batches = [
        rows.slice(start, end - start).filter(missing.slice(start, end - start))
        for start, end in zip(starts, ends, strict=True)
    ]
    return [batch.combine_chunks() for batch in batches if batch.num_rows]
