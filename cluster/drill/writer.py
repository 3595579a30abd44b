"""A server that answers like a (dull) language model, counts what it has answered, and can be cut off."""

from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_DELAY_S = 0.4  # of an answer: so that some are in flight when something happens, and others have been stored


def written_for(prompt: str) -> str:
    """An answer to one of the pipeline's own prompts, always the same; some are no answer, as a model's."""
    chance = zlib.crc32(prompt.encode())
    if "Answer with one word only" in prompt:
        return "no"
    if "Is this passage relevant" in prompt:
        return ("yes", "yes", "no", "well, perhaps")[chance % 4]
    if "Which passage is more relevant" in prompt:
        return ("A", "B", "Passage B.", "neither", "hard to say")[chance % 5]
    if "[number]" in prompt:
        return _ranking(prompt)
    if "Write one short question" in prompt:
        title = prompt.split('"""')[1].split(" The ")[0]
        return f"What is the {title}?" if chance % 5 else "I do not know."
    query = prompt.split("Question: ")[1].split("\n")[0]
    return f"This passage number {chance % 1000} says much about {query[:60]} and its many friends."


def _ranking(prompt: str) -> str:
    """By the words that passage and query share."""
    passages = re.findall(r"<passage (\d+)>\n(.*)\n", prompt)
    if len(prompt) % 7 == 0 or not passages:
        return "I cannot rank these."
    query = _words(prompt.splitlines()[0])
    ranked = sorted(passages, key=lambda each: -len(query & _words(each[1])))
    return " > ".join(f"[{number}]" for number, _ in ranked)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def completion(text: str, prompt: str) -> str:
    """Of OpenAI's chat API, as JSON."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split()), "total_tokens": 0}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    about = {"id": "1", "object": "chat.completion", "created": 0, "model": "writer"}
    return json.dumps({**about, "choices": choices, "usage": usage})


@dataclass
class Writer:
    """Context manager; listens on this machine only.

    Attributes:
        answered: prompts, and when each was, by the monotonic clock.
        is_cut: connections end without an answer as long as it is set.
    """

    answered: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    is_cut: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"writer": self}))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answers(self, until: float = math.inf) -> int:
        """How many it has given."""
        with self._lock:
            return sum(when <= until for times in self.answered.values() for when in times)

    def again(self, until: float = math.inf) -> int:
        """Prompts that it has answered again, of those that it had answered by then."""
        with self._lock:
            return sum(len(times) > 1 and times[0] <= until for times in self.answered.values())

    def answer(self, prompt: str) -> str:
        time.sleep(_DELAY_S)
        with self._lock:
            self.answered[prompt].append(time.monotonic())
        return completion(written_for(prompt), prompt)

    def __enter__(self) -> Writer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked is dead by now
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    writer: Writer

    def log_message(self, format: str, *args: Any) -> None:
        return

    def do_GET(self) -> None:
        self._send(json.dumps({"object": "list", "data": [{"id": "writer", "object": "model"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.writer.is_cut:
            self.close_connection = True
            return
        self._send(self.writer.answer(body["messages"][-1]["content"]))

    def _send(self, text: str) -> None:
        content = text.encode()
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:  # who asked is dead by now
            self.close_connection = True
