"""(e) Processes on one journal, killed and stopped, its write lock held by others: each task is paid once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from journals import leases, until
from scripted import KEY, Answer, ScriptedNetwork, ScriptedSequencer, png, running, task

from xalora_client import AsyncXalora
from xalora_client.journal import Journal, TaskState

WORKER = """
import asyncio, hashlib, json, random, sys, time
from xalora_client import AmbiguousCreateError, AsyncXalora, TaskCanceledError, UpscalerTask

def say(**what):
    print(json.dumps(what), flush=True)

async def one(client, name, draw):
    picture = UpscalerTask(image_url=f"https://example.org/{name}.png")
    heard = asyncio.Event()
    tell = lambda event: heard.set()
    call = asyncio.create_task(client.run(picture, reuse=True, fallback="never", timeout=600, on_event=tell))
    # Drawn for every task, so that the same seed makes the same life.
    cancels, is_early, after = draw.random() < 0.2, draw.random() < 0.3, draw.uniform(0, 1.0)
    if cancels:
        if not is_early:
            await asyncio.wait({call, asyncio.ensure_future(heard.wait())}, return_when="FIRST_COMPLETED")
        await asyncio.wait({call}, timeout=after)
        if not call.done():
            say(wish=name, at=time.monotonic())
            call.cancel()
    try:
        result = await call
    except asyncio.CancelledError:
        say(left=name)
    except AmbiguousCreateError:
        say(unknown=name)
    except TaskCanceledError:
        say(canceled=name)
    else:
        say(done=name, digest=hashlib.md5(result.files[0].read_bytes()).hexdigest())

async def main(url, seed, names):
    draw = random.Random(seed)
    async with AsyncXalora("alice#s3cret", url) as client:
        say(begun=True)
        await asyncio.gather(*(one(client, name, draw) for name in names))

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
"""

HOLDER = """
import random, sqlite3, sys, time
draw = random.Random(5)
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
while True:
    time.sleep(draw.uniform(0, float(sys.argv[3])))
    connection.execute("BEGIN IMMEDIATE")
    time.sleep(draw.uniform(0, float(sys.argv[2])))
    connection.execute("ROLLBACK")
"""

WORKS, KILLS = 10_000, 1_000
WINDOW = 16
"""Tasks of one process; each is asked for by two processes, which may run at the same time."""

AT_ONCE = 4
LONGEST_HOLD, LONGEST_STOP = 10.0, 10.0


class Network(ScriptedNetwork):
    """Tasks take a moment, canceled ones end, and a job id that comes again is the same task."""

    def __init__(self) -> None:
        super().__init__(self._status)
        self.by_job: dict[str, str] = {}
        self.answered: dict[str, float] = {}
        self.cancel_moments: dict[str, list[float]] = {}
        self.repeated = 0
        self._draw = random.Random(17)
        self._ends: dict[str, float] = {}
        self.on_create = self._create
        self.on_cancel = self._note_cancel

    def name_of(self, task_id: str) -> str:
        return Path(self.bodies[task_id]["task_details"]["parameters"]["image"]).stem

    def _create(self, body: dict[str, Any]) -> Answer:
        known = self.by_job.get(body["job_id"])
        if known is not None:
            self.repeated += 1
            return Answer(200, {"task_id": known})
        answer = self.accept(body)
        task_id = answer.body["task_id"]
        self.by_job[body["job_id"]] = task_id
        self._ends[task_id] = monotonic() + self._draw.uniform(0.2, 2.5)
        # Long enough for kills and cancels to fall between a create and its answer.
        answer.delay = self._draw.uniform(0, 0.4)
        self.answered[task_id] = monotonic() + answer.delay
        return answer

    def _status(self, task_id: str) -> Answer:
        if task_id not in self.canceled and monotonic() >= self._ends[task_id]:
            self.finish(task_id)
        return running(task_id)

    def _note_cancel(self, task_id: str) -> Answer | None:
        self.cancel_moments.setdefault(task_id, []).append(monotonic())
        self._status(task_id)
        return Answer(409, {"message": "has finished"}) if task_id in self.results else None


def right_digest(name: str) -> str:
    result = png(str({"image": task(name).image}))
    return hashlib.md5(b64decode(result.partition(",")[2])).hexdigest()


class Crowd:
    """Starts the processes, troubles them, and collects what they say."""

    def __init__(self, url: str, state_dir: Path, names: list[str], draw: random.Random) -> None:
        self.said: Counter[str] = Counter()
        self.wishes: list[tuple[str, float]] = []
        self.wrong: list[str] = []
        self.kills = self.stops = 0
        self._url = url
        self._state_dir = state_dir
        self._draw = draw
        self._life = 0.0
        step = WINDOW // 2
        self._windows = [names[at : at + WINDOW] for at in range(0, len(names), step)]

    async def run(self, kills: int, stop_seconds: float) -> None:
        began = monotonic()
        await self._process(self._windows[0], None, None)
        self._life = monotonic() - began
        places = asyncio.Semaphore(AT_ONCE)

        async def one(window: list[str], is_killed: bool) -> None:
            async with places:
                killed_after = self._draw.uniform(0, self._life) if is_killed else None
                stopped_for = self._draw.uniform(0, stop_seconds) if self._draw.random() < 0.1 else None
                await self._process(window, killed_after, stopped_for)

        lives = [(window, False) for window in self._windows]
        while self.kills < kills:
            # Some of them end before they are killed.
            lives += [(self._draw.choice(self._windows), True) for _ in range(kills - self.kills)]
            self._draw.shuffle(lives)
            await asyncio.gather(*(one(window, is_killed) for window, is_killed in lives))
            lives = []

    async def _process(
        self, window: list[str], killed_after: float | None, stopped_for: float | None
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WORKER,
            self._url,
            str(self._draw.randrange(2**31)),
            *window,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "XALORA_STATE_DIR": str(self._state_dir)},
        )
        ending = asyncio.create_task(process.communicate())
        if stopped_for is not None:
            await asyncio.wait({ending}, timeout=self._draw.uniform(0, self._life))
            if process.returncode is None:
                self.stops += 1
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(stopped_for)
                process.send_signal(signal.SIGCONT)
        if killed_after is not None:
            await asyncio.wait({ending}, timeout=killed_after)
            if process.returncode is None:
                self.kills += 1
                process.kill()
        out, err = await ending
        if killed_after is None:
            assert process.returncode == 0, err.decode()
        for line in out.decode().splitlines():
            # The last line of one that was killed may be cut off.
            if line.endswith("}"):
                self._hear(json.loads(line), was_stopped=stopped_for is not None)

    def _hear(self, said: dict[str, Any], was_stopped: bool) -> None:
        if "wish" in said and not was_stopped:
            self.wishes.append((said["wish"], said["at"]))
        if "done" in said and said["digest"] != right_digest(said["done"]):
            self.wrong.append(said["done"])
        self.said.update(key for key in said if key in ("done", "left", "unknown", "canceled"))


def cancel_delays(crowd: Crowd, network: Network) -> list[float]:
    """Seconds from the later of wish and task id to the cancel's arrival, for the wishes that came to one."""
    of_name: dict[str, list[tuple[float, float]]] = {}
    for task_id, moments in network.cancel_moments.items():
        answered = network.answered[task_id]
        of_name.setdefault(network.name_of(task_id), []).extend((moment, answered) for moment in moments)
    delays = []
    for name, at in crowd.wishes:
        arrived = [(moment, answered) for moment, answered in of_name.get(name, ()) if moment >= at]
        if arrived:
            moment, answered = min(arrived)
            delays.append(moment - max(at, answered))
    return sorted(delays)


