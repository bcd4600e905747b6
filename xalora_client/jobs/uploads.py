"""Input images that lie in the user's own store until their tasks have ended."""

from __future__ import annotations

import logging

from ..transfer.upload import DeliveredImage

logger = logging.getLogger("xalora_client")


class Uploads:
    """The store's objects of the tasks that this client submitted, deleted when their tasks have ended.

    A task that outlives the client keeps its object: the miner may yet have to read it. Give the store a
    lifecycle rule for those.
    """

    def __init__(self) -> None:
        self._of_jobs: dict[str, list[DeliveredImage]] = {}

    def keep(self, job_id: str, delivered: DeliveredImage) -> None:
        """Remember an object of a job; what travels inside the request is no object."""
        if isinstance(delivered.reference, str):
            self._of_jobs.setdefault(job_id, []).append(delivered)

    async def discard(self, job_id: str) -> None:
        """Delete a job's objects."""
        for delivered in self._of_jobs.pop(job_id, ()):
            try:
                await delivered.discard()
            except Exception:
                # The task is what matters, and the way of delivery may be the user's own.
                logger.warning("job %s: an uploaded input is not deleted", job_id, exc_info=True)
