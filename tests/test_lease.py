"""One run at a time in a workspace, on a local disk and in a bucket."""

import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from pipeline.errors import RayrieverError
from pipeline.lease import OWNER_VARIABLE, Lease, held
from pipeline.workspace import Workspace

BEAT_S, LOST_S = 1.1, 4.0  # moto's times are whole seconds


def _hold(uri: str, ready: "multiprocessing.synchronize.Event") -> None:
    with held(Workspace(uri), BEAT_S, LOST_S):
        ready.set()
        signal.pause()


@pytest.fixture(params=["local", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    return f"s3://library/held?{request.getfixturevalue('bucket')}"


def test_second_run_in_one_workspace_is_refused_with_the_name_of_the_first(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(OWNER_VARIABLE, "ada's nightly run")
    wanted = r"ada's nightly run has been using it since 20\d\d-.*Wait for it"
    with held(Workspace(uri), BEAT_S, LOST_S):
        monkeypatch.setenv(OWNER_VARIABLE, "bob")
        with pytest.raises(RayrieverError, match=wanted), held(Workspace(uri), BEAT_S, LOST_S):
            pass
    with held(Workspace(uri), BEAT_S, LOST_S) as lease:
        lease.check()


def test_workspace_of_a_killed_run_is_free_again(uri: str):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(uri, ready))
    holder.start()
    assert ready.wait(60)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with held(Workspace(uri), BEAT_S, LOST_S) as lease:
        lease.check()


def test_of_runs_that_begin_together_never_two_hold_a_bucket(bucket: str):
    """Both write, then look: neither may take the other's claim for one that came too late."""
    uri = f"s3://library/race?{bucket}"
    holders, most, held_by, refusals = [0], [0], list[int](), list[str]()
    counting = threading.Lock()

    def work(number: int) -> None:
        try:
            with held(Workspace(uri), BEAT_S, LOST_S):
                with counting:
                    holders[0] += 1
                    most[0] = max(most[0], holders[0])
                    held_by.append(number)
                time.sleep(3 * BEAT_S)
                with counting:
                    holders[0] -= 1
        except RayrieverError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(held_by) + len(refusals) == len(threads)
    assert all(re.search("has been using it since", text) for text in refusals)
    assert Workspace(uri).list_files("claims") == []


def test_a_run_whose_claim_was_taken_for_a_dead_ones_stops(bucket: str):
    """Another one may have begun: what both write would be removed by the other."""
    workspace = Workspace(f"s3://library/away?{bucket}")
    with held(workspace, BEAT_S, LOST_S) as lease:
        lease.check()
        for path in workspace.list_files("claims"):
            workspace.filesystem.delete_file(path)
        _await_the_end(lease)
    assert workspace.list_files("claims") == []


def test_a_run_that_is_cut_off_from_its_bucket_stops_and_says_so_even_if_the_bucket_comes_back(
    bucket_server: tuple[ThreadedMotoServer, str],
):
    server, options = bucket_server
    _, port = server.get_host_and_port()
    with held(Workspace(f"s3://library/cut?{options}"), BEAT_S, LOST_S) as lease:
        lease.check()
        server.stop()
        _await_the_end(lease)
        again = ThreadedMotoServer(port=port, verbose=False)
        again.start()
        time.sleep(2 * BEAT_S)
        with pytest.raises(RayrieverError):
            lease.check()
    again.stop()


def test_an_error_of_the_run_is_not_hidden_by_a_bucket_that_is_gone(bucket_server: tuple[ThreadedMotoServer, str]):
    server, options = bucket_server
    workspace = Workspace(f"s3://library/gone?{options}")
    with pytest.raises(RayrieverError, match="the stage's own"), held(workspace, BEAT_S, LOST_S):
        server.stop()
        raise RayrieverError("the stage's own")


def _await_the_end(lease: Lease) -> None:
    deadline = time.monotonic() + 60
    with pytest.raises(RayrieverError, match="another may have begun"):
        while time.monotonic() < deadline:
            lease.check()
            time.sleep(0.1)
