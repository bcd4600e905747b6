"""Says in the log that nobody takes a task that only waits; asking the network is free."""

from __future__ import annotations

import asyncio
import logging
import weakref
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import NoMinerError
from ..journal.rules import Phase

if TYPE_CHECKING:
    from .job import Job

logger = logging.getLogger("xalora_client")

UNTAKEN_SECONDS = 15.0
"""How long a task waits before the network is asked, once in as many seconds for all tasks alike."""

_asked: dict[tuple[str, str | None], float] = {}


async def warn_if_untaken(job: weakref.ref[Job], task_type: str, workflow_id: str | None) -> None:
    """Warn once of a task that still waits after :data:`UNTAKEN_SECONDS`, if no miner takes its workflow.

    Args:
        job: Not held meanwhile: with the last reference to a result its files may go.
    """
    await asyncio.sleep(UNTAKEN_SECONDS)
    waiting, now, kind = job(), monotonic(), (task_type, workflow_id)
    if waiting is None or waiting.state.phase is not Phase.WAITING:
        return
    if now - _asked.get(kind, -UNTAKEN_SECONDS) < UNTAKEN_SECONDS:
        return
    _asked[kind] = now
    network, credentials, task_id = waiting.tools.network, waiting.credentials, waiting.task_id
    del waiting
    try:
        await network.check_taken(credentials, task_type=task_type, workflow_id=workflow_id)
    except NoMinerError:
        what = f"{task_type} tasks" if workflow_id is None else f"workflow {workflow_id}"
        logger.warning(
            "No miner takes %s now: task %s waits in the network until one does. It may be charged once it "
            "runs; cancel it if its workflow_id is a mistake.",
            what,
            task_id,
        )
