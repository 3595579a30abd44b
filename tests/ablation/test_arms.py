"""Arms as recipes: what an override reaches, and what is refused before anything is spent."""

from typing import Any

import pytest

from pipeline.ablation.arms import arms_of
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe


def recipe(arms: dict[str, dict[str, Any]], **values: Any) -> Recipe:
    ablate = {"seeds": [3, 5], "arms": arms, **values.pop("ablate", {})}
    return Recipe.model_validate({"corpus": {"path": "x"}, "ablate": ablate, **values})


def test_overrides_seeds_and_nothing_else_differ_from_the_recipe():
    """A value lost or a seed not set would compare an arm with itself."""
    stage_2 = {"preferences": {"top_k": 4}, "align": {"loss": "listwise"}}
    plain, full = arms_of(
        recipe({"plain": {"align": None, "preferences": None, "distill.loss": "infonce"}, "full": {}}, **stage_2)
    )
    assert plain.rows == {"tuned": "plain"} and plain.until == "index_tuned"
    assert full.rows == {"tuned": "full", "aligned": "full + alignment"} and full.until == "index_aligned"
    assert [r.distill.seed for r in plain.recipes.values()] == list(plain.recipes) == [3, 5]
    chosen = plain.recipes[5]
    assert (chosen.distill.loss, chosen.align, chosen.ablate, chosen.seed) == ("infonce", None, None, 0)
    both = full.recipes[5]
    assert both.align is not None and both.preferences is not None
    assert (both.distill.seed, both.align.seed, both.align.loss, both.preferences.top_k) == (5, 5, "listwise", 4)
    assert both.distill.model_copy(update={"seed": None}) == recipe({}).distill


def test_a_section_that_the_recipe_lacks_can_be_added_key_by_key():
    (arm,) = arms_of(recipe({"mined": {"negatives.per_query": 7}}))
    negatives = arm.recipes[3].negatives
    assert negatives is not None and negatives.per_query == 7


@pytest.mark.parametrize(
    ("arms", "ablate", "message"),
    [
        ({"a": {}, "b": {"distill.los": "supcon"}}, {}, "ablate.arms.b:\n  distill.los: unknown key; did you mean"),
        ({"b": {"distil.loss": "supcon"}}, {}, "ablate.arms.b:\n  distil: unknown key; did you mean 'distill'?"),
        ({"b": {"distill.datasets": [{"path": "x", "wait": 2}]}}, {}, "unknown key; did you mean 'weight'?"),
        ({"b": {"distill.epochs": 0}}, {}, "ablate.arms.b:\n  distill.epochs: Input should be greater"),
        (
            {"b": {"distill.loss": "supcon", "distill.loss.x": 1}},
            {},
            "ablate.arms.b: distill.loss.x: 'loss' is a value",
        ),
        ({"b": {"align": {}}}, {}, "ablate.arms.b"),
        ({"b": {"corpus.path": "y"}}, {}, "ablate.arms.b: corpus.path: arms share this section"),
        ({"b": {"workspace": "y"}}, {}, "ablate.arms.b: workspace: arms share"),
        ({"b": {"distill.seed": 1}}, {}, "ablate.arms.b: distill.seed and align.seed come from ablate.seeds"),
        ({"b": {}}, {"seeds": [-1]}, "distill.seed: Input should be greater than or equal to 0"),
        ({"b": {}}, {"seeds": [1, 1]}, "ablate.seeds: 1 is there twice"),
        ({"b": {}}, {"reference": "c"}, "ablate.reference: there is no row 'c'; there are base, b."),
        ({"base": {}}, {}, "'base' is there twice"),
        ({}, {}, "has no arms"),
    ],
)
def test_a_bad_arm_is_refused_by_name(arms: dict[str, Any], ablate: dict[str, Any], message: str):
    with pytest.raises(RayrieverError) as caught:
        arms_of(recipe(arms, ablate=ablate))
    assert message in str(caught.value)


def test_without_the_section_the_remedy_is_named():
    with pytest.raises(RayrieverError, match="NAME"):
        arms_of(Recipe.model_validate({"corpus": {"path": "x"}}))
