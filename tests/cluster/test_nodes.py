"""Recipes as jobs on a Ray cluster of several nodes, with the workspace in a bucket."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.jobs import ENDED, Jobs
from cluster.local import LocalCluster
from pipeline.artifact import Artifact
from pipeline.workspace import Workspace
from tests.small_run import recipe_values, write_corpus, write_like_a_model

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[LocalCluster]:
    with LocalCluster([2, 2], {"OPENAI_API_KEY": "sk-test"}) as cluster:
        yield cluster


class Project:
    """A user's folder, and the commands run in it."""

    def __init__(self, folder: Path, encoder: Path, url: str, bucket: str, cluster: LocalCluster) -> None:
        self.folder, self.bucket, self.cluster = folder, bucket, cluster
        self.jobs = cluster.jobs()
        write_corpus(folder)
        values = recipe_values(folder, encoder, url)
        values["corpus"]["path"] = "corpus.jsonl"
        values["workspace"] = self.workspace("quiet")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(values))

    def workspace(self, name: str) -> str:
        return f"s3://library/{name}?{self.bucket}"

    def rayriever(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", *arguments, "--address", self.cluster.jobs_address]
        return subprocess.run(
            command, cwd=self.folder, env=self.cluster.environment, capture_output=True, text=True, timeout=600
        )

    def submit(self, name: str, *options: str) -> str:
        """Start a run in a workspace of that name; its id."""
        sets = ("--set", f"workspace={self.workspace(name)}")
        done = self.rayriever("submit", "recipe.yaml", *sets, *options, "--driver-cpus", "0", "--no-wait", "--json")
        assert done.returncode == 0, done.stderr
        job_id: str = json.loads(done.stdout)["id"]
        return job_id

    def has_begun(self, job_id: str, stage: str) -> bool:
        return re.search(rf"^{stage} ", self.jobs.logs(job_id), re.MULTILINE) is not None

    def finish(self, job_id: str) -> None:
        job = self.jobs.wait(job_id, 600)
        assert job.status == "SUCCEEDED", self.jobs.logs(job_id)[-3000:]

    def artifact(self, name: str, stage: str) -> Artifact:
        """The one that a stage has."""
        workspace = Workspace(self.workspace(name))
        (key,) = workspace.list_folders("stages", stage)
        artifact = Artifact.find(workspace, stage, key)
        assert artifact is not None
        return artifact

    def tables(self, name: str, stage: str) -> list[dict[str, Any]]:
        artifact = self.artifact(name, stage)
        return [artifact.table(table).to_pydict() for table in artifact.manifest.tables]


@pytest.fixture
def project(tmp_path: Path, tiny_encoder: Path, chat_server: Any, bucket: str, nodes: LocalCluster) -> Project:
    chat_server.reply = lambda content, attempt: {**write_like_a_model(content, attempt), "delay_s": 0.1}
    return Project(tmp_path, tiny_encoder, chat_server.url, bucket, nodes)


def wait_until(reached: Callable[[], bool], jobs: Jobs, job_id: str) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert jobs.get(job_id).status not in ENDED, "ended before: " + jobs.logs(job_id)[-3000:]
        assert time.monotonic() < deadline, jobs.logs(job_id)[-3000:]
        time.sleep(0.05)


def test_jobs_in_two_workspaces_do_not_disturb_each_other_and_in_one_the_second_is_refused(
    project: Project, chat_server: Any
) -> None:
    """Two that write the same folders would remove each other's attempts, and pay for every answer twice."""
    refused_once = threading.Event()

    def reply(content: str, attempt: int) -> dict[str, Any]:
        refused_once.wait(200)  # so that the first run still is when the second begins
        return write_like_a_model(content, attempt)

    chat_server.reply = reply
    first, other = (project.submit(name, "--until", "queries") for name in ("shared", "other"))
    wait_until(lambda: project.has_begun(first, "words"), project.jobs, first)
    second = project.submit("shared", "--until", "queries")
    refused = project.jobs.wait(second, 300)
    refused_once.set()
    assert refused.status == "FAILED"
    wanted = r"error: workspace s3://library/shared.*: a job of \w+@\S+ has been using it since 20\d\d-\S+\+00:00\."
    assert re.search(wanted, project.jobs.logs(second)), project.jobs.logs(second)
    for job_id in (first, other):
        project.finish(job_id)
    assert project.tables("shared", "queries") == project.tables("other", "queries")


def test_commands_follow_show_and_stop_jobs(project: Project) -> None:
    on_head = ("--driver-cpus", "0")
    done = project.rayriever("submit", "recipe.yaml", "--until", "corpus", *on_head)
    assert done.returncode == 0 and "corpus        done in" in done.stdout, done.stdout + done.stderr
    again = project.rayriever("submit", "recipe.yaml", "--until", "corpus", *on_head, "--json")
    job = json.loads(again.stdout)
    assert (job["status"], job["workspace"].split("?")[0]) == ("SUCCEEDED", "s3://library/quiet")
    assert re.search(r"corpus +reused", project.jobs.logs(job["id"])), "submitted again, it began anew"
    listed = json.loads(project.rayriever("job", "list", "--json").stdout)
    assert listed[0]["id"] == job["id"] and json.loads(project.rayriever("job", "status", job["id"], "--json").stdout)

    elsewhere = project.rayriever("submit", "recipe.yaml", "--until", "corpus", "--json")
    assert json.loads(elsewhere.stdout)["status"] == "SUCCEEDED"  # the run itself was on a node other than the head
    failed = project.rayriever("submit", "recipe.yaml", "--set", "corpus.path=nowhere.jsonl", *on_head)
    assert failed.returncode == 1 and "nowhere.jsonl" in failed.stdout and "FAILED" in failed.stderr

    endless = project.submit("endless", "--until", "queries")
    wait_until(lambda: project.has_begun(endless, "words"), project.jobs, endless)
    assert project.rayriever("job", "stop", endless).returncode == 0
    assert project.jobs.wait(endless, 60).status == "STOPPED"


def test_what_is_wrong_is_said_before_anything_is_sent(project: Project) -> None:
    local = project.rayriever("submit", "recipe.yaml", "--set", "workspace=./here")
    assert local.returncode == 1 and "a folder of this machine" in local.stderr
    outside = project.rayriever("submit", "recipe.yaml", "--folder", str(Path(__file__).parent))
    assert outside.returncode == 1 and "not below" in outside.stderr
    keys = project.rayriever("submit", "recipe.yaml", "--set", "workspace=s3://name:secret@library/x")
    assert keys.returncode == 1 and "no keys in a URI" in keys.stderr and "secret" not in keys.stderr
    missing = project.rayriever("submit", "recipe.yaml", "--env", "NO_SUCH_VARIABLE")
    assert missing.returncode == 1 and "NO_SUCH_VARIABLE" in missing.stderr
    command = [sys.executable, "-m", "pipeline.cli", "job", "list", "--address", "http://127.0.0.1:9"]
    # Ray itself would let these decide, and send the folder to another cluster than the one that was named
    elsewhere = {"RAY_ADDRESS": project.cluster.jobs_address, "RAY_API_SERVER_ADDRESS": project.cluster.jobs_address}
    environment = project.cluster.environment | elsewhere
    nobody = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert nobody.returncode == 1 and "cluster http://127.0.0.1:9" in nobody.stderr


def test_a_job_server_takes_no_job_without_the_token(project: Project) -> None:
    """Whoever may send jobs runs code on all nodes."""
    environment = project.cluster.environment | {"RAY_AUTH_TOKEN": "another"}
    command = [sys.executable, "-m", "pipeline.cli", "job", "list", "--address", project.cluster.jobs_address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "authentication token" in done.stderr
