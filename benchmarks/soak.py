"""ComfyUI under load for an hour: 50 prompts queued, 500 tasks open, a slow network, miners that vanish.

A real ComfyUI with one prompt running and 50 queued. A prompt has eight nodes of 64 images, all of them tasks
at the same time. The sequencer takes 30 s for each answer, for a minute; then it answers at once for half a
minute, so that prompts end and others begin; and so on. Every 20 s half of the miners vanish in the middle of
their tasks, and 10 s later as many come. Another process asks five times a second what the page asks: the
queue, the last entries of the history, the sidebar's status and its first page of tasks. In between it asks a
bare aiohttp server in a process of its own, which shows how much of a time is this machine's. Memory, threads
and descriptors are those of ComfyUI's process, read each second, as median and most; its decoding workers are
counted apart. "At rest" is the same ComfyUI after a first prompt, and again after the load, when the running
prompt was interrupted. `SOAK_SECONDS` sets the time under load.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import requests
from _devnet import DevnetProcess
from _peers import REPOSITORY, comfyui
from _report import Report
from aiohttp import web

if TYPE_CHECKING:
    from harness import ComfyUI, Install, RunRecord

SECONDS = float(os.environ.get("SOAK_SECONDS", "3600"))
REST_SECONDS, SETTLE_SECONDS = 30.0, 90.0
QUEUED = 50
NODES, IMAGES = 8, 64
ANSWER_SECONDS, SLOW_SECONDS, PROMPT_SECONDS = 30.0, 60.0, 30.0
MINERS, TASK_SECONDS = 16, 3.0
VANISH_EVERY, BACK_AFTER = 20.0, 10.0
PROBES_A_SECOND = 5
ROUTES = {
    "queue": "/queue",
    "history": "/history?max_items=8",
    "status": "/xalora/status",
    "tasks": "/xalora/tasks?groups=active&limit=100",
}
BARE = "bare server"
KEPT_LOG = REPOSITORY / ".artifacts" / "soak-comfyui.log"
RAW_EVERY = 30
"""Of what was seen each second, so much is kept in the file of results."""
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
REST, REST_AGAIN = "at rest", "at rest again"


def graph(images: int) -> dict[str, Any]:
    """Nodes that make images, each with a node that notes when they arrived."""
    prompt: dict[str, Any] = {}
    for index in range(NODES):
        inputs = {
            "prompt": f"number {index}",
            "lora_name": "none",
            "seed": uuid.uuid4().int % 2**48,
            "batch_size": images,
            "max_in_flight": images,
            "fallback": "never",
            "wait_timeout": 24 * 3600,
        }
        prompt[f"images{index}"] = {"class_type": "XaloraTextToImage", "inputs": inputs}
        prompt[f"seen{index}"] = {
            "class_type": "XaloraTestClock",
            "inputs": {"value": [f"images{index}", 0]},
        }
    return prompt


@dataclass
class Span:
    """What was seen between two moments. Memory is in MiB, requests are in ms."""

    name: str
    memory: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)
    workers: list[float] = field(default_factory=list)
    open_tasks: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    requests: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in (*ROUTES, BARE)})
    failed_requests: int = 0

    def look(self, process: psutil.Process) -> None:
        with process.oneshot():
            self.memory.append(process.memory_info().rss / 2**20)
            self.threads.append(process.num_threads())
            self.descriptors.append(process.num_fds())
        self.workers.append(len(process.children(recursive=True)))

    def all_requests(self) -> list[float]:
        return [ms for name in ROUTES for ms in self.requests[name]]

    def raw(self) -> dict[str, Any]:
        seen = {name: value for name, value in asdict(self).items() if name != "requests"}
        return {
            name: [round(one, 1) for one in value[::RAW_EVERY]] if isinstance(value, list) else value
            for name, value in seen.items()
        }

    def row(self) -> list[str]:
        taken = self.all_requests()
        shown = (self.memory, self.threads, self.descriptors, self.workers, self.open_tasks, self.queued)
        return [
            self.name,
            *(f"{quantile(taken, share):.0f}" for share in (0.5, 0.99, 1.0)),
            f"{quantile(self.requests[BARE], 0.99):.0f}",
            *(f"{quantile(figures, 0.5):.0f}, {quantile(figures, 1.0):.0f}" for figures in shown),
        ]


def quantile(figures: Sequence[float], share: float) -> float:
    """The figure that this share of them is not above; 0 of none."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def probe(url: str) -> None:
    """Ask the routes in turn, and print route, ms, status and open tasks of each, until ended."""
    session = requests.Session()
    session.trust_env = False
    serving = subprocess.Popen(
        [sys.executable, __file__, "--bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert serving.stdout is not None
    bare = (BARE, serving.stdout.readline().strip())
    routes = [(name, url + path) for name, path in ROUTES.items()]
    due = time.monotonic()
    for name, address in cycle([*routes[:2], bare, *routes[2:], bare]):
        began = time.perf_counter()
        status, open_tasks = 0, None
        with suppress(requests.RequestException):
            answer = session.get(address, timeout=60)
            status = answer.status_code
        taken = 1000 * (time.perf_counter() - began)
        if name == "tasks" and status == 200:
            open_tasks = answer.json()["counts"]["active"]
        print(json.dumps([name, taken, status, open_tasks]), flush=True)
        due = max(due + 1 / PROBES_A_SECOND, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def serve_bare() -> None:
    """Answer every request with an empty object; prints the address."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({})

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/", flush=True)
        # It ends with the process that began it.
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(serve())


class Page:
    """The process that asks what the page asks."""

    def __init__(self, url: str, folder: Path) -> None:
        self._path = folder / "requests.jsonl"
        self._read_until = 0
        with self._path.open("w") as log:
            command = [sys.executable, str(Path(__file__).resolve()), "--probe", url]
            self._process = subprocess.Popen(command, stdout=log)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def collect(self, span: Span) -> None:
        """Add the requests that were answered since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._read_until)
            whole, _, _ = log.read().rpartition(b"\n")
        self._read_until += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            name, milliseconds, status, open_tasks = json.loads(line)
            span.requests[name].append(milliseconds)
            span.failed_requests += status != 200
            if open_tasks is not None:
                span.open_tasks.append(open_tasks)


class Trouble:
    """The network's slowness, and its miners that vanish and come back."""

    def __init__(self, net: DevnetProcess) -> None:
        self._net = net
        self._began = time.monotonic()
        self._is_slow = False
        self._away = 0
        self.vanished = 0

    def go_on(self) -> None:
        """Do what is due."""
        now = time.monotonic() - self._began
        is_slow = now % (SLOW_SECONDS + PROMPT_SECONDS) < SLOW_SECONDS
        if is_slow != self._is_slow:
            self._is_slow = is_slow
            self._net.set_faults(f"consumer:delay:seconds={ANSWER_SECONDS:g}" if is_slow else "")
        are_away = now % VANISH_EVERY >= VANISH_EVERY - BACK_AFTER
        if are_away and not self._away:
            self._away = MINERS // 2
            self.vanished += self._away
            self._net.kill_miners(self._away)
        elif self._away and not are_away:
            self.end()

    def end(self) -> None:
        """All miners are back, and the sequencer answers at once from now on."""
        self._net.add_miners(self._away)
        self._away = 0
        self._net.set_faults("")


def watch(host: ComfyUI, page: Page, span: Span, seconds: float, every_second: Callable[[], None]) -> None:
    """Note for so long what ComfyUI takes and how it answers."""
    process = psutil.Process(host.pid)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        span.look(process)
        page.collect(span)
        every_second()


class Prompts:
    """Keeps prompts queued."""

    def __init__(self, host: ComfyUI) -> None:
        self._host = host
        self._open: list[RunRecord] = []
        self.ended = Counter[str]()

    def top_up(self) -> int:
        """Queue prompts for those that have ended; returns how many wait."""
        for record in self._open:
            # Thousands of progress messages of a prompt would fill this process.
            del record.events[:-20], record.texts[:], record.previews[:]
        self.ended.update(str(record.status) for record in self._open if record.ended_at is not None)
        self._open = [record for record in self._open if record.ended_at is None]
        while len(self._open) <= QUEUED:
            self._open.append(self._host.start(graph(IMAGES)))
        return len(self._open) - 1


def measure(install: Install) -> tuple[list[Span], list[str]]:
    """What was seen at rest, in each quarter of the time under load, and at rest again; and notes."""
    from harness import ComfyUI

    rest, *quarters, rest_again = spans = [Span(name) for name in (REST, *QUARTERS, REST_AGAIN)]
    with (
        DevnetProcess(miners=MINERS, task_seconds=TASK_SECONDS, engine="dot") as net,
        tempfile.TemporaryDirectory() as folder,
    ):
        root = Path(folder)
        env = {"XALORA_WORKFLOW_URL": net.url, "XALORA_API_KEY": net.api_key}
        with ComfyUI(install, root / "comfyui", env) as host, Page(host.url, root) as page:
            first = host.run(graph(2), timeout=120)
            assert first.status == "success", first.describe()
            watch(host, page, rest, REST_SECONDS, lambda: None)
            prompts, trouble = Prompts(host), Trouble(net)
            for span in quarters:

                def go_on(span: Span = span) -> None:
                    trouble.go_on()
                    span.queued.append(prompts.top_up())

                watch(host, page, span, SECONDS / len(quarters), go_on)
                print(" | ".join(span.row()), file=sys.stderr, flush=True)
            host.clear_queue()
            began = time.monotonic()
            host.interrupt()
            while any(host.queue_state()):
                time.sleep(0.1)
            stopped = time.monotonic() - began
            trouble.end()
            watch(host, page, Span("between"), SETTLE_SECONDS, lambda: None)
            watch(host, page, rest_again, REST_SECONDS, lambda: None)
            log = host.logs()
        KEPT_LOG.parent.mkdir(exist_ok=True)
        KEPT_LOG.write_text(log, "utf-8")
        stats = net.stats()
    asked, failed = (
        sum(len(span.all_requests()) for span in spans),
        sum(span.failed_requests for span in spans),
    )
    notes = [
        f"Prompts that ended: {dict(prompts.ended) or 'none'}; tasks created: {stats['creates']:,}, of which "
        f"repeated: {stats['duplicates']}; miners that vanished: {trouble.vanished}.",
        f"Requests of the page: {asked:,}, of which failed: {failed}.",
        f"Interrupted with its tasks open, the prompt ended within {stopped:.1f} s.",
        "Threads of a pool end without work, but for four; pools are bounded (64 for files).",
        f"ComfyUI's log: {len(log) / 2**20:.1f} MiB, {log.count('Traceback')} tracebacks.",
        f"ComfyUI {'.'.join(map(str, install.version))}.",
    ]
    return spans, notes


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("soak", f"ComfyUI under load for {SECONDS / 60:.0f} minutes", method)
    install = comfyui()
    spans, notes = measure(install)
    columns = ["", "p50, ms", "p99, ms", "most, ms", "p99 of a bare server, ms", "memory, MiB", "threads"]
    columns += ["descriptors", "workers", "tasks open", "prompts queued"]
    report.table(columns, [span.row() for span in spans])
    loaded = [span for span in spans if span.name in QUARTERS]
    by_route = {name: [ms for span in loaded for ms in span.requests[name]] for name in ROUTES}
    report.table(
        ["request under load", "asked", "p50, ms", "p99, ms", "most, ms"],
        [
            [
                f"`GET {ROUTES[name]}`" if name in ROUTES else name,
                f"{len(taken):,}",
                *(f"{quantile(taken, share):.0f}" for share in (0.5, 0.99, 1.0)),
            ]
            for name, taken in by_route.items()
        ],
    )
    rest, first, last, rest_again = spans[0], loaded[0], loaded[-1], spans[-1]
    every = [ms for span in loaded for ms in span.all_requests()]
    report.target("the page's requests under load, p99", quantile(every, 0.99), 100, unit=" ms")
    growth = quantile(last.memory, 1.0) / quantile(first.memory, 1.0)
    report.target("most memory, last quarter against first", growth, 1.05, unit="x")
    for what in ("threads", "descriptors"):
        more = quantile(getattr(last, what), 1.0) - quantile(getattr(first, what), 1.0)
        report.target(f"most {what}, last quarter less first", more, 5)
    left = quantile(rest_again.descriptors, 0.5) - quantile(rest.descriptors, 0.5)
    report.target("descriptors at rest, after less before", left, 0)
    for note in notes:
        report.note(note)
    report.raw(rows=[span.raw() for span in spans])
    report.finish()


if __name__ == "__main__":
    if "--probe" in sys.argv:
        probe(sys.argv[2])
    elif "--bare" in sys.argv:
        serve_bare()
    else:
        main()
