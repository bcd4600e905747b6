"""20 MB of pixels inside a create request: streamed into its JSON, against aiohttp's `json=`.

Both post the same request to a server in another process on this machine, which reads and drops it. The stall
is the longest time for which the event loop could do nothing else: no poll, no progress, no cancel. Every
contestant is a warm process of its own; rounds in turn, medians. Peak is what the process takes beyond the
image itself.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from _report import Report
from _worker import Round, Worker, in_turn, middle, ratio, serve, started

MEGABYTES = 20
ROUNDS = 9
TICK = 0.001

SERVER = """
import asyncio
async def answer(reader, writer):
    head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode().lower()
    left = int(head.partition("content-length:")[2].split()[0])
    while left:
        left -= len(await reader.read(min(left, 1 << 20)))
    body = b'{"task_id": "t-1"}'
    writer.write(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 18\\r\\n\\r\\n" + body)
    await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


# --- contestants, each in a process of its own ---


def image() -> bytes:
    return os.urandom(MEGABYTES * 1_000_000)


def prepare_ours(arguments: Sequence[str]) -> Callable[[], Round]:
    from xalora_client.config import Credentials
    from xalora_client.network.sessions import create_session, shared_session
    from xalora_client.network.transport import InlineImage, Transport

    inlined = InlineImage("image/png", image())

    async def post(picture: InlineImage) -> Round:
        async with shared_session() as requests, create_session() as creates:
            transport = Transport(requests, creates, requests, arguments[0], 60)
            return await measured(
                transport.post(
                    "task_create",
                    Credentials("a", "b"),
                    consumer_id="a",
                    job_id="sdk-workflow-0123456789",
                    task_type="upscaler",
                    task_details={"parameters": {"image": picture}},
                )
            )

    asyncio.run(post(InlineImage("image/png", b"warm")))
    return lambda: asyncio.run(post(inlined))


def prepare_json(arguments: Sequence[str]) -> Callable[[], Round]:
    from base64 import b64encode

    import aiohttp

    pixels = image()

    async def send(session: aiohttp.ClientSession, picture: bytes) -> None:
        uri = f"data:image/png;base64,{b64encode(picture).decode()}"
        body = {
            "consumer_id": "a",
            "api_key": "b",
            "task_type": "upscaler",
            "task_details": {"parameters": {"image": uri}},
            "job_id": "sdk-workflow-0123456789",
        }
        async with session.post(f"{arguments[0]}/task_create", json=body) as answer:
            assert (await answer.json(content_type=None))["task_id"]

    async def post(picture: bytes) -> Round:
        async with aiohttp.ClientSession() as session:
            return await measured(send(session, picture))

    asyncio.run(post(b"warm"))
    return lambda: asyncio.run(post(pixels))


async def measured(sending: Coroutine[Any, Any, Any]) -> Round:
    """One request beside a clock on the same event loop."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK)
            longest = max(longest, time.perf_counter() - began - TICK)

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    began = time.perf_counter()
    await sending
    whole = time.perf_counter() - began
    # Once more, so that a stall up to the last moment is seen.
    await asyncio.sleep(2 * TICK)
    ticking.cancel()
    return {"stall": longest, "seconds": whole}


WORKERS = {"ours": prepare_ours, "json": prepare_json}


# --- the comparison ---


def main() -> None:
    script = str(Path(__file__).resolve())
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("upload", f"{MEGABYTES} MB of pixels in a create request", method)
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        workers = {
            "ours, streamed": Worker(script, "ours", url),
            "aiohttp, json=": Worker(script, "json", url),
        }
        with started(workers) as ready:
            taken = in_turn(ready, ROUNDS)
    finally:
        server.kill()
        server.wait()

    ours, peer = taken["ours, streamed"], taken["aiohttp, json="]
    figures: dict[str, dict[str, float]] = {
        name: {
            "stall": 1000 * middle(rounds, "stall"),
            "peak": max(float(one["peak_mb"]) for one in rounds),
            "all": 1000 * middle(rounds),
            "cpu": 1000 * middle(rounds, "cpu"),
        }
        for name, rounds in taken.items()
    }
    report.table(
        ["way", "longest stall, ms", "peak, MB", "whole request, ms", "CPU, ms"],
        [
            [name, f"{one['stall']:.1f}", f"{one['peak']:.1f}", f"{one['all']:.0f}", f"{one['cpu']:.0f}"]
            for name, one in figures.items()
        ],
    )
    report.note(
        f"json= stalls {ratio(peer, ours, 'stall'):.0f} times as long and takes "
        f"{ratio(peer, ours):.1f} times as long in all (medians over pairs of a round)."
    )
    report.target("peak of the streamed request", figures["ours, streamed"]["peak"], 5, unit=" MB")
    panels: dict[str, Any] = {
        "stall": ("longest stall", "ms"),
        "peak": ("peak memory", "MB"),
        "all": ("whole request", "ms"),
    }
    for key, (title, unit) in panels.items():
        report.bars(title, {name: one[key] for name, one in figures.items()}, unit)
    report.raw(rounds=taken)
    report.finish()


if __name__ == "__main__" and not serve(WORKERS):
    main()
