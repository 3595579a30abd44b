"""What stands before every route: overload, body size, deadline, keys, one log line. Plain ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.auth import Keys, Rates
from serving.errors import ApiError, internal, overloaded
from serving.metrics import Metrics
from serving.tracing import request_span

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Answered to everybody: probes, and the page, which asks for the key itself
OPEN = re.compile(r"/(|docs|health|livez|readyz|assets/[\w.-]+)")
# Answered also while there is too much to do
_ALWAYS = ("/health", "/livez", "/readyz", "/metrics")
_ACCESS = logging.getLogger("rayriever.access")
_LOGGER = logging.getLogger("rayriever.serve")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application around another.

    Args:
        most: requests at work at once; what comes beyond is refused before its body is read.
        deadline_s: after which the work is cancelled and the client told so.
        body_bytes: largest body.
    """

    def __init__(
        self, app: App, keys: Keys, rates: Rates, metrics: Metrics, most: int, deadline_s: float, body_bytes: int
    ) -> None:
        self._app, self._keys, self._rates, self._metrics = app, keys, rates, metrics
        self._most, self._deadline_s, self._body_bytes = most, deadline_s, body_bytes
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._body_bytes)
        began = time.perf_counter()
        try:
            with request_span(exchange.headers) as span:
                await self._answer(scope, exchange)
                span.set_attributes(exchange.attributes())
        finally:
            exchange.log(time.perf_counter() - began, self._metrics)

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        try:
            self._admit(scope, exchange)
        except ApiError as error:
            await exchange.refuse(error)
            return
        self._at_work += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._app(scope, exchange.receive, exchange.send)
        except TimeoutError:
            await exchange.refuse(
                ApiError(504, f"No answer within {self._deadline_s:g} s; the work was given up.", "deadline_exceeded")
            )
        except ApiError as error:
            await exchange.refuse(error)
        except Exception:
            _LOGGER.exception("request %s failed", exchange.request_id)
            await exchange.refuse(internal(exchange.request_id))
        finally:
            self._at_work -= 1

    def _admit(self, scope: Scope, exchange: _Exchange) -> None:
        path = scope["path"]
        if not OPEN.fullmatch(path):
            address = (scope.get("client") or ("unknown",))[0]
            exchange.caller = self._keys.caller(exchange.header("authorization"), address)
            self._rates.take(exchange.caller)
        length = exchange.header("content-length")
        if length is not None and length.isdigit() and int(length) > self._body_bytes:
            raise too_large(self._body_bytes)
        if self._at_work >= self._most and path not in _ALWAYS:
            raise overloaded(1, "Too many requests at the moment. Try again in a second.")


def too_large(most: int) -> ApiError:
    return ApiError(413, f"The body is larger than {most / 1e6:g} MB.", "body_too_large")


class _Exchange:
    """One request and its answer as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, body_bytes: int) -> None:
        self._receive, self._send, self._body_bytes = receive, send, body_bytes
        self._method, self._scope = scope["method"], scope
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.header("x-request-id") or ""
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = self.request_id
        self.caller, self._status, self._read = "-", 0, 0

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    async def receive(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > self._body_bytes:
            raise too_large(self._body_bytes)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = {**_SECURITY, "x-request-id": self.request_id}
            kept = [(name, value) for name, value in message.get("headers", []) if name.decode("latin-1") not in own]
            message["headers"] = [*kept, *((name.encode(), value.encode()) for name, value in own.items())]
        await self._send(message)

    async def refuse(self, error: ApiError) -> None:
        """Send the error, unless the answer has begun: then the connection breaks, and the client knows."""
        if self._status:
            return
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        start = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": start})
        await self.send({"type": "http.response.body", "body": body})

    def attributes(self) -> dict[str, str | int]:
        """Of its span, in OpenTelemetry's names."""
        return {
            "http.request.method": self._method,
            "http.route": self._route(),
            "http.response.status_code": self._status,
            "rayriever.request": self.request_id,
        }

    def _route(self) -> str:
        """Never what the client sent: there may be any number of such paths."""
        return getattr(self._scope.get("route"), "path", None) or "other"

    def log(self, seconds: float, metrics: Metrics) -> None:
        path = self._route()
        metrics.request(path, self._status, seconds)
        line = {
            "request": self.request_id,
            "caller": self.caller,
            "method": self._method,
            "route": path,
            "status": self._status,
            "ms": round(1000 * seconds, 1),
            "bytes_in": self._read,
        }
        _ACCESS.info(json.dumps(line))
