"""The server of one process behind a real socket, without Ray Serve around it."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from pipeline.recipe import Recipe
from serving.gateway import create_app
from serving.whole import in_one_process


class Server:
    """Address and inside of a running server."""

    def __init__(self, recipe: Recipe, keys: Sequence[str]) -> None:
        self.gateway, self._librarian = in_one_process(recipe, keys)
        self.backend, self.releases = self.gateway.backend, self._librarian.releases
        self.documents = self._librarian.documents
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(create_app(self.gateway), port=self.port, log_level="error", lifespan="off")
        self.uvicorn = uvicorn.Server(config)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self.error = error

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self._librarian.released()
        await self.uvicorn.serve()
        self._librarian.stop()

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
