"""The transformers engine: fixed batches make answers a function of the requests, whatever interrupts the run."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.errors import RayrieverError
from pipeline.llm.complete import complete
from pipeline.llm.engines import api, local, vllm_actors
from pipeline.llm.engines.job import Job, Recorder, sampled_batches
from pipeline.llm.engines.local import LocalModel, Prompt, load
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer, to_table
from pipeline.llm.store import Ledger, ResponseStore, totals
from pipeline.progress import Silent
from pipeline.recipe import LlmSection, RaySection
from pipeline.records import LLM_RESPONSE
from pipeline.workspace import Workspace
from tests.asked import build

SAMPLING = Sampling(1.0, 24)


def section(folder: Path, **changes: object) -> LlmSection:
    values = {"model": str(folder), "batch_size": 4, "cpus_per_actor": 1, "max_context_tokens": 300}
    return LlmSection.model_validate({**values, **changes})


def requests(count: int = 18, sampling: Sampling = SAMPLING, purpose: str = "question") -> pa.Table:
    contents = ["sea " * (1 + number * 7 % 11) + str(number) for number in range(count)]
    return build("tiny", purpose, [[{"role": "user", "content": each}] for each in contents], sampling)


@pytest.fixture(scope="module")
def model(tiny_llm: Path) -> LocalModel:
    return load(section(tiny_llm))


def test_batches_depend_on_all_requests_and_not_on_what_is_missing():
    """Cut from the missing ones alone, a continued run would group, and so sample, differently."""
    rows = requests()
    whole = sampled_batches(rows, rows, 4)
    rest = sampled_batches(rows, rows.filter(pa.array([number % 3 == 0 for number in range(18)])), 4)
    members = [set(batch["request_id"].to_pylist()) for batch in whole]
    assert [len(group) for group in members] == [4, 4, 4, 4, 2]
    for batch in rest:
        assert sum(set(batch["request_id"].to_pylist()) <= group for group in members) == 1


def test_batch_has_one_sampling_and_similar_lengths():
    rows = pa.concat_tables([requests(10), requests(3, Sampling(0, 8)), requests(3, purpose="positive")])
    batches = sampled_batches(rows, rows, 4)
    assert all(len(set(batch["sampling"].to_pylist())) == 1 for batch in batches)
    assert all(len(set(batch["purpose"].to_pylist())) == 1 for batch in batches)
    lengths = [[len(m) for m in batch["messages"].to_pylist()] for batch in batches]
    assert all(each == sorted(each) for each in lengths)
    reversed_rows = rows.take(list(reversed(range(rows.num_rows))))
    assert sampled_batches(reversed_rows, reversed_rows, 4) == batches


def test_prompt_that_does_not_fit_is_an_answer_with_a_reason(model: LocalModel):
    row = build("tiny", "p", [[{"role": "user", "content": "x" * 300}]], SAMPLING).to_pylist()[0]
    refused = model.prompt(row)
    assert isinstance(refused, Answer)
    assert refused.finish_reason == "error" and refused.attempts == 0
    assert refused.error == "prompt has 319 tokens, more than the 276 that 24 for the answer leave of 300"


def test_tokens_are_counted_and_end_of_text_decides_the_finish_reason(model: LocalModel):
    """A sequence that ends early is filled up to the batch's longest: counting the filling would invent tokens."""
    prompts = [model.prompt(row) for row in requests(40).to_pylist()]
    prompts = [prompt for prompt in prompts if isinstance(prompt, Prompt)]
    answers = model.generate(prompts, Sampling(1.0, 150))
    assert {answer.finish_reason for answer in answers} == {"stop", "length"}
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.tokens_in == len(prompt.token_ids)
        assert (answer.tokens_out == 150) or answer.finish_reason == "stop"
        assert 1 <= answer.tokens_out <= 150
        assert "<pad>" not in answer.text and "<|im_end|>" not in answer.text


