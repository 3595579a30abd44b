"""Rankings that were recorded elsewhere: JSON lines, or TREC runs, several of which are the passes over one list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from pipeline.bad_rows import check_bad_share
from pipeline.corpus.duplicates import known_ids, representatives
from pipeline.errors import RayrieverError
from pipeline.preferences.recorded import Corpus, Reject, read_rankings
from pipeline.rankings import Hit, from_table
from pipeline.recorded import file_fingerprint, file_name
from pipeline.reranking.aggregation import aggregate, borda, of_grades, whole
from pipeline.reranking.lists import Query, RankedList, Said, Taught
from pipeline.stage import StageContext
from pipeline.trec import from_run, read_file

_RUN_ENDINGS = (".trec", ".trec.gz")


@dataclass(frozen=True)
class Run:
    """What one system has ranked."""

    name: str
    rankings: Mapping[str, tuple[str, ...]]  # query id -> passages, best first

    def hits(self) -> dict[str, list[Hit]]:
        """The rankings with places as scores, for the file's own may be of another order."""
        return {
            query_id: [Hit(passage_id, -float(place)) for place, passage_id in enumerate(ids)]
            for query_id, ids in self.rankings.items()
        }


def recorded_lists(ctx: StageContext, path: str, queries: Mapping[str, Query]) -> Taught:
    """The recorded rankings of these queries, in order of query id; what is left out of them is counted.

    Args:
        path: as `permutations.path` has it.
        queries: those that may be learnt from, by id.

    Where grades are known they are the scores; otherwise a list's rankings are aggregated. Passages that the corpus
    does not have are taken out, and near-duplicates of a better-ranked one. Raises RayrieverError for a file that
    cannot be read, too many rankings that cannot be used, and where none is of these queries.
    """
    corpus = _corpus(ctx, queries)
    read = _from_runs if _is_run(path) else _from_lines
    taught, outcomes = read(path, queries, corpus, ctx.out.quarantine)
    ctx.out.outcomes.update(outcomes)
    rows, unusable = outcomes["rankings_rows"], outcomes["rankings_unusable"]
    check_bad_share(ctx, f"permutations.path {path}", unusable, rows, "take rankings of this corpus")
    if not taught.lists:
        raise RayrieverError(
            f"permutations.path {path}: none of its {rows:,} rankings is of a train query. Do they belong to these "
            "queries?"
        )
    return taught


def recorded_fingerprint(path: str) -> list[Any]:
    """Of the file or files, for stage keys. Raises RayrieverError when there is none."""
    return [file_fingerprint(each) for each in (run_files(path) if _is_run(path) else [path])]


def run_files(path: str) -> list[str]:
    """The files that a path names, which may be a pattern such as runs/*.trec where it is a local one.

    Raises RayrieverError when there is none.
    """
    if "://" in path or Path(path).expanduser().exists():
        return [path]
    if found := sorted(glob(str(Path(path).expanduser()))):
        return found
    raise RayrieverError(f"{path}: there is no such file. Correct the path, or put the run there.")


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs in these files, one for each tag of a file. Raises RayrieverError for a file that is no run."""
    runs = []
    for path in paths:
        hits = from_run(read_file(path), file_name(path))
        tags = hits["system"].unique().to_pylist()
        name = file_name(path).removesuffix(".gz").removesuffix(".trec")
        for tag in tags:
            ranked = from_table(hits, tag)
            ids = {query_id: tuple(hit.passage_id for hit in found) for query_id, found in ranked.items()}
            runs.append(Run(name if len(tags) == 1 else f"{name} {tag}", ids))
    return runs


def merged(runs: Sequence[Run], depth: int | None = None) -> dict[str, list[Hit]]:
    """All runs as one, by Borda's count over the first `depth` passages of each; between equal ones the first run.

    A run without a query says nothing of it.
    """
    rankings: dict[str, list[Hit]] = {}
    for query_id in dict.fromkeys(query_id for run in runs for query_id in run.rankings):
        passes = [run.rankings[query_id][:depth] for run in runs if query_id in run.rankings]
        order, shares = borda(list(dict.fromkeys(each for ids in passes for each in ids)), passes)
        rankings[query_id] = [Hit(*each) for each in zip(order, shares, strict=True)]
    return rankings


def _is_run(path: str) -> bool:
    return path.split("?")[0].endswith(_RUN_ENDINGS)


def _corpus(ctx: StageContext, queries: Mapping[str, Query]) -> Corpus:
    same = representatives(ctx.inputs["corpus"].table("duplicates"))
    present = ctx.inputs["corpus"].table("passages", columns=["passage_id"])["passage_id"]
    return Corpus(queries.keys(), known_ids(present.to_pylist(), same), same)


def _from_lines(path: str, queries: Mapping[str, Query], corpus: Corpus, reject: Reject) -> tuple[Taught, Counter[str]]:
    rankings, outcomes = read_rankings(path, corpus, reject)
    lists, said = [], []
    for each in rankings:
        query, ids = queries[each.query_id], each.passage_ids
        lists.append(of_grades(query, each) if each.graded else aggregate(query, "recorded", ids, [whole(ids)]))
        said.append(_said(each.query_id, 0, ids))
    return Taught(lists, said), outcomes


def _from_runs(path: str, queries: Mapping[str, Query], corpus: Corpus, reject: Reject) -> tuple[Taught, Counter[str]]:
    outcomes = Counter[str]()
    passes: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for run in read_runs(run_files(path)):
        for query_id, ranked in run.rankings.items():
            outcomes["rankings_rows"] += 1
            if query_id not in queries:
                outcomes["rankings_no_train_query"] += 1
                continue
            kept = _fitting(ranked, corpus)
            if len(kept) < 2:
                reject(run.name, None, query_id, "ranks fewer than two distinct passages of the corpus")
                outcomes["rankings_unusable"] += 1
                continue
            unknown = sum(passage_id not in corpus.known for passage_id in ranked)
            outcomes["passages_unknown"] += unknown
            outcomes["near_duplicates_removed"] += len(ranked) - unknown - len(kept)
            passes[query_id].append(kept)
    outcomes["rankings"] = sum(map(len, passes.values()))
    said = [_said(query_id, number, ids) for query_id in sorted(passes) for number, ids in enumerate(passes[query_id])]
    return Taught([_aggregated(queries[query_id], passes[query_id]) for query_id in sorted(passes)], said), outcomes


def _fitting(ranked: Sequence[str], corpus: Corpus) -> tuple[str, ...]:
    """The passages that the corpus has, the best of each group of near-duplicates."""
    kept: dict[str, str] = {}
    for passage_id in filter(None, map(corpus.known.get, ranked)):
        kept.setdefault(corpus.representatives.get(passage_id, passage_id), passage_id)
    return tuple(kept.values())


def _aggregated(query: Query, passes: Sequence[tuple[str, ...]]) -> RankedList:
    every = list(dict.fromkeys(passage_id for ids in passes for passage_id in ids))
    return aggregate(query, "recorded", every, [whole(ids) for ids in passes])


def _said(query_id: str, number: int, ids: tuple[str, ...]) -> Said:
    return Said(query_id, number, 0, (), ids, None, "recorded")
