"""The rerank stage on Ray Train: a T5 and an encoder learn a toy collection, with one worker as with two."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ir_measures
import pytest
import torch

from pipeline.artifact import Artifact
from pipeline.errors import RayrieverError
from pipeline.recipe import ScorerSection
from pipeline.records import RANKED_LIST
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.training import rerank
from pipeline.training.dev_lists import DevLists, dev_list_score
from pipeline.training.fit import metrics_schema
from pipeline.training.list_step import FIGURES
from tests.training.trained import PASSAGES, TRAIN, WORDS, TrainingShelf

INPUTS = ("corpus", "words", "queries", "index_base", "permutations")
SMALL = {"batch_size": 4, "dtype": "float32", "cpus_per_worker": 1, "dev_depth": 5}


class RerankShelf(TrainingShelf):
    """The training shelf with the lists of a teacher that puts the passage of the query's word first."""

    def __init__(self, folder: Path, encoder: Path, model: Path | str, **values: Any) -> None:
        super().__init__(
            folder,
            encoder,
            rerank=SMALL | values,
            permutations={"path": "unread"},
            scorer={"model": str(model), "max_tokens": 128, "cpus_per_actor": 1},
        )
        self.words()
        self.base_index()
        self.lists(len(TRAIN))

    def lists(self, count: int) -> None:
        ids = [row["passage_id"] for row in PASSAGES]
        rows = []
        for number, query in enumerate(TRAIN[:count]):
            order = [ids[(number + step) % len(ids)] for step in range(len(ids))]
            others = len(ids) - 1
            pairs = [1.0] * others + [0.0] * (others * (others - 1) // 2)  # of the others nothing is known
            scores = [1.0] + [0.0] * others
            rows.append(
                {"query_id": query["query_id"], "query": query["text"], "kind": "given", "teacher": "recorded"}
                | {"passage_ids": order, "scores": scores, "confidence": pairs}
            )
        self._put("permutations", lists=(rows, RANKED_LIST))

    def train(self) -> Artifact:
        return self.run("rerank", rerank.run, INPUTS)


def scorer_of(trained: Artifact, dtype: str = "float32") -> Scorer:
    # Another length and truncation than it was trained with: its own folder decides.
    section = ScorerSection(model="unread", max_tokens=16, truncation="right")
    return Scorer(load_scorer_model(section, trained.directory("model")), dtype, 256)  # type: ignore[arg-type]


def ndcg(scorer: Scorer) -> float:
    """Of the train queries, over all passages."""
    texts = {row["passage_id"]: f"{row['title']} {row['text']}" for row in PASSAGES}
    run = {}
    for query in TRAIN:
        scores = scorer.score(query["text"], list(texts.values()))
        run[query["query_id"]] = dict(zip(texts, map(float, scores), strict=True))
    judgments = {f"q{n}": {f"p{n:02d}": 1} for n in range(len(TRAIN))}
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], judgments, run)[measure])


@pytest.mark.parametrize("kind", ["t5", "encoder"])
def test_a_small_model_learns_a_toy_collection_and_its_folder_scores_as_it_did(
    kind: str, tmp_path: Path, tiny_encoder: Path, minilm: str, save_t5: Callable[..., Path], ray_cluster: None
):
    """From end to end: lists to examples, Ray Train, the saved folder, and scores from it."""
    t5 = kind == "t5"
    model = save_t5(words=("true", "false", *WORDS), dropout_rate=0.0) if t5 else Path(minilm)
    relative = f"./{os.path.relpath(model)}"  # workers look for it where we do
    values = {"epochs": 20, "learning_rate": 3e-3} if t5 else {"epochs": 8, "learning_rate": 2e-4}
    shelf = RerankShelf(tmp_path, tiny_encoder, relative, **values, evaluations_per_epoch=0)
    trained = shelf.train()
    untrained = Scorer(load_scorer_model(shelf.recipe.scorer, seed=0), "float32", 256)
    scorer = scorer_of(trained)
    assert ndcg(untrained) < 0.8 and ndcg(scorer) > 0.95
    rows = trained.table("metrics").to_pylist()
    assert trained.table("metrics").schema == metrics_schema(FIGURES)
    assert rows[-1]["pairs_in_order"] > 0.95 and rows[-1]["loss"] < rows[0]["loss"] / 2
    assert all(math.isfinite(row["gradient_norm"]) for row in rows)
    scorer.model.save(tmp_path / "again")
    again = Scorer(load_scorer_model(ScorerSection(model=str(tmp_path / "again"))), "float32", 256)
    texts = [row["text"] for row in PASSAGES]
    assert again.score("what is tide", texts).tolist() == scorer.score("what is tide", texts).tolist()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, ray_cluster: None) -> Artifact:
    folder = tmp_path_factory.mktemp("alone")
    return RerankShelf(folder, tiny_encoder, without_dropout(folder, tiny_encoder), epochs=2).train()


