"""One server and key: a request out, and what came of it. The key is read from the environment where it is used."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pipeline.errors import RayrieverError
from pipeline.llm.engines.lane import Lane, Outcome, Place
from pipeline.llm.requests import Sampling
from pipeline.llm.responses import Answer, failure
from pipeline.recipe import EndpointSection, LlmSection

if TYPE_CHECKING:
    import aiohttp

OPENAI_URL = "https://api.openai.com/v1"
CHAT_PATH = "/chat/completions"
# Besides these and 5xx, asking again brings the same answer.
_PASSING = {408, 409, 425, 429}
_LONGEST_PAUSE_S = 30.0  # some tell when the day's rate begins anew
_REACH_S = 10.0  # seconds a server may take to say that it is there
_SHOWN_BYTES = 1000  # of an error that is no JSON


@dataclass(frozen=True)
class Address:
    """Where an endpoint is, and the variable that holds its key; the key itself is in no argument, error or log."""

    base_url: str | None
    api_key_env: str

    @property
    def url(self) -> str:
        return (self.base_url or OPENAI_URL).rstrip("/")

    def key(self) -> str:
        """Raises RayrieverError where OpenAI itself is asked without a key."""
        key = os.environ.get(self.api_key_env, "")
        if not key and self.base_url is None:
            raise RayrieverError(
                f"llm: no API key. Set the environment variable {self.api_key_env}, or llm.base_url to a server "
                "without."
            )
        return key or "none"

    def headers(self) -> dict[str, str]:
        """Of every request. Whom OpenAI bills is told by the variables that its own client reads."""
        headers = {"Authorization": f"Bearer {self.key()}", "Content-Type": "application/json"}
        if self.base_url is None:
            billed = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
            headers |= {name: os.environ[variable] for name, variable in billed.items() if os.environ.get(variable)}
        return headers


def addresses(section: LlmSection) -> list[Address]:
    """The section's endpoints, or the one of `base_url`."""
    listed = section.endpoints or ()
    return [_address(each) for each in listed] or [Address(section.base_url, section.api_key_env)]


def _address(section: EndpointSection) -> Address:
    return Address(section.base_url, section.api_key_env)


def check(address: Address) -> None:
    """Raise RayrieverError when the key is missing or refused, or no server is there."""
    import openai

    try:
        with openai.OpenAI(api_key=address.key(), base_url=address.url, timeout=_REACH_S, max_retries=0) as client:
            client.models.list()
    except openai.AuthenticationError as error:
        raise RayrieverError(
            f"llm: {address.url} refuses the key ({error.status_code}). Set {address.api_key_env} to a valid one."
        ) from error
    except openai.APIConnectionError as error:
        raise RayrieverError(
            f"LLM server {address.url} cannot be reached: {error.__cause__ or error} Start it, or mend llm.base_url."
        ) from error
    except openai.APIError:
        return  # it is there; many servers do not list their models


@dataclass(frozen=True)
class Attempt:
    """What came of a request that went out once."""

    answer: Answer
    passing: bool = False  # it failed, and may succeed when asked again
    turned_away: bool = False  # passing, and no fault of the request: the server has enough to do
    after_s: float | None = None  # the server asked to wait so long


class Endpoint:
    """A server's connections, and the lane that says how many of them may be used.

    They are aiohttp's: with the openai package on top of it an actor takes a third more CPU for a request.
    """

    def __init__(self, address: Address, section: LlmSection) -> None:
        self.lane = Lane(section.concurrency)
        self._section, self._address, self._key = section, address, address.key()
        self._session: aiohttp.ClientSession | None = None  # belongs to the event loop that first asks

    def _connected(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._address.headers(),
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_REACH_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,  # proxies
            )
        return self._session

    async def ask(self, request: dict[str, Any], place: Place) -> Attempt:
        """Send an LLM_REQUEST row once, and leave the place, which is one of this endpoint's lane."""
        began = time.monotonic()
        outcome: Outcome = "refused"
        attempt = Attempt(failure(request["request_id"], "cancelled", 1))
        try:
            outcome, attempt = await self._outcome(request)
        finally:
            place.leave(outcome, time.monotonic() - began, attempt.after_s)
        return attempt

    async def _outcome(self, request: dict[str, Any]) -> tuple[Outcome, Attempt]:
        import aiohttp

        request_id = request["request_id"]
        try:
            # A limit of the client's starts anew with every byte: a server that drips would hold the place for ever.
            async with asyncio.timeout(self._section.timeout_s):
                body = json.dumps(chat_parameters(request, self._section, self._address)).encode()
                async with self._connected().post(self._address.url + CHAT_PATH, data=body) as response:
                    content = await response.read()
            # Send nothing more while the server says that a rate is used up, also where it has just answered.
            if (wait_s := _reset_s(response.headers)) is not None:
                self.lane.pause(min(wait_s, _LONGEST_PAUSE_S))
            if response.status >= 400:
                return self._status(request_id, response.status, response.headers, content)
            return "answered", Attempt(read_completion(request_id, json.loads(content)))
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            return "down", Attempt(failure(request_id, self._reason(error), 1), passing=True)
        except TimeoutError:
            reason = f"no answer within {self._section.timeout_s:g} s (llm.timeout_s)"
            return "late", Attempt(failure(request_id, reason, 1), passing=True)
        except (aiohttp.ClientError, *NO_COMPLETION) as error:
            # a proxy's web page, or JSON that is no chat completion
            return "refused", Attempt(failure(request_id, f"not a chat completion: {self._reason(error)}", 1))

    def _status(
        self, request_id: str, status: int, headers: Mapping[str, str], content: bytes
    ) -> tuple[Outcome, Attempt]:
        code, message = _error(content)
        failed = failure(request_id, self._without_key(f"HTTP {status}: {message}"), 1)
        # A quota that is used up is told as 429, too, and no waiting mends it.
        passing = (status in _PASSING or status >= 500) and code != "insufficient_quota"
        outcome: Outcome = "refused"
        if passing:
            # 503 is how many servers say that they have enough to do.
            outcome = "busy" if status in (429, 503) else "down" if status >= 500 else "refused"
        return outcome, Attempt(failed, passing, outcome == "busy", _after_s(headers))

    def _reason(self, error: Exception) -> str:
        return self._without_key(f"{type(error).__name__}: {error}")

    def _without_key(self, text: str) -> str:
        """Some servers repeat the key that they refuse."""
        return text.replace(self._key, "***") if self._key != "none" else text


