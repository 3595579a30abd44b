"""Answers from vLLM engines in Ray actors, by way of `ray.data.llm`."""

from __future__ import annotations

import importlib.util
import json
import math
import uuid
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.errors import RayrieverError
from pipeline.llm.engines.job import Job, Recorder
from pipeline.llm.requests import Sampling, in_order
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.models import locate, locate_adapter
from pipeline.placement import Demand
from pipeline.recipe import LlmSection
from pipeline.records import LLM_REQUEST

if TYPE_CHECKING:
    from ray.data import Dataset

_MOST_RESTARTS = 5  # of one replica in a run
_ENGINES_PER_RECEIVER = 8
_MOST_BATCHES = 4  # of a block
_SEQUENCES = 256  # that an engine takes at a time where engine_kwargs do not say
_MOST_LIKELIHOODS = 20  # that an engine gives of one token where engine_kwargs do not say
_STEP_CPUS = 0.1  # of the steps around the engine; whole CPUs for them would starve it on a small machine
# vLLM writes a request_id of its own into the row, and takes a column "model" for the name of a LoRA adapter
_ADDRESS = "address"
_CARRIED = (_ADDRESS, "purpose", "asked_messages", "asked_sampling")


def check(section: LlmSection) -> None:
    """Raise RayrieverError when vLLM is not installed, or cannot open the model's format or address."""
    if importlib.util.find_spec("vllm") is None:
        raise RayrieverError("llm.engine vllm: vLLM is not installed. Run: pip install 'rayriever[vllm]'")
    if "://" in section.model and "?" in section.model:
        raise RayrieverError(
            f"llm.model {section.model}: engine 'vllm' reads object stores by boto3, which knows no options in an "
            "address. Leave them out, and name another endpoint by the environment variable AWS_ENDPOINT_URL."
        )
    if locate(section.model).gguf_file:
        raise RayrieverError(
            f"llm.model {section.model}: engine 'vllm' opens Hugging Face folders and hub names, not GGUF files. Use "
            "engine 'transformers' for it."
        )


def share(section: LlmSection) -> tuple[float, float]:
    """CPUs and GPUs of one engine replica."""
    return section.cpus_per_actor, section.gpus_per_actor


