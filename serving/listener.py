"""An application on a port of this machine."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from pipeline.errors import RayrieverError
from serving.limits import App

_FINISH_S = 10


def bound(host: str, port: int) -> socket.socket:
    """A socket of that address. Raises RayrieverError where it is taken, or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise RayrieverError(f"serve: {host} port {port}: {error.strerror}. Choose another with --port.") from error
    return opened


class Listener:
    """Takes requests for an application on a socket."""

    def __init__(self, app: App, opened: socket.socket) -> None:
        self._socket = opened
        # the application has an access log, and nothing to start or stop
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_FINISH_S,
        )
        self._server = uvicorn.Server(config)

    async def serve(self) -> None:
        """Until `stop`."""
        await self._server.serve(sockets=[self._socket])

    async def stop(self, serving: asyncio.Task[None]) -> None:
        """Take no more requests, and let those that are at work finish."""
        self._server.should_exit = True
        await asyncio.wait([serving], timeout=_FINISH_S + 1)