@pytest.mark.timeout(14400)
async def test_processes_that_are_killed_and_stopped_pay_for_each_task_once_and_lose_none(
    tmp_path: Path, share: float, note: Callable[[str, str], None]
) -> None:
    works, kills = round(WORKS * share), round(KILLS * share)
    # A short run has no time for the longest waits.
    seconds = LONGEST_HOLD if share > 0.1 else 3.0
    names = [f"work-{number}" for number in range(works)]
    network = Network()
    began = monotonic()
    async with ScriptedSequencer(network) as sequencer:
        Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results").close()
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, str(tmp_path / "journal.sqlite3"), str(seconds), str(seconds * 2)
        )
        crowd = Crowd(sequencer.url, tmp_path, names, random.Random(43))
        try:
            await crowd.run(kills, min(seconds, LONGEST_STOP))
        finally:
            holder.kill()
            await holder.wait()
        with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results") as journal:
            unknown = [r for r in journal.records(states=[TaskState.UNKNOWN]) if r.task_id is None]
        arrived = [record for record in unknown if record.job_id in network.by_job]
        # Whoever comes last gets them all, and sends again only what is not known to have arrived.
        async with AsyncXalora(KEY, sequencer.url, state_dir=tmp_path) as client:
            tasks = [task(name) for name in names]
            outcomes = await client.run_many(tasks, reuse=True, if_unknown="resend", fallback="never")
            digests = [
                hashlib.md5(outcome.unwrap().files[0].read_bytes()).hexdigest() for outcome in outcomes
            ]
            del outcomes
            in_journal = {record.task_id for record in client.journal.records()}
            await until(lambda: not client.journal.records(is_open=True))
        with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results") as journal:
            await until(lambda: not leases(journal))

    paid = Counter(network.name_of(task_id) for task_id in network.bodies if task_id not in network.canceled)
    paid_twice = sum(count - 1 for count in paid.values())
    lost = [task_id for task_id in network.bodies if task_id not in in_journal]
    delays = cancel_delays(crowd, network)
    note("(e) tasks asked for by processes on one journal", str(works))
    note(
        "(e) processes killed by SIGKILL, stopped by SIGSTOP for up to",
        f"{crowd.kills}, {crowd.stops}, {seconds:g} s",
    )
    note("(e) write lock held by another process at random moments for up to", f"{seconds:g} s")
    note(
        "(e) paid twice, lost, wrong results, open leases",
        f"{paid_twice}, {len(lost)}, {len(crowd.wrong)}, 0",
    )
    note("(e) of unknown outcome, of which had arrived", f"{len(unknown)}, {len(arrived)}")
    note("(e) canceled at the network, creates counted by it", f"{len(network.canceled)}, {network.created}")
    if delays:
        percentiles = [delays[min(len(delays) - 1, int(len(delays) * part))] for part in (0.5, 0.99)]
        note(
            f"(e) {len(delays)} cancels at the network after the later of wish and task id: p50, p99",
            ", ".join(f"{seconds:.2f} s" for seconds in percentiles),
        )
    note("(e) seconds", f"{monotonic() - began:.0f}")
    assert crowd.wrong == []
    assert digests == [right_digest(name) for name in names]
    assert (paid_twice, lost) == (0, [])
    assert network.created == works + len(network.canceled)
    assert set(paid) == set(names)
    assert crowd.said["done"], crowd.said
