"""Polling schedules compared in a simulation: how late they notice the end of a task, at how many requests.

Durations are log-uniform on 2-300 s over kinds of task and log-normal (sigma 0.15) within a kind; a request
takes 0.1 s. A delay is given in seconds and relative to the task's own duration, since a person minds ten
seconds after a minute less than after five seconds. Peers run their own waiting loops, in virtual time:
comfy-sdk's `Job.wait`, and the Node SDK's `executeWorkflowAndWaitForResult` in Node.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, quantiles
from typing import Any

from _peers import NODE_SDK, node_sdk
from _report import OURS, PEER, Report

from xalora_client.polling.durations import PastRun
from xalora_client.polling.schedule import PollSchedule

KINDS = 4000
REQUEST_SECONDS = 0.1
SPREAD = 0.15
SHORT_SECONDS = 6

Outcome = tuple[float, int]
"""How late the end was noticed, in seconds, and how many requests it took."""


def draw_durations() -> list[list[float]]:
    """For each kind the duration of the task, and those of five past runs."""
    draw = random.Random(7)
    typical = [math.exp(draw.uniform(math.log(2), math.log(300))) for _ in range(KINDS)]
    return [[one * math.exp(draw.gauss(0, SPREAD)) for _ in range(6)] for one in typical]


def ours(durations: Sequence[Sequence[float]]) -> list[Outcome]:
    """The client's own rule. Like the client, it first waits: a task just accepted has not ended."""
    draw = random.Random(1)
    outcomes = []
    for duration, *past in durations:
        runs = [PastRun(seconds, seconds) for seconds in past]
        schedule, now, requests = PollSchedule(runs), 0.0, 0
        while True:
            now += schedule.next_delay(now, draw.random())
            asked, now, requests = now, now + REQUEST_SECONDS, requests + 1
            if asked >= duration:
                break
        outcomes.append((now - duration, requests))
    return outcomes


def fixed(interval: float) -> Callable[[Sequence[Sequence[float]]], list[Outcome]]:
    """A fixed interval, the first request at once: for where the Node SDK can't be run."""

    def run(durations: Sequence[Sequence[float]]) -> list[Outcome]:
        outcomes = []
        for duration, *_ in durations:
            requests = max(0, math.ceil(duration / (interval + REQUEST_SECONDS))) + 1
            asked = (requests - 1) * (interval + REQUEST_SECONDS)
            outcomes.append((asked + REQUEST_SECONDS - duration, requests))
        return outcomes

    return run


def comfy_sdk(durations: Sequence[Sequence[float]]) -> list[Outcome]:
    """comfy-sdk's `Job.wait`, its clock and its one request replaced."""
    from comfy_sdk import jobs

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()

    class VirtualJob(jobs.Job):
        def __init__(self, duration: float) -> None:
            self.duration, self.requests, self.ended = duration, 0, False

        def refresh(self) -> Any:
            self.ended = clock.now >= self.duration
            self.requests += 1
            clock.now += REQUEST_SECONDS
            return self

        @property
        def status(self) -> str:
            return "succeeded" if self.ended else "running"

    assert jobs._core.is_terminal("succeeded") and not jobs._core.is_terminal("running")
    real, jobs.time = jobs.time, clock
    try:
        outcomes = []
        for duration, *_ in durations:
            clock.now = 0.0
            job = VirtualJob(duration)
            job.wait()
            outcomes.append((clock.now - duration, job.requests))
        return outcomes
    finally:
        jobs.time = real


NODE_SCRIPT = """
const { Workflow, Text2VideoTask } = require("heurist/workflow");
let now = 0, duration = 0, requests = 0;
Date.now = () => now * 1000;
AbortSignal.timeout = () => undefined;
global.setTimeout = (then, ms) => { now += ms / 1000; queueMicrotask(then); };
global.fetch = async (url) => {
  if (url.endsWith("task_create")) return { ok: true, json: async () => ({ task_id: "t" }) };
  const status = now >= duration ? "finished" : "running";
  requests += 1; now += REQUEST_SECONDS;
  return { ok: true, json: async () => ({ task_id: "t", status }) };
};
(async () => {
  const { durations, interval } = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const workflow = new Workflow({ apiKey: "a#b", workflowURL: "http://virtual" });
  const outcomes = [];
  for (duration of durations) {
    now = 0; requests = 0;
    const waiting = interval === null ? [1e9] : [1e9, interval];
    await workflow.executeWorkflowAndWaitForResult(new Text2VideoTask({ prompt: "x" }), ...waiting);
    outcomes.push([now - duration, requests]);
  }
  process.stdout.write(JSON.stringify(outcomes));
})();
"""


