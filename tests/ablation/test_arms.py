"""Arms as recipes: what an override reaches, and what is refused before anything is spent."""

from typing import Any

import pytest

from pipeline.ablation.arms import arms_of
from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe
from pipeline.stages import relevant_section, stages_of


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


RERANKER: dict[str, Any] = {
    "candidates": {},
    "permutations": {"method": "fusion"},
    "rerank": {"epochs": 3},
    "preferences": {},
    "align": {},
}


def test_arms_of_a_reranker_vary_it_alone():
    """Another seed of the encoder would give every arm, and every seed, other hits to put in order."""
    arms = {"ranknet": {}, "mse": {"rerank.loss": "mse", "permutations.passes": 3}}
    ranknet, mse = arms_of(recipe(arms, ablate={"depth": 7, "reference": "first stage"}, **RERANKER))
    assert (ranknet.rows, mse.rows) == ({"reranked": "ranknet"}, {"reranked": "mse"})
    assert (ranknet.until, mse.until, mse.depth) == ("rerank", "rerank", 7)
    for arm in (ranknet, mse):
        for seed, each in arm.recipes.items():
            assert each.rerank is not None and each.align is not None
            assert (each.rerank.seed, each.rerank.epochs, each.distill.seed, each.align.seed) == (seed, 3, None, None)
    chosen = mse.recipes[5]
    assert chosen.rerank is not None and chosen.permutations is not None
    assert (chosen.rerank.loss, chosen.permutations.passes, chosen.permutations.method) == ("mse", 3, "fusion")


def test_stages_of_the_first_stage_have_the_same_keys_in_all_arms_and_seeds():
    """Otherwise each of them would train and encode anew, and no two rows would have the same first stage."""
    (arm,) = arms_of(recipe({"mse": {"rerank.loss": "mse"}}, **RERANKER))
    sections = [
        {stage.name: relevant_section(stage, each) for stage in stages_of(each) if stage.name in ("distill", "rerank")}
        for each in arm.recipes.values()
    ]
    assert sections[0]["distill"] == sections[1]["distill"] and sections[0]["rerank"] != sections[1]["rerank"]


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"rerank": None}, "ablate.arms.b: rerank is what the arms vary. It cannot be in some of them only."),
        ({"rerank": None, "permutations": None}, "It cannot be in some of them only"),
        ({"rerank.seed": 3}, "ablate.arms.b: distill.seed, align.seed and rerank.seed come from ablate.seeds"),
        ({"permutations": None}, "rerank learns the lists of section permutations"),
        ({"rerank.lost": "mse"}, "rerank.lost: unknown key; did you mean 'loss'?"),
    ],
)
def test_a_bad_arm_of_a_reranker_is_refused_by_name(arm: dict[str, Any], message: str):
    with pytest.raises(RayrieverError) as caught:
        arms_of(recipe({"a": {}, "b": arm}, **RERANKER))
    assert message in str(caught.value)


def test_row_of_the_first_stage_is_there_with_a_reranker_alone():
    with pytest.raises(RayrieverError, match="'first stage' is there twice"):
        arms_of(recipe({"first stage": {}}, **RERANKER))
    assert arms_of(recipe({"first stage": {}}))[0].rows == {"tuned": "first stage"}
    with pytest.raises(RayrieverError, match="no row 'first stage'; there are base, a"):
        arms_of(recipe({"a": {}}, ablate={"reference": "first stage"}))
    with pytest.raises(RayrieverError, match=r"arms\.a: rerank is what the arms vary"):
        arms_of(recipe({"a": {"rerank": {}}}, candidates={}, permutations={}))


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
        (
            {"b": {"distill.seed": 1}},
            {},
            "ablate.arms.b: distill.seed, align.seed and rerank.seed come from ablate.seeds",
        ),
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
