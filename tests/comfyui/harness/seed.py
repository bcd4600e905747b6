"""Fills a journal, as another process on the same machine would, with tasks in every state."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image

from xalora_client.journal import Event, Journal, Record, Whole, Work

HOUR = 3600.0

PHOTOS = Path(skimage.__file__).parent / "data"
PHOTO_NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")


class Clock:
    """A wall clock that is set by hand, so that tasks can have been long ago."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass
class Seeder:
    """Makes records in `journal`, the network's address being `url`."""

    journal: Journal
    clock: Clock
    url: str
    made: int = 0

    def record(
        self,
        task_type: str,
        label: str,
        *,
        ago: float,
        took: float = 3.0,
        then: Callable[[Seeder, Record, str], None] = lambda *_: None,
        whole: Whole | None = None,
        **details: Any,
    ) -> Record:
        """A record begun `ago` seconds before now; `then` takes it from there, given its lease."""
        now = self.clock.now
        self.made += 1
        self.clock.now = now - ago
        work = Work(
            fingerprint=f"{self.made:064x}",
            sequencer_url=self.url,
            consumer_id="devnet",
            task_type=task_type,
            workflow_id=details.pop("workflow_id", None),
            kind=details.pop("kind", task_type),
            label=label,
            details=details.pop("parameters", {}),
            whole=whole,
        )
        claim = self.journal.claim(work, job_id=f"sdk-workflow-{self.made:010x}").result()
        try:
            then(self, claim.record, claim.lease)
        finally:
            self.journal.leave(claim.lease)
            self.journal.flushed().result(30)
            self.clock.now = now
        record = self.journal.find(claim.record.id)
        assert record is not None
        return record

    def note(self, record: Record, event: Event, **values: Any) -> None:
        """Note an event at the time the clock is set to."""
        self.journal.note(record.id, event, at=self.clock.now, **values)
        self.journal.flushed().result(30)

    def submitted(self, record: Record, task_id: str | None = None) -> str:
        """The network has accepted the record."""
        self.journal.sending(record.id).result()
        task_id = task_id or f"task-{record.id:04d}-{record.job_id[-6:]}"
        self.journal.accepted(record.id, task_id).result()
        return task_id


def kept(
    data: bytes, suffix: str, *, queued: float = 0.8, took: float = 4.2, miner: str | None = None
) -> Any:
    """For `then`: the result came and is on disk."""

    def finish(seeder: Seeder, record: Record, _: str) -> None:
        seeder.submitted(record)
        seeder.clock.now += queued
        seeder.note(record, Event.STATUS, status="running")
        seeder.clock.now += took
        seeder.note(record, Event.FINISHED, result="result")
        file = seeder.journal.results.stem(record.id, record.job_id).with_suffix(suffix)
        file.write_bytes(data)
        described = seeder.journal.results.describe([file])
        seeder.note(record, Event.KEPT, files=described, engine="xalora", miner=miner)
        seeder.note(record, Event.DELIVERED)

    return finish


def failed(reason: str) -> Any:
    """For `then`: a miner gave up."""

    def finish(seeder: Seeder, record: Record, _: str) -> None:
        seeder.submitted(record)
        seeder.clock.now += 6
        seeder.note(record, Event.FAILED, error=reason)

    return finish


def canceled(seeder: Seeder, record: Record, _: str) -> None:
    """For `then`: its owner did not want it any more."""
    seeder.submitted(record)
    seeder.note(record, Event.CANCELED)


def unknown(seeder: Seeder, record: Record, _: str) -> None:
    """For `then`: the answer to the create never came."""
    seeder.journal.sending(record.id).result()
    seeder.note(record, Event.ANSWER_LOST, error="The answer to the create never came.")


def not_sent(reason: str, engine: str | None = None) -> Any:
    """For `then`: it never left; with an engine, that did it in the network's stead."""

    def finish(seeder: Seeder, record: Record, _: str) -> None:
        seeder.note(record, Event.NOT_SENT, error=reason)
        if engine:
            seeder.note(record, Event.FELL_BACK, engine=engine, device=None)

    return finish


def left_running(seeder: Seeder, record: Record, _: str) -> None:
    """For `then`: it runs in the network and nobody waits for it."""
    seeder.submitted(record)
    seeder.note(record, Event.STATUS, status="running")


@contextmanager
def seeder(state_dir: Path, url: str, now: float) -> Iterator[Seeder]:
    """The journal in a state folder, opened beside whoever else has it open."""
    clock = Clock(now)
    with Journal.open(state_dir / "journal.sqlite3", state_dir / "results", wall_clock=clock) as journal:
        yield Seeder(journal, clock, url)


