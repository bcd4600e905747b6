"""A finished task's files from where the network says they are to this disk."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from ..errors import (
    STILL_RETRIEVABLE,
    NetworkError,
    ResultDownloadError,
    ResultError,
    ResultFormatError,
    ResultLocationError,
)
from ..events import Downloading
from ..network.answers import resolve_reference, result_references
from ..network.sequencer import Network
from ..network.status import FINISHED, is_terminal
from ..results import WorkflowTaskResult
from .async_journal import AsyncJournal

if TYPE_CHECKING:
    from .job import Job

logger = logging.getLogger("xalora_client")

NOT_FOUND_PAUSES = (1.0, 2.0, 5.0)
"""Seconds before each further try at a result that is not there: stores lag behind what miners say."""

LATE_OR_GONE = 404
_ASKED_ABOUT = (LATE_OR_GONE, 410, 401, 403)  # the last two where the signature of an address has run out


@dataclass(frozen=True)
class _Place:
    """Where a file is: as the network says, and the URL made of that."""

    reference: str
    url: str

    @property
    def rests_on_setting(self) -> bool:
        return self.url != self.reference


class Fetcher:
    """Brings results to disk, and takes none for expired before the network was asked about it again.

    Args:
        network: Asked for fresh addresses.
        journal: Where the files go, and whose turn it is.
        session: For downloads; it never carries a key.
        result_base_url: Where bare storage keys are found, None where that is not set.
    """

    def __init__(
        self,
        network: Network,
        journal: AsyncJournal,
        session: aiohttp.ClientSession,
        result_base_url: str | None,
    ) -> None:
        self._network = network
        self._journal = journal
        self._session = session
        self._result_base_url = result_base_url

    async def fetch(self, job: Job, answer: WorkflowTaskResult) -> tuple[Path, ...]:
        """Bring a finished task's files to disk.

        Raises:
            ResultExpiredError: The network no longer has them, and gives no other address.
            ResultLocationError: They have no known form, or are not under the configured base URL.
            ResultError: They can't be had, or are broken.
        """
        places = self._places(answer)
        async with self._journal.download_turn(job.record_id, job.lease) as kept_by_another:
            if kept_by_another:
                return kept_by_another
            stem = await self._journal.result_stem(job.record_id, job.job_id)
            said = answer
            files: list[Path] = []
            pauses = iter(NOT_FOUND_PAUSES)
            while len(files) < len(places):
                index = len(files)
                dest = stem if len(places) == 1 else stem.with_name(f"{stem.name}-{index}")
                try:
                    files.append(await self._brought(job, answer.task_id, places[index].url, dest))
                except ResultDownloadError as missing:
                    if missing.status_code not in _ASKED_ABOUT:
                        raise
                    pause = next(pauses, None)
                    if pause is None:
                        raise _explained(missing, said, places[index], job) from missing
                    said = await self._asked_again(job, answer, missing, pause)
                    fresh = self._places(said) if said.status == FINISHED else places
                    if not _is_worth_a_try(said.status, fresh, places, index, missing):
                        raise _explained(missing, said, places[index], job) from missing
                    if len(fresh) != len(places):
                        files.clear()
                    places = fresh
            return tuple(files)

    def _places(self, answer: WorkflowTaskResult) -> list[_Place]:
        references = result_references(answer.result)
        if not references:
            raise ResultLocationError(
                f"Task {answer.task_id} finished with a result of an unknown form: {answer.result!r:.200}",
                money=STILL_RETRIEVABLE,
                next_step="Report this form, and take the result up by the task id meanwhile.",
                task_id=answer.task_id,
            )
        base_url = self._result_base_url
        return [
            _Place(
                reference,
                resolve_reference(reference, result_base_url=base_url, task_id=answer.task_id),
            )
            for reference in references
        ]

    async def _asked_again(
        self, job: Job, answer: WorkflowTaskResult, missing: ResultDownloadError, pause: float
    ) -> WorkflowTaskResult:
        """What the network says now of a task whose result was not to be had where it said.

        Raises:
            ResultDownloadError: It can't be asked.
        """
        if missing.status_code == LATE_OR_GONE:
            logger.info("%s; trying again in %g s", missing.what, pause)
            await asyncio.sleep(pause)
        try:
            said = await self._network.query(job.credentials, answer.task_id)
        except NetworkError as error:
            why = f"the network could not be asked for another address: {error.what}"
            raise _still_there(missing, why, job) from error
        if said.status == FINISHED:
            await self._journal.finished(job.record_id, said.result)
        return said

    async def _brought(self, job: Job, task_id: str, url: str, dest: Path) -> Path:
        from ..transfer.download import download, left_whole

        # By a process that ended between the last byte and the note of it.
        if (left := await asyncio.to_thread(left_whole, dest)) is not None:
            return left

        def tell(received: int, total: int | None) -> None:
            job.emit(Downloading(job_id=job.job_id, task_id=task_id, received=received, total=total))

        try:
            return await download(self._session, url, dest, task_id=task_id, on_progress=tell)
        except ResultFormatError:
            # Broken on its way, perhaps: twice the same means that the miner wrote it so.
            return await download(self._session, url, dest, task_id=task_id, on_progress=tell)


def _is_worth_a_try(
    status: str, fresh: list[_Place], places: list[_Place], index: int, missing: ResultDownloadError
) -> bool:
    if status != FINISHED and is_terminal(status):
        return False
    return missing.status_code == LATE_OR_GONE or len(fresh) != len(places) or fresh[index] != places[index]


def _explained(
    missing: ResultDownloadError, said: WorkflowTaskResult, place: _Place, job: Job
) -> ResultError:
    if place.rests_on_setting:
        # The setting is as likely to be wrong as the file to be gone, and only one loses a paid result.
        return ResultLocationError(
            f"The result of task {said.task_id} has the storage key {place.reference!r}, and nothing is "
            f"there under the base URL of the setting XALORA_RESULT_BASE_URL (HTTP {missing.status_code})",
            money=STILL_RETRIEVABLE,
            next_step="Correct XALORA_RESULT_BASE_URL and take the task up again by its id: "
            f"`xalora resume {said.task_id}`.",
            task_id=said.task_id,
            job_id=job.job_id,
            status_code=missing.status_code,
            error_type=missing.error_type,
        )
    if not is_terminal(said.status):
        return _still_there(missing, f"the network now says that the task is {said.status}", job)
    return missing


def _still_there(missing: ResultDownloadError, why: str, job: Job) -> ResultDownloadError:
    """Not to be had now, and not to be given up either."""
    return ResultDownloadError(
        f"{missing.what}, and {why}",
        money=STILL_RETRIEVABLE,
        next_step=f"Fetch it again by the task's id: `xalora resume {missing.task_id}`.",
        task_id=missing.task_id,
        job_id=job.job_id,
        status_code=missing.status_code,
        error_type=missing.error_type,
    )
