"""64 tasks over 1, 2 and 4 workers of a cluster on this machine, and the same over the devnet's miners.

A task's input comes 0.2 s after a worker has asked for it, from an HTTP server in the benchmark's process;
then LANCZOS doubles its 8x8 pixels. So a task takes at least 0.2 s, and hardly any processor time. The wall
time is that from the first create until the last status "finished", asked for every 20 ms; the ideal is 0.2 s
for each task, over all workers. The overhead is what a worker loses on each task besides: (wall - ideal) *
workers / tasks. Cluster and devnet take turns. Needs ``xalora[cluster]``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from _devnet import DevnetProcess
from _report import Report

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "with_ray"))
from simulated import DIRECT, LANCZOS, Cluster, small_png

TASKS, SECONDS, ROUNDS = 64, 0.2, 2
WARM_UP = 8
WORKERS = (1, 2, 4)
POLL_SECONDS = 0.02


class SlowInputs:
    """An HTTP server that answers with an image after 0.2 s; a context manager of its address."""

    def __enter__(self) -> str:
        image = small_png()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                time.sleep(SECONDS)
                with suppress(OSError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(image)))
                    self.end_headers()
                    self.wfile.write(image)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}/image"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def wall_seconds(url: str, api_key: str, image: str, number: int, tasks: int) -> float:
    """How long the tasks of one round take."""
    consumer_id, _, key = api_key.partition("#")

    def ask(endpoint: str, **body: Any) -> Any:
        sent = {"consumer_id": consumer_id, "api_key": key, **body}
        if endpoint == "task_result_query":
            del sent["consumer_id"]
        request = urllib.request.Request(f"{url}/{endpoint}", json.dumps(sent).encode())
        with DIRECT.open(request, timeout=30) as answer:
            return json.load(answer)

    began = time.perf_counter()
    task = {
        "task_type": "upscaler",
        "workflow_id": LANCZOS,
        "task_details": {"parameters": {"image": image}},
    }
    waiting = [
        ask("task_create", **task, job_id=f"bench-{number}-{each}")["task_id"] for each in range(tasks)
    ]
    while waiting:
        # In the order of their creation, so that each round of polling is short.
        told = ask("task_result_query", task_id=waiting[0])
        if told["status"] == "finished":
            waiting.pop(0)
        elif told["status"] in ("failed", "canceled"):
            raise RuntimeError(f"A task ended as {told}")
        else:
            time.sleep(POLL_SECONDS)
    return time.perf_counter() - began


def measure(image: str, workers: int) -> dict[str, list[float]]:
    """Wall seconds of each round, for the cluster and for the devnet."""
    rounds: dict[str, list[float]] = {"cluster": [], "devnet": []}
    with (
        tempfile.TemporaryDirectory() as root,
        Cluster(Path(root), "--engine", "pillow", "--slots", workers, "--name", "box") as cluster,
        DevnetProcess(miners=workers) as devnet,
    ):
        cluster.wait_for_workers(*(f"box/cpu{slot}" for slot in range(workers)))
        for number in range(1 + ROUNDS):
            tasks = TASKS if number else WARM_UP
            walls = {
                "cluster": wall_seconds(cluster.url, cluster.api_key, image, number, tasks),
                "devnet": wall_seconds(devnet.url, devnet.api_key, image, number, tasks),
            }
            print(workers, walls, file=sys.stderr, flush=True)
            if number:
                for name, wall in walls.items():
                    rounds[name].append(wall)
    return rounds


def main() -> None:
    report = Report("cluster", "Tasks over workers of a cluster", " ".join(str(__doc__).split()))
    rows, raw = [], {}
    with SlowInputs() as image:
        for workers in WORKERS:
            raw[str(workers)] = rounds = measure(image, workers)
            ideal = TASKS * SECONDS / workers
            row = [str(workers), f"{ideal:.2f} s"]
            for name in ("cluster", "devnet"):
                wall = median(rounds[name])
                overhead = (wall - ideal) * workers / TASKS
                row += [f"{wall:.2f} s", f"{overhead * 1000:.0f} ms"]
                if name == "cluster":
                    report.target(f"overhead per task, workers: {workers}", overhead * 1000, 25, unit=" ms")
            rows.append(row)
    report.table(
        ["workers", "ideal", "cluster", "its overhead per task", "devnet", "its overhead per task"], rows
    )
    report.raw(walls=raw)
    report.finish()


if __name__ == "__main__":
    main()