def test_model_that_is_held_to_its_choices_says_nothing_else(model: LocalModel):
    """These weights are random: left alone they would say neither."""
    prompts = [prompt for row in requests(12).to_pylist() if isinstance(prompt := model.prompt(row), Prompt)]
    answers = model.generate(prompts, Sampling(1.0, 8, choices=("yes", "no", "nobody")))
    assert {answer.text for answer in answers} == {"yes", "no", "nobody"}
    assert {answer.finish_reason for answer in answers} == {"stop"}
    assert {(answer.text, answer.tokens_out) for answer in answers} == {("yes", 4), ("no", 3), ("nobody", 7)}


def test_choices_are_ranked_by_the_likelihood_of_their_first_tokens(model: LocalModel):
    """Prompts of several lengths share a batch: a wrong column or padding would rank by another token's logits."""
    import torch

    choices = ("A", "B", "C", "D", "E")
    model.model.float()
    endings = ["sea " * number + chr(ord("a") + number) for number in range(12)]
    prompts = [Prompt(each, model.tokenizer(each)["input_ids"]) for each in endings]
    answers = model.generate(prompts, Sampling(0, 1, choices=choices, ranks_choices=True))
    tokens = [model.tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in choices]
    with torch.inference_mode():
        logits = [model.model(torch.tensor([prompt.token_ids])).logits[0, -1, tokens] for prompt in prompts]
    model.model.bfloat16()
    assert [each.text for each in answers] == [
        " > ".join(choices[place] for place in each.argsort(descending=True).tolist()) for each in logits
    ]
    assert len({each.text for each in answers}) > 1, "the prompts make no difference"
    assert {(each.finish_reason, each.tokens_out) for each in answers} == {("stop", 1)}


def test_choices_that_begin_alike_are_refused(model: LocalModel):
    """Their likelihoods would be one number, and their order made up."""
    prompts = [prompt for row in requests(1).to_pylist() if isinstance(prompt := model.prompt(row), Prompt)]
    with pytest.raises(ValueError, match="begins two of the choices yes, yet with one token"):
        model.generate(prompts, Sampling(0, 1, choices=("yes", "yet"), ranks_choices=True))


def test_padding_does_not_change_a_greedy_answer(model: LocalModel):
    """Padding on the right, or a forgotten attention mask, lets short prompts continue from padding."""
    model.model.float()
    prompts = [prompt for row in requests(3).to_pylist() if isinstance(prompt := model.prompt(row), Prompt)]
    together = model.generate(prompts, Sampling(0, 12))
    alone = [model.generate([prompt], Sampling(0, 12))[0] for prompt in prompts]
    model.model.bfloat16()
    assert together == alone


def run(rows: pa.Table, settings: LlmSection, folder: Path) -> pa.Table:
    answers = complete([rows], settings, Workspace(str(folder)), RaySection(), Silent(), "question")
    return pa.Table.from_pylist(list(answers), schema=LLM_RESPONSE)


@pytest.mark.usefixtures("ray_cluster")
def test_continued_run_and_two_actors_give_what_a_quiet_run_gives(tiny_llm: Path, tmp_path: Path):
    rows = requests()
    long = build("tiny", "question", [[{"role": "user", "content": "y" * 300}]], SAMPLING)
    rows = pa.concat_tables([rows.slice(0, 9), long, rows.slice(9)])
    settings = section(tiny_llm, max_failed_share=0.1)
    quiet = run(rows, settings, tmp_path / "quiet")
    assert [row["finish_reason"] == "error" for row in quiet.to_pylist()] == [n == 9 for n in range(19)]
    assert len(set(quiet["text"].to_pylist())) == 19

    # Batches are stored as wholes: a kill leaves some of them behind.
    batches = sampled_batches(rows, rows, 4)
    stored = pa.concat_tables([batches[3], batches[1]])["request_id"].combine_chunks()
    left = quiet.filter(pc.and_(pc.is_in(quiet["request_id"], stored), pc.equal(quiet["finish_reason"], "length")))
    kept = left.num_rows
    assert 4 < kept <= 8
    ResponseStore(Workspace(str(tmp_path / "killed"))).add(left, pa.array(["question"] * kept), "tiny")
    continued = run(rows, section(tiny_llm, max_failed_share=0.1, actors=2), tmp_path / "killed")
    assert continued.equals(quiet)
    assert totals(Workspace(str(tmp_path / "killed"))).sent == 18 - kept


