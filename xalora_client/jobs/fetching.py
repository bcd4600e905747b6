"""A finished task's files from where the network says they are to this disk."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..concurrency import run_decoding, run_in_thread
from ..errors import (
    STILL_RETRIEVABLE,
    JournalError,
    NetworkError,
    ResultDownloadError,
    ResultError,
    ResultExpiredError,
    ResultFormatError,
    ResultLocationError,
    ResultMissingError,
    ResultTooLargeError,
    XaloraError,
)
from ..events import Downloading
from ..journal import Event, Journal
from ..media.limits import using
from ..network.answers import addresses_of, holds_nothing, result_references, shown_reference
from ..network.outside import without_key
from ..network.sequencer import Network
from ..network.status import FINISHED, is_terminal
from ..results import WorkflowTaskResult

if TYPE_CHECKING:
    from ..config import Settings
    from ..network.result_session import ResultSession
    from .job import Job

logger = logging.getLogger("xalora_client")

NOT_FOUND_PAUSES = (1.0, 2.0, 5.0)
"""Seconds before each further try at a result that is not there: stores lag behind what miners say."""

BROKEN_PAUSE = 2.0
"""Seconds before a file that came broken is fetched once more."""

NO_RESULT_PAUSES = (1.0, 2.0, 5.0, 10.0, 12.0)
"""The same before each further question about a task that has finished and has no result yet."""

LATE_OR_GONE = 404
# The last three where the signature of an address has run out.
_ASKED_ABOUT = (LATE_OR_GONE, 410, 400, 401, 403)


@dataclass(frozen=True)
class _Place:
    """Where a file is: as the network says, and the URLs made of that, the likeliest first."""

    reference: str
    urls: tuple[str, ...]
    refusal: ResultLocationError | None = None

    @property
    def rests_on_base_url(self) -> bool:
        return self.reference not in self.urls


class Fetcher:
    """Brings results to disk, and takes none for expired before the network was asked about it again.

    Args:
        network: Asked for fresh addresses.
        journal: Where the files go.
        session: For downloads; it never carries a key.
        settings: Where bare storage keys are found, and how much is fetched.
    """

    def __init__(
        self,
        network: Network,
        journal: Journal,
        session: ResultSession,
        settings: Settings,
    ) -> None:
        self._network = network
        self._journal = journal
        self._session = session
        self._result_base_url = settings.files_url
        self._max_bytes = int(settings.max_result_bytes)
        self._max_files = settings.max_result_files
        self._limits = settings.pixel_limits

    async def fetch(self, job: Job, answer: WorkflowTaskResult) -> tuple[Path, ...]:
        """Bring a finished task's files to disk.

        Raises:
            ResultExpiredError: The network no longer has them, and gives no other address.
            ResultLocationError: They have no known form, or are not under the base URL of results.
            ResultError: They can't be had, or are broken.
        """
        try:
            with using(self._limits):
                return await self._fetch(job, answer)
        except XaloraError:
            raise
        except Exception as error:
            # One edge for all of it: the answer and the files come from strangers, and this machine may lack
            # memory, threads or open files. Neither shows that the result is worthless.
            raise _not_fetched(job, answer.task_id, error) from error

    async def _fetch(self, job: Job, answer: WorkflowTaskResult) -> tuple[Path, ...]:
        answer = await self._with_result(job, answer)
        places = self._places(answer)
        try:
            stem = await run_in_thread(lambda: self._stem(job))
        except JournalError as error:
            raise _not_stored(job, answer.task_id, error) from error
        said = answer
        files: list[Path] = []
        refusals: list[ResultError] = []
        pauses = iter(NOT_FOUND_PAUSES)
        while (index := len(files) + len(refusals)) < len(places):
            dest = stem if len(places) == 1 else stem.with_name(f"{stem.name}-{index}")
            try:
                files.append(await self._brought(job, answer.task_id, places[index], dest, files))
            except (ResultLocationError, ResultFormatError) as refusal:
                refusals.append(refusal)
            except ResultDownloadError as missing:
                if missing.status_code not in _ASKED_ABOUT:
                    raise
                pause = next(pauses, None)
                fresh = places
                if pause is not None:
                    said = await self._asked_again(job, answer, missing, pause)
                    fresh = self._places(said) if said.status == FINISHED else places
                if pause is None or not _is_worth_a_try(said.status, fresh, places, index, missing):
                    explained = _explained(missing, said, places[index], job)
                    if not isinstance(explained, ResultLocationError | ResultExpiredError):
                        raise explained from missing
                    refusals.append(explained)
                    continue
                if len(fresh) != len(places):
                    files.clear()
                    refusals.clear()
                places = fresh
        if refusals and not files:
            # What may still be had decides about the whole result.
            told = next((each for each in refusals if not each.is_worthless), refusals[0])
            raise told from told.__cause__
        for each in refusals:
            logger.warning(
                "%s Its other files are kept. To fetch all once it can be: `xalora forget %s`, then "
                "`xalora resume %s`.",
                each,
                answer.task_id,
                answer.task_id,
            )
        return tuple(files)

    async def _with_result(self, job: Job, answer: WorkflowTaskResult) -> WorkflowTaskResult:
        """The answer, asked for again while it holds no result.

        Raises:
            ResultMissingError: It stays without one.
            ResultDownloadError: The task is under way again, or the network can't be asked any more.
        """
        unasked: NetworkError | None = None
        pauses = iter(NO_RESULT_PAUSES)
        while holds_nothing(answer.result):
            pause = next(pauses, None)
            if pause is None and (unasked is not None or not is_terminal(answer.status)):
                now = "the network can't be asked for it now" if unasked else f"is now {answer.status}"
                raise ResultDownloadError(
                    f"Task {answer.task_id} had finished without a result, and {now}",
                    money=STILL_RETRIEVABLE,
                    next_step=f"Fetch it later by the task's id: `xalora resume {answer.task_id}`.",
                    task_id=answer.task_id,
                    job_id=job.job_id,
                ) from unasked
            if pause is None or (is_terminal(answer.status) and answer.status != FINISHED):
                raise ResultMissingError(
                    f"Task {answer.task_id} finished without a result",
                    money="Whether such a task is charged is the network's decision; ask with the task id.",
                    next_step="Run it again; that is a new task.",
                    task_id=answer.task_id,
                    job_id=job.job_id,
                )
            await asyncio.sleep(pause)
            try:
                answer = await self._network.query(job.credentials, answer.task_id)
                unasked = None
            except NetworkError as error:
                unasked = error
        return answer

    async def recover(self, job: Job) -> tuple[Path, ...]:
        """The file of a process that ended between its rename and the note of it; empty where there is none.

        Only a result of one file: of several, the network has to say how many there are.
        """
        from ..transfer.download import find_complete_file

        try:
            with using(self._limits):
                found = await run_decoding(lambda: find_complete_file(self._stem(job)))
        except JournalError:
            return ()
        return () if found is None else (found,)

    def _stem(self, job: Job) -> Path:
        return self._journal.results.stem(job.record_id, job.job_id)

    def _places(self, answer: WorkflowTaskResult) -> list[_Place]:
        references = result_references(answer.result)
        if not references:
            raise ResultLocationError(
                f"Task {answer.task_id} finished with a result of an unknown form: {answer.result!r:.200}",
                money=STILL_RETRIEVABLE,
                next_step="Report this form, and take the result up by the task id meanwhile.",
                task_id=answer.task_id,
            )
        if len(references) > self._max_files:
            raise ResultDownloadError(
                f"The result of task {answer.task_id} has {len(references)} files, and {self._max_files} are "
                "the limit",
                money=STILL_RETRIEVABLE,
                next_step="To fetch it, raise XALORA_MAX_RESULT_FILES and take it up again by the task's id.",
                task_id=answer.task_id,
            )
        return [self._place(reference, answer.task_id) for reference in references]

    def _place(self, reference: str, task_id: str) -> _Place:
        try:
            urls = addresses_of(reference, result_base_url=self._result_base_url, task_id=task_id)
        except ResultLocationError as refusal:
            return _Place(reference, (reference,), refusal)
        return _Place(reference, urls)

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
            self._journal.note(job.record_id, Event.FINISHED, result=said.result)
        return said

    async def _brought(
        self, job: Job, task_id: str, place: _Place, dest: Path, others: Sequence[Path]
    ) -> Path:
        """One file, whole, under its lasting name; ``others`` are those of the same result."""
        if place.refusal is not None:
            raise place.refusal
        left = self._max_bytes - await run_in_thread(lambda: sum(file.stat().st_size for file in others))
        for url in place.urls[:-1]:
            try:
                return await self._brought_from(job, task_id, url, dest, left)
            except ResultExpiredError as missing:
                logger.debug("%s, looking for it elsewhere", missing.what)
        return await self._brought_from(job, task_id, place.urls[-1], dest, left)

    async def _brought_from(self, job: Job, task_id: str, url: str, dest: Path, max_bytes: int) -> Path:
        from ..transfer.download import download, find_complete_file
        from ..transfer.part_file import take_over

        # By a process that ended between the rename and the note of it, or that fetches the same task.
        if (left := await run_decoding(lambda: find_complete_file(dest))) is not None:
            return left

        def tell(received: int, total: int | None) -> None:
            job.events.emit(Downloading(job_id=job.job_id, task_id=task_id, received=received, total=total))

        # Several processes may fetch the same task: each writes a file of its own.
        private = dest.with_name(f"{dest.name}.{secrets.token_hex(4)}")
        # A task just sent from here has no partial download, and listing thousands of results is slow.
        if not job.state.sends:
            await run_in_thread(lambda: take_over(dest, private))

        async def once() -> Path:
            try:
                return await download(
                    self._session, url, private, task_id=task_id, on_progress=tell, max_bytes=max_bytes
                )
            except ResultError as error:
                # What came may repeat the key, and the message quote it.
                error.hide(lambda text: str(without_key(text, job.credentials)))
                raise

        try:
            try:
                path = await once()
            except ResultTooLargeError:
                raise
            except ResultFormatError:
                if url[:5].lower() == "data:":
                    raise
                # Broken on its way, or not all there yet, perhaps: twice means that the miner wrote it so.
                await asyncio.sleep(BROKEN_PAUSE)
                path = await once()
        except BaseException:
            self._journal.evict()
            raise
        try:
            return await run_in_thread(lambda: _settle(path, dest.with_name(dest.name + path.suffix)))
        except OSError as error:
            raise _not_stored(job, task_id, error) from error


def _settle(path: Path, lasting: Path) -> Path:
    """Give a whole file its lasting name, safely on disk on return. Blocking."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    if lasting.is_dir():
        # Somebody's folder stands where the file belongs; it is kept.
        lasting.rename(lasting.with_name(f"{lasting.name}.aside-{secrets.token_hex(4)}"))
    path.replace(lasting)
    return lasting