def _error(content: bytes) -> tuple[str, str]:
    """Code and message of a server's refusal, in OpenAI's form or in any other."""
    text = content[:_SHOWN_BYTES].decode(errors="replace").strip()
    try:
        error = json.loads(content)["error"]
        return str(error.get("code")), str(error.get("message") or text)
    except NO_COMPLETION:
        return "", text


def _after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            return max(0.0, float(headers[name]) / divisor)
        except (KeyError, ValueError):
            continue
    try:
        date = parsedate_to_datetime(headers["retry-after"])
        return max(0.0, (date - datetime.now(date.tzinfo)).total_seconds())
    except (KeyError, ValueError):
        return _reset_s(headers)


def _reset_s(headers: Mapping[str, str]) -> float | None:
    """Seconds until rates that are used up have room again, the last of them; None where none is."""
    resets = [
        _seconds(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}") == "0"
    ]
    return max(resets, default=None)


def _seconds(duration: str) -> float:
    """Of a duration such as 6m0s or 20ms."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|[smh])", duration))


def refuse_ranked_choices(sampling: Sampling, section: LlmSection) -> None:
    """Raise RayrieverError for a request whose answer takes likelihoods, which not every server gives."""
    if sampling.ranks_choices:
        raise RayrieverError(
            f"permutations.method setwise: engine {section.engine!r} gives no likelihoods of letters. Use llm.engine "
            "transformers or vllm, or permutations.method listwise."
        )


def chat_parameters(request: dict[str, Any], section: LlmSection, address: Address) -> dict[str, Any]:
    """An LLM_REQUEST row as the body of a request for a chat completion."""
    sampling = Sampling.from_json(request["sampling"])
    refuse_ranked_choices(sampling, section)
    # OpenAI's newer models refuse `max_tokens`, other servers know nothing else
    limit = "max_tokens" if address.base_url else "max_completion_tokens"
    body = {
        "model": section.model,
        "messages": json.loads(request["messages"]),
        "temperature": sampling.temperature,
        limit: sampling.max_tokens,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.choices:
        body["structured_outputs"] = {"choice": list(sampling.choices)}
    if section.chat_template:
        body["chat_template_kwargs"] = section.chat_template
    return body


# What reading something else than a chat completion raises.
NO_COMPLETION = (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError)
_MOST_TOKENS = 10**9  # that one answer can have taken


def read_completion(request_id: str, completion: Any) -> Answer:
    """The answer in the JSON of a chat completion, or the failure that a server tells of in that form.

    Raises one of NO_COMPLETION where it is none, so that whatever is returned can be stored.
    """
    choice, usage = completion["choices"][0], completion.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    ended = _text(choice.get("finish_reason") or "stop")
    if ended == "error":
        return failure(request_id, f"the server broke off: {_text(str(choice.get('error') or 'error'))}", 1)
    return Answer(
        request_id=request_id,
        text=_text(choice["message"].get("content") or ""),
        finish_reason=ended,
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        attempts=1,
        tokens_cached=_count(details.get("cached_tokens")),
    )


def _text(content: Any) -> str:
    """Text as Parquet can hold it: JSON may spell half of a surrogate pair, which is no character."""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if not isinstance(content, str):
        raise TypeError(f"text expected, found {type(content).__name__}")
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(number: Any) -> int:
    if not 0 <= (counted := int(number or 0)) <= _MOST_TOKENS:
        raise ValueError(f"{counted} tokens")
    return counted
