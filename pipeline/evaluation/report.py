"""Everything a run is judged by, as one typed record: kept as JSON, shown by `markdown` and the CLI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from pydantic import TypeAdapter

from pipeline.artifact import Manifest
from pipeline.evaluation.gate import Decision
from pipeline.evaluation.metrics import Means, Scores, paired_ndcg
from pipeline.evaluation.reranking import Reranking
from pipeline.evaluation.significance import Comparison

GIVEN = "given"  # the `kind` of queries that came with the corpus


@dataclass(frozen=True)
class SystemFigures:
    """One row of the results: a system on both splits; None where the split has no judged query."""

    system: str
    dev: Means | None
    test: Means | None


@dataclass(frozen=True)
class Origin:
    """How the queries and judgments of a split came to be."""

    split: str
    queries: dict[str, int]  # kind -> number of queries, 'given' among them
    judgments_given: int
    judgments_generated: int  # from the passage that a generated query was made of

    @property
    def queries_given(self) -> int:
        return self.queries.get(GIVEN, 0)

    @property
    def queries_generated(self) -> int:
        return sum(self.queries.values()) - self.queries_given


@dataclass(frozen=True)
class LlmUse:
    """What the LLM was asked, over all runs of this workspace."""

    requests_sent: int  # put on the wire, retries included
    answered: int
    tokens_in: int
    tokens_out: int
    outcomes: dict[str, int]  # ok, retried, unparseable, relabelled, dropped, ... -> count


@dataclass(frozen=True)
class DevScore:
    """Quality on the dev queries after a number of training steps."""

    step: int
    ndcg_at_10: float


@dataclass(frozen=True)
class Training:
    """What one training did."""

    encoder: str  # what came of it: tuned or aligned
    steps: int
    dev_curve: tuple[DevScore, ...]  # over the sampled dev passages, so above the figures over the whole corpus
    chosen_step: int | None = None  # whose weights were kept


@dataclass(frozen=True)
class QueryChange:
    """One query's nDCG@10 with the base encoder and with a trained one."""

    query_id: str
    text: str
    base: float
    trained: float


@dataclass(frozen=True)
class Changes:
    """The queries on which a trained encoder differs most from base, largest difference first."""

    encoder: str
    gains: tuple[QueryChange, ...]
    losses: tuple[QueryChange, ...]


@dataclass(frozen=True)
class Contrast:
    """The difference encoder - baseline in nDCG@10; None where the split has no judged query."""

    encoder: str
    baseline: str
    dev: Comparison | None
    test: Comparison | None


@dataclass(frozen=True)
class StageCost:
    """What a stage took and what it set aside."""

    stage: str
    seconds: float
    peak_memory_mb: float
    quarantined: int  # rows
    spilled_mb: float = 0.0  # by Ray, for want of memory
    nodes: tuple[tuple[float, dict[str, int]], ...] = ()  # seconds from its start, nodes by group from then on

    @classmethod
    def of(cls, manifest: Manifest) -> StageCost:
        return cls(
            manifest.stage,
            manifest.seconds,
            manifest.peak_memory_mb,
            manifest.quarantined,
            manifest.spilled_mb,
            tuple((seconds, counts) for seconds, counts in manifest.nodes),
        )


@dataclass(frozen=True)
class Report:
    """The outcome of a run."""

    title: str
    passages: int
    top_k: int  # hits per query and system; below 100, recall@100 sees no more than these
    systems: tuple[SystemFigures, ...]  # in the order in which they are shown
    contrasts: tuple[Contrast, ...]  # every trained encoder with each one before it, base first
    gate: Decision
    origins: tuple[Origin, ...]
    llm: LlmUse
    trainings: tuple[Training, ...]  # in the order in which they were done
    changes: Changes  # on the test queries: of the encoder that ships, else of the one trained last
    stages: tuple[StageCost, ...]
    versions: dict[str, str]
    reranking: Reranking | None = None

    def to_json(self) -> str:
        return _JSON.dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read back what `to_json` wrote; raises pydantic.ValidationError for anything else."""
        return _JSON.validate_json(text)


_JSON: TypeAdapter[Report] = TypeAdapter(Report)

TABLE_HEADER = [
    "System",
    *(f"{split} {metric}" for split in ("dev", "test") for metric in ("nDCG@10", "MRR@10", "recall@100")),
]


def table_rows(systems: Iterable[SystemFigures]) -> list[list[str]]:
    """The results as text, one row per system under `TABLE_HEADER`; '-' where no query is judged."""
    return [[each.system, *_cells(each.dev), *_cells(each.test)] for each in systems]


def _cells(means: Means | None) -> list[str]:
    if means is None:
        return ["-", "-", "-"]
    return [f"{value:.3f}" for value in (means.ndcg_at_10, means.mrr_at_10, means.recall_at_100)]


def origins(queries: pa.Table, judgments: pa.Table) -> tuple[Origin, ...]:
    """Count rows of `records.QUERY` and `records.JUDGMENT` by split (train, dev, test) and kind.

    A judgment is given or generated as its query is. Raises KeyError for a judgment of an unknown query.
    """
    kinds: dict[str, dict[str, int]] = {}
    of_query: dict[str, tuple[str, str]] = {}
    columns = (queries[name].to_pylist() for name in ("query_id", "split", "kind"))
    for query_id, split, kind in zip(*columns, strict=True):
        of_query[query_id] = (split, kind)
        counts = kinds.setdefault(split, {})
        counts[kind] = counts.get(kind, 0) + 1
    given = dict.fromkeys(kinds, 0)
    generated = dict.fromkeys(kinds, 0)
    for query_id in judgments["query_id"].to_pylist():
        split, kind = of_query[query_id]
        (given if kind == GIVEN else generated)[split] += 1
    splits = [split for split in ("train", "dev", "test") if split in kinds]
    return tuple(Origin(split, dict(sorted(kinds[split].items())), given[split], generated[split]) for split in splits)


def changes(base: Scores, trained: Scores, texts: Mapping[str, str], count: int = 5) -> Changes:
    """The `count` largest gains and the `count` largest losses in nDCG@10, equal ones by query id.

    `texts` gives the words of each query. Raises ValueError when the queries of the two differ.
    """
    before, after = paired_ndcg(base, trained)
    query_ids = base.per_query["query_id"].to_pylist()
    rows = [QueryChange(each, texts[each], *pair) for each, *pair in zip(query_ids, before, after, strict=True)]
    gains = sorted((r for r in rows if r.trained > r.base), key=lambda r: (r.base - r.trained, r.query_id))
    losses = sorted((r for r in rows if r.trained < r.base), key=lambda r: (r.trained - r.base, r.query_id))
    return Changes(trained.system, tuple(gains[:count]), tuple(losses[:count]))
