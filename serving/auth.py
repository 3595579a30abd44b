"""Who may ask: API keys from the environment, compared in constant time, each with its own rate."""

from __future__ import annotations

import hmac
import ipaddress
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pipeline.errors import RayrieverError
from pipeline.recipe import ServeSection
from serving.errors import ApiError, overloaded

_LOOPBACK_NAMES = ("localhost",)
# Callers whose rates are remembered
_MOST_CALLERS = 10_000


def keys_from_environment(variable: str) -> tuple[str, ...]:
    """The keys, without blanks. Raises RayrieverError for one that is easily guessed."""
    keys = tuple(key.strip() for key in os.environ.get(variable, "").split(",") if key.strip())
    short = [key for key in keys if len(key) < 16]
    if short:
        raise RayrieverError(
            f"serve: a key in {variable} has fewer than 16 characters. Take longer ones, such as those of "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return keys


def check_exposure(host: str, keys: Sequence[str], variable: str, insecure: bool) -> None:
    """Raise RayrieverError for a server that others could reach without any key."""
    if keys or insecure or is_loopback(host):
        return
    raise RayrieverError(
        f"serve: listening on {host} without an API key would let everybody in. Set {variable} to one or more keys, "
        "separated by commas; or serve on 127.0.0.1; or say --insecure."
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass
class _Bucket:
    tokens: float
    filled: float  # when


class Rates:
    """A token bucket per caller: so many requests a minute, a tenth of them at once."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: str) -> None:
        """Raises ApiError (429) with the time until the next request may come."""
        if self._per_minute is None:
            return
        now, per_second = self._clock(), self._per_minute / 60
        burst = max(1.0, self._per_minute / 10)
        bucket = self._buckets.pop(caller, None) or _Bucket(burst, now)
        bucket.tokens = min(burst, bucket.tokens + (now - bucket.filled) * per_second)
        bucket.filled = now
        self._buckets[caller] = bucket  # last: the first ones have been quiet longest
        if len(self._buckets) > _MOST_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / per_second
            raise overloaded(wait, f"More than {self._per_minute:,} requests per minute. Try again in {wait:.0f} s.")
        bucket.tokens -= 1


def keys_for(section: ServeSection, insecure: bool) -> Sequence[str]:
    """The keys of the environment. Raises RayrieverError as `keys_from_environment` and `check_exposure` do."""
    keys = keys_from_environment(section.keys_variable)
    check_exposure(section.host, keys, section.keys_variable, insecure)
    return keys


class Keys:
    """The accepted keys. Where there are none, everybody is let in."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [sha256(key.encode()).digest() for key in keys]

    @property
    def required(self) -> bool:
        return bool(self._digests)

    def caller(self, authorization: str | None, address: str) -> str:
        """Who asks, for rates and logs: a few digits of the key's digest, or the address where no key is needed.

        Raises ApiError (401) without a key that is accepted.
        """
        if not self.required:
            return address
        given = sha256(_bearer(authorization).encode("utf-8", "surrogateescape")).digest()
        # every key is compared: the time says nothing about which one was near
        if not sum(hmac.compare_digest(given, digest) for digest in self._digests):
            raise _unauthorized("This API key is not accepted.", "invalid_api_key")
        return f"key-{given.hex()[:8]}"


def _bearer(authorization: str | None) -> str:
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthorized("No API key: send the header Authorization: Bearer KEY.", "missing_api_key")
    return key.strip()


def _unauthorized(message: str, code: str) -> ApiError:
    return ApiError(401, message, code, headers={"WWW-Authenticate": 'Bearer realm="rayriever"'})