def _not_stored(job: Job, task_id: str, why: Exception) -> ResultDownloadError:
    said = why.what if isinstance(why, JournalError) else why
    return ResultDownloadError(
        f"The result of task {task_id} could not be stored: {said}",
        money=STILL_RETRIEVABLE,
        next_step="Mend the folder of results, then run the task again; it is fetched at no cost.",
        task_id=task_id,
        job_id=job.job_id,
    )


def _not_fetched(job: Job, task_id: str, error: Exception) -> ResultDownloadError:
    # The system's own words alone: others may quote a stranger, or an address that is signed.
    why = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
    return ResultDownloadError(
        f"The result of task {task_id} could not be fetched: {why}",
        money=STILL_RETRIEVABLE,
        next_step="See that this machine has memory, threads and open files left, then run the task again; "
        "it is fetched at no cost.",
        task_id=task_id,
        job_id=job.job_id,
    )


def _is_worth_a_try(
    status: str, fresh: list[_Place], places: list[_Place], index: int, missing: ResultDownloadError
) -> bool:
    if status != FINISHED and is_terminal(status):
        return False
    return missing.status_code == LATE_OR_GONE or len(fresh) != len(places) or fresh[index] != places[index]


def _explained(
    missing: ResultDownloadError, said: WorkflowTaskResult, place: _Place, job: Job
) -> ResultError:
    if place.rests_on_base_url:
        # The base URL is as likely to be wrong as the file to be gone, and only one loses a paid result.
        return ResultLocationError(
            f"The result of task {said.task_id} has the storage key {shown_reference(place.reference)}, and "
            f"nothing is there under the base URL of results (HTTP {missing.status_code})",
            money=STILL_RETRIEVABLE,
            next_step="Set XALORA_RESULT_BASE_URL to the right one and take the task up again by its id: "
            f"`xalora resume {said.task_id}`.",
            task_id=said.task_id,
            job_id=job.job_id,
            status_code=missing.status_code,
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
    )
