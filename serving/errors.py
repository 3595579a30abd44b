"""What a client is told when a request cannot be answered: OpenAI's error body on every route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ApiError(Exception):
    """An answer that is an error. Its text is written for the client: no path, no trace, nothing of the inside."""

    status: int
    message: str
    code: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": _TYPES[self.status], "param": self.param, "code": self.code}}


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "server_error",
    504: "timeout_error",
}


def internal(request_id: str) -> ApiError:
    return ApiError(500, f"Something went wrong here. Request {request_id} is in the log.", "internal")


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, code, param)


def unknown_model(name: str, known: list[str]) -> ApiError:
    return ApiError(
        404, f"model {shown(name)}: not served here; there is {', '.join(known)}.", "model_not_found", "model"
    )


def overloaded(retry_after_s: float, message: str) -> ApiError:
    return ApiError(429, message, "rate_limit_exceeded", headers={"Retry-After": str(max(1, round(retry_after_s)))})


def shown(text: str, most: int = 80) -> str:
    """A client's own text inside a message: printable, and not the whole of it."""
    plain = "".join(each if each.isprintable() else "?" for each in text[:most])
    return f"'{plain}'" if len(text) <= most else f"'{plain}...'"
