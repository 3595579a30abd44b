"""Lists scored by Ray Data actors."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import RayrieverError
from pipeline.progress import Silent
from pipeline.recipe import RaySection, ScorerSection
from pipeline.scorer import actors
from pipeline.scorer.actors import PassageList, score_lists
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer


class Seen(Silent):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def update(self, description: str, done: int, total: int) -> None:
        self.steps.append((done, total))


def _lists() -> Iterator[PassageList]:
    for number in range(9):
        yield PassageList(f"q{number}", f"what is {number}", [f"passage {place} " * place for place in range(number)])


def test_actors_score_as_one_process_does(
    ray_cluster: None, tiny_cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists cut at the wrong offsets would give a query the scores of its neighbour."""
    monkeypatch.setattr(actors, "_SLICE_PAIRS", 5)
    one = ScorerSection(model=str(tiny_cross_encoder), dtype="float32", cpus_per_actor=1)
    direct = Scorer(load_scorer_model(one), "float32", 4096)
    expected = {each.query_id: direct.score(each.query, each.passages) for each in _lists()}
    for section in (one, one.model_copy(update={"actors": 2})):
        seen = Seen()
        found = dict(score_lists(_lists(), 9, section, RaySection(), seen))
        assert found.keys() == expected.keys()
        for query_id, scores in expected.items():
            np.testing.assert_allclose(found[query_id], scores, rtol=1e-5, atol=1e-6)
        assert seen.steps[-1] == (9, 9)
        assert len(seen.steps) > 2


def test_an_actor_says_what_is_wrong_with_the_model(ray_cluster: None, tmp_path: Path) -> None:
    section = ScorerSection(model=str(tmp_path / "absent"), cpus_per_actor=1)
    with pytest.raises(RayrieverError, match="no such folder"):
        list(score_lists(_lists(), 9, section, RaySection(), Silent()))


def test_no_lists_start_no_actor(ray_cluster: None) -> None:
    assert list(score_lists([], 0, ScorerSection(cpus_per_actor=1), RaySection(), Silent())) == []


def test_more_actors_than_the_cluster_holds_are_refused(ray_cluster: None) -> None:
    """Ray would wait for them for ever."""
    section = ScorerSection(actors=64)
    with pytest.raises(RayrieverError, match=r"scorer.actors = 64"):
        list(score_lists(_lists(), 9, section, RaySection(), Silent()))
