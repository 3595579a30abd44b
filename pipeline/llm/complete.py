"""From requests to answers: what is stored is looked up, an engine is asked for the rest."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RayrieverError
from pipeline.llm.engines.gate import Gate, Spent, is_needed
from pipeline.llm.engines.job import Job
from pipeline.llm.order import Order, Spool, ids_of
from pipeline.llm.requests import model_identity
from pipeline.llm.responses import OVER_BUDGET, answered, failure, to_table
from pipeline.llm.store import Ledger, ResponseStore, totals
from pipeline.models import locate
from pipeline.placement import place_actors
from pipeline.progress import Progress
from pipeline.ray_session import beside_driver, ensure_ray, explained_ray_errors
from pipeline.recipe import LlmSection, RaySection
from pipeline.records import LLM_RESPONSE
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ray.data import Dataset

_SHOWN_ERRORS = 5
_MOST_BLOCKS = 1000  # of requests, about; each takes some 40 kB of this process while Ray Data starts
_AFTER_DEATH = (
    "Answers received so far are stored: run the same command again and only the rest is asked. An actor that the "
    "system killed for memory needs a smaller llm.batch_size or fewer llm.actors."
)


def complete(
    requests: Iterable[pa.Table],
    section: LlmSection,
    workspace: Workspace,
    ray_section: RaySection,
    progress: Progress,
    description: str,
) -> Iterator[dict[str, Any]]:
    """Answer LLM_REQUEST rows; returns one LLM_RESPONSE row per request row, in their order.

    When it returns, all is asked and stored; the rows are read back while they are taken. Of neither requests nor
    answers is more than a few thousand in memory at any time, beside their ids and failures: the others are on the
    disk, in the system's folder for temporary files. (Engine batch holds a file of requests at a time.)

    Answers are stored as they arrive, in the workspace and by content address: equal requests are asked once, and
    after a kill only what had no answer is asked. Where nothing is missing, Ray is not started. Rows without an answer
    have finish_reason "error" and are asked again next time.

    Raises RayrieverError when the model, key, server or resources are not there, and, as soon as it is certain, when
    more than `section.max_failed_share` of the distinct requests stay without an answer. When a limit of the budget is
    reached, what is in flight comes in; the rest is not sent, and `budget.on_reached` says whether that is an error.
    """
    store = ResponseStore(workspace)
    store.compact()
    Ledger(workspace).compact()
    with closing(Spool(requests)) as spool:
        asked = Asked(spool, store)
        report = _Report(progress, description, asked.distinct, asked.distinct - asked.missing)
        failures = _ask(asked, section, workspace, ray_section, report) if asked.missing else LLM_RESPONSE.empty_table()
        order = asked.order
    answers = order.arrange(chain([failures], store.scan(LLM_RESPONSE.names)))
    return (row for rows in answers for row in rows.to_pylist())


class Asked:
    """The requests of a call, and which of them have no answer yet."""

    def __init__(self, spool: Spool, store: ResponseStore) -> None:
        self.order, self._spool = Order(spool.ids), spool
        self._first = self.order.first()
        self._open = self._first.copy()  # at the first place of each id that has neither answer nor final error
        for rows in store.scan(["request_id"]):
            self.settle(rows)
        self._missing = self._open.copy()
        self.distinct, self.missing = int(self._first.sum()), int(self._missing.sum())

    def settle(self, rows: pa.Table) -> None:
        """Note that these requests have an answer or a final error."""
        _, places = self.order.match(ids_of(rows))
        self._open[places] = False

    def unsettled(self) -> list[str]:
        """Ids that are not, of those that were missing."""
        ids: list[str] = np.char.decode(self._spool.ids[self._open], "ascii").tolist()
        return ids

    def chunks(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """LLM_REQUEST rows in order, equal ones once: some thousand, and those of them that were missing."""
        begin = 0
        for rows in self._spool.chunks():
            end = begin + rows.num_rows
            yield rows.filter(pa.array(self._first[begin:end])), rows.filter(pa.array(self._missing[begin:end]))
            begin = end


def _ask(asked: Asked, section: LlmSection, workspace: Workspace, ray_section: RaySection, report: _Report) -> pa.Table:
    """Ask what is missing; LLM_RESPONSE rows of the requests that stay without an answer."""
    check_engine(section)
    answers, closed = _answers(asked, section, workspace, ray_section, report)
    failures = LLM_RESPONSE.empty_table()
    # One failure among several requests is always tolerated: of ten requests, 5 % would be none.
    allowed = max(
        section.max_failed_share * asked.distinct, 1 if asked.distinct > 1 and section.max_failed_share else 0
    )
    # Closed, the actors stop asking; left to the garbage collector, they would go on while the error is shown.
    with closing(answers) as stream:
        for responses in stream:
            responses = responses.filter(pc.invert(_is_over_budget(responses)))
            asked.settle(responses)
            if (failed := responses.filter(pc.invert(answered(responses)))).num_rows:
                failures = pa.concat_tables([failures, failed])
            report.arrived(responses)
            if failures.num_rows > allowed:
                raise _too_many_failures(failures, report, section)
    report.finished()
    return pa.concat_tables([failures, _unsent(asked.unsettled(), closed, section, report)])


def _answers(
    asked: Asked, section: LlmSection, workspace: Workspace, ray_section: RaySection, report: _Report
) -> tuple[Generator[pa.Table], Callable[[], str]]:
    """LLM_RESPONSE rows as they come in, and what tells which limit of the budget has been reached."""
    spent = _spent(section, workspace) if is_needed(section) else Spent()
    if section.engine == "batch":
        from pipeline.llm.engines import batch

        # Files go out whole: how fast their requests are taken is the API's affair.
        gate = Gate(section.model_copy(update={"requests_per_minute": None, "tokens_per_minute": None}), spent)
        missing = (rows for _, rows in asked.chunks())
        job = _job(section, workspace, None)
        return batch.answers(asked.unsettled(), missing, job, gate, report.message), gate.closed
    ensure_ray(ray_section)
    engine = _engine(section)
    demand = place_actors("llm", section, engine.share(section), section.parts)
    import ray.data

    handle = ray.remote(**beside_driver())(Gate).remote(section, spent) if is_needed(section) else None
    rows_of_block = asked.missing // _MOST_BLOCKS
    # In Ray's object store, which goes to the disk where it grows too large; as tables they would all be held here.
    blocks = [
        ray.put(block)
        for rows, missing in asked.chunks()
        if missing.num_rows
        for block in engine.blocks(rows, missing, section, rows_of_block)
    ]
    job = _job(section, workspace, handle)
    answers = engine.answer(ray.data.from_arrow_refs(blocks), job, demand)
    return _stream(
        answers, partial(engine.release, job)
    ), lambda: ray.get(handle.closed.remote()) if handle is not None else ""


def _spent(section: LlmSection, workspace: Workspace) -> Spent:
    so_far = totals(workspace).of_model(model_identity(section))
    return Spent(so_far.sent, so_far.tokens_in, so_far.tokens_cached, so_far.tokens_out)


def _is_over_budget(responses: pa.Table) -> pa.ChunkedArray:
    return pc.starts_with(pc.fill_null(responses["error"], ""), OVER_BUDGET)


def _unsent(rest: list[str], closed: Callable[[], str], section: LlmSection, report: _Report) -> pa.Table:
    """Failures for the requests that the budget kept from being sent. Raises RayrieverError where it is to stop."""
    if not rest:
        return LLM_RESPONSE.empty_table()
    reason = closed()
    assert reason, f"{len(rest)} requests came back without a row"
    if section.budget.on_reached == "stop":
        raise RayrieverError(
            f"llm: {reason}. {len(rest):,} of {report.total:,} requests ({report.description}) were not sent; "
            f"{report.answers:,} answers are stored. Raise the limit and run the same command: only the rest is asked. "
            "Or set llm.budget.on_reached=finish to go on with what there is."
        )
    report.message(f"{reason}: {len(rest):,} requests stay without an answer")
    return to_table(failure(each, reason, 0) for each in rest)


def check_engine(section: LlmSection) -> None:
    """Raise RayrieverError when the section's model, key, server or library is not there. Starts no Ray."""
    _engine(section).check(section)