@pytest.mark.usefixtures("ray_cluster")
def test_batches_of_one_block_are_answered_as_those_of_many(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where there are many requests, a block holds several generation batches."""
    rows, settings = requests(), section(tiny_llm)
    quiet = run(rows, settings, tmp_path / "many")
    monkeypatch.setattr("pipeline.llm.complete._MOST_BLOCKS", 1)
    assert len(local.blocks(rows, rows, settings, rows.num_rows)) == 1
    assert run(rows, settings, tmp_path / "one").equals(quiet)


@pytest.mark.parametrize("engine", [local, api, vllm_actors])
def test_many_requests_are_not_as_many_blocks(engine: ModuleType):
    """Each is a task of Ray Data's: of ten million requests in blocks of 64, they would fill the driver's memory."""
    rows = requests(count=2000)
    blocks = engine.blocks(rows, rows, LlmSection(batch_size=16), 300)
    assert 1 < len(blocks) <= 7 or (engine is vllm_actors and len(blocks) == 32), "a block of its is lost by a kill"
    ids = [block["request_id"].combine_chunks() for block in blocks]
    if engine is local:
        ids = [batches.flatten() for batches in ids]
    assert sorted(pa.chunked_array(ids).to_pylist()) == sorted(rows["request_id"].to_pylist())


@pytest.mark.usefixtures("ray_cluster")
def test_model_that_cannot_be_loaded_is_one_readable_error(tiny_llm: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llm, broken)
    (broken / "chat_template.jinja").unlink(missing_ok=True)
    configuration = json.loads((broken / "tokenizer_config.json").read_text())
    configuration.pop("chat_template", None)
    (broken / "tokenizer_config.json").write_text(json.dumps(configuration))
    with pytest.raises(RayrieverError, match=r"broken cannot be loaded: .*no chat template"):
        run(requests(3), section(broken), tmp_path / "w")


def test_absent_model_is_named_before_ray_starts(tmp_path: Path):
    with pytest.raises(RayrieverError, match="no such folder"):
        run(requests(3), section(tmp_path / "absent"), tmp_path / "w")


def test_successor_of_a_died_actor_repeats_no_answer_and_dies_of_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ray restarts an actor that ran out of memory with the same batch, for ever."""
    workspace, rows = Workspace(str(tmp_path)), requests(3)
    answered, deadly, open_ = rows["request_id"].to_pylist()
    job = Job(section(tmp_path), "tiny", workspace.uri, "run-1")
    for run_id in ("run-1", "run-1", "run-1", "run-0"):
        Ledger(workspace).record(pa.array([deadly]), pa.array(["question"]), "tiny", run_id)
    answer = to_table([Answer(answered, "text", "stop", 1, 1, 1)])
    ResponseStore(workspace).add(answer, pa.array(["question"]), "tiny")
    assert Recorder(job).split(rows)[1].num_rows == 3, "a first life looks nothing up"

    monkeypatch.setattr("pipeline.llm.engines.job.actor_restarts", lambda: 3)
    certain, rest = Recorder(job).split(rows)
    outcomes = {row["request_id"]: row["finish_reason"] for row in certain.to_pylist()}
    assert outcomes == {answered: "stop", deadly: "error"}
    assert rest["request_id"].to_pylist() == [open_]
    assert not Recorder(job).dies_while_loading()
    assert Recorder(Job(job.section, "tiny", workspace.uri, "run-2")).dies_while_loading()


@pytest.mark.slow
def test_gguf_file_answers_the_same_once_it_is_kept_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = LlmSection(max_context_tokens=300)
    row = build("m", "p", [[{"role": "user", "content": "Name a sea."}]], SAMPLING).to_pylist()[0]
    answers = []
    for _ in range(2):
        model = load(settings)
        prompt = model.prompt(row)
        assert isinstance(prompt, Prompt)
        answers.append(model.generate([prompt], SAMPLING))
    assert answers[0] == answers[1]
    (kept,) = (tmp_path / ".cache" / "rayriever" / "models").iterdir()
    assert (kept / "model.safetensors").is_file()


def test_no_requests_need_no_engine(tmp_path: Path):
    assert run(requests(0), section(tmp_path / "absent"), tmp_path / "w").num_rows == 0
