"""One run at a time in a workspace, and whom to ask where it is another's.

A local workspace is held by a lock of the kernel. An object store has none, so there a run says that it wants the
workspace, and holds it only where it has seen nobody else's wish or claim after its own was written: stores list what
was written before, so that of two runs at least one sees the other. A claim is renewed as long as its run lives, and a
run that was kept from it for too long ends. Ages are differences between the store's own times, or one process's.
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
_CLOCK_S = 2.0  # stores tell whole seconds
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
        except BlockingIOError as error:
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
        self._written, self._lost = time.monotonic(), False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self) -> None:
        seen: dict[str, float] = {}
        deadline = time.monotonic() + 2 * self._lost_s
        while True:
            others = self._others_after_my_wish()
            if not others and self._claimed_in_time():
                self._thread.start()
                return
            self._delete(self._path + _WISH)
            alive = [path for path, at in others.items() if at > seen.get(path, at) and not path.endswith(_WISH)]
            is_late = time.monotonic() > deadline
            if alive or is_late:
                owner = self._read((alive or [*others, self._path])[0])
                if owner is not None or is_late:
                    raise _refused(self._workspace, (owner or b"").decode())
            elif not seen:
                _log.warning("workspace %s: claimed by a run that may be dead; looking again", self._workspace.uri)
            seen = others | seen
            time.sleep(self._every_s * random.uniform(1.2, 2))

    def check(self) -> None:
        if self._is_lost():
            raise RayrieverError(
                f"workspace {self._workspace.uri}: this run could not say for {self._lost_s:.0f} s that it lives, so "
                "that another may have begun in it. Run again: what is finished is kept."
            )

    def leave(self) -> None:
        self._stop.set()
        self._thread.join(self._every_s)
        try:
            self._delete(self._path + _WISH)
            self._delete(self._path)
        except OSError as error:  # what the run itself has to say matters more, and the claim lapses
            _log.warning("workspace %s: the claim was not taken back: %s", self._workspace.uri, error)

    def _others_after_my_wish(self) -> dict[str, float]:
        """Write the wish, then list the others' and the claims: path and time of those that are not yet lost."""
        self._written = time.monotonic()
        self._workspace.write_bytes(self._path + _WISH, self._content)
        times = {info.path: info.mtime.timestamp() for info in self._workspace.list_file_infos(_CLAIMS)}
        now = times.pop(self._path + _WISH)
        for path in [path for path, at in times.items() if now - at > self._lost_s + _CLOCK_S]:
            self._delete(path)
            del times[path]
        return times

    def _claimed_in_time(self) -> bool:
        """Write the claim. The wish stays until the first renewal, so that a listing that runs meanwhile has one."""
        self._write()
        if self._lost:  # the wish may have been taken for a dead run's
            self._lost = False
            self._delete(self._path)
            return False
        return True

    def _write(self) -> None:
        """Lost once it has taken too long, though it may be written in the end: another run may have seen it lapse."""
        began = time.monotonic()
        self._workspace.write_bytes(self._path, self._content)
        self._lost = self._is_lost()
        self._written = began

    def _is_lost(self) -> bool:
        return self._lost or time.monotonic() - self._written > self._lost_s

    def _read(self, path: str) -> bytes | None:
        """Whose wish or claim it is; None where it has just been taken back."""
        for _ in range(3):
            with suppress(OSError):  # renewed while it was read
                return self._workspace.read_bytes(path)
        return b""

    def _delete(self, path: str) -> None:
        with suppress(FileNotFoundError):  # somebody who took it for lost was quicker
            self._workspace.filesystem.delete_file(path)

    def _renew(self) -> None:
        while not self._stop.wait(self._every_s) and not self._is_lost():
            try:
                if self._workspace.read_bytes(self._path) is None:
                    self._lost = True
                else:
                    self._write()
                    self._delete(self._path + _WISH)
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
