"""What the view of one task shows beside its row: what was asked for, its size, what it cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from ...xalora_client.errors import XaloraError
from ...xalora_client.journal import Record, TaskState
from ...xalora_client.journal.records import INPUTS
from ...xalora_client.prices import Sent, cost_text, price_of, sums

log = logging.getLogger("xalora_client.nodes")

PROMPT = "prompt"
SEEDS = ("seed", "noise_seed")


def details_of(
    record: Record, prices: Mapping[str, Decimal], run: Sequence[Sent], sizes: Sequence[dict[str, Any] | None]
) -> dict[str, Any]:
    """The details as JSON.

    ``prompt`` in full and ``seed``, both as text; ``inputs``, what else was asked for; ``sizes`` of the files
    in pixels; ``cost`` by the user's prices, and ``run`` with that of all tasks that were sent together.

    Args:
        run: The tasks of the record's run.
        sizes: Of each kept file, see :func:`size_of`.
    """
    given = dict(record.work.details)
    given.pop(INPUTS, None)
    prompt = given.pop(PROMPT, None)
    seed = next((given.pop(name) for name in SEEDS if name in given), None)
    was_sent = record.state not in (TaskState.NOT_SENT, TaskState.PREPARED)
    return {
        "prompt": "" if prompt is None else str(prompt),
        "seed": "" if seed is None else str(seed),
        "inputs": [[name, str(value)] for name, value in given.items()],
        "sizes": list(sizes),
        "cost": price_text(prices, record) if was_sent else None,
        "run": sums(prices, run) if was_sent and run else None,
    }


def price_text(prices: Mapping[str, Decimal], record: Record) -> str | None:
    """What one such task costs by the user's prices; None where there is no price."""
    price = price_of(prices, record.work.task_type, record.work.workflow_id)
    return None if price is None else cost_text(price)


def size_of(file: Path) -> dict[str, Any] | None:
    """``width`` and ``height`` of a result in pixels, ``frames`` and ``fps`` where it moves. Blocking.

    None where the file can't be read.
    """
    from ...xalora_client.media.containers import BrokenMediaError
    from ...xalora_client.media.images import read_result_header
    from ...xalora_client.media.media_types import sniff_file
    from ...xalora_client.media.video import open_video

    try:
        kind = sniff_file(file)
        if kind is not None and kind.is_container:
            video = open_video(file)
            return {
                "width": video.width,
                "height": video.height,
                "frames": video.frame_count,
                "fps": round(video.fps, 2),
            }
        header = read_result_header(file)
    except (OSError, XaloraError, BrokenMediaError) as error:
        log.debug("no size of %s: %s", file, error)
        return None
    return {"width": header.width, "height": header.height, "frames": header.frames, "fps": None}
