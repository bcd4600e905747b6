"""A devnet in a process of its own, so that its CPU time does not count as the client's.

with DevnetProcess(miners=16, task_seconds=2.0) as net:
    ...  # net.url, net.api_key, net.stats(), net.add_miners(8)
"""

from __future__ import annotations

import asyncio
import io
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class DevnetProcess:
    """A context manager; the arguments are those of `Devnet`.

    `engine="dot"` takes almost no time, `engine="repeat"` little memory, `engine="jpeg"` little of both;
    `engine="model"` upscales by a model, as `xalora devnet` does.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self.url = self.api_key = ""

    def __enter__(self) -> DevnetProcess:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), json.dumps(self._options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url, self.api_key = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def stats(self) -> dict[str, Any]:
        """The devnet's counts; also in seconds `cpu`, its processor time, and `busy`, the span from the first
        create since the last call to the last submitted result.
        """
        return self._ask("stats")

    def add_miners(self, count: int) -> dict[str, Any]:
        """Start more miners; returns `stats`."""
        return self._ask(f"miners {count}")

    def kill_miners(self, count: int) -> None:
        """Stop this number of miners without notice, those with a task first."""
        self._ask(f"kill {count}")

    def set_faults(self, fault: str) -> None:
        """Replace all faults by this one, in its text form; by none where it is empty."""
        self._ask(f"fault {fault}")

    def _ask(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = self._read()
        return answer

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The devnet ended")
        return json.loads(line)


class DotEngine:
    """Returns the same small PNG for every task."""

    def __init__(self) -> None:
        from PIL import Image

        file = io.BytesIO()
        Image.new("RGB", (8, 8), (90, 60, 30)).save(file, "PNG")
        self._dot = file.getvalue()

    def run(self, task: object) -> tuple[bytes, str]:
        return self._dot, ".png"


class RepeatEngine:
    """Doubles an image by repeating its pixels, in 8 bits: LANCZOS of a large one takes 12 GB."""

    def run(self, task: Any) -> tuple[bytes, str]:
        from xalora_client.media.inputs import sent_pixels
        from xalora_client.media.png_encode import encode_png

        pixels = sent_pixels(task.image)
        return encode_png(pixels.repeat(2, 0).repeat(2, 1), threads=1), ".png"


class JpegEngine:
    """Doubles an image by repeating its pixels, as JPEG of quality 98, which the public miner sends."""

    def run(self, task: Any) -> tuple[bytes, str]:
        from PIL import Image

        from xalora_client.media.inputs import sent_pixels

        file = io.BytesIO()
        pixels = sent_pixels(task.image)
        doubled = Image.fromarray(pixels.repeat(2, 0).repeat(2, 1))
        doubled.save(file, "JPEG", quality=98, subsampling=0)
        return file.getvalue(), ".jpg"


class Span:
    """From the first create to the last end of a task, in seconds."""

    def __init__(self) -> None:
        self._known: tuple[int, int] | None = None
        self.first: float | None = None
        self.last = 0.0

    def note(self, stats: dict[str, Any]) -> bool:
        ended = sum(stats["tasks"][status] for status in ("finished", "failed", "canceled"))
        now = time.monotonic()
        if self._known is not None and stats["creates"] > self._known[0] and self.first is None:
            self.first = now
        if self._known is not None and ended > self._known[1]:
            self.last = now
        self._known = stats["creates"], ended
        return False

    def taken(self) -> float:
        span = 0.0 if self.first is None else max(0.0, self.last - self.first)
        self.first = None
        return span


async def serve(options: dict[str, Any]) -> None:
    from xalora_client.devnet import Devnet

    engines = {"dot": DotEngine, "repeat": RepeatEngine, "jpeg": JpegEngine}
    if options.get("engine") in engines:
        options["engine"] = engines[options["engine"]]()
    if options.get("engine") == "model":
        from xalora_client.devnet.model_engine import ModelEngine, network_options

        options |= network_options(ModelEngine(miners=options["miners"]))
    async with Devnet(**options) as devnet:
        span = Span()
        # The condition never holds, so it is checked after every change until the devnet ends.
        watching = asyncio.create_task(devnet.wait_for(span.note, timeout=1e6))
        print(json.dumps([devnet.url, devnet.api_key]), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, _, given = line.strip().partition(" ")
            if what == "miners":
                for _ in range(int(given)):
                    devnet.add_miner()
            elif what == "kill":
                for _ in range(min(int(given), len(devnet.miners))):
                    devnet.kill_miner()
            elif what == "fault":
                devnet.clear_faults()
                if given:
                    devnet.add_fault(given)
            used = resource.getrusage(resource.RUSAGE_SELF)
            figures = {"cpu": used.ru_utime + used.ru_stime, "busy": span.taken()}
            print(json.dumps({**devnet.stats(), **figures}), flush=True)
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
