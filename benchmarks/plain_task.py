"""What one plain task costs inside: write transactions of the journal, functions and lines run through.

A task whose result is fetched and dropped at once, with nobody else on the journal. Functions and lines are
those of `xalora_client`, in all threads, from the call of `run` to its return; each counts once.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from xalora_client import UpscalerTask, Xalora
from xalora_client.devnet import DevnetThread

PACKAGE = str(Path(sys.modules["xalora_client"].__file__ or "").parent)
LEFT_OUT = ("devnet",)


class Trace:
    """Counts functions and lines of the package, in the thread that starts it and in all that begin later."""

    def __init__(self) -> None:
        self.functions: set[tuple[str, int]] = set()
        self.lines: set[tuple[str, int]] = set()
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(PACKAGE) or path[len(PACKAGE) + 1 :].startswith(LEFT_OUT):
            return None
        if event == "call":
            self.functions.add((path, frame.f_code.co_firstlineno))
        elif event == "line":
            self.lines.add((path, frame.f_lineno))
        self.files.add(path)
        return self


def count_commits(counts: list[int]) -> None:
    """Have every connection of this process count its commits of a change."""
    connect = sqlite3.connect

    def counting(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(
            lambda sql: counts.append(1) if sql.strip().upper() == "COMMIT" else None
        )
        return connection

    sqlite3.connect = counting  # type: ignore[assignment]


def main() -> None:
    commits: list[int] = []
    count_commits(commits)
    with tempfile.TemporaryDirectory() as folder, DevnetThread(miners=1, task_seconds=0.5) as devnet:
        options = {"state_dir": folder, "fallback": "never"}
        image = np.zeros((8, 8, 3), np.uint8)
        trace = Trace()
        threading.settrace(trace)
        with Xalora(devnet.api_key, devnet.url, **options) as client:
            # The first one opens the journal and the connections.
            client.run(UpscalerTask(image=image))
            client.journal.flushed().result(10)
            commits.clear()
            trace.functions.clear()
            trace.lines.clear()
            trace.files.clear()
            client.run(UpscalerTask(image=image + 1))
            client.journal.flushed().result(10)
            print(f"write transactions  {len(commits)}")
            print(f"functions           {len(trace.functions)}")
            print(f"lines               {len(trace.lines)}")
            print(f"files               {len(trace.files)}")
        threading.settrace(None)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
