"""One run at a time in a workspace, and whom to ask where it is another's.

A local workspace is held by a lock of the kernel. An object store has none, so there a run says that it wants the
workspace, and holds it only where it has seen nobody else's wish or claim after its own was written: stores list what
was written before, so that of two runs at least one sees the other. A claim is renewed as long as its run lives. Ages
are differences between the store's own times.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from pipeline.errors import RayrieverError
from pipeline.workspace import Workspace

# Says who runs where user and machine do not: a job on a cluster is everybody's
OWNER_VARIABLE = "RAYRIEVER_OWNER"
_CLAIMS = "claims"
_WISH = ".wanted"
_RENEWED_EVERY_S, _LOST_AFTER_S = 10.0, 60.0
_WORK_ON = "Wait for it, or give this run its own workspace."
_log = logging.getLogger(__name__)


class Lease:
    """That a workspace is held; a lock of the kernel is never lost."""

    def check(self) -> None:
        """Raise RayrieverError where another run may have taken the workspace meanwhile."""


@contextmanager
def held(
    workspace: Workspace, renewed_every_s: float = _RENEWED_EVERY_S, lost_after_s: float = _LOST_AFTER_S
) -> Iterator[Lease]:
    """Hold a workspace for one run. Raises RayrieverError, with the owner and since when, where another run has it.

    In an object store, a run that was killed leaves its claim: it is waited for until `lost_after_s` seconds have
    passed without a sign of life.
    """
    if workspace.is_local:
        with _locked(workspace):
            yield Lease()
        return
    claim = _Claim(workspace, renewed_every_s, lost_after_s)
    claim.take()
    try:
        yield claim
    finally:
        claim.leave()


@contextmanager
def _locked(workspace: Workspace) -> Iterator[None]:
    import fcntl

    with open(workspace.path("run.lock"), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise _refused(workspace, lock.read()) from error
        lock.seek(0)
        lock.truncate()
        lock.write(_owner())
        lock.flush()
        # The kernel lets go when the process dies, however it dies
        yield


class _Claim(Lease):
    def __init__(self, workspace: Workspace, renewed_every_s: float, lost_after_s: float) -> None:
        self._workspace, self._every_s, self._lost_s = workspace, renewed_every_s, lost_after_s
        self._path = workspace.path(_CLAIMS, uuid.uuid4().hex)
        self._content = _owner().encode()
        self._renewed, self._taken_over = 0.0, False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> None:
        seen: dict[str, float] = {}
        deadline = time.monotonic() + 2 * self._lost_s
        while others := self._others_after_my_wish():
            self._delete(self._path + _WISH)
            alive = [path for path, at in others.items() if at > seen.get(path, at) and not path.endswith(_WISH)]
            if alive or time.monotonic() > deadline:
                owner = self._workspace.read_bytes((alive or list(others))[0])
                raise _refused(self._workspace, (owner or b"").decode())
            if not seen:
                _log.warning("workspace %s: claimed by a run that may be dead; looking again", self._workspace.uri)
            seen = others | seen
            time.sleep(self._every_s * random.uniform(1.2, 2))
        self._write()
        self._delete(self._path + _WISH)
        self._thread.start()

    def check(self) -> None:
        if self._taken_over or time.monotonic() - self._renewed > self._lost_s:
            raise RayrieverError(
                f"workspace {self._workspace.uri}: could not be reached for {self._lost_s:.0f} s, so that another "
                "run may have begun in it. Run again: what is finished is kept."
            )

    def leave(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._taken_over:
            self._delete(self._path)

    def _others_after_my_wish(self) -> dict[str, float]:
        """Write the wish, then list the others' and the claims: path and time of those that are not yet lost."""
        self._workspace.write_bytes(self._path + _WISH, self._content)
        times = {info.path: info.mtime.timestamp() for info in self._workspace.list_file_infos(_CLAIMS)}
        now = times.pop(self._path + _WISH)
        for path in [path for path, at in times.items() if now - at > self._lost_s]:
            self._delete(path)
            del times[path]
        return times

    def _write(self) -> None:
        began = time.monotonic()
        self._workspace.write_bytes(self._path, self._content)
        self._renewed = began

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):  # somebody who took it for lost was quicker
            self._workspace.filesystem.delete_file(path)

    def _renew(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                if self._workspace.read_bytes(self._path) is None:
                    self._taken_over = True
                    return
                self._write()
            except OSError as error:  # `check` says when it has lasted too long
                _log.warning("workspace %s: the claim was not renewed: %s", self._workspace.uri, error)


def _owner() -> str:
    who = os.environ.get(OWNER_VARIABLE) or f"{getpass.getuser()}@{socket.gethostname()} (process {os.getpid()})"
    return json.dumps({"owner": who, "since": datetime.now(UTC).isoformat(timespec="seconds")})


def _refused(workspace: Workspace, owner: str) -> RayrieverError:
    try:
        known = json.loads(owner)
        whose = f"{known['owner']} has been using it since {known['since']}"
    except (ValueError, KeyError, TypeError):  # it has only just begun
        whose = "another run is using it"
    return RayrieverError(f"workspace {workspace.uri}: {whose}. {_WORK_ON}")