def without_dropout(folder: Path, encoder: Path) -> Path:
    TrainingShelf(folder / "copied", encoder)
    return folder / "copied" / "encoder"


def test_two_workers_make_the_steps_of_one(tmp_path: Path, tiny_encoder: Path, alone: Artifact):
    """Heads drawn on each worker, or lists that both of them score, would train another reranker unseen."""
    shelf = RerankShelf(tmp_path, tiny_encoder, without_dropout(tmp_path, tiny_encoder), epochs=2, workers=2)
    found = shelf.train()
    for row, expected in zip(found.table("metrics").to_pylist(), alone.table("metrics").to_pylist(), strict=True):
        for name in ("loss", "gradient_norm", "learning_rate"):
            assert row[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), (row["step"], name)
        # An untrained head's scores nearly tie.
        assert row["pairs_in_order"] == pytest.approx(expected["pairs_in_order"], abs=0.1)
    one, other = (load_scorer_model(ScorerSection(), each.directory("model")) for each in (found, alone))
    for (name, value), expected in zip(one.module.named_parameters(), other.module.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-2, atol=1e-4, msg=name)


def test_dev_chooses_the_checkpoint_by_the_order_it_makes(alone: Artifact):
    curve = alone.table("curve").to_pylist()
    assert [point["step"] for point in curve] == [0, 2, 4]  # nine lists in batches of four: the last joins
    best = max(curve[1:], key=lambda point: (point["dev_ndcg_at_10"], point["step"]))
    assert alone.manifest.outcomes["chosen_step"] == best["step"]


def test_lists_without_a_decided_pair_are_left_out_and_too_few_are_refused(
    tmp_path: Path, tiny_encoder: Path, ray_cluster: None
):
    shelf = RerankShelf(tmp_path, tiny_encoder, tiny_encoder)
    shelf.lists(1)
    with pytest.raises(RayrieverError, match="rerank: 1 lists with an order"):
        shelf.train()


DEV = DevLists(
    queries={"a": "tide", "b": "keel"},
    judgments={"a": {"1": 1}, "b": {"3": 1, "9": 1}},
    hits={"a": ("0", "1"), "b": ("2", "3")},
    passages={str(n): word for n, word in enumerate(WORDS)},
)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (
            {},
            {"a": 1 / math.log2(3), "b": (1 / math.log2(3)) / (1 + 1 / math.log2(3))},
        ),  # ties: the first stage's order
        ({"yeast": 1.0, "oven": 2.0}, {"a": 1.0, "b": 1 / (1 + 1 / math.log2(3))}),
    ],
)
def test_dev_score_is_that_of_the_reranked_hits_against_all_judgments(
    scores: Mapping[str, float], expected: Mapping[str, float]
):
    """An ideal made of the hits alone would call a list perfect that lacks a relevant passage."""
    found = dev_list_score(lambda pairs: [scores.get(passage, 0.0) for _, passage in pairs], DEV)
    assert found == pytest.approx(sum(expected.values()) / 2)
