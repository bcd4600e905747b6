"""What the sidebar can see and do: the journal's tasks, canceled, taken up again, or forgotten.

Everything runs on the bridge's loop, the journal in threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...xalora_client.errors import XaloraError
from ...xalora_client.journal import Journal, Record, TaskState
from ..conversion.previews import input_preview, made_preview, result_preview
from ..execution import node_run
from ..execution.task_origins import origins
from ..host.clients import clients
from .task_rows import GROUPS, Surroundings, states_of, task_row

if TYPE_CHECKING:
    from ...xalora_client.client import AsyncXalora

log = logging.getLogger("xalora_client.nodes")

PAGE_LIMIT = 200
CANCELS_AT_ONCE = 8
PREVIEWS_AT_ONCE = 2
"""Large results take a good part of a second to decode; scrolling past many must not take all cores."""


class NoSuchTaskError(XaloraError):
    """The journal has no such record: it was forgotten, perhaps in another window."""


class NotNowError(XaloraError):
    """The task's state does not allow what was asked for."""


@dataclass(frozen=True)
class Query:
    """Which tasks to list.

    Args:
        groups: Names of groups; none for all.
        text: Only those with this text in label, ids, type, workflow, engine, miner or error.
        since: Only those changed after this version of the journal.
        offset: Leaving out so many first.
        limit: At most so many.
    """

    groups: tuple[str, ...] = ()
    text: str | None = None
    since: int | None = None
    offset: int = 0
    limit: int = PAGE_LIMIT


@dataclass(frozen=True)
class Listing:
    """One page of tasks, the latest first, and how many there are in all."""

    version: int
    total: int
    counts: dict[str, int]
    tasks: list[dict[str, Any]]


