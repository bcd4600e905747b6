"""What the user has asked for in the sidebar about tasks, to be done when their node runs next.

The sidebar can't send a task itself: its images are in the graph. So the wishes are kept in a file, until
their node runs or the user takes them back, whether ComfyUI is started anew meanwhile or not.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from ...xalora_client.errors import JournalError
from ...xalora_client.files import draft_of
from ..host import compat
from ..host.comfyui_settings import STATE_FOLDER

log = logging.getLogger("xalora_client.nodes")

Wish = Literal["send_again", "make_again"]

REMEMBERED = 1000
"""How many wishes are kept; the oldest are forgotten first."""


class Wishes:
    """Wishes by job id: of a create whose answer was lost, or of a kept result that is bad. Thread-safe.

    Args:
        path: Where they are kept.
    """

    def __init__(self, path: Callable[[], Path]) -> None:
        self._path = path
        self._read: dict[str, Wish] | None = None
        self._lock = threading.Lock()

    def note(self, job_id: str, wish: Wish) -> None:
        """Note a wish, in place of an earlier one. Blocking.

        Raises:
            JournalError: It can't be kept.
        """
        with self._lock:
            wishes = {**self._fresh(), job_id: wish}
            self._keep(dict(list(wishes.items())[-REMEMBERED:]))

    def of(self, job_id: str) -> Wish | None:
        """The wish about a job."""
        with self._lock:
            return self._wishes().get(job_id)

    def for_new_results(self) -> list[str]:
        """The jobs whose results are to be made again."""
        with self._lock:
            return [job_id for job_id, wish in self._wishes().items() if wish == "make_again"]

    def drop(self, job_id: str) -> None:
        """Take a wish back; nothing where there is none. Blocking.

        Raises:
            JournalError: That can't be kept.
        """
        with self._lock:
            self._drop(job_id)

    def is_for_new_result(self, job_id: str) -> bool:
        """Whether this job's result is to be made again; it stays so until :meth:`drop`."""
        with self._lock:
            return self._has(job_id, "make_again")

    def take_send_again(self, job_id: str | None) -> bool:
        """Whether this job is to be sent again; from then on it no longer is, so that it is sent once.

        Where that can't be kept, nothing is done about the wish.
        """
        with self._lock:
            if job_id is None or not self._has(job_id, "send_again"):
                return False
            try:
                self._drop(job_id)
            except JournalError as error:
                log.warning("%s", error)
                return False
            return True

    def _has(self, job_id: str, wish: Wish) -> bool:
        # Another ComfyUI of the same user folder may have fulfilled it.
        return self._wishes().get(job_id) == wish and self._fresh().get(job_id) == wish

    def _drop(self, job_id: str) -> None:
        wishes = self._fresh()
        if job_id in wishes:
            self._keep({known: wish for known, wish in wishes.items() if known != job_id})

    def _wishes(self) -> dict[str, Wish]:
        return self._fresh() if self._read is None else self._read

    def _fresh(self) -> dict[str, Wish]:
        try:
            read = json.loads(self._path().read_text(encoding="utf-8"))
            self._read = {str(job): wish for job, wish in read.items() if wish in get_args(Wish)}
        except FileNotFoundError:
            self._read = {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("what was wished about tasks can't be read: %s", error)
            self._read = self._read or {}
        return self._read

    def _keep(self, wishes: dict[str, Wish]) -> None:
        path = self._path()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft_of(path) as draft:
                draft.write_text(json.dumps(wishes), encoding="utf-8")
                draft.replace(path)
        except OSError as error:
            raise JournalError(
                f"What was wished about a task can't be kept in {path}: {error.strerror or error}",
                next_step="Make room on the disk, then try again.",
            ) from error
        self._read = wishes


wishes = Wishes(lambda: compat.user_directory() / STATE_FOLDER / "wishes.json")
