"""The teacher's lists: the sentences that become queries, and a reranker that puts the lists in another order."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline import records
from pipeline.mining import teacher
from pipeline.mining.teacher import sentences
from pipeline.models import locate
from pipeline.recipe import Recipe, ScorerSection
from pipeline.scorer.load import load_scorer_model
from pipeline.scorer.score import Scorer
from pipeline.stage import StageContext
from tests.artifacts import Shelf
from tests.scorer.conftest import SHIPPED
from tests.small_run import recipe_values

WORDS = ["dough", "yeast", "flour", "oven", "crust", "salt", "sail", "mast"]
TEXTS = {f"p{n}": f"{word} thing number {n}" + " and more" * (n % 3) for n, word in enumerate(WORDS)}
QUERIES = {f"q{n}": f"what is {word} thing" for n, word in enumerate(WORDS[:3])}
INPUTS = ("corpus", "words", "queries", "synthesis", "index_base")


def test_sentences_lose_their_numbers_and_short_ones_are_left_out():
    text = "1. What does SRGP-1 do to CED-10 here? Nothing. 2) Does engulfment kill cells that could live?\n- Why?"
    found = sentences(text, min_words=5)
    assert found == ["What does SRGP-1 do to CED-10 here?", "Does engulfment kill cells that could live?"]


def recipe_of(folder: Path, encoder: Path, section: dict[str, Any], **values: Any) -> Recipe:
    scorer = {"dtype": "float32", "cpus_per_actor": 1, "max_tokens": 64, **values}
    return Recipe.model_validate(
        recipe_values(folder, encoder, "http://unused") | {"teacher": section, "scorer": scorer}
    )


@pytest.fixture
def shelf(tmp_path: Path, tiny_encoder: Path, ray_cluster) -> Shelf:
    shelf = Shelf(recipe_of(tmp_path, tiny_encoder, {"top_k": 5, "min_words": 3}))
    shelf.corpus([{"passage_id": name, "title": "", "text": text} for name, text in TEXTS.items()], {})
    queries = [{"query_id": name, "text": text} for name, text in QUERIES.items()]
    shelf.queries([*queries, {"query_id": "dev", "text": "what is salt", "split": "dev"}], [])
    shelf.words()
    shelf.base_index()

    def synthesis(ctx: StageContext) -> None:
        row = {"query_id": "q0", "decomposition": "Is flour a thing? Why.", "verdict": "yes", "outcome": "kept"}
        table = pa.Table.from_pylist([row], schema=records.SYNTHESIS)
        ctx.out.table("synthesis", table, records.SYNTHESIS)

    shelf.run("synthesis", synthesis, [])
    return shelf


def test_lists_are_in_the_order_of_the_rerankers_own_scores_in_units_of_cosines(
    shelf: Shelf, release, tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path
):
    """Scores in another order than their passages would teach the contrary of what the reranker knows."""
    fused = shelf.run("teach", teacher.run, INPUTS).table("taught").to_pylist()
    section = {"top_k": 5, "min_words": 3, "reranker": str(release(SHIPPED)), "reranker_scale": 0.25}
    shelf.recipe = recipe_of(tmp_path, tiny_encoder, section)
    done = shelf.run("teach", teacher.run, INPUTS)
    taught = done.table("taught").to_pylist()
    assert [(row["query_id"], row["kind"], row["text"]) for row in taught] == [
        *((name, "query", text) for name, text in QUERIES.items()),
        ("q0", "decomposition", "Is flour a thing?"),
    ]
    assert done.manifest.outcomes == {"taught_query": 3, "taught_decomposition": 1}
    model = load_scorer_model(ScorerSection(model=str(tiny_cross_encoder), max_tokens=64))
    scorer = Scorer(model, "float32", 4096)
    for before, row in zip(fused, taught, strict=True):
        assert sorted(row["passage_ids"]) == sorted(before["passage_ids"]) and len(row["passage_ids"]) == 5
        own = scorer.score(row["text"], [TEXTS[passage_id] for passage_id in row["passage_ids"]])
        assert row["scores"] == pytest.approx((0.25 * own).tolist(), abs=1e-5)
        assert row["scores"] == sorted(row["scores"], reverse=True)
    assert [row["passage_ids"] for row in taught] != [row["passage_ids"] for row in fused]


def test_key_goes_by_the_reranker_and_by_how_it_reads(release, tmp_path: Path, tiny_encoder: Path):
    """A teacher that reads half of each passage gives other scores, and other lists."""

    def key(reranker: str | None, **scorer: Any) -> Any:
        return teacher.external(recipe_of(tmp_path, tiny_encoder, {"reranker": reranker}, **scorer))

    named = str(release(SHIPPED))
    assert key(None) is None and key(None, max_tokens=32) is None
    assert locate(f"{named}/stages/rerank/0/1/model").fingerprint in json.dumps(key(named))
    assert key(named) == key(f"{named}/stages/rerank/0/1/model"), "the same model by another name"
    assert key(named) == key(named, tokens_per_batch=99) != key(named, max_tokens=32)
    assert key(named) == key(named, model="another", kind="t5"), "that is not the model that teaches"
