"""The node that each job came from, and a small picture of the job's input, until ComfyUI ends.

The journal holds neither: node ids belong to graphs, and it stores no pixels.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..conversion.previews import save_input_preview

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger("xalora_client.nodes")

REMEMBERED = 20_000


@dataclass(frozen=True)
class Origin:
    """The node that last asked for a job, and its prompt.

    Args:
        node_class: The node's id in ComfyUI's list of nodes.
        workflow_id: The frontend's id of the workflow, where the prompt carries it.
    """

    node_id: str
    prompt_id: str
    node_class: str
    workflow_id: str | None = None


class Origins:
    """Origins by job id; the oldest are dropped first. Thread-safe."""

    def __init__(self) -> None:
        self._origins: OrderedDict[str, Origin] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, job_id: str, origin: Origin) -> bool:
        """Remember where a job came from; True if that is new."""
        with self._lock:
            known = self._origins.get(job_id) == origin
            self._origins[job_id] = origin
            self._origins.move_to_end(job_id)
            while len(self._origins) > REMEMBERED:
                self._origins.popitem(last=False)
            return not known

    def of(self, job_id: str) -> Origin | None:
        """Where a job came from; None for jobs of other programs and of earlier runs of ComfyUI."""
        with self._lock:
            return self._origins.get(job_id)


origins = Origins()


class OriginRecorder:
    """Records the origins of a node's jobs at once, and pictures of their inputs later.

    Pictures are drawn one at a time, and only while no task is being sent, because sending comes first. All
    methods belong to one event loop.

    Args:
        origin: The node.
        picture: Draws the input of the task with an index, None where it has none; called on a thread.
    """

    def __init__(self, origin: Origin, picture: Callable[[int], Image.Image | None]) -> None:
        self._origin = origin
        self._picture = picture
        self._being_sent: set[int] = set()
        self._due: deque[tuple[int, str]] = deque()
        self._drawing: asyncio.Task[None] | None = None

    def sending(self, index: int) -> None:
        """Note that a task is being prepared and sent."""
        self._being_sent.add(index)

    def sent(self, index: int) -> None:
        """Note that it no longer is; a repeated call does nothing."""
        self._being_sent.discard(index)
        if self._due and not self._being_sent and (self._drawing is None or self._drawing.done()):
            self._drawing = asyncio.get_running_loop().create_task(self._draw())

    def note(self, index: int, job_id: str) -> None:
        """Record the job of a task; a repeated call does nothing."""
        if origins.note(job_id, self._origin):
            self._due.append((index, job_id))

    async def _draw(self) -> None:
        while self._due and not self._being_sent:
            await asyncio.to_thread(self._save, *self._due.popleft())

    def _save(self, index: int, job_id: str) -> None:
        try:
            picture = self._picture(index)
            if picture is not None:
                save_input_preview(job_id, picture)
        except (OSError, ValueError) as error:
            log.debug("no small picture of the input of job %s: %s", job_id, error)
