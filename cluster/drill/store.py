"""An S3 API on this machine, whose credentials can expire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from pyarrow import fs

from pipeline.errors import RayrieverError

BUCKET = "library"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "drill", "AWS_SECRET_ACCESS_KEY": "drill", "AWS_DEFAULT_REGION": "us-east-1"}
_EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
)


class Store:
    """Context manager: a server with an empty bucket, in memory.

    Attributes:
        is_expired: every request is refused as long as it is set, as with a session token that is too old.

    Raises RayrieverError without moto.
    """

    def __init__(self) -> None:
        try:
            from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        except ImportError as error:
            raise RayrieverError("drill: needs an S3 server: pip install 'rayriever[drill]'") from error
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                return

        self.is_expired = False
        self._answer = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._let_in, threaded=True, request_handler=Quiet)

    def uri(self, folder: str) -> str:
        """Of a workspace."""
        return f"s3://{BUCKET}/{folder}?endpoint_override=127.0.0.1:{self._server.server_port}&scheme=http"

    def _let_in(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if not self.is_expired:
            answer: Iterable[bytes] = self._answer(request, start)
            return answer
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        start("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(_EXPIRED)))])
        return [_EXPIRED]

    def __enter__(self) -> Store:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        bucket = f"{self.uri('')}&allow_bucket_creation=true"
        filesystem, path = fs.FileSystem.from_uri(bucket)
        filesystem.create_dir(path.split("/")[0])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
