"""Which node a task came from, and what its input looks like, for as long as this ComfyUI runs.

The journal knows neither: node ids belong to graphs, and pixels never go into it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .previews import keep_input

if TYPE_CHECKING:
    from PIL import Image

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


def note_origin(job_id: str, node_id: str, prompt_id: str, picture: Image.Image | None = None) -> None:
    """Remember the node that asked for a job, and a small copy of its input picture; blocking if new."""
    if origins.note(job_id, Origin(node_id, prompt_id)) and picture is not None:
        keep_input(job_id, picture)