def _engine(section: LlmSection) -> ModuleType:
    from pipeline.llm.engines import api, batch, local, vllm_actors

    return {"transformers": local, "openai": api, "vllm": vllm_actors, "batch": batch}[section.engine]


def _job(section: LlmSection, workspace: Workspace, gate: Any) -> Job:
    """A local path in the recipe is meant from where the user stands, not from an actor's folder."""
    if section.engine in ("transformers", "vllm") and not section.model.startswith("pypi:"):
        place = locate(section.model)
        if not place.is_stored:
            path = "/".join((place.path_or_name, place.gguf_file)) if place.gguf_file else place.path_or_name
            section = section.model_copy(update={"model": path})
    return Job(section, model_identity(section), workspace.uri, f"{time.time_ns()}-{uuid.uuid4().hex[:8]}", gate)


def _stream(answers: Dataset, release: Callable[[], None]) -> Generator[pa.Table]:
    """LLM_RESPONSE rows as the actors finish them."""
    try:
        with explained_ray_errors("llm: the engine", _AFTER_DEATH):
            for rows in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield rows.select(LLM_RESPONSE.names).cast(LLM_RESPONSE)
    finally:
        release()


def _too_many_failures(failures: pa.Table, report: _Report, section: LlmSection) -> RayrieverError:
    lines = [f"  {row['request_id'][:12]}: {row['error']}" for row in failures.slice(0, _SHOWN_ERRORS).to_pylist()]
    more = failures.num_rows - len(lines)
    if more:
        lines.append(f"  and {more:,} more")
    return RayrieverError(
        f"llm: {failures.num_rows:,} of {report.total:,} requests ({report.description}) have no answer, more than "
        f"max_failed_share = {section.max_failed_share:.1%}.\n" + "\n".join(lines) + "\n"
        f"{report.answers:,} answers are stored and kept: mend the cause, run the same command again, and only the "
        "rest is asked. Or raise llm.max_failed_share."
    )


class _Report:
    """Turns arriving responses into progress."""

    def __init__(self, progress: Progress, description: str, total: int, stored: int) -> None:
        self.description, self.total, self.answers = description, total, stored
        self._progress, self._stored, self._done, self._tokens = progress, stored, stored, 0
        self._started = time.monotonic()
        progress.update(description, stored, total)

    def arrived(self, responses: pa.Table) -> None:
        self._done += responses.num_rows
        self.answers += pc.sum(answered(responses)).as_py() or 0
        self._tokens += pc.sum(responses["tokens_out"]).as_py() or 0
        self._progress.update(f"{self.description}, {self._rate()}", self._done, self.total)

    def message(self, text: str) -> None:
        self._progress.message(f"{self.description}: {text}")

    def finished(self) -> None:
        self._progress.message(
            f"{self.description}: {self.total:,} requests, {self._stored:,} of them answered before, "
            f"{self._done - self.answers:,} without an answer, {self._rate()}"
        )

    def _rate(self) -> str:
        return f"{self._tokens / (time.monotonic() - self._started):,.0f} tokens/s"
