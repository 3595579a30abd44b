"""Which columns of a file hold the id, the title and the text: the recipe's, or the usual names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.corpus.rows import Columns
from pipeline.errors import RayrieverError
from pipeline.recipe import CorpusSection

_SHOWN = 20


@dataclass(frozen=True)
class WantedColumns:
    """Names to look for, the first one present counts. A title may be absent unless the recipe names it."""

    passage_id: tuple[str, ...]
    title: tuple[str, ...]
    text: tuple[str, ...]
    title_required: bool

    @classmethod
    def of(cls, section: CorpusSection) -> WantedColumns:
        return cls(
            (section.id_field,) if section.id_field else ("_id", "id", "docid", "passage_id"),
            (section.title_field,) if section.title_field else ("title",),
            (section.text_field,) if section.text_field else ("text", "contents", "body", "passage"),
            section.title_field is not None,
        )

    def among(self, names: Collection[str]) -> Columns:
        """Return the columns present in `names`; an absent id or text gets the name to expect."""
        return Columns(
            _first(self.passage_id, names) or self.passage_id[0],
            _first(self.title, names),
            _first(self.text, names) or self.text[0],
        )

    def require(self, names: Collection[str], location: str) -> Columns:
        """Return the columns present in `names`. Raises RayrieverError with the file where one is missing."""
        wanted = [("id", self.passage_id), ("text", self.text)]
        if self.title_required:
            wanted.append(("title", self.title))
        for role, candidates in wanted:
            if _first(candidates, names) is None:
                raise RayrieverError(_missing(role, candidates, names, location))
        return self.among(names)


def _first(candidates: tuple[str, ...], names: Collection[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _missing(role: str, candidates: tuple[str, ...], names: Collection[str], location: str) -> str:
    looked_for = " or ".join(f'"{name}"' for name in candidates)
    shown = [f'"{name}"' for name in list(names)[:_SHOWN]]
    found = ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return (
        f"corpus {location}: no column with the {role}: looked for {looked_for}, found {found or 'none'}. "
        f"Set corpus.{role}_field to the name of the column that holds it."
    )
