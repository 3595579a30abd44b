"""Recipes as jobs of a Ray cluster: submitted, listed, followed, stopped."""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from aiohttp import ClientError

from pipeline.errors import RayrieverError
from pipeline.lease import OWNER_VARIABLE
from pipeline.recipe import load_recipe

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_WORKSPACE = "rayriever_workspace"
# Never sent along: what a job does not read, or must not hold
_LEFT_OUT = ("**/.git", "**/.venv*", "**/.env*", "**/__pycache__", "**/.*_cache", "workspace", "workspaces")
_POLLED_EVERY_S = 1.0
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_GONE = "\n(The rest of the log cannot be read: it is on the node that ran the job.)\n"


@dataclass(frozen=True)
class Job:
    """One job as the cluster tells of it; times are ISO 8601, UTC."""

    id: str
    status: str
    message: str
    command: str
    workspace: str
    started: str | None
    ended: str | None


@dataclass(frozen=True)
class Submission:
    """What is to run where.

    Args:
        recipe: file below `folder`.
        overrides: KEY=VALUE of `--set`.
        folder: local folder that the job starts in; it is uploaded, but for environments, caches and `.env` files.
        start, until: stages, as of `rayriever run`.
        requirements: pip requirements that every node installs first; None: what the nodes have is used.
        variables: environment variables of the job; whoever sees the dashboard sees them.
        driver_cpus: CPUs reserved for the run itself, on any node; 0 runs it on the head.
    """

    recipe: Path
    overrides: Sequence[str]
    folder: Path
    start: str | None = None
    until: str | None = None
    requirements: Path | None = None
    variables: Mapping[str, str] | None = None
    driver_cpus: float = 1.0

    @cached_property
    def command(self) -> str:
        """What runs on the cluster. Raises RayrieverError where the recipe is not in the folder."""
        try:
            recipe = self.recipe.resolve().relative_to(self.folder.resolve())
        except ValueError as error:
            raise RayrieverError(f"{self.recipe}: not below {self.folder}, the folder that the job gets.") from error
        sets = [part for override in self.overrides for part in ("--set", override)]
        # As a module: a folder with another version of the code runs that one
        stages = {"--from": self.start, "--until": self.until}
        chosen = [part for option, stage in stages.items() if stage for part in (option, stage)]
        return shlex.join(["python", "-m", "pipeline.cli", "run", str(recipe), *sets, *chosen])

    @cached_property
    def workspace(self) -> str:
        """The recipe's. Raises RayrieverError where no other machine could reach it."""
        workspace = load_recipe(self.recipe, list(self.overrides)).workspace
        if "://" not in workspace and not Path(workspace).is_absolute():
            raise RayrieverError(
                f"workspace {workspace}: a folder of this machine. Set `workspace` to object storage "
                "(s3://..., gs://...), or to the absolute path of a folder that all nodes share."
            )
        return workspace

    def environment(self) -> dict[str, Any]:
        """Ray's runtime environment of the job."""
        who = f"{getpass.getuser()}@{socket.gethostname()}"
        chosen: dict[str, Any] = {
            "working_dir": str(self.folder),
            "excludes": list(_LEFT_OUT),
            "env_vars": {OWNER_VARIABLE: f"a job of {who}", **(self.variables or {})},
        }
        return chosen if self.requirements is None else chosen | {"pip": str(self.requirements)}


class Jobs:
    """The job server of a cluster.

    Args:
        address: of the dashboard, http://HOST:8265; None: RAY_API_SERVER_ADDRESS, or this machine's.
        token: of a cluster that takes no other; None: as Ray finds it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH).

    Raises RayrieverError where it cannot be reached.
    """

    def __init__(self, address: str | None = None, token: str | None = None) -> None:
        self.address = address or os.environ.get(_ADDRESSES[0]) or "http://127.0.0.1:8265"
        with _readable(self.address):
            from ray.job_submission import JobSubmissionClient

            headers = {"Authorization": f"Bearer {token}"} if token else None
            with _without(*_ADDRESSES):  # they would win over what was asked for
                self._client = JobSubmissionClient(self.address, headers=headers)

    def submit(self, submission: Submission) -> str:
        """Start a job; returns its id."""
        command, workspace = submission.command, submission.workspace
        with _readable(self.address):
            submitted: str = self._client.submit_job(
                entrypoint=command,
                runtime_env=submission.environment(),
                metadata={_WORKSPACE: workspace},
                entrypoint_num_cpus=submission.driver_cpus or None,
            )
        return submitted

    def all(self) -> list[Job]:
        """Those that were submitted, the newest first."""
        with _readable(self.address):
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or "", reverse=True)

    def get(self, job_id: str) -> Job:
        with _readable(self.address):
            return _job(self._client.get_job_info(job_id))

    async def follow(self, job_id: str) -> AsyncIterator[str]:
        """What the job prints, until it ends, also where the connection breaks in between."""
        told = 0
        while self.get(job_id).status not in ENDED:
            seen = 0
            # Whether the server is gone, or only this connection, shows when it is asked again
            with suppress(*_ray_errors(), ClientError):
                async for lines in self._client.tail_job_logs(job_id):  # from the first line on
                    seen += len(lines)
                    if seen > told:
                        yield lines[told - seen :]
                        told = seen
            await asyncio.sleep(_POLLED_EVERY_S)
        try:
            yield self.logs(job_id)[told:]
        except RayrieverError:
            yield _GONE

    def logs(self, job_id: str) -> str:
        with _readable(self.address):
            return str(self._client.get_job_logs(job_id))

    def stop(self, job_id: str) -> bool:
        """Whether it was running. It ends by itself soon after; what it has finished is kept."""
        with _readable(self.address):
            return bool(self._client.stop_job(job_id))

    def wait(self, job_id: str, timeout_s: float) -> Job:
        """The job once it has ended. Raises RayrieverError when it has not after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while (job := self.get(job_id)).status not in ENDED:
            if time.monotonic() > deadline:
                raise RayrieverError(f"job {job_id}: {job.status} after {timeout_s:.0f} s.")
            time.sleep(_POLLED_EVERY_S)
        return job


@contextmanager
def _readable(address: str) -> Iterator[None]:
    try:
        yield
    except _ray_errors() as error:
        raise RayrieverError(f"cluster {address}: {' '.join(str(error).split())[:500]}") from error


def _ray_errors() -> tuple[type[Exception], ...]:
    from ray.exceptions import RayError

    return (RayError, RuntimeError, ValueError, OSError)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _job(details: Any) -> Job:
    return Job(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        message=details.message or "",
        command=details.entrypoint,
        workspace=(details.metadata or {}).get(_WORKSPACE, ""),
        started=_iso(details.start_time),
        ended=_iso(details.end_time),
    )


def _iso(milliseconds: int | None) -> str | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds") if milliseconds else None
