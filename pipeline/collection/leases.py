"""Readers say which generation they hold, so that nobody deletes its files under them."""

from __future__ import annotations

import json
import threading
import time
import uuid
from types import TracebackType

from pipeline.sharded.folder import ShardFolder

_FOLDER = "readers"
# A reader that died holds its generation for so long.
LEASE_S = 120.0


class Lease:
    """Holds a generation until it is released; a context manager. Renewed by a thread of its own."""

    def __init__(self, folder: ShardFolder, generation: int, lease_s: float = LEASE_S) -> None:
        self.folder, self.generation, self.lease_s = folder, generation, lease_s
        self._path = f"{folder.path}/{_FOLDER}/{uuid.uuid4().hex}.json"
        self._released = threading.Event()
        self._renew()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def release(self) -> None:
        if not self._released.is_set():
            self._released.set()
            self._thread.join()
            self.folder.delete([self._path[len(self.folder.path) + 1 :]])

    def _renew(self) -> None:
        content = {"generation": self.generation, "until": time.time() + self.lease_s}
        self.folder.workspace.write_bytes(self._path, json.dumps(content).encode())

    def _keep(self) -> None:
        while not self._released.wait(self.lease_s / 4):
            try:
                self._renew()
            except OSError:  # a full disk, a store that is away: the next renewal is in time, too
                continue

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def held(folder: ShardFolder) -> set[int]:
    """Generations that a reader holds. Leases that ran out are deleted."""
    workspace, found, over = folder.workspace, set[int](), list[str]()
    for path in workspace.list_files(*folder.relative, _FOLDER):
        if not path.endswith(".json"):
            continue
        content = json.loads(workspace.read_bytes(path) or b"{}")  # it may be let go meanwhile
        if content.get("until", 0) > time.time():
            found.add(content["generation"])
        else:
            over.append(path[len(folder.path) + 1 :])
    folder.delete(over)
    return found