class Desk:
    """Answers the routes. Tasks taken up here are followed until they end, whoever looks."""

    def __init__(self) -> None:
        self._following: dict[int, asyncio.Task[None]] = {}
        self._problems: dict[int, str] = {}
        self._previewing = asyncio.Semaphore(PREVIEWS_AT_ONCE)

    # --- looking ------------------------------------------------------------------------------------------

    async def page(self, query: Query) -> Listing:
        """A page of tasks."""
        async with clients.client() as client:
            journal, url = client.journal, client.settings.sequencer_url
            return await asyncio.to_thread(self._page, journal, url, query)

    def _page(self, journal: Journal, url: str, query: Query) -> Listing:
        # The version first: what changes in between is listed again, never missed.
        version = journal.version()
        states = states_of(query.groups)
        text = query.text or None
        records = journal.records(
            states=states, text=text, since=query.since, limit=query.limit, offset=query.offset
        )
        total = journal.count(states=states, text=text, since=query.since)
        return Listing(version, total, counts(journal), self.rows(journal, url, records))

    def rows(self, journal: Journal, url: str, records: Sequence[Record]) -> list[dict[str, Any]]:
        """Records as the sidebar gets them; blocking."""
        attended = journal.attended_records() if records else frozenset()
        usual = {
            kind: journal.usual(kind)
            for kind in {record.work.kind for record in records if record.state in GROUPS["active"]}
        }
        return [
            task_row(
                record,
                Surroundings(
                    workflow_url=url,
                    attended=record.id in attended,
                    origin=origins.of(record.job_id),
                    has_input=input_preview(record.job_id) is not None,
                    usual=usual.get(record.work.kind),
                    problem=self._problems.get(record.id),
                ),
            )
            for record in records
        ]

    async def row(self, record_id: int) -> dict[str, Any]:
        """One task as it stands.

        Raises:
            NoSuchTaskError: It was forgotten.
        """
        async with clients.client() as client:
            return await self._row(client, record_id)

    async def _row(self, client: AsyncXalora, record_id: int) -> dict[str, Any]:
        record = await self._record(client, record_id)
        (row,) = await asyncio.to_thread(self.rows, client.journal, client.settings.sequencer_url, [record])
        return row

    async def _record(self, client: AsyncXalora, record_id: int) -> Record:
        record = await asyncio.to_thread(client.journal.find, record_id)
        if record is None:
            raise NoSuchTaskError(
                "This task is not in the journal any more", next_step="Look at the list anew.", money=""
            )
        return record

    async def file(self, record_id: int, index: int) -> Path | None:
        """A file of a kept result; None where there is none of this number."""
        async with clients.client() as client:
            files = (await self._record(client, record_id)).files
        return files[index] if 0 <= index < len(files) and files[index].is_file() else None

    async def preview(self, record_id: int) -> Path | None:
        """A small picture of a task's result; None where there is none."""
        async with clients.client() as client:
            record = await self._record(client, record_id)
        if not record.files:
            return None
        made = await asyncio.to_thread(made_preview, record.job_id)
        if made is not None:
            return made
        try:
            # The turn comes before the thread: the journal needs threads too, and those would only wait.
            async with self._previewing:
                return await asyncio.to_thread(result_preview, record.job_id, record.files[0])
        except (OSError, ValueError) as error:
            log.debug("no preview of %s: %s", record.files[0], error)
            return None

    async def input(self, record_id: int) -> Path | None:
        """A small picture of a task's input; None where there is none."""
        async with clients.client() as client:
            record = await self._record(client, record_id)
        return await asyncio.to_thread(input_preview, record.job_id)

    # --- steering -----------------------------------------------------------------------------------------

    async def cancel(self, record_id: int) -> dict[str, Any]:
        """Cancel a task at the network, whoever waits for it. The task as it then stands.

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
        await client.cancel_task(row["task_id"])

    async def cancel_all(self) -> dict[str, Any]:
        """Cancel every task that can be: ``canceled`` counts them, ``failed`` holds messages.

        Nodes that have more to send do not send it; what they were just sending counts as canceled.
        """
        # First of all: a node that is told of a canceled task would begin its next one.
        withdrawing = node_run.cancel_all()
        turns = asyncio.Semaphore(CANCELS_AT_ONCE)
        failed: list[str] = []

        async def one(client: AsyncXalora, row: dict[str, Any]) -> bool:
            async with turns:
                try:
                    await self._cancel(client, row)
                except XaloraError as error:
                    failed.append(str(error))
                    return False
                return True

        async with clients.client() as client:
            url = client.settings.sequencer_url
            records = await asyncio.to_thread(client.journal.records, states=GROUPS["active"])
            rows = await asyncio.to_thread(self.rows, client.journal, url, records)
            ended = await asyncio.gather(*(one(client, row) for row in rows if "cancel" in row["actions"]))
        if withdrawing:
            await asyncio.wait(withdrawing)
        return {"canceled": sum(ended) + len(withdrawing), "failed": failed}

    async def resume(self, record_id: int) -> dict[str, Any]:
        """Take a task up again and follow it until its result is here. The task as it now stands.

        Raises:
            NotNowError: Somebody does so already, or there is nothing to take up.
        """
        async with clients.client() as client:
            row = await self._row(client, record_id)
            if "resume" not in row["actions"]:
                raise _not_now(row, "taken up")
            self._problems.pop(record_id, None)
            if record_id not in self._following:
                follow = asyncio.get_running_loop().create_task(self._follow(record_id, row))
                self._following[record_id] = follow
                follow.add_done_callback(lambda _: self._following.pop(record_id, None))
            return {**row, "attended": True, "actions": [a for a in row["actions"] if a == "cancel"]}

    async def _follow(self, record_id: int, row: dict[str, Any]) -> None:
        try:
            async with clients.client() as client:
                handle = client.task(row["task_id"])
                if row["state"] == TaskState.CANCEL_PENDING.value:
                    await handle.cancel()
                    await handle.wait()
                else:
                    await handle.result()
        except XaloraError as error:
            log.warning("%s", error)
            self._problems[record_id] = str(error)

    async def forget(self, record_id: int) -> None:
        """Remove a task from the journal, with its kept files.

        Raises:
            NotNowError: Somebody looks after it.
        """
        async with clients.client() as client:
            row = await self._row(client, record_id)
            if not await asyncio.to_thread(client.journal.forget, record_id):
                raise _not_now(row, "forgotten")
            self._problems.pop(record_id, None)


def counts(journal: Journal) -> dict[str, int]:
    """How many tasks there are in each group."""
    return {name: journal.count(states=states) for name, states in GROUPS.items()}


def _not_now(row: dict[str, Any], what: str) -> NotNowError:
    reason, next_step = f"it is {row['state'].replace('_', ' ')}", ""
    if row["attended"] and row["group"] == "done":
        reason = "an open graph, or another program, still uses its file"
        next_step = "Unload Models and Execution Cache, in ComfyUI's menu, lets go of it."
    elif row["attended"]:
        reason += ", and a node or another program waits for it"
        next_step = "Cancel its prompt in ComfyUI's queue, or wait for its end."
    return NotNowError(
        f"The task can't be {what} from here: {reason}",
        money="Nothing has changed.",
        next_step=next_step,
        task_id=row["task_id"],
        job_id=row["job_id"],
    )


desk = Desk()
