"""Reading recipes: what is refused and how it is said."""

from pathlib import Path

import pytest

from pipeline.errors import RayrieverError
from pipeline.recipe import Recipe, Section, load_recipe, make_recipe, section_of
from pipeline.stages import stages_of

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_example_recipes_are_valid(path: Path):
    load_recipe(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("corpus: {path: x}\nlm: {model: y}", "lm: unknown key; did you mean 'llm'?"),
        ("corpus: {path: x, chunk_word: 9}", "corpus.chunk_word: unknown key; did you mean 'chunk_words'?"),
        ("corpus: {path: x, zzzz: 9}", "valid keys: chunk_overlap_words, chunk_words, duplicates"),
        ("corpus: {path: x}\nindex: {shards: 0}", "index.shards: Input should be greater than or equal to 1 (got 0)"),
        ("workspace: w", "corpus: Field required"),
        ("corpus: {path: x, chunk_words: 20, chunk_overlap_words: 20}", "must be smaller than chunk_words"),
        ("corpus: {path: x}\ndistill: {workers: 2, min_workers: 3}", "min_workers must not be larger than workers"),
        ("corpus: {path: x}\nnegatives: {ranks: [9, 3]}", "ranks must be [first, last]"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_faults_name_the_key_and_the_remedy(recipe, text: str, message: str):
    with pytest.raises(RayrieverError) as caught:
        load_recipe(recipe(text))
    assert message in str(caught.value) and "recipe.yaml" in str(caught.value)


def test_missing_file_is_a_message():
    with pytest.raises(RayrieverError, match="No such file"):
        load_recipe("absent.yaml")


def test_overrides_reach_nested_values_with_their_type(recipe):
    path = recipe("corpus: {path: x}\nllm:\n")
    loaded = load_recipe(path, ["llm.actors=3", "corpus.path=y=z", "queries.kinds=[crop]", "synthesis.verify=false"])
    assert (loaded.llm.actors, loaded.corpus.path, loaded.queries.kinds) == (3, "y=z", ("crop",))
    assert loaded.synthesis.verify is False


@pytest.mark.parametrize("override", ["corpus.path", "=3", "corpus.path.deep=3", "corpus.pth=3", "a=["])
def test_bad_overrides_are_refused(recipe, override: str):
    with pytest.raises(RayrieverError):
        load_recipe(recipe("corpus: {path: x}"), [override])


def test_how_a_stage_is_executed_does_not_change_what_it_is_called():
    """Otherwise asking for a second actor would throw away paid answers and trained weights."""
    one = Recipe.model_validate({"corpus": {"path": "x"}})
    two = Recipe.model_validate({"corpus": {"path": "x"}, "llm": {"actors": 2}, "encoder": {"tokens_per_batch": 999}})
    other = Recipe.model_validate({"corpus": {"path": "x"}, "llm": {"model": "y"}})
    assert one.llm.result_fields() == two.llm.result_fields() != other.llm.result_fields()
    assert one.encoder.result_fields() == two.encoder.result_fields()


def test_environment_variables_stand_for_places(recipe, monkeypatch: pytest.MonkeyPatch):
    path = recipe("corpus: {path: '${PLACE}/corpus'}\nworkspace: ${SPACE:-here}/w")
    monkeypatch.delenv("SPACE", raising=False)
    monkeypatch.setenv("PLACE", "/data")
    loaded = load_recipe(path)
    assert (loaded.corpus.path, loaded.workspace) == ("/data/corpus", "here/w")
    monkeypatch.delenv("PLACE")
    with pytest.raises(RayrieverError, match="PLACE is not set"):
        load_recipe(path)


def test_optional_sections_bring_their_stages(recipe):
    """An empty section takes its defaults; an absent one must not run, and spend, anything."""
    names = [stage.name for stage in stages_of(load_recipe(recipe("corpus: {path: x}")))]
    assert not {"mine", "teach", "preferences", "align", "encode_aligned", "index_aligned"} & set(names)
    whole = "corpus: {path: x}\nnegatives: {}\nteacher: {}\npreferences: {}\nalign: {}"
    stages = stages_of(load_recipe(recipe(whole)))
    assert {"mine", "teach", "align", "index_aligned"} <= {stage.name for stage in stages}
    for number, stage in enumerate(stages):
        assert set(stage.inputs) <= {earlier.name for earlier in stages[:number]}


def test_stage_two_needs_both_of_its_sections(recipe):
    with pytest.raises(RayrieverError, match="needs both sections"):
        load_recipe(recipe("corpus: {path: x}\nalign: {}"))
    assert load_recipe(recipe("corpus: {path: x}\nalign: {}"), ["preferences={}"]).align is not None


@pytest.mark.parametrize(
    ("reader", "named"),
    [("negatives: {}", "negatives"), ("align: {}\npreferences: {labels_decide: true}", "preferences.labels_decide")],
)
def test_label_free_training_refuses_sections_that_read_labels(recipe, reader: str, named: str):
    text = f"corpus: {{path: x}}\n{reader}"
    with pytest.raises(RayrieverError, match=f"distill.labels is false, but {named} would read"):
        load_recipe(recipe(text), ["distill.labels=false"])
    assert load_recipe(recipe(text)).distill.labels


def test_unknown_key_of_an_optional_section_is_named(recipe):
    with pytest.raises(RayrieverError, match=r"align\.los: unknown key; did you mean 'loss'"):
        load_recipe(recipe("corpus: {path: x}\npreferences: {}\nalign: {los: listwise}"))


def _sections() -> list[type[Section]]:
    return [Recipe, *filter(None, map(section_of, Recipe.model_fields.values()))]


@pytest.mark.parametrize("section", _sections(), ids=lambda section: section.__name__)
def test_every_value_is_described(section: type[Section]):
    for name, field in section.model_fields.items():
        assert section_of(field) or field.description, name


def test_options_that_would_do_nothing_are_refused(recipe):
    stage_2 = "corpus: {path: x}\nalign: {loss: listwise}\npreferences: {path: r.jsonl, min_grade_gap: 2}"
    with pytest.raises(RayrieverError, match="min_grade_gap decides pairs"):
        load_recipe(recipe(stage_2))
    assert load_recipe(recipe(stage_2), ["align.loss=partial_pl"]).align
    with pytest.raises(RayrieverError, match="min_grade_gap decides pairs"):
        load_recipe(recipe(stage_2), ["align.loss=partial_pl", "align.depth=3"])
    with pytest.raises(RayrieverError, match=r"distill: .*patience counts dev evaluations"):
        load_recipe(recipe("corpus: {path: x}"), ["distill.patience=2", "distill.evaluations_per_epoch=0"])


LISTS = "permutations: {method: fusion}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rerank: {}", "rerank learns the lists of section permutations"),
        ("rerank: {}\ncandidates: {}", "rerank learns the lists of section permutations"),
        (LISTS, "permutations ranks the lists of section candidates ({} takes the defaults) or takes path"),
        ("candidates: {sources: [bm25, sparse]}", "candidates.sources: sparse needs section sparse"),
        ("evaluate_reranker: {depths: [0]}", "evaluate_reranker.depths.0: Input should be greater than or equal to 1"),
        ("candidates: {sources: [cross_encoder]}", "cross_encoder needs a model, candidates.cross_encoder"),
        (
            "permutations: {path: r.jsonl}\nrerank: {rounds: 2}",
            "rerank.rounds: later rounds find candidates anew, and need section candidates",
        ),
        ("candidates: {sources: [bm25, bm25]}", "candidates: Value error, sources must not repeat a source"),
        ("candidates: {sources: []}", "candidates.sources: Tuple should have at least 1 item"),
        ("candidates: {list_size: 5}", "floor times the number of sources must not exceed list_size"),
        ("permutations: {path: r, window: 5, step: 5}", "step must be smaller than window"),
        ("permutations: {path: r, method: setwise, window: 21}", "setwise shows at most 20 passages at once"),
    ],
)
def test_reranker_that_lacks_what_it_needs_is_refused_by_key(recipe, text: str, message: str):
    """Found out by the stage itself, it would cost all the stages before it."""
    with pytest.raises(RayrieverError) as caught:
        load_recipe(recipe(f"corpus: {{path: x}}\n{text}"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "permutations: {path: r.jsonl}\nrerank: {}",
        f"candidates: {{}}\n{LISTS}\nrerank: {{rounds: 2}}",
        f"candidates: {{sources: [sparse]}}\nsparse: {{model: x}}\n{LISTS}",
        "candidates: {sources: [bm25, cross_encoder], cross_encoder: x}",
        "candidates: {list_size: 5, merge: per_query_source}",
        "candidates: {list_size: 6}",
        "sparse: {model: x}\ncandidates: {cross_encoder: x}",  # an arm of an ablation may leave a source out
    ],
)
def test_reranker_that_has_what_it_needs_is_taken(recipe, text: str):
    load_recipe(recipe(f"corpus: {{path: x}}\n{text}"))


