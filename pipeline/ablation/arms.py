"""The arms of an ablation as recipes, one per seed. Everything is checked here, before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.encoder.systems import ALIGNED, BASE, TUNED
from pipeline.errors import RayrieverError
from pipeline.evaluation.stage import BM25
from pipeline.recipe import AblateSection, Recipe, with_overrides

RERANKED = "reranked"  # what a reranker makes of a first stage
FIRST_STAGE = "first stage"  # BM25 and the newest encoder, fused by rank
# What all arms have in common, or their figures could not be compared.
_COMMON = ("ablate", "workspace", "corpus", "evaluate", "evaluate_reranker", "ray")


@dataclass(frozen=True)
class Arm:
    """One variant of the recipe, to be trained with several seeds."""

    name: str
    recipes: Mapping[int, Recipe]  # by training seed
    rows: Mapping[str, str]  # what it trains (tuned, aligned, reranked) -> row of the table
    depth: int  # hits that a reranker puts in order

    @property
    def until(self) -> str:
        """The stage that makes its last index, or its reranker."""
        return "rerank" if RERANKED in self.rows else f"index_{list(self.rows)[-1]}"


def arms_of(recipe: Recipe) -> tuple[Arm, ...]:
    """The arms of the recipe's section `ablate`, in its order.

    Raises RayrieverError, naming the arm, for an override that is no key of a recipe or that arms must share,
    for two rows of one name, a repeated seed and an unknown reference.
    """
    section = recipe.ablate
    if section is None or not section.arms:
        raise RayrieverError("ablate: the recipe has no arms. Give some: ablate: {arms: {NAME: {section.key: value}}}.")
    _check_unique("ablate.seeds", section.seeds)
    arms = tuple(_arm(recipe, section, name) for name in section.arms)
    first = [FIRST_STAGE] if recipe.rerank is not None else []
    rows = [BASE, *first, *(row for arm in arms for row in arm.rows.values())]
    _check_unique("ablate.arms: rows of the table", [BM25, *rows])
    if section.reference not in rows:
        raise RayrieverError(f"ablate.reference: there is no row {section.reference!r}; there are {', '.join(rows)}.")
    return arms


def _arm(recipe: Recipe, section: AblateSection, name: str) -> Arm:
    place = f"ablate.arms.{name}"
    for key in section.arms[name]:
        if key.split(".")[0] in _COMMON:
            raise RayrieverError(f"{place}: {key}: arms share this section, or they could not be compared.")
    plain = recipe.model_copy(update={"ablate": None})
    changed = with_overrides(plain, section.arms[name], place)
    if _seeds(changed) - _seeds(plain):
        raise RayrieverError(
            f"{place}: distill.seed, align.seed and rerank.seed come from ablate.seeds. Take them out of the arm."
        )
    if (changed.rerank is None) != (plain.rerank is None):
        raise RayrieverError(f"{place}: rerank is what the arms vary. It cannot be in some of them only.")
    rows = {RERANKED: name} if changed.rerank is not None else {TUNED: name}
    if changed.rerank is None and changed.align is not None:
        rows[ALIGNED] = f"{name} + alignment"
    return Arm(name, {seed: _seeded(changed, seed, place) for seed in section.seeds}, rows, section.depth)


def _seeds(recipe: Recipe) -> set[int | None]:
    return {each.seed for each in (recipe.distill, recipe.align, recipe.rerank) if each is not None} | {None}


def _seeded(recipe: Recipe, seed: int, place: str) -> Recipe:
    """A recipe with a reranker varies that one alone, behind one and the same encoder."""
    overrides: dict[str, Any] = {"distill.seed": seed} if recipe.rerank is None else {"rerank.seed": seed}
    if recipe.rerank is None and recipe.align is not None:
        overrides["align.seed"] = seed
    return with_overrides(recipe, overrides, f"{place}, seed {seed}")


def _check_unique(place: str, values: Any) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise RayrieverError(f"{place}: {repeated[0]!r} is there twice. Rename or remove one.")
