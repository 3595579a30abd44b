"""Stage 2 on Ray Train: preferences and grades written by hand, and what the encoder makes of them."""

import math
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.training import align, distill
from pipeline.training.job import TrainingSet
from pipeline.training.sampler import Dataset
from tests.training.trained import PASSAGES, TRAIN, TrainingShelf

INPUTS = ("corpus", "queries", "distill", "preferences")
TEXTS = {passage["passage_id"]: f"{passage['title']} {passage['text']}" for passage in PASSAGES}
QUERIES = {query["query_id"]: query["text"] for query in TRAIN}
LISTS = {f"q{n}": [f"p{(n + step) % 12:02d}" for step in (1, 2, 3)] for n in range(8)}


def cosines(model: SentenceTransformer) -> dict[str, dict[str, float]]:
    """Query id -> passage id -> cosine, of the passages in its list."""
    found = {}
    for query_id, passage_ids in LISTS.items():
        query = model.encode_query([QUERIES[query_id]], convert_to_tensor=True)
        passages = model.encode_document([TEXTS[i] for i in passage_ids], convert_to_tensor=True)
        values = torch.as_tensor(query) @ torch.as_tensor(passages).T
        found[query_id] = dict(zip(passage_ids, values[0].tolist(), strict=True))
    return found


def make(folder: Path, encoder: Path, **section: object) -> TrainingShelf:
    """A shelf without dev queries, so that the last checkpoint is the one that is kept; stage 1 ran if replayed."""
    shelf = TrainingShelf(
        folder, encoder, align={"epochs": 10, "learning_rate": 3e-3, **section}, distill={"learning_rate": 1e-9}
    )
    shelf.without_dev()
    if section.get("replay"):
        shelf.run("distill", distill.run, ("corpus", "queries", "synthesis"))
    else:
        shelf.tuned()
    return shelf


def against_the_encoder(shelf: TrainingShelf) -> dict[str, list[str]]:
    """Every list in the reverse of the encoder's own order."""
    before = cosines(SentenceTransformer(shelf.recipe.encoder.model, device="cpu"))
    return {query_id: sorted(values, key=values.__getitem__) for query_id, values in before.items()}


def agreement(artifact: Artifact, wanted: dict[str, list[str]]) -> float:
    """Share of the pairs that the trained encoder ranks as wanted; 0 before training."""
    after = cosines(SentenceTransformer(str(artifact.directory("model")), device="cpu"))
    right = [
        after[query_id][better] > after[query_id][worse]
        for query_id, order in wanted.items()
        for place, better in enumerate(order)
        for worse in order[place + 1 :]
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize("depth", [1, 2])
def test_pairs_turn_the_ranking_and_stage_1_is_replayed(
    depth: int, tmp_path: Path, tiny_encoder: Path, ray_cluster: None
):
    shelf = make(tmp_path, tiny_encoder, replay=0.5, epochs=30, depth=depth)
    wanted = against_the_encoder(shelf)
    pairs = [(i, order[a], order[b]) for i, order in wanted.items() for a, b in ((0, 1), (0, 2), (1, 2))]
    shelf.preferences(pairs, [(i, order, [2.0, 1.0, 0.0]) for i, order in wanted.items()])
    artifact = shelf.run("align", align.run, INPUTS)

    examples = artifact.table("examples").to_pylist()
    assert [example["query_id"] for example in examples] == list(wanted), "q8 has no preference"
    for example in examples:
        named = [tuple(example["candidate_ids"][place] for place in order) for order in example["orders"]]
        assert named == [pair[1:] for pair in pairs if pair[0] == example["query_id"]]
        assert not example["grades"]
    assert artifact.manifest.outcomes["examples_without_preference"] == 1
    rows = artifact.table("metrics").to_pylist()
    assert len(rows) == artifact.manifest.outcomes["chosen_step"] == 90
    assert all(math.isfinite(row["loss"]) for row in rows)
    replayed = [row for row in rows if row["cosine_labelled"] is not None]
    assert len(replayed) == 30, "4 visits of stage 1's examples, a batch, to 8 of preferences in every epoch"
    assert any(row["cosine_synthetic"] is not None for row in replayed), "with what the LLM wrote"
    assert [point["dev_ndcg_at_10"] for point in artifact.table("curve").to_pylist()] == [None] * 31
    assert agreement(artifact, wanted) > 0.8


def test_grades_order_the_whole_list(tmp_path: Path, tiny_encoder: Path, ray_cluster: None):
    shelf = make(tmp_path, tiny_encoder, loss="listwise", grade_temperature=0.5)
    wanted = against_the_encoder(shelf)
    shelf.preferences([], [(i, order, [2.0, 1.0, 0.0]) for i, order in wanted.items()])
    artifact = shelf.run("align", align.run, INPUTS)
    assert all(example["grades"] == [2, 1, 0] for example in artifact.table("examples").to_pylist())
    rows = artifact.table("metrics").to_pylist()
    assert all(row["cosine_labelled"] is None for row in rows), "without replay no label enters"
    assert agreement(artifact, wanted) > 0.8


def test_replayed_tables_lie_behind_and_keep_their_proportions(tmp_path: Path, tiny_encoder: Path, ray_cluster: None):
    """A wrong start would replay preferences as labels; a lost weight would drown them in a large table."""
    shelf = make(tmp_path, tiny_encoder, replay=0.5)
    stage_1 = shelf.finished["distill"]
    mixed = align.with_replay(TrainingSet(["a", "b"], (Dataset(0, 8),)), stage_1, 0.5)
    assert mixed.parts == ["a", "b", *stage_1.parts("examples")] and mixed.replayed_from == 8
    assert mixed.datasets == (Dataset(0, 8), Dataset(8, 9, pytest.approx(8 * 0.5 / 9)))


def test_preferences_that_say_nothing_are_told_before_any_training(tmp_path: Path, tiny_encoder: Path):
    """Pairs of passages that the corpus does not hold, and a list of one."""
    shelf = make(tmp_path, tiny_encoder)
    shelf.preferences([("q0", "gone", "p01")], [("q0", ["gone", "p01"], [1.0, 0.0]), ("q1", ["p02"], [1.0])])
    with pytest.raises(RayrieverError, match=r"^align: 0 train queries with a preference; .* \(rayriever status\)"):
        shelf.run("align", align.run, INPUTS)
