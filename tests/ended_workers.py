"""Decoding workers that end while they are asked."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from xalora_client.media import workers


def end_workers(times: int, patched: pytest.MonkeyPatch) -> list[int]:
    """Have the next workers end when they are asked, as if killed for want of memory; their pids."""
    ended: list[int] = []
    request = workers._Worker.request

    def end_and_request(worker: workers._Worker, *arguments: Any) -> None:
        if len(ended) < times:
            ended.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            worker._process.wait()
        request(worker, *arguments)

    patched.setattr(workers._Worker, "request", end_and_request)
    return ended
