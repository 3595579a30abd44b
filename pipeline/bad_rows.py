"""What a stage says when too many rows of a file cannot be used."""

from __future__ import annotations

from pipeline.errors import RayrieverError
from pipeline.stage import StageContext

_SHOWN = 10


def check_bad_share(ctx: StageContext, what: str, bad: int, total: int, remedy: str, source: str | None = None) -> None:
    """Raise RayrieverError when more than `corpus.max_bad_share` of the rows cannot be used, or none can.

    Args:
        what: begins the message: the recipe key that names the file, and the file.
        remedy: what to do when no row can be used; less is answered by raising the share.
        source: show only quarantined rows of this file.
    """
    limit = ctx.recipe.corpus.max_bad_share
    if not total or (bad < total and bad <= limit * total):
        return
    ctx.out.write_quarantine()
    rows = [row for row in ctx.out.quarantined if source in (None, row["source"])]
    first = [f"  {place(row['source'], row['line'])}  {row['reason']}" for row in rows[:_SHOWN]]
    exceeded = f", more than max_bad_share = {100 * limit:g} %" if bad > limit * total else ""
    raise RayrieverError(
        "\n".join(
            [
                f"{what}: {bad:,} of {total:,} rows ({_percent(bad / total)} %) cannot be used{exceeded}.",
                *first,
                f"  {'... ' if bad > len(first) else ''}all in {ctx.out.part_folder('quarantine')}/part-00000.parquet",
                f"Mend the rows, or {'raise corpus.max_bad_share' if bad < total else remedy}.",
            ]
        )
    )


def place(source: str, line: int | None) -> str:
    """A row's place for messages: file:line, or the file alone."""
    return source if line is None else f"{source}:{line}"


def _percent(share: float) -> str:
    """One decimal, more for what would be shown as zero."""
    return f"{round(100 * share, 1) or 100 * share:.3g}"
