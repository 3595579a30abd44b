"""Scoring many pairs, and the order that follows from it."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.rankings import Hit, rerank
from pipeline.recipe import ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from tests.scorer.conftest import PAIRS


@pytest.mark.parametrize("name", ["tiny_t5", "tiny_causal", "tiny_cross_encoder"])
def test_a_score_does_not_depend_on_its_company(name: str, request: pytest.FixtureRequest) -> None:
    """Padding that leaks into scores makes a ranking depend on the batch size and on the other passages."""
    folder = request.getfixturevalue(name)
    scorer = Scorer(load_scorer_model(ScorerSection(model=str(folder))), "float32", 1 << 20)
    together = scorer.score_pairs(PAIRS)
    alone = np.concatenate([scorer.score(query, [passage]) for query, passage in PAIRS])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert len(set(together.round(4))) == len(PAIRS)
    backwards = Scorer(scorer.model, "float32", 64).score_pairs(PAIRS[::-1])
    np.testing.assert_allclose(backwards[::-1], together, rtol=1e-4, atol=1e-5)


def test_scoring_twice_gives_the_same_bits(tiny_t5: Path) -> None:
    """Dropout left on would make every evaluation another one."""
    section = ScorerSection(model=str(tiny_t5))
    first, second = (Scorer(load_scorer_model(section), "bfloat16", 256).score_pairs(PAIRS).tolist() for _ in range(2))
    assert first == second


def test_no_passages_are_no_scores(tiny_cross_encoder: Path) -> None:
    scorer = Scorer(load_scorer_model(ScorerSection(model=str(tiny_cross_encoder))), "float32", 256)
    assert scorer.score("tea", []).shape == (0,)


def test_equal_scores_keep_the_order_of_the_first_stage() -> None:
    hits = [Hit("c", 9.0), Hit("a", 8.0), Hit("b", 7.0), Hit("d", 6.0)]
    assert rerank(hits, [1.0, 2.0, 1.0, 2.0]) == [Hit("a", 2.0), Hit("d", 2.0), Hit("c", 1.0), Hit("b", 1.0)]


def test_a_missing_score_is_no_silent_cut() -> None:
    with pytest.raises(ValueError, match="zip"):
        rerank([Hit("a", 2.0), Hit("b", 1.0)], [1.0])