def node(interval_ms: int | None) -> Callable[[Sequence[Sequence[float]]], list[Outcome]]:
    """The Node SDK's own waiting; None leaves the interval to its default."""

    def run(durations: Sequence[Sequence[float]]) -> list[Outcome]:
        folder, program = node_sdk(), shutil.which("node")
        assert folder is not None and program is not None
        script = NODE_SCRIPT.replace("REQUEST_SECONDS", str(REQUEST_SECONDS))
        asked = json.dumps({"durations": [duration for duration, *_ in durations], "interval": interval_ms})
        ended = subprocess.run(
            [program, "-e", script], input=asked, capture_output=True, text=True, cwd=folder, check=True
        )
        return [(late, requests) for late, requests in json.loads(ended.stdout)]

    return run


@dataclass(frozen=True)
class Figures:
    """How one scheme did: delays in seconds, and relative to each task's own duration."""

    delay: float
    p95: float
    relative: float
    relative_short: float
    requests: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], durations: Sequence[Sequence[float]]) -> Figures:
        seconds = [duration for duration, *_ in durations]
        delays = [late for late, _ in outcomes]
        relative = [late / duration for late, duration in zip(delays, seconds, strict=True)]
        return cls(
            delay=mean(delays),
            p95=quantiles(delays, n=20)[-1],
            relative=mean(relative),
            relative_short=mean(
                share for share, duration in zip(relative, seconds, strict=True) if duration < SHORT_SECONDS
            ),
            requests=mean(count for _, count in outcomes),
        )


def panel(figures: Mapping[str, Figures], measure: str, label: str, factor: float) -> Callable[[Any], None]:
    """Each scheme as a point: its requests, and one measure of its delay."""

    def draw(axes: Any) -> None:
        for name, each in figures.items():
            late = factor * getattr(each, measure)
            axes.scatter(each.requests, late, color=OURS if name.startswith("ours") else PEER)
            side, shift = ("right", -7) if name.startswith("ours") else ("left", 7)
            rise = {"ours, 1 past run": 4, "ours, 5 past runs": -8}.get(name, -3)
            axes.annotate(
                name, (each.requests, late), (shift, rise), textcoords="offset points", ha=side, fontsize=8
            )
        axes.set_xscale("log")
        axes.set_xlim(2, 200)
        axes.set_xticks([5, 10, 20, 50, 100], labels=["5", "10", "20", "50", "100"])
        axes.minorticks_off()
        axes.set_ylim(0, 1.15 * factor * max(getattr(each, measure) for each in figures.values()))
        axes.set_xlabel("requests a task", fontsize=8)
        axes.set_ylabel(label, fontsize=8)

    return draw


def main() -> None:
    report = Report(
        "polling",
        "Noticing that a remote task has ended",
        " ".join((__doc__ or "").split("\n\n")[1].split()) + f" {KINDS} tasks a scheme, the same for all.",
    )
    has_node = node_sdk() is not None
    schemes: dict[str, tuple[Callable[[Sequence[Sequence[float]]], list[Outcome]], int]] = {
        "ours, 5 past runs": (ours, 5),
        "ours, 1 past run": (ours, 1),
        "ours, no history": (ours, 0),
        "Node SDK, default (10 s)" if has_node else "fixed 10 s": (node(None) if has_node else fixed(10), 0),
        "Node SDK, 1 s, its least" if has_node else "fixed 1 s": (node(1000) if has_node else fixed(1), 0),
    }
    try:
        import comfy_sdk as _  # noqa: F401

        schemes["comfy-sdk (x1.5 to 5 s)"] = (comfy_sdk, 0)
    except ImportError:
        report.note("comfy-sdk is not installed: pip install -r benchmarks/requirements.txt")
    report.note(f"The Node SDK is npm {NODE_SDK}." if has_node else "Without Node its interval is computed.")

    durations = draw_durations()
    figures = {
        name: Figures.of(scheme([known[: 1 + past_runs] for known in durations]), durations)
        for name, (scheme, past_runs) in schemes.items()
    }
    report.table(
        [
            "scheme",
            "mean delay, s",
            "p95, s",
            "mean delay / duration",
            f"tasks < {SHORT_SECONDS} s",
            "requests",
        ],
        [
            [
                name,
                f"{each.delay:.2f}",
                f"{each.p95:.1f}",
                f"{each.relative:.1%}",
                f"{each.relative_short:.1%}",
                f"{each.requests:.1f}",
            ]
            for name, each in figures.items()
        ],
    )
    learned, uninformed = figures["ours, 5 past runs"], figures["ours, no history"]
    report.target("mean delay with 5 past runs", learned.delay, 0.78, unit=" s")
    report.target("requests with 5 past runs", learned.requests, 13.6)
    report.target("mean delay without history", 100 * uninformed.relative, 8.5, unit=" % of the duration")
    report.target(
        f"the same, tasks under {SHORT_SECONDS} s",
        100 * uninformed.relative_short,
        13.5,
        unit=" % of the duration",
    )
    report.target("requests without history", uninformed.requests, 21.5)
    report.raw(figures={name: asdict(each) for name, each in figures.items()})

    report.panel(panel(figures, "delay", "mean delay, s", 1))
    report.panel(panel(figures, "relative", "mean delay, % of the duration", 100))
    report.finish()


if __name__ == "__main__":
    main()