def picture(seed: int, width: int = 640, height: int = 480) -> bytes:
    """A photograph as JPEG: another crop, a little lighter or darker, for each seed."""
    rng = np.random.default_rng(seed)
    with Image.open(PHOTOS / PHOTO_NAMES[seed % len(PHOTO_NAMES)]) as photo:
        whole = photo.convert("RGB")
    share = rng.uniform(0.7, 1.0)
    box_width = min(whole.width, whole.height * width / height) * share
    box_height = box_width * height / width
    left = rng.uniform(0, whole.width - box_width)
    top = rng.uniform(0, whole.height - box_height)
    view = whole.resize(
        (width, height), Image.Resampling.LANCZOS, (left, top, left + box_width, top + box_height)
    )
    out = io.BytesIO()
    view.point(lambda value: round(value * rng_factor(seed))).save(out, "JPEG", quality=90)
    return out.getvalue()


def rng_factor(seed: int) -> float:
    """How much lighter or darker a seed's picture is."""
    return 0.92 + 0.16 * ((seed * 2654435761) % 1000) / 1000


def every_state(seeder: Seeder, video: bytes) -> None:
    """A day in the life of a sidebar."""
    seeder.record("upscaler", "upscale an image", ago=26 * HOUR, then=kept(picture(2), ".jpg", took=5.1))
    seeder.record(
        "txt2img",
        "a steaming cup on an oak table, morning light",
        ago=9 * HOUR,
        workflow_id="3",
        parameters={
            "prompt": "a steaming cup on an oak table, morning light, 50mm, shallow depth of field, film "
            "grain, and in the background, out of focus, a heron",
            "noise_seed": 8250411,
            "lora_name": "gecko",
            "steps": 15,
        },
        then=kept(picture(1), ".jpg", took=11.4),
    )
    seeder.record("upscaler", "upscale portrait.png", ago=8 * HOUR, then=canceled)
    seeder.record(
        "txt2vid",
        "a rocket waits at dusk, slow pan, golden hour",
        ago=5 * HOUR,
        workflow_id="1",
        then=kept(video, ".mp4", queued=14, took=212, miner="0x4a…e1"),
    )
    seeder.record(
        "txt2vid",
        "a paper boat drifts down a rainy street",
        ago=4 * HOUR,
        workflow_id="1",
        then=failed("CUDA out of memory on the miner while decoding frame 41"),
    )
    seeder.record("upscaler", "upscale scan-0031.tif", ago=3 * HOUR, then=unknown)
    seeder.record(
        "upscaler",
        "upscale an image",
        ago=2 * HOUR,
        then=not_sent("The network can't be reached", engine="4x-UltraSharp"),
    )
    for index in range(3):
        seeder.record(
            "upscaler",
            "upscale an image",
            ago=1800 - index * 20,
            then=kept(picture(index), ".jpg", took=3.4 + index * 0.7, miner="0x71…0c"),
        )


def clip(seed: int, seconds: float = 2.0) -> bytes:
    """An MP4 of 848x480 that pans over one of the pictures."""
    import av

    view = np.asarray(Image.open(io.BytesIO(picture(seed, 1040, 480))))
    assert seconds <= 2, "the pan is as wide as that"
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 848, 480, "yuv420p"
        for index in range(round(seconds * 24)):
            left = index * 4
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(view[:, left : left + 848]), format="rgb24"
            )
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return out.getvalue()


def many(state_dir: Path, url: str, count: int, now: float) -> None:
    """Puts `count` ended tasks into an existing journal, one a minute, the oldest first, by its table."""
    kinds = ("upscaler", "txt2img", "txt2vid")
    rows = [
        (
            f"{index:064x}",
            url,
            "devnet",
            kinds[index % 3],
            kinds[index % 3],
            f"number {index}",
            f"sdk-workflow-{index:010x}",
            f"task-{index:05d}",
            "failed" if index % 7 == 0 else "canceled",
            now - (count - index) * 60,
            now - (count - index) * 60 + 5,
            "the miner ran out of memory" if index % 7 == 0 else None,
        )
        for index in range(1, count + 1)
    ]
    with closing(sqlite3.connect(state_dir / "journal.sqlite3", timeout=30)) as connection, connection:
        connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'version'")
        connection.executemany(
            "INSERT INTO entries (fingerprint, sequencer_url, consumer_id, task_type, kind, label, job_id,"
            " task_id, state, created_at, ended_at, error, seeded, own_key, details, version) VALUES"
            " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, '{}',"
            " (SELECT value FROM counters WHERE name = 'version'))",
            rows,
        )
