"""(a) Many tasks through a network that fails in every way at once, the sequencer's counts as witness."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xalora_client import AmbiguousCreateError, AsyncXalora, Outcome, ResultFormatError, UpscalerTask
from xalora_client.devnet import Devnet
from xalora_client.journal import TaskState

FAULTS = (
    "consumer:500:p=0.1",
    "consumer:drop_before:p=0.05",
    "consumer:drop_after:p=0.05",
    "task_result_query:garbage:p=0.02",
    "result:500:p=0.1",
    "result:truncate:p=0.05",
    "result:corrupt:p=0.02",
    "upload:corrupt_stored:p=0.02",
    "upload:500:p=0.05",
    "miner_submit:drop_after:p=0.02",
    "miner:death:p=0.02",
)
IN_FLIGHT = 48


def picture(index: int) -> np.ndarray[Any, Any]:
    """A picture like no other: its index is in its pixels."""
    pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    pixels[0, 0] = (*divmod(index, 256), 7)
    return pixels


def upscaled(index: int) -> np.ndarray[Any, Any]:
    return np.asarray(Image.fromarray(picture(index)).resize((16, 16), Image.Resampling.LANCZOS))


def is_right(outcome: Outcome) -> bool:
    images = outcome.unwrap().images
    return np.array_equal(np.rint(images[0] * 255).astype(np.uint8), upscaled(outcome.index))


@pytest.mark.timeout(1800)
async def test_every_task_ends_once_and_none_is_paid_twice(
    tmp_path: Path, whole: bool, note: Callable[[str, str], None]
) -> None:
    works = 2000 if whole else 200
    began = time.monotonic()
    ended = Counter[int]()
    restarts: list[asyncio.Task[None]] = []
    async with (
        Devnet(miners=4, faults=FAULTS, seed=29, db=tmp_path / "sequencer.db", lease=2.0) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, request_timeout=20) as client,
    ):

        def count(outcome: Outcome) -> None:
            ended[outcome.index] += 1
            if len(ended) in (works // 3, 2 * works // 3):
                restarts.append(asyncio.create_task(devnet.restart_sequencer()))

        tasks = [UpscalerTask(picture(index)) for index in range(works)]
        options: dict[str, Any] = {"reuse": True, "fallback": "never", "max_in_flight": IN_FLIGHT}
        outcomes = await client.run_many(tasks, on_done=count, **options)
        await asyncio.gather(*restarts)
        assert len(restarts) == 2

        # Every task ended once, in one of three ways, and every result is the right one.
        assert ended == Counter(range(works))
        unknown = [o for o in outcomes if isinstance(o.error, AmbiguousCreateError)]
        broken = [o for o in outcomes if isinstance(o.error, ResultFormatError)]
        good = [o for o in outcomes if o.error is None]
        others = [o.error for o in outcomes if o.error is not None and o not in unknown + broken]
        assert others == []
        assert all(is_right(outcome) for outcome in good)
        assert broken and unknown, "the faults did not bite"

        # Creates are the distinct works less those reported unknown; of those, some did arrive.
        unknown_jobs = {o.error.job_id for o in unknown if o.error is not None}
        records = [devnet.task(task_id) for task_id in devnet.task_ids()]
        arrived = [record for record in records if record.job_id in unknown_jobs]
        assert devnet.stats()["creates"] == len(records) == works - len(unknown) + len(arrived)
        assert max(Counter(record.job_id for record in records).values()) == 1
        # No create was sent again by itself, so that this holds on a network without such a check, too.
        assert devnet.stats()["duplicates"] == 0

        # Nothing is left behind: not in the journal, and not in the network once its miners are done.
        left = client.journal.records(is_open=True)
        assert {record.state for record in left} == {TaskState.UNKNOWN}
        assert {record.job_id for record in left} == unknown_jobs
        await devnet.wait_for(lambda stats: not stats["tasks"]["waiting"] + stats["tasks"]["running"])
        hits = dict(devnet.faults.hits)

        # Asked to send the unknown ones again, each is one task in the end, whatever had arrived.
        devnet.clear_faults()
        again = await client.run_many([o.task for o in unknown], if_unknown="resend", **options)
        fresh = [o.error for o in again if o.error is not None]
        assert all(isinstance(error, ResultFormatError) for error in fresh)
        assert devnet.stats()["creates"] == works
        assert devnet.stats()["duplicates"] == len(arrived)
        assert not client.journal.records(is_open=True)

        # And all that is asked a second time comes from this machine's disk.
        kept = await client.run_many([o.task for o in good], **options)
        assert all(o.unwrap().reused for o in kept)
        assert devnet.stats()["creates"] == works
    note("(a) distinct works", str(works))
    note("(a) right results at the first asking", str(len(good)))
    note("(a) reported as of unknown outcome, of which arrived", f"{len(unknown)}, {len(arrived)}")
    note("(a) results the miner stored broken, named as such", str(len(broken)))
    note("(a) creates counted by the sequencer, all told", str(works))
    note("(a) faults that hit", ", ".join(f"{kind} {n}" for kind, n in sorted(hits.items())))
    note("(a) sequencer restarts, seconds", f"2, {time.monotonic() - began:.0f}")
