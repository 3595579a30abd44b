"""Answers from a model that transformers runs inside Ray actors, on CPU or GPU.

A generation batch is what is seeded, generated and stored as a whole. Its members are fixed by the call's requests,
so one actor or two, and a run killed and continued, give the same answers as a quiet one on the same machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.llm.engines.job import Job, Recorder, sampled_batches
from pipeline.llm.engines.weights import chat_tokens, open_model
from pipeline.llm.requests import Sampling, in_order
from pipeline.llm.responses import Answer, failure, to_table
from pipeline.models import locate
from pipeline.placement import Demand
from pipeline.recipe import LlmSection
from pipeline.whole_tables import as_row, from_row

if TYPE_CHECKING:
    import torch
    from ray.data import Dataset


def check(section: LlmSection) -> None:
    """Raise RayrieverError when the model cannot be found."""
    locate(section.model)


def share(section: LlmSection) -> tuple[float, float]:
    """CPUs and GPUs of one actor."""
    return section.cpus_per_actor, section.gpus_per_actor


def release(job: Job) -> None:
    """Give back what a call's actors have reserved: nothing that they do not take with them."""


def blocks(requests: pa.Table, wanted: pa.Table, section: LlmSection, least: int) -> list[pa.Table]:
    """The generation batches that hold a request of `wanted`, each a row of lists; as many to a block as have `least`.

    As rows of its own, Ray Data would cut and join batches; without a batch size it refuses to give out GPUs.
    """
    batches = [as_row(batch) for batch in sampled_batches(requests, wanted, section.batch_size)]
    together = -(-max(least, 1) // section.batch_size)
    starts = range(0, len(batches), together)
    return [pa.concat_tables(batches[start : start + together]).combine_chunks() for start in starts]


def answer(asked: Dataset, job: Job, demand: Demand) -> Dataset:
    """LLM_RESPONSE rows for a dataset with a generation batch in every row; the demand is that of an actor."""
    from ray.data import ActorPoolStrategy

    return asked.map_batches(
        ModelActor,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(job.section.actors, asked.count())),
        **demand.options(),
    )


class ModelActor:
    """Generates one batch at a time and stores it before the next."""

    def __init__(self, job: Job) -> None:
        self._recorder = Recorder(job)
        self._model: LocalModel | None = None
        try:
            if self._recorder.dies_while_loading():
                raise MemoryError("the process that loads it dies again and again; was it killed for memory?")
            self._model = load(job.section)
        except Exception as error:
            # Raised here, it would reach the user as Ray's traceback; as an answer it is one line.
            self._failure = f"model {job.section.model} cannot be loaded: {type(error).__name__}: {error}"

    def __call__(self, row: pa.Table) -> pa.Table:
        batch = from_row(row)
        if self._model is None:
            return to_table(failure(each, self._failure, 0) for each in batch["request_id"].to_pylist())
        stored, batch = self._recorder.split(batch)
        prompts = [self._model.prompt(row) for row in batch.to_pylist()]
        fits = pa.array([isinstance(prompt, Prompt) for prompt in prompts], pa.bool_())
        refused = to_table(prompt for prompt in prompts if isinstance(prompt, Answer))
        generated = self._generate(batch.filter(fits), [prompt for prompt in prompts if isinstance(prompt, Prompt)])
        return pa.concat_tables([stored, refused, generated])

    def _generate(self, batch: pa.Table, prompts: list[Prompt]) -> pa.Table:
        if not prompts or self._model is None or not self._recorder.may_send(batch):
            return to_table([])
        self._recorder.sent(batch)
        try:
            answers = self._model.generate(prompts, Sampling.from_json(batch["sampling"][0].as_py()))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            answers = [failure(prompt.request_id, reason, 1) for prompt in prompts]
        responses = to_table(answers)
        self._recorder.received(batch, responses)
        return responses


@dataclass(frozen=True)
class Prompt:
    """A request as the model reads it."""

    request_id: str
    token_ids: list[int]