def test_sections_of_a_reranker_bring_their_stages_and_no_others(recipe):
    """An absent section must not run, and spend, anything."""
    own = ["sparse", "candidates", "permutations", "rerank", "evaluate_reranker"]

    def names(text: str) -> list[str]:
        return [s.name for s in stages_of(load_recipe(recipe(f"corpus: {{path: x}}\n{text}"))) if s.name in own]

    assert names("") == [] and names("candidates: {}") == ["candidates"]
    assert names(f"candidates: {{}}\n{LISTS}") == ["candidates", "permutations"]
    assert names("permutations: {path: r}\nrerank: {}") == ["permutations", "rerank", "evaluate_reranker"]
    assert names(f"sparse: {{model: x}}\ncandidates: {{sources: [bm25, sparse]}}\n{LISTS}\nrerank: {{}}") == own


@pytest.mark.parametrize("uri", ["s3://name:secret@bucket/x", "${STORE}", "https://name:secret@host:5000"])
def test_keys_in_a_uri_are_refused_and_not_shown(uri: str, monkeypatch: pytest.MonkeyPatch):
    """Manifests, logs and dashboards name workspaces and corpora."""
    monkeypatch.setenv("STORE", "s3://name:secret@bucket/x")
    with pytest.raises(RayrieverError, match="no keys in a URI") as caught:
        make_recipe({"workspace": uri, "corpus": {"path": "."}}, [], "recipe r")
    assert "secret" not in str(caught.value)


def test_hosts_with_ports_and_anonymous_users_are_no_keys():
    for uri in ("s3://bucket/x?endpoint_override=minio:9000&scheme=http", "gs://anonymous@bucket/x"):
        assert make_recipe({"workspace": uri, "corpus": {"path": "."}}, [], "recipe r").workspace == uri
