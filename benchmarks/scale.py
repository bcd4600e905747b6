"""One client with 100, 1,000 and 10,000 tasks in flight, against a devnet in another process.

All tasks are submitted at once, with no miner there; all are then in flight for a while; then miners come and
every task is brought to its result on disk. Memory is what the client's process takes beyond a client that
has run one task. The devnet shares this machine, so wall times say little: processor time of the client is
what counts. Polls depend on how long tasks are in flight, so their part is told apart.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _devnet import DevnetProcess
from _report import OURS, PEER, Report

SIZES = (100, 1_000, 10_000)
IN_FLIGHT_SECONDS = 8.0
MINERS = 8

Figures = dict[str, float]


def task(number: int) -> Any:
    from xalora_client import FluxLoraTask

    return FluxLoraTask(prompt=f"number {number}", lora_name="none", noise_seed=number, workflow_id="3")


def resident() -> int:
    """Bytes this process has in memory now; the most it ever had where /proc is missing."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(pages) * resource.getpagesize()


class Meter:
    """Wall, processor and poll counts between two looks."""

    def __init__(self, net: DevnetProcess) -> None:
        self._net = net
        self.lap()

    def lap(self) -> tuple[float, float, int]:
        now = time.perf_counter(), time.process_time(), self._net.stats()["endpoints"]["task_result_query"]
        before = getattr(self, "_before", now)
        self._before = now
        return now[0] - before[0], now[1] - before[1], now[2] - before[2]


async def measure(size: int) -> Figures:
    from xalora_client import AsyncXalora, RunResult, events

    with DevnetProcess(miners=1, engine="dot") as net, tempfile.TemporaryDirectory() as folder:
        async with AsyncXalora(net.api_key, net.url, state_dir=folder, env_files=()) as client:
            await client.run(task(max(SIZES)))
    with DevnetProcess(miners=0, engine="dot") as net, tempfile.TemporaryDirectory() as folder:
        async with AsyncXalora(net.api_key, net.url, state_dir=folder, env_files=()) as client:
            submitted = 0
            all_submitted = asyncio.Event()

            def count(event: Any) -> None:
                nonlocal submitted
                if isinstance(event, events.Submitted):
                    submitted += 1
                    if submitted == size:
                        all_submitted.set()

            before = resident()
            meter = Meter(net)
            running = [
                asyncio.create_task(client.run(task(number), on_event=count, fallback="never", timeout=3600))
                for number in range(size)
            ]
            await all_submitted.wait()
            submit = meter.lap()
            await asyncio.sleep(IN_FLIGHT_SECONDS)
            job = meter.lap()
            memory = resident() - before
            net.add_miners(MINERS)
            results = await asyncio.gather(*running, return_exceptions=True)
            finish = meter.lap()
            stats = net.stats()

    done = {result.task_id for result in results if isinstance(result, RunResult) and result.files}
    assert stats["creates"] == size, stats
    a_poll = job[1] / job[2]
    polls = submit[2] + job[2] + finish[2]
    busy = submit[1] + job[1] + finish[1]
    return {
        "submit_wall": submit[0],
        "finish_wall": finish[0],
        "submit_ms": 1000 * submit[1] / size,
        "finish_ms": 1000 * finish[1] / size,
        "polls_a_second": job[2] / job[0],
        "poll_ms": 1000 * a_poll,
        "polls": polls / size,
        "total_ms": 1000 * busy / size,
        "task_ms": 1000 * (busy - polls * a_poll) / size,
        "kb": memory / size / 1000,
        "lost": size - len(done),
        "requests_a_second": (size + submit[2]) / submit[0],
    }


def row(size: int, figures: Figures) -> Sequence[str]:
    return [
        f"{size:,}",
        *(
            f"{figures[name]:.2f}"
            for name in ("submit_ms", "finish_ms", "poll_ms", "polls", "total_ms", "task_ms")
        ),
        f"{figures['kb']:.0f}",
        f"{figures['polls_a_second']:.0f}",
        f"{figures['requests_a_second']:.0f}",
        f"{figures['submit_wall']:.1f} + {figures['finish_wall']:.1f}",
    ]


def main() -> None:
    method = " ".join((__doc__ or "").split("\n\n")[1].split())
    report = Report("scale", "Thousands of tasks in flight in one client", method)
    measured = {}
    for size in SIZES:
        measured[size] = asyncio.run(measure(size))
        print(f"{size}: {measured[size]}", file=sys.stderr, flush=True)
    columns = [
        "tasks",
        "ms CPU to submit",
        "ms CPU to finish",
        "ms CPU a poll",
        "polls a task",
        "ms CPU a task",
    ]
    columns += ["of which not polls", "kB a task", "polls/s in flight", "requests/s submitting", "wall, s"]
    report.table(columns, [row(size, figures) for size, figures in measured.items()])
    few, many = measured[SIZES[0]], measured[SIZES[-1]]
    for what, name in (("processor time a task", "total_ms"), ("the same without polls", "task_ms")):
        report.target(f"{what}, 10,000 against 100", many[name] / few[name], 1.1, unit="x")
    report.target("memory a task, 10,000 against 100", many["kb"] / few["kb"], 1.1, unit="x")
    report.target(f"tasks lost of {sum(SIZES):,}", sum(figures["lost"] for figures in measured.values()), 0)

    def draw(name: str, title: str) -> Any:
        def on(axes: Any) -> None:
            axes.plot(SIZES, [measured[size][name] for size in SIZES], "o-", color=OURS)
            axes.axhline(few[name], color=PEER, linestyle="--", linewidth=1)
            axes.set_xscale("log")
            axes.set_ylim(0, 1.15 * max(measured[size][name] for size in SIZES))
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("tasks in flight", fontsize=8)

        return on

    report.panel(draw("total_ms", "ms of processor time a task"))
    report.panel(draw("kb", "kB a task"))
    report.raw(measured=measured)
    report.finish()


if __name__ == "__main__":
    main()
