"""A chat server of fixed latency that takes so many requests at a time.

Run as a process of its own, it prints its port, and answers `GET /counts` with what it has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from contextlib import suppress

ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "stub",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "an answer"}}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
}


class Stub:
    """Counts of what was asked and answered; times are of this process's clock."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.chance = arguments, random.Random(0)
        self.at_work = self.turned_away = self.failed = self.hung = 0
        self.answered: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.first = self.last = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Requests of one connection, one after another."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                sizes = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
                body = await reader.readexactly(int(sizes[0])) if sizes else b""
                status, content = await self.answer(lines[0], body)
                reply = json.dumps(content).encode()
                headers = [f"HTTP/1.1 {status} x", "Content-Type: application/json", f"Content-Length: {len(reply)}"]
                writer.write("\r\n".join([*headers, "", ""]).encode() + reply)
                await writer.drain()
        writer.close()

    async def answer(self, request: str, body: bytes) -> tuple[int, dict[str, object]]:
        if request.startswith("GET"):
            return 200, self.counts() if "/counts" in request else {"object": "list", "data": []}
        name = json.loads(body)["messages"][-1]["content"]
        self.first = self.first or time.perf_counter()
        self.asked[name] += 1
        fate = self.chance.random()
        if self.at_work >= self.arguments.concurrent or fate < self.arguments.busy:
            self.turned_away += 1
            return 429, {"error": {"message": "too many"}}
        self.at_work += 1
        try:
            fate -= self.arguments.busy
            if fate < self.arguments.broken:
                self.failed += 1
                return 500, {"error": {"message": "broken"}}
            if fate < self.arguments.broken + self.arguments.hangs:
                self.hung += 1
                self.at_work -= 1  # it was lost: nothing works on it
                try:
                    await asyncio.sleep(60)
                finally:
                    self.at_work += 1
            await asyncio.sleep(self.arguments.latency_s)
        finally:
            self.at_work -= 1
        self.answered[name] += 1
        self.last = time.perf_counter()
        return 200, ANSWER

    def counts(self) -> dict[str, object]:
        return {
            "seconds": self.last - self.first,
            "requests": sum(self.asked.values()),
            "answered": len(self.answered),
            "answered_twice": sum(count > 1 for count in self.answered.values()),
            "turned_away": self.turned_away,
            "failed": self.failed,
            "hung": self.hung,
        }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-s", type=float, default=0.2)
    parser.add_argument("--concurrent", type=int, default=64)
    parser.add_argument("--busy", type=float, default=0.0, help="share of requests turned away at random")
    parser.add_argument("--broken", type=float, default=0.0, help="share of requests that fail with 500")
    parser.add_argument("--hangs", type=float, default=0.0, help="share of requests that are never answered")
    server = await asyncio.start_server(Stub(parser.parse_args()).serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
