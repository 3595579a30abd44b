"""`rayriever serve` itself: the real command, Ray Serve, and replicas that die."""

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2 as httpx
import psutil
import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipeline.recipe import Recipe
from tests.serving.conftest import KEY
from tests.serving.test_documents import done

BEARER = {"Authorization": f"Bearer {KEY}"}


Deployed = tuple[str, "subprocess.Popen[str]"]


class Collector(BaseHTTPRequestHandler):
    """Takes OpenTelemetry's spans as collectors do."""

    spans: ClassVar[list[tuple[str, str]]] = []  # trace id, name

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(unpacked(self.rfile.read(int(self.headers["Content-Length"]))))
        scopes = [scope for each in sent.resource_spans for scope in each.scope_spans]
        self.spans.extend((span.trace_id.hex(), span.name) for scope in scopes for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def unpacked(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


@pytest.fixture(scope="module")
def collector() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def whole(published: Recipe, tmp_path_factory: pytest.TempPathFactory, collector: str) -> Iterator[Deployed]:
    """Address and process of a server that was started as users start it."""
    with started(published, tmp_path_factory.mktemp("whole"), collector, together=True) as found:
        yield found


@pytest.fixture(scope="module")
def apart(published: Recipe, tmp_path_factory: pytest.TempPathFactory, collector: str) -> Iterator[Deployed]:
    """One whose parts are processes of their own."""
    with started(published, tmp_path_factory.mktemp("apart"), collector, together=False) as found:
        yield found


@pytest.fixture(params=["whole", "apart"])
def either(request: pytest.FixtureRequest) -> Deployed:
    found: Deployed = request.getfixturevalue(request.param)
    return found


@contextmanager
def started(published: Recipe, folder: Path, collector: str, together: bool) -> Iterator[Deployed]:
    shutil.copytree(published.workspace, folder / "workspace")
    recipe = published.model_dump(mode="json") | {"workspace": str(folder / "workspace")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(folder / "recipe.yaml"), "--port", str(port)]
    environment = os.environ | {"RAYRIEVER_API_KEYS": KEY, "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
    environment |= {"OTEL_BSP_SCHEDULE_DELAY": "200"}
    path = folder / "serve.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            [*command, "--set", "ray.num_cpus=4", "--set", "serve.traced=0", "--set", f"serve.together={together}"],
            env=environment,
            stdout=log,
            stderr=log,
            text=True,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    while not ready(url):
        assert process.poll() is None and time.monotonic() < deadline, path.read_text()
        time.sleep(0.5)
    yield url, process
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, path.read_text()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def ask(url: str, query: str = "oven number 3", **more: object) -> httpx.Response:
    return httpx.post(f"{url}/v1/search", json={"query": query, "top_k": 5, **more}, headers=BEARER, timeout=60)


def found(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["results"][0]["hits"]]


@pytest.mark.slow
def test_the_command_answers_as_the_parts_in_one_process_do(either, server):
    url, _ = either
    for mode in ("bm25", "dense", "hybrid"):
        for reranked in (True, False):
            here, there = (ask(each, mode=mode, rerank=reranked) for each in (server.url, url))
            assert found(there) == found(here)
    assert httpx.post(f"{url}/v1/search", json={"query": "oven"}).status_code == 401
    assert httpx.get(url).text.startswith("<!doctype html>")
    answer = httpx.get(f"{url}/v1/models", headers=BEARER | {"X-Request-Id": f"seen-{os.getpid()}"})
    assert answer.status_code == 200
    time.sleep(1)
    logs = Path("/tmp/ray").glob("session_*/logs/serve/replica_rayriever_gateway_*.log")
    assert any(f"seen-{os.getpid()}" in each.read_text(errors="replace") for each in logs)


@pytest.mark.slow
def test_a_request_that_its_client_traces_is_traced_through_its_stages(either):
    url, _ = either
    Collector.spans.clear()
    trace = f"{time.time_ns():032x}"
    headers = BEARER | {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    for sent in (headers, BEARER):
        assert httpx.post(f"{url}/v1/search", json={"query": "oven"}, headers=sent).status_code == 200
    deadline = time.monotonic() + 20
    while not {"request", "encode", "bm25", "texts"} <= (seen := {name for of, name in Collector.spans if of == trace}):
        assert time.monotonic() < deadline, (seen, Collector.spans)
        time.sleep(0.2)
    assert {of for of, _ in Collector.spans} == {trace}, "the other was not to be traced"


@pytest.mark.slow
def test_documents_can_be_seen_by_all_who_ask_once_a_change_is_done(either):
    url, _ = either
    with httpx.Client(base_url=url, headers=BEARER, timeout=60) as client:
        done(client, client.post("/v1/documents", json={"documents": [{"id": "new", "text": "harbour wall"}]}))
        assert found(ask(url, "harbour", mode="bm25", rerank=False)) == ["new"]
        done(client, client.delete("/v1/documents/new"))
        assert found(ask(url, "harbour", mode="bm25", rerank=False)) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "vectors-0", "texts-0", "reranker", "librarian"])
def test_a_replica_that_dies_fails_no_request(apart, part: str):
    url, process = apart
    wanted = found(ask(url))
    stop, wrong = threading.Event(), list[str]()

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                answer = ask(url)
                if answer.status_code != 200 or found(answer) != wanted:
                    wrong.append(f"{answer.status_code} {answer.text[:300]}")
            except httpx.HTTPError as error:
                wrong.append(repr(error))

    asking = [threading.Thread(target=keep_asking) for _ in range(3)]
    for each in asking:
        each.start()
    try:
        time.sleep(1)
        killed = replica(process.pid, part)
        killed.kill()
        deadline = time.monotonic() + 60
        while not back(process.pid, part, killed.pid):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(2)
    finally:
        stop.set()
        for each in asking:
            each.join()
    assert wrong == []


@pytest.mark.slow
def test_a_single_process_that_dies_is_replaced_at_the_same_address(whole: Deployed):
    url, process = whole
    wanted = found(ask(url))
    replica(process.pid, "gateway").kill()
    deadline = time.monotonic() + 120
    while not ready(url):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert found(ask(url)) == wanted


def test_a_port_that_is_taken_is_said_before_anything_is_started(published: Recipe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "pipeline.cli", "serve", published.workspace, "--port", port]
        refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 1 and f"port {port}: Address already in use" in refused.stderr
    assert "Opening" not in refused.stderr and "Traceback" not in refused.stderr


def back(server: int, part: str, killed: int) -> bool:
    try:
        return replica(server, part).pid != killed
    except (AssertionError, psutil.NoSuchProcess):
        return False


def replica(server: int, part: str) -> psutil.Process:
    """The process of a deployment's replica; Ray names it, and what it does just now behind a point."""
    family = psutil.Process(server).children(recursive=True)
    wanted = f"ray::ServeReplica:rayriever:{part}"
    named = [each for each in family if title(each).split(".")[0] == wanted]
    assert named, [title(each) for each in family]
    return named[0]


def title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.slow
def test_a_damaged_collection_is_said_and_not_served(own):
    recipe = own()
    next(Path(recipe.workspace).rglob("model.safetensors")).write_bytes(b"")
    command = [sys.executable, "-m", "pipeline.cli", "serve", recipe.workspace, "--port", "8765"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1 and "model.safetensors: has 0 bytes" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_config_file_names_what_the_command_serves(published: Recipe, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(published.model_dump(mode="json")))
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "serve",
        str(tmp_path / "recipe.yaml"),
        "--config",
        "--port",
        "9999",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    from ray.serve.schema import ServeDeploySchema

    from serving.app import Arguments, build

    config = ServeDeploySchema.model_validate(yaml.safe_load(printed))
    (application,) = config.applications
    assert config.http_options.port == 9999 and application.import_path == "serving.app:build"
    arguments = Arguments.model_validate(application.args)
    assert build(arguments) is not None and json.dumps(application.args)


def test_a_server_that_others_could_reach_needs_a_key(published: Recipe):
    command = [sys.executable, "-m", "pipeline.cli", "serve", published.workspace, "--host", "0.0.0.0"]
    environment = {name: value for name, value in os.environ.items() if name != "RAYRIEVER_API_KEYS"}
    refused = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert refused.returncode == 1 and "would let everybody in" in refused.stderr
    assert "Traceback" not in refused.stderr
