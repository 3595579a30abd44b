"""Trials to rows: means and spread over seeds, paired tests over queries, Holm's correction, the best on dev."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.ablation.measure import Judged, Trial
from pipeline.ablation.result import Figures, Row
from pipeline.encoder.systems import BASE
from pipeline.evaluation.significance import Comparison, compare


@dataclass(frozen=True)
class System:
    """A row of the table before anything is compared."""

    name: str
    trained: bool
    trials: tuple[Trial, ...]  # one per seed that finished; one alone where nothing is trained
    errors: tuple[str, ...] = ()
    stage_1: str | None = None  # row that an aligned encoder was trained from

    def over_seeds(self, query_ids: Sequence[str]) -> list[float]:
        """Values of the queries, each averaged over the trials."""
        return [statistics.fmean(trial.ndcg[query_id] for trial in self.trials) for query_id in query_ids]


@dataclass(frozen=True)
class Comparisons:
    """What systems are held against, and how often the tests resample."""

    systems: Mapping[str, System]
    reference: System | None  # None where it was not measured
    resamples: int
    seed: int

    def __call__(self, baseline: System | None, system: System, query_ids: Sequence[str]) -> Comparison | None:
        if baseline is None or not baseline.trials or baseline.name == system.name:
            return None
        values = (baseline.over_seeds(query_ids), system.over_seeds(query_ids))
        return compare(*values, self.resamples, self.seed)


def rows_of(
    systems: Sequence[System], judged: Judged, splits: Sequence[str], reference: str, resamples: int, seed: int
) -> tuple[Row, ...]:
    """One row per system, in their order; `base` must be among them."""
    by_name = {system.name: system for system in systems}
    against = Comparisons(by_name, by_name.get(reference), resamples, seed)
    same = same_encoders(systems)
    rows = [
        Row(
            name=system.name,
            trained=system.trained,
            seeds=len(system.trials) if system.trained else 0,
            train_seconds=_seconds(system),
            same_as=same.get(system.name),
            figures={split: _figures(system, judged, split, against, same) for split in splits if system.trials},
            errors=system.errors,
        )
        for system in systems
    ]
    for split in splits:
        rows = _corrected(rows, split)
    return tuple(rows)


def same_encoders(systems: Sequence[System]) -> dict[str, str]:
    """Row -> the first row with the very same indexes, for rows that repeat an earlier one."""
    first: dict[tuple[str, ...], str] = {}
    same = {}
    for system in systems:
        indexes = tuple(trial.index for trial in system.trials)
        if indexes and first.setdefault(indexes, system.name) != system.name:
            same[system.name] = first[indexes]
    return same


def _seconds(system: System) -> float | None:
    return statistics.fmean(t.train_seconds for t in system.trials) if system.trained and system.trials else None


def _figures(system: System, judged: Judged, split: str, against: Comparisons, same: Mapping[str, str]) -> Figures:
    query_ids, base = judged.of(split), against.systems[BASE]
    stage_1 = against.systems.get(system.stage_1) if system.stage_1 else None
    unseen = [query_id for query_id in query_ids if query_id in judged.unseen]
    means = [statistics.fmean(trial.ndcg[query_id] for query_id in query_ids) for trial in system.trials]
    reference = against.reference
    repeats = reference is not None and same.get(system.name, system.name) == same.get(reference.name, reference.name)
    return Figures(
        mean=statistics.fmean(means),
        deviation=statistics.stdev(means) if len(means) > 1 else None,
        to_base=against(base, system, query_ids),
        to_stage_1=against(stage_1, system, query_ids),
        to_reference=against(reference, system, query_ids) if system.trained and not repeats else None,
        holm=None,
        unseen=statistics.fmean(system.over_seeds(unseen)) if unseen else None,
        unseen_to_base=against(base, system, unseen),
    )


def _corrected(rows: Sequence[Row], split: str) -> list[Row]:
    """The rows with the corrected p-values of one split; a row that repeats another takes its value."""
    tested = {
        row.name: row.figures[split].to_reference
        for row in rows
        if row.same_as is None and split in row.figures and row.figures[split].to_reference is not None
    }
    corrected = dict(zip(tested, holm([c.p_value for c in tested.values() if c is not None]), strict=True))
    return [
        replace(
            row, figures=row.figures | {split: replace(row.figures[split], holm=corrected[row.same_as or row.name])}
        )
        if (row.same_as or row.name) in corrected and split in row.figures
        else row
        for row in rows
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order (Holm 1979): the k-th smallest of m times m - k + 1, never falling."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted


def best_on_dev(rows: Sequence[Row], seeds: int) -> str | None:
    """The trained row with the highest mean on dev, the first of equals; rows that lack a seed cannot win."""
    whole = [row for row in rows if row.trained and row.seeds == seeds and "dev" in row.figures]
    return max(whole, key=lambda row: row.figures["dev"].mean).name if whole else None
