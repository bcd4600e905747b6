"""The sidebar's operations on the journal's tasks: list, preview, cancel, resume and forget.

What reads runs on any loop, in threads of its own; what changes a task runs on the client's loop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from ...xalora_client.concurrency import run_decoding, run_in_thread
from ...xalora_client.config import Settings
from ...xalora_client.errors import InvalidTaskError, XaloraError
from ...xalora_client.journal import ClaimOptions, Journal, Record, TaskState
from ...xalora_client.journal.spending import sent_in, spending
from ...xalora_client.journal.wholes import parts_of, rows_by_group
from ...xalora_client.polling.durations import usual_span
from ...xalora_client.prices import Prices, Sent
from ...xalora_client.text import counted
from ..conversion.previews import has_input_preview, kept_preview, result_preview
from ..execution import running_node
from ..execution.freshness import freshness
from ..execution.task_origins import origins
from ..execution.unused import forget_unused
from ..execution.wishes import Wish, wishes
from ..execution.wording import words_for
from ..host.clients import SIDEBAR_READS, clients
from .task_details import details_of, price_text, size_of
from .task_rows import task_row

if TYPE_CHECKING:
    from ...xalora_client.client import AsyncXalora

log = logging.getLogger("xalora_client.nodes")

_TASK_ID = re.compile(r"[\w.:-]{1,200}")

CANCELS_AT_ONCE = 8
PREVIEWS_AT_ONCE = 2
"""Decoding a large result takes up to a second; scrolling past many must not take all cores."""


ELSEWHERE = "sent to another network, or with another key"
ENTER_THAT_KEY = "Enter the endpoint and the key that were used then."


class NoSuchTaskError(XaloraError):
    """The journal has no such record; it may have been forgotten in another window."""


class NotNowError(XaloraError):
    """The task's state does not allow the action."""


