"""How a body is read: one parser for all dialects, with an error that a client can act on."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.errors import ApiError, bad_request


class Body(BaseModel):
    """What clients send. Unknown keys are ignored: clients send more than the protocols have."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=(), allow_inf_nan=False)


B = TypeVar("B", bound=Body)


def parse(kind: type[B], content: bytes) -> B:
    """Raises ApiError (400) that names the field."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise _explained(error) from None


def _explained(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return bad_request("The body is not JSON.", code="invalid_json")
    # Alternatives of a union end a place with their own names
    place = ".".join(str(part) for part in first["loc"] if not _is_alternative(part))
    return bad_request(f"{place or 'body'}: {first['msg']}.", place or None)


def _is_alternative(part: Any) -> bool:
    return isinstance(part, str) and (part in ("str", "int") or "[" in part)
