"""The corpus stage: files -> tables `passages` and `duplicates`, bad rows in quarantine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import records
from pipeline.bad_rows import check_bad_share
from pipeline.corpus.duplicates import find_duplicates, word_shingles
from pipeline.corpus.estimate import estimate, expected_rows
from pipeline.corpus.passages import PassageTexts, passage_parts
from pipeline.corpus.readers import read
from pipeline.corpus.readers.documentation import package_fingerprint
from pipeline.corpus.rows import BadRow, Row
from pipeline.corpus.sources import PackageSource, beir_collection, locate
from pipeline.errors import RayrieverError
from pipeline.recipe import CorpusSection, Recipe
from pipeline.stage import StageContext

__all__ = ["estimate", "external", "run"]

_PROGRESS_EVERY = 2_000


def run(ctx: StageContext) -> None:
    """Write the tables `passages` and `duplicates`.

    Raises RayrieverError where the corpus cannot be found, read or understood, is empty, or has a larger
    share of bad rows than the recipe allows; the quarantine is written before that last one.
    """
    section = ctx.recipe.corpus
    # Arrow tables of everything: the search for duplicates compares any text with any other.
    parts = list(passage_parts(_good_rows(ctx)))
    _check_bad_share(ctx, section)
    duplicates = _find_duplicates(ctx, parts)
    dropped = duplicates["passage_id"] if section.duplicates == "drop" else pa.array([], pa.string())
    written = ctx.out.table("passages", _without(parts, dropped), records.PASSAGE)
    ctx.out.table("duplicates", duplicates, records.DUPLICATE)
    exact = pc.sum(pc.equal(duplicates["similarity"], 1.0)).as_py() or 0
    ctx.out.outcomes.update(
        passages=written,
        exact_duplicates=exact,
        near_duplicates=duplicates.num_rows - exact,
        dropped_duplicates=len(dropped),
    )
    ctx.progress.message(
        f"{written:,} passages; {duplicates.num_rows:,} duplicates {'dropped' if len(dropped) else 'kept'}; "
        f"{ctx.out.outcomes['unusable']:,} rows in quarantine"
    )


def external(recipe: Recipe) -> Any:
    """Return what changes when the corpus does: names, sizes and times of its files, or versions of packages.

    A collection of BEIR is known by its name and never changes. Raises RayrieverError where there is no
    corpus.
    """
    collection = beir_collection(recipe.corpus)
    if collection is not None:
        return {"beir": collection}
    source = locate(recipe.corpus)
    if isinstance(source, PackageSource):
        return {"pydoc": package_fingerprint(source.spec)}
    return {"files": [[file.name, file.size, file.mtime_ns] for file in source.files]}


def _good_rows(ctx: StageContext) -> Iterator[Row]:
    """The usable rows; the others go into the quarantine on the way."""
    section, outcomes = ctx.recipe.corpus, ctx.out.outcomes
    source = locate(section)
    expected = expected_rows(source, section)
    for row in read(source, section):
        outcomes["read"] += 1
        if outcomes["read"] % _PROGRESS_EVERY == 0:
            ctx.progress.update("rows read", outcomes["read"], max(expected, outcomes["read"]))
        if isinstance(row, BadRow):
            outcomes["unusable"] += 1
            ctx.out.quarantine(row.source, row.line, row.row_id, row.reason)
        else:
            yield row
    ctx.progress.update("rows read", outcomes["read"], outcomes["read"])


def _check_bad_share(ctx: StageContext, section: CorpusSection) -> None:
    total, bad = ctx.out.outcomes["read"], ctx.out.outcomes["unusable"]
    if not total:
        raise RayrieverError(f"corpus {section.path}: holds no rows. Correct corpus.path.")
    check_bad_share(ctx, "corpus", bad, total, "correct corpus.path and corpus.format")


def _find_duplicates(ctx: StageContext, parts: list[pa.Table]) -> pa.Table:
    ids = [passage_id for part in parts for passage_id in part["passage_id"].to_pylist()]
    return find_duplicates(
        ids,
        PassageTexts(parts),
        ctx.recipe.corpus.near_duplicate_threshold,
        word_shingles,
        lambda done, total: ctx.progress.update("passages compared", done, total),
    )


def _without(parts: Iterable[pa.Table], dropped: pa.ChunkedArray | pa.Array) -> Iterator[pa.Table]:
    for part in parts:
        yield part.filter(pc.invert(pc.is_in(part["passage_id"], value_set=dropped)))