class TaskService:
    """The operations behind the routes. A task resumed here is waited for until it ends."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._problems: dict[int, str] = {}
        self._previewing = asyncio.Semaphore(PREVIEWS_AT_ONCE)

    # --- reading ------------------------------------------------------------------------------------------

    async def page(self, *, limit: int, offset: int = 0, each: bool = False, **which: Any) -> dict[str, Any]:
        """A page of tasks, the latest first, as JSON.

        Args:
            limit: How many to list at most.
            offset: How many to leave out at the beginning.
            each: List each part of a clip, and of an image in tiles; else of all parts only the newest.
            **which: Which tasks: ``groups``, ``text``, ``named``, ``since`` and ``whole_id``, whose parts
                are listed each, as for :meth:`.Journal.records`.
        """
        return await clients.read(
            lambda journal, settings: self._page(journal, settings, limit, offset, each, which)
        )

    def _page(
        self,
        journal: Journal,
        settings: Settings,
        limit: int,
        offset: int,
        each: bool,
        which: dict[str, Any],
    ) -> dict[str, Any]:
        # Nothing here waits for what is about to be written: while hundreds of tasks are under way, something
        # always is. The version is read first, so that a change in between is sent again rather than missed.
        with journal.as_written():
            version = journal.version()
            # A clip or an image in tiles is one row, and its parts are listed where they are asked for.
            which = {**which, "one_a_whole": not each and which.get("whole_id") is None}
            records = journal.records(**which, limit=limit, offset=offset)
            return {
                "version": version,
                "now": time(),
                "total": journal.count(**which),
                **summary(journal, settings),
                "tasks": self.rows(journal, settings, records),
            }

    def rows(self, journal: Journal, settings: Settings, records: Sequence[Record]) -> list[dict[str, Any]]:
        """Rows of records. Blocking."""
        leased = journal.leased([record.id for record in records])
        usual = {
            kind: usual_span(journal.past_runs(kind))
            for kind in {record.work.kind for record in records if record.group == "active"}
        }
        parts = parts_of(journal.read, {record.work.whole.id for record in records if record.work.whole})
        workflow_url = settings.sequencer_url
        prices = {url: settings.prices_on(url) for url in {record.work.sequencer_url for record in records}}
        return [
            task_row(
                record,
                workflow_url=workflow_url,
                leased=record.id in leased,
                origin=origins.of(record.job_id),
                has_input=has_input_preview(record.job_id),
                usual=usual.get(record.work.kind),
                problem=self._problems.get(record.id),
                wish=wishes.of(record.job_id),
                price=price_text(prices[record.work.sequencer_url], record),
                parts=parts.get(record.work.whole.id) if record.work.whole else None,
            )
            for record in records
        ]

    async def row(self, record_id: int) -> dict[str, Any]:
        """The current row of a task.

        Raises:
            NoSuchTaskError: It was forgotten.
        """
        return await clients.read(
            lambda journal, settings: self.rows(journal, settings, [_found(journal, record_id)])[0]
        )

    async def _row(self, client: AsyncXalora, record_id: int) -> dict[str, Any]:
        record = await asyncio.to_thread(_found, client.journal, record_id)
        (row,) = await asyncio.to_thread(self.rows, client.journal, client.settings, [record])
        return row

    async def details(self, record_id: int) -> dict[str, Any]:
        """What the view of one task shows beside its row, see :func:`.details_of`, and its ``has_input``.

        Raises:
            NoSuchTaskError: It was forgotten.
        """

        def looked_up(journal: Journal, settings: Settings) -> tuple[Record, Prices, list[Sent]]:
            record = _found(journal, record_id)
            run = sent_in(journal.read, record.run_id, settings.unpriced) if record.run_id else []
            return record, settings.prices_on(record.work.sequencer_url), run

        record, prices, sent = await clients.read(looked_up)
        async with self._previewing:
            sizes = [await run_decoding(partial(size_of, file)) for file in record.files]
        return {**details_of(record, prices, sent, sizes), "has_input": has_input_preview(record.job_id)}

    async def file(self, record_id: int, index: int) -> Path | None:
        """A file of a kept result; None where there is none with this index."""

        def kept(journal: Journal, _: Settings) -> Path | None:
            files = _found(journal, record_id).files
            return files[index] if 0 <= index < len(files) and files[index].is_file() else None

        return await clients.read(kept)

    async def preview(self, record_id: int) -> Path | None:
        """A small picture of a task's result; None where there is none."""
        record = await clients.read(lambda journal, _: _found(journal, record_id))
        if not record.files:
            return None
        made = await run_in_thread(lambda: kept_preview("result", record.job_id), SIDEBAR_READS)
        if made is not None:
            return made
        try:
            # The semaphore is taken outside the thread, to leave threads to the journal.
            async with self._previewing:
                return await run_decoding(lambda: result_preview(record.job_id, record.files[0]))
        except (OSError, ValueError) as error:
            log.debug("no preview of %s: %s", record.files[0], error)
            return None

    async def input(self, record_id: int) -> Path | None:
        """A small picture of a task's input; None where there is none."""
        return await clients.read(lambda journal, _: kept_preview("input", _found(journal, record_id).job_id))

    # --- changing tasks -----------------------------------------------------------------------------------

    async def cancel(self, record_id: int) -> dict[str, Any]:
        """Cancel a task in the network, even if something waits for it; returns its row.

        Raises:
            NotNowError: There is nothing to cancel.
            NetworkError: The cancel is not confirmed.
        """
        async with clients.client() as client:
            row = await self._row(client, record_id)
            await self._cancel(client, row)
            return await self._row(client, record_id)

    async def _cancel(self, client: AsyncXalora, row: dict[str, Any]) -> None:
        if "cancel" not in row["actions"]:
            raise _not_now(row, "canceled")
        task_id = row["task_id"]
        running_node.canceled_by_user[task_id] = monotonic()
        try:
            await client.cancel_task(task_id)
        except XaloraError:
            running_node.canceled_by_user.pop(task_id, None)
            raise

    async def cancel_all(self, whole_id: str | None = None) -> dict[str, Any]:
        """Cancel every task that can be canceled; ``canceled`` counts them, ``failed`` holds messages.

        Running nodes send no more tasks; a task that is being sent counts as canceled.

        Args:
            whole_id: Only the parts of this whole, and what makes it.
        """
        # First, because a node whose task is canceled would begin its next one.
        withdrawals = running_node.cancel_all(whole_id)
        turns = asyncio.Semaphore(CANCELS_AT_ONCE)
        failed: list[str] = []

        async def one(client: AsyncXalora, row: dict[str, Any]) -> bool:
            async with turns:
                try:
                    await self._cancel(client, row)
                except XaloraError as error:
                    failed.append(str(words_for(error)).replace("\n", " "))
                    return False
                return True

        async with clients.client() as client:
            records = await asyncio.to_thread(client.journal.records, groups=("active",), whole_id=whole_id)
            rows = await asyncio.to_thread(self.rows, client.journal, client.settings, records)
            if elsewhere := sum(_is_elsewhere(row) for row in rows):
                tasks = counted(elsewhere, "task")
                failed.append(f"{tasks} can't be canceled from here: {ELSEWHERE}. {ENTER_THAT_KEY}")
            ended = await asyncio.gather(*(one(client, row) for row in rows if "cancel" in row["actions"]))
        if withdrawals:
            await asyncio.wait(withdrawals)
        return {"canceled": sum(ended) + len(withdrawals), "failed": failed}

    async def resume(self, record_id: int) -> dict[str, Any]:
        """Wait for a task, in the background, until its result is on this machine; returns its row.

        Raises:
            NotNowError: Something waits for it already, or there is nothing to wait for.
        """
        async with clients.client() as client:
            row = await self._row(client, record_id)
            if "resume" not in row["actions"]:
                raise _not_now(row, "resumed")
            self._problems.pop(record_id, None)
            if record_id not in self._waiting:
                waiting = asyncio.get_running_loop().create_task(self._wait_for(record_id, row))
                self._waiting[record_id] = waiting
                waiting.add_done_callback(lambda _: self._waiting.pop(record_id, None))
            return {**row, "leased": True, "actions": [a for a in row["actions"] if a == "cancel"]}

    async def _wait_for(self, record_id: int, row: dict[str, Any]) -> None:
        try:
            async with clients.client() as client:
                await client.task(row["task_id"]).result()
        except XaloraError as error:
            log.warning("%s", error)
            self._problems[record_id] = str(words_for(error)).replace("\n", " ")

    async def take_up(self, record_id: int, task_id: str) -> dict[str, Any]:
        """Take up the task of a create whose answer was lost, which the user has found; its row.

        Raises:
            NotNowError: The task's id is known, or something is just sending it.
            InvalidTaskError: This is no id.
            NetworkError: The network does not know the task, or can't be asked.
            JournalError: It is another record's task.
        """
        if not _TASK_ID.fullmatch(task_id):
            raise InvalidTaskError(
                "This is no task id", next_step="Copy the id of the task from your account."
            )
        async with clients.client() as client:
            row = await self._row(client, record_id)
            if "take_up" not in row["actions"]:
                raise _not_now(row, "taken up")
            await client.query_task_result(task_id)
            await asyncio.wrap_future(client.journal.accepted(record_id, task_id))
        return await self.resume(record_id)

    async def send_again(self, record_id: int) -> dict[str, Any]:
        """Have the next run of its node send a task again whose outcome is unknown; its row.

        Raises:
            NotNowError: Its outcome is known.
        """
        return await self._wish(record_id, "send_again", "sent again")

    async def make_again(self, record_id: int) -> dict[str, Any]:
        """Have the next run of its node pay for a new task in place of a kept result; its row.

        Raises:
            NotNowError: There is no kept result, or a newer one, which is what the node gives.
        """

        def newer(journal: Journal, _: Settings) -> Record | None:
            options = ClaimOptions(reuse=True, newer_than=record_id)
            return journal.answering(_found(journal, record_id).work, options)

        record = await clients.read(newer)
        if record is not None and record.is_kept:
            raise NotNowError(
                "A newer result of the same inputs is kept",
                money="Nothing has changed.",
                next_step="Have that one made again.",
            )
        row = await self._wish(record_id, "make_again", "made again")
        freshness.expire_task(row["task_id"])
        return row

    async def take_back(self, record_id: int) -> dict[str, Any]:
        """Have the next run of its node do nothing of what was wished about this task; its row."""
        row = await self.row(record_id)
        await asyncio.to_thread(wishes.drop, row["job_id"])
        return {**row, "wish": None}

    async def _wish(self, record_id: int, wish: Wish, done: str) -> dict[str, Any]:
        row = await self.row(record_id)
        if wish not in row["actions"]:
            raise _not_now(row, done)
        await asyncio.to_thread(wishes.note, row["job_id"], wish)
        return {**row, "wish": wish}

    async def forget(self, record_id: int) -> dict[str, Any]:
        """Remove a task from the journal, with its kept files; an empty answer.

        Raises:
            NotNowError: Something waits for it.
        """
        async with clients.client() as client:
            row = await self._row(client, record_id)
            if not await forget_unused(client.journal, [record_id]):
                raise _not_now(row, "forgotten")
            self._problems.pop(record_id, None)
            if row["task_id"] is not None:
                freshness.expire_task(row["task_id"])
            return {}

    async def forget_all(self, *, version: int, **which: Any) -> dict[str, Any]:
        """Remove ended tasks from the journal, with their kept files; how many were ``forgotten``.

        What has changed since stays, and what something uses, and tasks whose outcome is unknown: forgotten,
        they could be paid for twice.

        Args:
            version: The journal's version when the user looked at them.
            **which: Which tasks, as for :meth:`page`.
        """
        async with clients.client() as client:
            records = await asyncio.to_thread(client.journal.records, **which)
            chosen = {
                record.id: record
                for record in records
                if record.version <= version and record.group != "active" and not _is_undecided(record)
            }
            forgotten = await forget_unused(client.journal, chosen)
            left = {record.id for record in await asyncio.to_thread(client.journal.records, **which)}
            for record_id, record in chosen.items():
                if record_id not in left:
                    self._problems.pop(record_id, None)
                    if record.task_id is not None:
                        freshness.expire_task(record.task_id)
        return {"forgotten": forgotten, "left": len(records) - forgotten}


