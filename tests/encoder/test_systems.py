"""The evaluate stage over three encoders on real Ray: which index is searched with which model, and what ships."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from sentence_transformers import SentenceTransformer

from pipeline import records
from pipeline.artifact import Artifact, ArtifactWriter
from pipeline.collection.publish import released_encoder
from pipeline.encoder.identity import identify
from pipeline.encoder.systems import dense_systems
from pipeline.evaluation import stage
from pipeline.evaluation.gate import Decision
from pipeline.evaluation.hybrid import Fusion
from pipeline.evaluation.release import release
from pipeline.evaluation.report import Report
from pipeline.index.build import build_index
from pipeline.lexical import stage as lexical
from pipeline.live import search
from pipeline.progress import Silent
from pipeline.rankings import from_table
from pipeline.recipe import Recipe
from pipeline.stage import StageContext
from pipeline.workspace import Workspace

WORDS = ("abcde", "fghij", "klmno", "pqrst")
PASSAGES = {f"p{n}": f"the {word} is near the {word[::-1]}" for n, word in enumerate(WORDS)}
QUERIES = {"d1": ("where is abcde?", "dev"), "d2": ("klmno here", "dev"), "t1": ("a fghij", "test")}
JUDGED = {"d1": "p0", "d2": "p2", "t1": "p1"}
CURVE = pa.schema([("step", pa.int64()), ("loss", pa.float64()), ("dev_ndcg_at_10", pa.float64())])


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path) -> Recipe:
    values: dict[str, Any] = {
        "workspace": str(tmp_path / "workspace"),
        "corpus": {"path": "nowhere"},
        "encoder": {"model": str(tiny_encoder), "dtype": "float32"},
        "evaluate": {"top_k": 10, "resamples": 100},
    }
    return Recipe.model_validate(values)


FUSION = Fusion("rrf", 60, 0.4, {})


def committed(out: ArtifactWriter) -> Artifact:
    about = {"code_version": "0", "finished_at": "now", "seconds": 1.0, "peak_memory_mb": 1.0}
    return out.commit(inputs={}, section={}, **about)


def table(workspace: Workspace, name: str, **tables: tuple[list[dict[str, Any]], pa.Schema]) -> Artifact:
    out = ArtifactWriter(workspace, name, "key")
    for each, (rows, schema) in tables.items():
        out.table(each, pa.Table.from_pylist(rows, schema=schema), schema)
    return committed(out)


def trained(workspace: Workspace, name: str, model: SentenceTransformer, seed: int, steps: int) -> Artifact:
    """A training's artifact; noise of its own makes every encoder rank differently."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    out = ArtifactWriter(workspace, name, "key")
    with out.directory("model") as folder:
        model.save(str(folder))
    curve = [{"step": 0, "loss": None, "dev_ndcg_at_10": 0.5}, {"step": steps, "loss": 1.0, "dev_ndcg_at_10": None}]
    out.table("curve", pa.Table.from_pylist(curve, schema=CURVE), CURVE)
    out.outcomes.update(chosen_step=0, steps=steps)
    return committed(out)


def indexed(recipe: Recipe, workspace: Workspace, name: str, model: SentenceTransformer) -> dict[str, Artifact]:
    vectors = model.encode_document(list(PASSAGES.values()), normalize_embeddings=True)
    rows = [{"passage_id": i, "vector": v.tolist()} for i, v in zip(PASSAGES, vectors, strict=True)]
    schema = records.vector_schema(vectors.shape[1])
    out = ArtifactWriter(workspace, f"encode_{name}", "key")
    out.table("vectors", pa.Table.from_pylist(rows, schema=schema), schema)
    with out.directory("encoder") as folder:
        (folder / "encoder.json").write_text(json.dumps(asdict(identify(model))))
    encoded = committed(out)
    out = ArtifactWriter(workspace, f"index_{name}", "key")
    build_index(StageContext(recipe, {f"encode_{name}": encoded}, out, workspace, Silent()), f"encode_{name}")
    return {f"encode_{name}": encoded, f"index_{name}": committed(out)}


@pytest.fixture
def inputs(recipe: Recipe, tiny_encoder: Path, ray_cluster: None) -> dict[str, Artifact]:
    """What a run with both trainings hands to the evaluate stage."""
    workspace = Workspace(recipe.workspace)
    passages = [{"passage_id": i, "title": "", "text": t, "source": "test"} for i, t in PASSAGES.items()]
    queries = [{"query_id": i, "text": t, "split": s, "kind": "given"} for i, (t, s) in QUERIES.items()]
    judgments = [{"query_id": q, "passage_id": p, "grade": 1} for q, p in JUDGED.items()]
    found = {
        "corpus": table(workspace, "corpus", passages=(passages, records.PASSAGE)),
        "queries": table(
            workspace, "queries", queries=(queries, records.QUERY), judgments=(judgments, records.JUDGMENT)
        ),
        "synthesis": table(workspace, "synthesis"),
    }
    words = ArtifactWriter(workspace, "words", "key")
    lexical.run(StageContext(recipe, found, words, workspace, Silent()))
    found["words"] = committed(words)
    preferences = ArtifactWriter(workspace, "preferences", "key")
    preferences.outcomes["no_preference"] = 3
    model = SentenceTransformer(str(tiny_encoder), device="cpu")
    found |= indexed(recipe, workspace, "base", model)
    found["distill"] = trained(workspace, "distill", model, 1, steps=20)
    found |= indexed(recipe, workspace, "tuned", model)
    found["preferences"] = committed(preferences)
    found["align"] = trained(workspace, "align", model, 2, steps=7)
    return found | indexed(recipe, workspace, "aligned", model)