class LocalModel:
    """A causal language model and its tokenizer. Knows nothing of Ray or of files."""

    def __init__(
        self, model: Any, tokenizer: Any, max_context_tokens: int, template: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, dict(template)
        own_limit = getattr(model.config, "max_position_embeddings", None) or max_context_tokens
        self.max_context_tokens = min(max_context_tokens, own_limit)
        ends = model.generation_config.eos_token_id
        self.end_ids = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(self.end_ids)

    def prompt(self, row: dict[str, Any]) -> Prompt | Answer:
        """An LLM_REQUEST row as tokens; an error answer where they do not fit or the template refuses them."""
        sampling = Sampling.from_json(row["sampling"])
        try:
            token_ids = chat_tokens(self.tokenizer, json.loads(row["messages"]), self.template)
        except Exception as error:
            return failure(row["request_id"], f"chat template: {type(error).__name__}: {error}", 0)
        room = max(0, self.max_context_tokens - sampling.max_tokens)
        if len(token_ids) <= room:
            return Prompt(row["request_id"], token_ids)
        reason = (
            f"prompt has {len(token_ids)} tokens, more than the {room} that {sampling.max_tokens} for the answer leave "
            f"of {self.max_context_tokens}"
        )
        return failure(row["request_id"], reason, 0)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Answer]:
        """Answers in the order of the prompts, drawn with a seed made of their ids."""
        import torch
        import transformers

        drawn = {"temperature": sampling.temperature, "top_k": 0} if sampling.temperature > 0 else {}
        configure: Any = transformers.GenerationConfig
        config = configure(
            max_new_tokens=sampling.max_tokens,
            do_sample=bool(drawn),
            eos_token_id=sorted(self.end_ids),
            pad_token_id=self.pad_id,
            **drawn,
        )
        if sampling.ranks_choices:
            return self._ranked(prompts, sampling.choices, config)
        input_ids, attention_mask = self._padded(prompts)
        allowed = self._only(sampling.choices, input_ids.shape[1]) if sampling.choices else None
        torch.manual_seed(_seed(prompts))
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                generation_config=config,
                prefix_allowed_tokens_fn=allowed,
            )
        written = output[:, input_ids.shape[1] :].tolist()
        return [self._answer(prompt, ids) for prompt, ids in zip(prompts, written, strict=True)]

    def _ranked(self, prompts: Sequence[Prompt], choices: Sequence[str], config: Any) -> list[Answer]:
        """All choices as one answer, by the logit of each one's first token where the answer begins."""
        first = [self.tokenizer(choice, add_special_tokens=False)["input_ids"][0] for choice in choices]
        if len(set(first)) < len(choices):
            raise ValueError(f"the model's tokenizer begins two of the choices {', '.join(choices)} with one token")
        ids, mask = self._padded(prompts)
        config.update(max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
        output = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        logits = output.logits[0][:, first].float().tolist()  # [B, choices] of [B, V]
        texts = (in_order(choices, each) for each in logits)
        return [
            Answer(p.request_id, text, "stop", len(p.token_ids), 1, 1) for p, text in zip(prompts, texts, strict=True)
        ]

    def _only(self, choices: Sequence[str], start: int) -> Callable[[int, torch.Tensor], list[int]]:
        """Which tokens may follow so that the answer, from column `start` on, is one of `choices`."""
        end = min(self.end_ids)
        spelled = [[*self.tokenizer(choice, add_special_tokens=False)["input_ids"], end] for choice in choices]

        def allowed(_: int, ids: torch.Tensor) -> list[int]:
            written = ids[start:].tolist()
            return [each[len(written)] for each in spelled if each[: len(written)] == written != each] or [end]

        return allowed

    def _padded(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """`[B, L]` token ids and attention mask, padded on the left so that every answer starts in one column."""
        import torch

        longest = max(len(prompt.token_ids) for prompt in prompts)
        padding = [longest - len(prompt.token_ids) for prompt in prompts]
        ids = [[self.pad_id] * gap + prompt.token_ids for gap, prompt in zip(padding, prompts, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in padding]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _answer(self, prompt: Prompt, written: list[int]) -> Answer:
        end = next((place for place, token in enumerate(written) if token in self.end_ids), None)
        text = self.tokenizer.decode(written if end is None else written[:end], skip_special_tokens=True)
        return Answer(
            request_id=prompt.request_id,
            text=text,
            finish_reason="length" if end is None else "stop",
            tokens_in=len(prompt.token_ids),
            tokens_out=len(written) if end is None else end + 1,
            attempts=1,
        )


def _seed(prompts: Sequence[Prompt]) -> int:
    ids = "".join(prompt.request_id for prompt in prompts)
    return int(hashlib.sha256(ids.encode()).hexdigest()[:15], 16)


def load(section: LlmSection) -> LocalModel:
    """Open the section's model in bfloat16, on the GPU where one is reserved; its threads are the actor's CPUs.

    Raises what transformers raises, and ValueError for a model without a chat template.
    """
    import torch
    import transformers

    quiet: Any = transformers.utils.logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    torch.set_num_threads(max(1, int(section.cpus_per_actor)))
    model, tokenizer = open_model(locate(section.model))
    if not tokenizer.chat_template:
        raise ValueError("it has no chat template; choose an instruction-tuned model")
    device = "cuda" if section.gpus_per_actor > 0 else "cpu"
    return LocalModel(model.to(device).eval(), tokenizer, section.max_context_tokens, section.chat_template)