def _is_undecided(record: Record) -> bool:
    return record.state is TaskState.UNKNOWN and not record.forgotten


def _found(journal: Journal, record_id: int) -> Record:
    record = journal.find(record_id)
    if record is None:
        raise NoSuchTaskError(
            "This task is not in the journal any more", next_step="Reload the list.", money=""
        )
    return record


def summary(journal: Journal, settings: Settings) -> dict[str, Any]:
    """``counts`` of the groups, rows in the ``history``, what was sent ``today`` and in the ``last_run``."""
    counts, history = rows_by_group(journal.read)
    sent = spending(journal.read, settings.prices, settings.unpriced)
    return {"counts": counts, "history": history, **sent}


def _is_elsewhere(row: dict[str, Any]) -> bool:
    """Whether it is an open task that the current settings can't cancel."""
    return row["state"] == TaskState.SUBMITTED.value and "cancel" not in row["actions"]


def _not_now(row: dict[str, Any], what: str) -> NotNowError:
    reason, next_step = f"it is {row['state'].replace('_', ' ')}", "Reload the list of tasks."
    if _is_elsewhere(row) and not row["leased"]:
        reason, next_step = f"it was {ELSEWHERE}", ENTER_THAT_KEY
    if row["leased"] and row["group"] == "done":
        reason = "an open graph, or another program, still uses its file"
        next_step = "Choose Unload Models and Execution Cache in ComfyUI's menu."
    elif row["leased"]:
        reason += ", and a node or another program waits for it"
        next_step = "Cancel its prompt in ComfyUI's queue, or wait until it ends."
    return NotNowError(
        f"The task can't be {what} from here: {reason}",
        money="Nothing has changed.",
        next_step=next_step,
        task_id=row["task_id"],
        job_id=row["job_id"],
    )


task_service = TaskService()