def blocks(requests: pa.Table, wanted: pa.Table, section: LlmSection, least: int) -> list[pa.Table]:
    """Blocks in the order of the prompts, so that vLLM's prefix cache serves those with a common beginning."""
    order = [(name, "ascending") for name in ("purpose", "sampling", "messages")]
    rows = wanted.sort_by(order)
    # An engine's answers are stored when all of their block are there: what a kill costs must not grow with the run.
    size = section.batch_size * min(_MOST_BATCHES, -(-max(least, 1) // section.batch_size))
    return [rows.slice(start, size).combine_chunks() for start in range(0, rows.num_rows, size)]


def answer(asked: Dataset, job: Job, demand: Demand) -> Dataset:
    """LLM_RESPONSE rows for a dataset of LLM_REQUEST rows; the demand is that of an engine's worker."""
    from ray.data import ActorPoolStrategy
    from ray.data.llm import build_processor

    processor = build_processor(
        _configuration(job.section, demand),
        preprocess=partial(_conversation, lora=job.section.lora and locate_adapter(job.section.lora).path_or_name),
        preprocess_map_kwargs={"num_cpus": _STEP_CPUS},
    )
    # As tasks, Ray's last step and ours would start a process for every block: for the last ones, when all else waits.
    processor.postprocess = None
    # Ray alone would load an engine that dies at its first request again for ever. Lost spot machines do not count.
    engine = processor.get_stage_by_name("vLLMEngineStage").map_batches_kwargs
    engine["max_restarts"] = _MOST_RESTARTS
    if job.section.parts == 1:
        engine |= {name: value for name, value in demand.options().items() if name not in ("num_cpus", "num_gpus")}
    else:
        engine |= {"num_cpus": 0, "num_gpus": 0, "ray_remote_args_fn": partial(_together, job, demand)}
        engine |= {"label_selector": dict(demand.labels)} if demand.labels else {}
    blocks = {"batch_size": None, "batch_format": "pyarrow"}
    answers = processor(asked.map_batches(_send, fn_args=(job,), num_cpus=_STEP_CPUS, **blocks))
    return answers.map_batches(
        Receiver,
        fn_constructor_args=(job, processor.DATA_COLUMN),
        compute=ActorPoolStrategy(size=-(-job.section.actors // _ENGINES_PER_RECEIVER)),
        num_cpus=0,  # it is there before the engines, which may need every CPU
        **blocks,
    )


def _together(job: Job, demand: Demand) -> dict[str, Any]:
    """Where an engine of several workers goes: a group of our own, since Ray's takes no labels and is never removed."""
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    count = job.section.parts
    selectors = [dict(demand.labels)] * count if demand.labels else None
    name = f"{job.run_id}-{uuid.uuid4().hex[:8]}"
    group = placement_group([demand.bundle()] * count, "PACK", name, bundle_label_selector=selectors)
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)}


def release(job: Job) -> None:
    """Give back what the engines of a call have reserved: placement groups otherwise live as long as the driver."""
    from ray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group

    if job.section.parts == 1:
        return
    for each in placement_group_table().values():
        if each["name"].startswith(job.run_id) and each["state"] != "REMOVED":
            remove_placement_group(get_placement_group(each["name"]))


def _configuration(section: LlmSection, demand: Demand) -> Any:
    from ray.data.llm import ChatTemplateStageConfig, vLLMEngineProcessorConfig

    kwargs: dict[str, Any] = {
        "max_model_len": section.max_context_tokens,
        "dtype": "bfloat16",
        "performance_mode": "throughput",  # else a GPU has the places of a server that must answer soon: half as many
        # Cut into chunks, prompts with a seed crash vLLM 0.32 on a CPU, whose generators cannot be set back.
        **({} if section.gpus_per_actor else {"enable_chunked_prefill": False}),
        **section.engine_kwargs,
    }
    if section.lora is not None:
        kwargs = {"enable_lora": True, **kwargs}
    return vLLMEngineProcessorConfig(
        model_source=locate(section.model).path_or_name,  # Ray fetches it from an object store, on every node
        engine_kwargs=kwargs,
        batch_size=section.batch_size,
        max_concurrent_batches=1 + int(1.1 * kwargs.get("max_num_seqs", _SEQUENCES)) // section.batch_size,
        concurrency=(section.actors, section.actors),
        # Without, Ray asks for one GPU per worker, which a machine without GPUs never grants.
        placement_group_config={"bundles": [{"CPU": demand.cpus, "GPU": demand.gpus}] * section.parts},
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=ChatTemplateStageConfig(
            num_cpus=_STEP_CPUS, chat_template_kwargs=section.chat_template or None
        ),
        # vLLM does both itself; as stages they are two more actors
        tokenize_stage=False,
        detokenize_stage=False,
    )


def _send(requests: pa.Table, job: Job) -> pa.Table:
    """Note the requests in the ledger, under column names that the engine leaves alone; none when they may not go."""
    recorder = Recorder(job)
    if not recorder.may_send(requests):
        requests = requests.slice(0, 0)
    recorder.sent(requests)
    return requests.rename_columns(list(_CARRIED))


def _conversation(row: dict[str, Any], lora: str | None) -> dict[str, Any]:
    """What the engine reads. Every row has the same keys: Arrow would fill absent ones with nulls."""
    sampling = Sampling.from_json(row["asked_sampling"])
    # Held to the choices, the engine has no other likelihoods to give; without a list, it gives none.
    likelihoods = {"logprobs": _MOST_LIKELIHOODS} if sampling.ranks_choices else {}
    return {
        **({"model": lora} if lora else {}),
        "messages": json.loads(row["asked_messages"]),
        "sampling_params": {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed if sampling.seed is not None else int(row[_ADDRESS][:8], 16),
            "structured_outputs": {"choice": list(sampling.choices)} if sampling.choices else None,
            **likelihoods,
        },
    }


class Receiver:
    """Stores what comes out of the engines, one part of the store per block."""

    def __init__(self, job: Job, column: str) -> None:
        self._recorder, self._column = Recorder(job), column

    def __call__(self, rows: pa.Table) -> pa.Table:
        """LLM_RESPONSE for rows that are, in their only column, all that Ray knows of a request."""
        finished = rows[self._column].to_pylist()
        responses = to_table(_answer(row) for row in finished)
        columns = [[row[name] for row in finished] for name in _CARRIED]
        requests = pa.table(dict(zip(LLM_REQUEST.names, columns, strict=True)), schema=LLM_REQUEST)
        self._recorder.received(requests, responses)
        return responses


def _answer(row: dict[str, Any]) -> Answer:
    if row.get("__inference_error__"):
        return failure(row[_ADDRESS], row["__inference_error__"], 1)
    sampling, written = Sampling.from_json(row["asked_sampling"]), row["num_generated_tokens"]
    try:
        text = _ranked(sampling.choices, row) if sampling.ranks_choices else row["generated_text"]
    except ValueError as error:
        return failure(row[_ADDRESS], str(error), 1)
    is_cut = written >= sampling.max_tokens and not sampling.ranks_choices  # the engine gives no finish reason
    return Answer(
        request_id=row[_ADDRESS],
        text=text,
        finish_reason="length" if is_cut else "stop",
        tokens_in=row["num_input_tokens"],
        tokens_out=written,
        attempts=1,
    )


def _ranked(choices: Sequence[str], row: dict[str, Any]) -> str:
    """All choices, by the likelihood of the tokens that begin them; one that the engine does not list comes last.

    Raises ValueError where the engine lists none of them, and for a token that begins two of them.
    """
    listed = row.get("logprobs")
    likelihoods = dict.fromkeys(choices, -math.inf)
    for token in listed[0].values() if listed is not None and len(listed) else ():
        begun = token["decoded_token"].strip()
        begins = [choice for choice in choices if begun and choice.startswith(begun)]
        if len(begins) > 1:
            raise ValueError(f"the model's tokenizer begins two of the choices {', '.join(choices)} with {begun!r}")
        for choice in begins:
            likelihoods[choice] = max(likelihoods[choice], token["logprob"])
    if all(math.isinf(each) for each in likelihoods.values()):
        raise ValueError(f"the engine gave no likelihood of any of the choices {', '.join(choices)}")
    return in_order(choices, list(likelihoods.values()))
