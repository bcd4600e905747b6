"""Which node a task came from, and what its input looks like, for as long as this ComfyUI runs.

The journal knows neither: node ids belong to graphs, and pixels never go into it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..conversion.previews import keep_input

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("xalora_client.nodes")

REMEMBERED = 20_000


@dataclass(frozen=True)
class Origin:
    """The node that asked for a task last, and the prompt it belonged to."""

    node_id: str
    prompt_id: str


class Origins:
    """Origins by job id, the oldest forgotten first. Safe for several threads."""

    def __init__(self) -> None:
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, job_id: str, origin: Origin) -> bool:
        """Remember where a job came from; whether that is news."""
        with self._lock:
            known = self._origins.get(job_id) == origin
            self._origins[job_id] = origin
            self._origins.move_to_end(job_id)
            while len(self._origins) > REMEMBERED:
                self._origins.popitem(last=False)
            return not known

    def of(self, job_id: str) -> Origin | None:
        """Where a job came from; None for jobs of other programs, and of earlier runs of ComfyUI."""
        with self._lock:
            return self._origins.get(job_id)


origins = Origins()


class OriginNotes:
    """Tells the sidebar of a node's tasks: where they come from at once, and what goes in with them later.

    Pictures are made one at a time, and only while nothing of the work is being sent: sending comes first.
    All methods belong to one event loop, and nobody waits for any of it.

    Args:
        node_id: The node that asks.
        prompt_id: The prompt it belongs to.
        picture: Makes the small picture of one task's input, None where it has none; called on a thread.
    """

    def __init__(self, node_id: str, prompt_id: str, picture: Callable[[int], Image.Image | None]) -> None:
        self._origin = Origin(node_id, prompt_id)
        self._picture = picture
        self._being_sent: set[int] = set()
        self._due: deque[tuple[int, str]] = deque()
        self._drawing: asyncio.Task[None] | None = None

    def sending(self, index: int) -> None:
        """One of the work's tasks is prepared and sent from now on."""
        self._being_sent.add(index)

    def sent(self, index: int) -> None:
        """It is no longer, one way or the other; twice is harmless."""
        self._being_sent.discard(index)
        if self._due and not self._being_sent and (self._drawing is None or self._drawing.done()):
            self._drawing = asyncio.get_running_loop().create_task(self._draw())

    def note(self, index: int, job_id: str) -> None:
        """The job is that of one of the work's tasks; twice is harmless."""
        if origins.note(job_id, self._origin):
            self._due.append((index, job_id))

    async def _draw(self) -> None:
        while self._due and not self._being_sent:
            await asyncio.to_thread(self._keep, *self._due.popleft())

    def _keep(self, index: int, job_id: str) -> None:
        try:
            picture = self._picture(index)
            if picture is not None:
                keep_input(job_id, picture)
        except (OSError, ValueError) as error:
            log.debug("no small picture of the input of job %s: %s", job_id, error)
