"""What stands before the routes: an attacker's, a broken and a hurried client."""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import RayrieverError
from tests.serving.conftest import KEY
from tests.serving.local import Server, serving

BEARER = {"Authorization": f"Bearer {KEY}"}
ROUTES = [
    ("GET", "/v1/models"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/search"),
    ("POST", "/v2/rerank"),
    ("POST", "/v1/documents"),
    ("DELETE", "/v1/documents/p01"),
    ("GET", "/metrics"),
    ("GET", "/info"),
    ("GET", "/openapi.json"),
    ("GET", "/not/there"),
]


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """The encoder is at something else."""
    done = threading.Event()
    server.backend.parts.encoder._batcher._thread.submit(done.wait)
    try:
        yield
    finally:
        done.set()


def at_work(server: Server) -> int:
    return server.uvicorn.config.app._at_work  # type: ignore[union-attr, no-any-return]


def wait_for(moment: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not moment():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def accesses(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(record.message) for record in caplog.records if record.name == "rayriever.access"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("given", [None, "Bearer wrong-key-wrong-key", f"Bearer {KEY[:-1]}", f"Basic {KEY}"])
def test_without_the_key_nothing_is_answered_and_nothing_is_told(server: Server, method: str, path: str, given):
    headers = {"Authorization": given} if given else {}
    answer = httpx.request(method, server.url + path, headers=headers, json={})
    assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
    assert KEY not in answer.text and answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/", "/health", "/livez", "/readyz", "/docs", "/assets/page.js"])
def test_probes_and_the_page_need_no_key(server: Server, path: str):
    assert httpx.get(server.url + path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/assets/..%2f__init__.py", "/assets/../../auth.py", "/assets/nothing.js", "/assets/"]
)
def test_the_page_s_files_are_all_that_assets_gives(server: Server, path: str):
    with socket.create_connection(("127.0.0.1", server.port)) as raw:  # no client would send such a path as it is
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split()[1] in (b"401", b"404")


def test_every_answer_forbids_what_a_browser_should_not_do(server: Server):
    for path in ("/", "/v1/models"):
        headers = httpx.get(server.url + path, headers=BEARER | {"Origin": "https://evil.example"}).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert not [name for name in headers if name.startswith("access-control-")]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413_and_not_read_to_its_end(own, caplog, chunked: bool):
    content = (b" " * 65_536 for _ in range(200)) if chunked else b" " * 13_107_200
    with serving(own(body_mb=1)) as server, caplog.at_level(logging.INFO, logger="rayriever.access"):
        answer = httpx.post(f"{server.url}/v1/search", content=content)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"
        wait_for(lambda: bool(accesses(caplog)))
    received = accesses(caplog)[-1]["bytes_in"]
    assert received < 3_000_000  # of 13 MB; the server may hand over what it had buffered when the limit was passed


HOSTILE = {
    "not JSON": b"{",
    "nothing": b"",
    "a number": b"7",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "deep object": b'{"query":' * 50_000,
    "NaN": b'{"query": "a", "top_k": NaN}',
    "infinity": b'{"query": "a", "top_k": 1e999}',
    "huge number": b'{"query": "a", "top_k": ' + b"9" * 5000 + b"}",
    "invalid UTF-8": b'{"query": "\xff\xfe"}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "zero byte": b'{"query": "a\\u0000b"}',
    "many keys": b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/embeddings", "/rerank", "/v1/documents"])
def test_a_hostile_body_is_the_client_s_error(client: httpx.Client, path: str, name: str):
    answer = client.post(path, content=HOSTILE[name])
    assert answer.status_code in (200, 400), (name, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nope", 404), ("GET", "/v1/embeddings", 405), ("PUT", "/v1/search", 405)]
)
def test_routes_that_are_not_there_answer_like_all_others(client: httpx.Client, method: str, path: str, status: int):
    answer = client.request(method, path)
    assert answer.status_code == status and answer.json()["error"]["code"] in ("not_found", "method_not_allowed")


def test_a_request_that_takes_too_long_is_given_up(own):
    with serving(own(deadline_s=2.0)) as server:
        with busy(server):
            answer = httpx.post(f"{server.url}/v1/search", json={"query": "oven"}, timeout=30)
            assert answer.status_code == 504
            assert server.backend.parts.encoder._batcher.waiting <= 1
        assert httpx.post(f"{server.url}/v1/search", json={"query": "oven"}, timeout=30).status_code == 200


def test_too_many_at_once_are_refused_at_once_and_probes_are_not(own):
    def search(server: Server) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/search", json={"query": "oven"}, timeout=30)

    with serving(own(max_waiting=3)) as server, ThreadPoolExecutor(3) as pool:
        with busy(server):
            waiting = [pool.submit(search, server) for _ in range(3)]
            wait_for(lambda: at_work(server) == 3)
            answer = search(server)
            assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
            assert httpx.get(f"{server.url}/readyz").status_code == 200
            assert not any(each.done() for each in waiting)
        assert [each.result().status_code for each in waiting] == [200, 200, 200]
        assert search(server).status_code == 200


def test_a_key_s_rate_is_kept_on_every_route(own):
    with serving(own(requests_per_minute=20)) as server:
        codes = [httpx.get(f"{server.url}/v1/models").status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_an_error_of_ours_tells_the_client_a_number_and_nothing_else(own):
    with serving(own()) as server:
        server.backend.parts = None  # as if a mistake of ours
        answer = httpx.post(f"{server.url}/v1/search", json={"query": "oven"})
        told = answer.json()["error"]
        assert answer.status_code == 500 and answer.headers["x-request-id"] in told["message"]
        for inside in ("Traceback", "NoneType", "/serving", str(Path.cwd())):
            assert inside not in answer.text


def test_the_log_has_one_line_per_request_and_no_secret_or_text_in_it(server: Server, caplog):
    with caplog.at_level(logging.INFO, logger="rayriever.access"):
        headers = BEARER | {"X-Request-Id": "mine-1"}
        answer = httpx.post(f"{server.url}/v1/search?token=secret", json={"query": "private words"}, headers=headers)
        wait_for(lambda: bool(accesses(caplog)))
    (line,) = accesses(caplog)
    assert line["request"] == answer.headers["x-request-id"] == "mine-1"
    assert line["route"] == "/v1/search" and line["status"] == 200 and line["caller"].startswith("key-")
    assert not re.search("private|secret|" + KEY, json.dumps(line))


@pytest.mark.parametrize("given", ["a\tb", "x" * 65, "<script>", "../../etc", "a b"])
def test_a_request_id_that_could_be_more_than_that_is_replaced(server: Server, given: str):
    answer = httpx.get(f"{server.url}/health", headers={"X-Request-Id": given})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_client_that_sends_slowly_keeps_nobody_waiting(server: Server):
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(
            b"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + KEY.encode()
            + b"\r\nContent-Length: 100\r\n\r\n{"
        )
        answer = httpx.post(f"{server.url}/v1/search", json={"query": "oven"}, headers=BEARER)
        assert answer.status_code == 200


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(server: Server):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(
                b"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                + KEY.encode()
                + b"\r\nContent-Length: 100\r\n\r\n{"
            )
    wait_for(lambda: at_work(server) == 0)


def test_a_pickle_in_the_model_s_folder_is_refused_before_anything_is_loaded(own, tmp_path: Path):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    recipe = own()
    manifest = Path(recipe.workspace) / "collections/live/generation-000001.json"
    content = json.loads(manifest.read_text())
    name, file = next((name, file) for name, file in content["extra"].items() if name.endswith("model.safetensors"))
    poison = pickle.dumps(Evil())
    target = (
        Path(recipe.workspace) / "collections/live" / file["path"].replace("model.safetensors", "pytorch_model.bin")
    )
    target.write_bytes(poison)
    import hashlib

    del content["extra"][name]
    content["extra"][name.replace("model.safetensors", "pytorch_model.bin")] = {
        "path": str(target.relative_to(Path(recipe.workspace) / "collections/live")),
        "bytes": len(poison),
        "sha256": hashlib.sha256(poison).hexdigest(),
    }
    manifest.unlink()
    manifest.write_text(json.dumps(content))
    with pytest.raises(RayrieverError, match="may run code"), serving(recipe):
        pass
    assert not (tmp_path / "owned").exists()


def test_metrics_count_what_was_answered(own):
    with serving(own()) as server:
        for _ in range(3):
            httpx.post(f"{server.url}/v1/search", json={"query": "oven"})
        httpx.get(f"{server.url}/such/a/<b>route")
        text = httpx.get(f"{server.url}/metrics").text
    assert figure(text, "rayriever_requests_total", route="/v1/search", status="200") == 3
    assert figure(text, "rayriever_requests_total", route="other", status="404") == 1
    assert figure(text, "rayriever_generation", collection="live") == 1
    assert figure(text, "rayriever_stage_seconds_count", stage="dense") == 3
    for part in ("gateway", "encoder", "reranker", "vectors-0", "texts-0"):
        assert figure(text, "rayriever_replicas", part=part) == 1
    assert figure(text, "rayriever_batch_requests_sum", part="encoder") >= 3
    assert figure(text, "rayriever_part_requests", part="encoder") == 0


def figure(text: str, name: str, **labels: str) -> float:
    """Sum of the samples with these labels, and perhaps others."""
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return sum(each.value for each in samples if each.name == name and labels.items() <= each.labels.items())


def test_threads_of_a_server_end_with_it(own):
    before = threading.active_count()
    with serving(own()):
        pass
    assert threading.active_count() <= before + 8
