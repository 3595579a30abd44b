"""Changes while the server runs: what is seen when, what survives, what is refused."""

import json
import shutil
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from pipeline.collection.about import collection_folder
from pipeline.collection.naming import next_number
from pipeline.errors import RayrieverError
from pipeline.sharded.folder import VECTORS
from pipeline.workspace import Workspace
from serving.generations import Ref
from tests.collection.small import TEXTS
from tests.evaluation.test_report import REPORT
from tests.serving.conftest import with_report
from tests.serving.local import Server, serving


def done(client: httpx.Client, answer: httpx.Response) -> dict[str, object]:
    """The change once it can be seen."""
    assert answer.status_code == 202, answer.text
    change = answer.json()
    deadline = time.monotonic() + 60
    while change["status"] == "queued":
        assert time.monotonic() < deadline
        time.sleep(0.02)
        change = client.get(f"/v1/documents/changes/{change['id']}").json()
    assert change["status"] == "done", change
    return change


def found(client: httpx.Client, query: str, mode: str = "bm25", **more: object) -> list[str]:
    sent = {"query": query, "mode": mode, "rerank": False, "top_k": 100, **more}
    answer = client.post("/v1/search", json=sent)
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["results"][0]["hits"]]


def opened(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def test_documents_are_added_replaced_and_deleted_while_they_are_searched(own):
    with serving(own()) as server, opened(server) as client:
        new = [{"id": "new", "text": "harbour wall", "title": "Port"}, {"id": "p03", "text": "harbour light"}]
        change = done(client, client.post("/v1/documents", json={"documents": new}))
        assert change["generation"] == 2 and change["documents"] == 2
        assert set(found(client, "harbour")) == {"new", "p03"} and found(client, "oven") == []
        assert found(client, "harbour light", "dense")[0] == "p03"
        assert len(found(client, "oven", "dense")) == len(TEXTS) + 1
        done(client, client.delete("/v1/documents/new"))
        done(client, client.post("/v1/documents/delete", json={"ids": ["p03", "never there"]}))
        assert found(client, "harbour") == []


def test_changes_that_wait_together_become_one_generation_in_their_order(own):
    recipe = own()
    with serving(recipe) as server, opened(server) as client:
        with server.documents._writing:  # as if the one before took long
            first = client.post("/v1/documents", json={"documents": [{"id": "z", "text": "before"}]})
            time.sleep(0.2)
            asked = [
                client.post("/v1/documents", json={"documents": [{"id": "a", "text": "one"}]}),
                client.post(
                    "/v1/documents", json={"documents": [{"id": "a", "text": "two"}, {"id": "b", "text": "two"}]}
                ),
                client.delete("/v1/documents/b"),
                client.post("/v1/documents", json={"documents": [{"id": "c", "text": "two"}]}),
            ]
        changes = [done(client, each) for each in [first, *asked]]
        assert found(client, "one") == [] and set(found(client, "two")) == {"a", "c"}
        assert len({change["generation"] for change in changes[1:]}) == 1


def test_a_change_that_was_accepted_is_made_by_the_next_server(own):
    recipe = own()
    with serving(recipe) as server, opened(server) as client:
        server.call(stop_work(server))
        answer = client.post("/v1/documents", json={"documents": [{"id": "kept", "text": "harbour"}]})
        assert answer.status_code == 202 and found(client, "harbour") == []
    with serving(recipe) as server, opened(server) as client:
        deadline = time.monotonic() + 60
        while found(client, "harbour") != ["kept"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert Workspace(recipe.workspace).list_files("changes") == []


async def stop_work(server: Server) -> None:
    async def nothing(*_: object) -> None:
        await __import__("asyncio").sleep(3600)

    server.documents._make = nothing  # type: ignore[method-assign]


def test_a_change_waits_while_something_is_away_and_is_made_afterwards(own):
    with serving(own()) as server, opened(server) as client:
        encode, failures = server.documents._encode, []

        def away(collection: str, texts: list[str]):
            if len(failures) < 2:
                failures.append(texts)
                raise ConnectionError("a replica is away")
            return encode(collection, texts)

        server.documents._encode = away  # type: ignore[method-assign]
        done(client, client.post("/v1/documents", json={"documents": [{"id": "new", "text": "harbour"}]}))
        assert len(failures) == 2 and found(client, "harbour") == ["new"]


def test_more_documents_than_can_wait_are_refused(own, monkeypatch):
    monkeypatch.setattr("serving.documents._MOST_WAITING", 3)
    with serving(own()) as server, opened(server) as client, server.documents._writing:
        sent = {"documents": [{"id": str(n), "text": "harbour"} for n in range(4)]}
        first = client.post("/v1/documents", json=sent)
        time.sleep(0.2)  # the first is being made, the second waits
        codes = [client.post("/v1/documents", json=sent).status_code for _ in range(2)]
        assert first.status_code == 202 and codes == [202, 429]


def test_many_small_changes_are_compacted_and_nothing_is_lost(own):
    recipe = own(compact_after=2)
    folder = collection_folder(Workspace(recipe.workspace))
    shards = []
    with serving(recipe) as server, opened(server) as client:
        for n in range(4):
            done(client, client.post("/v1/documents", json={"documents": [{"id": f"n{n}", "text": f"harbour {n}"}]}))
            shards.append(len(folder.current().shards[VECTORS]))
        assert shards == [3, 4, 2, 3], "the two shards that were published do not count, those that were added do"
        assert set(found(client, "harbour")) == {f"n{n}" for n in range(4)}
        assert len(found(client, "oven", "dense")) == len(TEXTS) + 4
        sent = {"query": "q", "documents": ["d"]}
        assert client.post("/v1/rerank", json=sent).status_code == 200, "the models are still there"


def test_the_report_of_the_run_outlives_changes_and_compaction(own):
    recipe = with_report(own(compact_after=1))
    with serving(recipe) as server, opened(server) as client:
        for n in range(3):
            done(client, client.post("/v1/documents", json={"documents": [{"id": f"n{n}", "text": "harbour"}]}))
        assert client.get("/v1/collections/live/report").json() == json.loads(REPORT.to_json())
        assert client.get("/v1/collections/other/report").status_code == 404
    shutil.rmtree(recipe.workspace)
    with serving(own()) as server, opened(server) as client:
        refused = client.get("/v1/collections/live/report")
        assert refused.status_code == 404 and "without evaluation" in refused.json()["error"]["message"]


def test_no_request_fails_and_no_answer_mixes_generations_while_they_change(own):
    """Every passage says which round it is of: an answer that holds two rounds has mixed generations."""
    with serving(own(max_waiting=1000)) as server, opened(server) as client:

        def rows(n: int) -> list[dict[str, str]]:
            return [{"id": f"r{i}", "text": f"harbour round{n}"} for i in range(5)]

        done(client, client.post("/v1/documents", json={"documents": rows(0)}))
        stop, failures, seen = threading.Event(), [], set()

        def ask() -> None:
            with opened(server) as own_client:
                while not stop.is_set():
                    answer = own_client.post("/v1/search", json={"query": "harbour", "mode": "bm25", "top_k": 5})
                    hits = answer.json()["results"][0]["hits"] if answer.status_code == 200 else []
                    rounds = {hit["text"] for hit in hits}
                    seen.update(rounds)
                    if len(hits) != 5 or len(rounds) != 1:
                        failures.append((answer.status_code, rounds))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for n in range(1, 5):
            done(client, client.post("/v1/documents", json={"documents": rows(n)}))
        stop.set()
        for thread in threads:
            thread.join()
        assert failures == [] and len(seen) > 1


def test_a_generation_whose_vectors_are_another_encoder_s_is_refused_and_the_last_one_goes_on(own):
    import numpy as np
    import pyarrow as pa

    from pipeline.collection.about import About
    from pipeline.collection.change import add
    from pipeline.records import PASSAGE

    recipe = own()
    folder = collection_folder(Workspace(recipe.workspace))
    with serving(recipe) as server, opened(server) as client:
        rows = [{"passage_id": i, "title": "", "text": text, "source": ""} for i, text in TEXTS.items()]
        identity = About.of(folder.current().about).index.encoder

        def swapped(texts: list[str]) -> np.ndarray:
            return np.eye(identity.dimension, dtype=np.float32)[np.arange(len(texts)) % identity.dimension]

        add(folder, pa.Table.from_pylist(rows, schema=PASSAGE), swapped, identity)
        with pytest.raises(RayrieverError, match="is not what its encoder gives"):
            server.call(server.releases.release(Ref("live", 2)))
        server.call(server.releases.refresh())
        assert Ref("live", 2) in server.releases.refused
        assert client.get("/info").json()["collections"]["live"]["generation"] == 1
        assert found(client, "oven")


def test_a_damaged_generation_is_refused_and_a_server_that_starts_takes_the_one_before(own):
    recipe = own()
    folder = collection_folder(Workspace(recipe.workspace))
    with serving(recipe) as server, opened(server) as client:
        done(client, client.post("/v1/documents", json={"documents": [{"id": "new", "text": "harbour"}]}))
    added = next(Path(folder.path).glob("000002-*-added-vectors*.faiss"))
    content = bytearray(added.read_bytes())
    content[-1] ^= 1
    added.write_bytes(content)
    with serving(recipe) as server, opened(server) as client:
        assert client.get("/info").json()["collections"]["live"]["generation"] == 1
        assert found(client, "harbour") == [] and found(client, "oven")


def test_a_generation_from_the_command_line_is_taken(own):
    from pipeline.collection.operate import add_file
    from tests.collection.test_models import write_rows

    recipe = own()
    with serving(recipe) as server, opened(server) as client:
        add_file(recipe, write_rows(Path(recipe.workspace).parent / "new.jsonl"), "live")
        server.call(server.releases.refresh())
        assert found(client, "harbour") == ["new"]
        assert next_number(collection_folder(Workspace(recipe.workspace))) == 3


@pytest.mark.parametrize(
    "body",
    [
        {"documents": []},
        {"documents": [{"id": "a"}]},
        {"documents": [{"id": "", "text": "b"}]},
        {"documents": [{"id": "a\n", "text": "b"}]},
        {"documents": [{"id": "a", "text": " "}]},
        {"documents": [{"id": "a", "text": "b"}, {"id": "a", "text": "c"}]},
        {"documents": [{"id": "a" * 513, "text": "b"}]},
        {"documents": [{"id": 1, "text": "b"}]},
    ],
)
def test_documents_that_cannot_be_added_are_refused_whole(client: httpx.Client, body):
    answer = client.post("/v1/documents", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("documents")


def test_ids_are_never_paths(own):
    recipe = own()
    with serving(recipe) as server, opened(server) as client:
        evil = "../../../etc/passwd"
        done(client, client.post("/v1/documents", json={"documents": [{"id": evil, "text": "harbour"}]}))
        assert found(client, "harbour") == [evil]
        done(client, client.delete("/v1/documents/" + evil.replace("/", "%2F")))
        assert found(client, "harbour") == []
        assert client.get("/v1/documents/changes/..%2F..%2Fetc").status_code in (404, 405)
