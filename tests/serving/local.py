"""The server in this process, behind a real socket: the same parts, gateway and librarian as in Ray Serve."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from pipeline.recipe import Recipe
from serving.auth import Keys
from serving.backend import FanOut, Here
from serving.documents import Change, Documents
from serving.gateway import Gateway, create_app
from serving.models import ToEncode
from serving.parts import Parts
from serving.release import Released, Releases


class Server:
    """Address and inside of a running server."""

    def __init__(self, recipe: Recipe, keys: Sequence[str]) -> None:
        self.backend = FanOut(Parts.here(recipe), Here())
        self.releases = Releases(recipe, self.backend, self._announce)
        self.documents = Documents(recipe, self._encode, self.releases.take)
        self.gateway = Gateway(recipe, self.backend, self, Keys(keys))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(create_app(self.gateway), port=self.port, log_level="error", lifespan="off")
        self.uvicorn = uvicorn.Server(config)
        self.error: BaseException | None = None

    async def ask(self, collection: str, passages: Sequence[Mapping[str, Any]], deleted: Sequence[str]) -> Change:
        return await self.documents.ask(collection, passages, deleted)

    async def known(self, change_id: str) -> Change | None:
        return self.documents.known(change_id)

    async def _announce(self, released: Mapping[str, Released]) -> None:
        self.gateway.release(released)

    def _encode(self, collection: str, texts: Sequence[str]) -> Any:
        encoding = self.backend.encode(ToEncode(self.releases.current[collection].ref, "document", list(texts)))
        return asyncio.run_coroutine_threadsafe(encoding, self.loop).result().vectors

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.error = error

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.releases.start()
        await self.documents.start()
        work = asyncio.create_task(self.documents.work())
        await self.uvicorn.serve()
        work.cancel()

    def call(self, coroutine: Any) -> Any:
        """Run something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)


@contextmanager
def serving(recipe: Recipe, keys: Sequence[str] = ()) -> Iterator[Server]:
    """A server that answers until the block ends."""
    server = Server(recipe, keys)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.uvicorn.started:
        if server.error is not None:
            raise server.error
        thread.join(0.02)
    try:
        yield server
    finally:
        server.uvicorn.should_exit = True
        thread.join(30)