def evaluated(recipe: Recipe, inputs: dict[str, Artifact]) -> tuple[Artifact, Report]:
    workspace = Workspace(recipe.workspace)
    out = ArtifactWriter(workspace, "evaluate", "key")
    stage.run(StageContext(recipe, inputs, out, workspace, Silent()))
    artifact = committed(out)
    return artifact, Report.from_json(artifact.file(stage.REPORT, "report.json").read_text())


def models(inputs: dict[str, Artifact], base: Path) -> dict[str, Path]:
    return {"base": base} | {
        name: inputs[stage].directory("model") for name, stage in (("tuned", "distill"), ("aligned", "align"))
    }


def expected(folder: Path) -> dict[str, list[str]]:
    """Every passage, best first, for each query: by the model itself, without an index."""
    model = SentenceTransformer(str(folder), device="cpu")
    texts = [text for text, _ in QUERIES.values()]
    similar = np.asarray(model.encode_query(texts)) @ np.asarray(model.encode_document(list(PASSAGES.values()))).T
    ids = list(PASSAGES)
    return {query: [ids[n] for n in np.argsort(-row)] for query, row in zip(QUERIES, similar, strict=True)}


def test_every_index_is_searched_with_the_model_that_made_it(
    recipe: Recipe, inputs: dict[str, Artifact], tiny_encoder: Path
):
    """Queries of one encoder in another's index still bring hits, only bad ones."""
    artifact, report = evaluated(recipe, inputs)
    hits = artifact.table("hits")
    folders = models(inputs, tiny_encoder)
    for name, folder in folders.items():
        found = {query: [hit.passage_id for hit in ranked] for query, ranked in from_table(hits, name).items()}
        assert found == expected(folder), name
    assert len({str(expected(folder)) for folder in folders.values()}) == 3, "encoders that agree tell nothing"

    names = ["BM25"] + [
        each for name in folders for each in (name, f"BM25 + {name} (RRF)", f"BM25 + {name} (weighted)")
    ]
    assert [each.system for each in report.systems] == names == list(stage.systems(inputs))
    assert [(each.encoder, each.baseline) for each in report.contrasts] == [
        ("tuned", "base"),
        ("aligned", "base"),
        ("aligned", "tuned"),
    ]
    dev = {each.system: each.dev.ndcg_at_10 for each in report.systems if each.dev is not None}
    for each in report.contrasts:
        assert each.dev is not None and each.test is not None
        assert each.dev.difference == pytest.approx(dev[each.encoder] - dev[each.baseline])
    assert [(each.encoder, each.steps) for each in report.trainings] == [("tuned", 20), ("aligned", 7)]
    assert report.llm.outcomes == {"preferences: no preference": 3}
    content = json.loads(artifact.file(stage.REPORT, "release.json").read_text())
    assert content["chosen"] == report.gate.chosen == released_encoder(inputs | {"evaluate": artifact})
    assert released_encoder(inputs) is None
    assert dev[report.gate.chosen] == max(dev[name] for name in folders)
    assert report.changes.encoder == ("aligned" if report.gate.chosen == "base" else report.gate.chosen)


def test_a_live_search_shows_every_finished_encoder(recipe: Recipe, inputs: dict[str, Artifact], tiny_encoder: Path):
    texts = [text for text, _ in QUERIES.values()]
    found = search(recipe, inputs, texts, top_k=2)
    assert list(found) == ["base", "tuned", "aligned"]
    for name, folder in models(inputs, tiny_encoder).items():
        best = [[hit.passage_id for hit in hits] for hits in found[name]]
        assert best == [ranked[:2] for ranked in expected(folder).values()], name
    del inputs["index_aligned"]
    assert list(search(recipe, inputs, texts, top_k=2)) == ["base", "tuned"]


def test_a_run_without_alignment_compares_tuned_and_base_alone(recipe: Recipe, inputs: dict[str, Artifact]):
    stage_1 = {name: each for name, each in inputs.items() if "align" not in name and name != "preferences"}
    _, report = evaluated(recipe, stage_1)
    assert [(each.encoder, each.baseline) for each in report.contrasts] == [("tuned", "base")]
    assert [each.encoder for each in report.trainings] == ["tuned"]
    assert "aligned" not in report.to_json()


def test_the_release_names_the_model_and_the_index_of_the_same_encoder(recipe: Recipe, inputs: dict[str, Artifact]):
    """A model beside another one's index deploys without an error and finds nothing."""

    def released(chosen: str) -> tuple[dict[str, Any], str]:
        decision = Decision("keep base" if chosen == "base" else "ship", chosen, "because")
        content = json.loads(release(decision, recipe.encoder, inputs, FUSION))
        assert (content["verdict"], content["chosen"]) == (decision.verdict, chosen)
        return content["encoder"], content["index"]

    def place(name: str) -> str:
        return f"stages/{name}/{inputs[name].manifest.identity}"

    assert released("base") == (recipe.encoder.result_fields(), f"{place('index_base')}/index")
    assert released("tuned") == ({"path": f"{place('distill')}/model"}, f"{place('index_tuned')}/index")
    assert released("aligned") == ({"path": f"{place('align')}/model"}, f"{place('index_aligned')}/index")
    assert (Path(recipe.workspace) / released("aligned")[0]["path"]).is_dir()
    with pytest.raises(ValueError, match="'merged'"):
        released("merged")


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        (("index_base", "distill", "index_tuned"), ["base", "tuned"]),
        (("index_base", "distill", "index_tuned", "align"), ["base", "tuned"]),
        (("index_base", "distill", "index_tuned", "align", "index_aligned"), ["base", "tuned", "aligned"]),
    ],
)
def test_an_encoder_counts_once_its_model_and_index_are_there(stages: tuple[str, ...], names: list[str]):
    assert [each.name for each in dense_systems(stages)] == names
