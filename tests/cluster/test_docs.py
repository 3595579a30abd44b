"""The page on clusters: its commands are run as they are written, in their order, but for those that are named here."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from cluster.local import LocalCluster
from tests.small_run import recipe_values, write_corpus, write_like_a_model

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
# They need an account of AWS or a Kubernetes; tests of their own read the files that they are given. So has the drill
ELSEWHERE = ("ray up ", "ray dashboard ", "kubectl ", "export ", "rayriever drill")


def commands() -> list[str]:
    found: list[str] = []
    language: str | None = None
    for line in PAGE.read_text().splitlines():
        if line.startswith("```"):
            language = line[3:] if language is None else None
        elif language == "":
            found.append(line.split("   #")[0].strip())
    return found


@pytest.fixture
def environment(tmp_path: Path, chat_server: Any, bucket_server: tuple[Any, str]) -> dict[str, str]:
    """The bucket of the page is on a server of this machine: credentials and address come from the standard chain."""
    host, port = bucket_server[0].get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="my-bucket")
    chat_server.reply = write_like_a_model
    return {"AWS_ENDPOINT_URL": address, "OPENAI_API_KEY": "sk-test", "HOME": str(tmp_path)}


@pytest.fixture
def nodes(environment: dict[str, str]) -> Iterator[LocalCluster]:
    with LocalCluster([2], environment) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path: Path, tiny_encoder: Path, chat_server: Any, environment: dict[str, str]) -> Path:
    """A project with a small recipe where the page has its own, and documents in the bucket."""
    project = tmp_path / "project"
    (project / "recipes").mkdir(parents=True)
    write_corpus(project)
    shutil.copy(PAGE.parents[1] / "ray_cluster.yaml", project)
    values = recipe_values(project, tiny_encoder, chat_server.url)
    values["corpus"]["path"] = "corpus.jsonl"
    (project / "recipes" / "folder.yaml").write_text(yaml.safe_dump(values))
    s3 = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
    for row in (project / "corpus.jsonl").read_text().splitlines():
        passage = json.loads(row)
        s3.put_object(Bucket="my-bucket", Key=f"documents/{passage['_id']}.txt", Body=passage["text"].encode())
    return project


def test_every_command_of_the_page_does_what_it_says(folder: Path, nodes: LocalCluster) -> None:
    written = commands()
    assert len(written) > 10
    ran = [command for command in written if not command.startswith(ELSEWHERE)]
    assert all(command.split()[0] in ("rayriever", "ray") for command in ran), ran
    environment = nodes.environment | {"RAY_API_SERVER_ADDRESS": nodes.jobs_address}
    last = ""
    for command in ran:
        arguments = [last if part == "ID" else part for part in shlex.split(command)]
        if arguments[0] == "rayriever":
            arguments[:1] = [sys.executable, "-m", "pipeline.cli"]
        if arguments[0] == "ray":
            arguments[:1] = [sys.executable, "-m", "ray.scripts.scripts"]
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if command.startswith("rayriever submit"):
            last = re.findall(r"raysubmit_\w+", done.stderr)[0]
    assert last, "no job was submitted"
