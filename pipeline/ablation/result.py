"""The outcome of an ablation as one typed record: kept as JSON, shown by `markdown` and the CLI."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import TypeAdapter

from pipeline.evaluation.significance import Comparison


@dataclass(frozen=True)
class Figures:
    """nDCG@10 of one system on the queries of one split. Comparisons are of per-query values averaged over seeds."""

    mean: float  # over seeds, of the means over queries
    deviation: float | None  # sample standard deviation over seeds; None with a single one
    to_base: Comparison | None  # None for base itself
    to_stage_1: Comparison | None  # of an aligned encoder, to the one it was trained from
    to_reference: Comparison | None  # None for the reference itself, for what is not trained, and where it is missing
    holm: float | None  # p-value of `to_reference` after Holm's correction over the rows of this split
    unseen: float | None  # mean over the queries that share no relevant passage with train; None without any
    unseen_to_base: Comparison | None


@dataclass(frozen=True)
class Row:
    """One system: BM25, the base encoder, or what one training of an arm comes to."""

    name: str
    trained: bool
    seeds: int  # trainings that were measured; 0 where nothing is trained, or everything failed
    train_seconds: float | None  # mean over seeds, both trainings together for an aligned encoder
    same_as: str | None  # an earlier row with the same encoders: it counts once in Holm's correction
    figures: dict[str, Figures]  # by split, dev and test; a split without judged queries is absent
    errors: tuple[str, ...]  # of the seeds that failed


@dataclass(frozen=True)
class SplitQueries:
    """The judged queries of one split."""

    split: str
    queries: int
    unseen: int  # of them, those that share no relevant passage, or near-duplicate of one, with a train query


@dataclass(frozen=True)
class Ablation:
    """Arms compared."""

    title: str
    seeds: tuple[int, ...]
    reference: str  # name of a row
    splits: tuple[SplitQueries, ...]
    rows: tuple[Row, ...]  # BM25 and base first, then the arms in the recipe's order
    best: str | None  # row with the highest dev mean, of those whose seeds all finished; None without dev queries
    not_run: tuple[str, ...]  # rows of arms that were not asked for and are not finished

    @property
    def failed(self) -> bool:
        return any(row.errors for row in self.rows)

    def to_json(self) -> str:
        return _JSON.dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Ablation:
        """Read back what `to_json` wrote; raises pydantic.ValidationError for anything else."""
        return _JSON.validate_json(text)


_JSON: TypeAdapter[Ablation] = TypeAdapter(Ablation)
