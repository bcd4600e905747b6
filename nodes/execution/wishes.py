"""What the user has asked for in the sidebar about tasks, to be done when their node runs next.

The sidebar can't send a task itself: its images are in the graph. The wishes are forgotten when ComfyUI ends.
"""

from __future__ import annotations

import threading
from typing import Literal

Wish = Literal["send_again", "make_again"]


class Wishes:
    """Wishes by job id: of a create whose answer was lost, or of a kept result that is bad. Thread-safe."""

    def __init__(self) -> None:
        self._wishes: dict[str, Wish] = {}
        self._lock = threading.Lock()

    def note(self, job_id: str, wish: Wish) -> None:
        """Note a wish, in place of an earlier one."""
        with self._lock:
            self._wishes[job_id] = wish

    def of(self, job_id: str) -> Wish | None:
        """The wish about a job."""
        with self._lock:
            return self._wishes.get(job_id)

    def take(self, job_id: str | None, wish: Wish) -> bool:
        """Whether this is wished; from then on it no longer is, so that nothing is paid for twice."""
        with self._lock:
            if job_id is None or self._wishes.get(job_id) != wish:
                return False
            del self._wishes[job_id]
            return True


wishes = Wishes()
