"""What a command would do, for ``--dry-run``: tasks sent, bytes, results reused, and an estimate."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from time import time
from typing import Any, Literal, TypeAlias

from ..client import open_journal
from ..config import Credentials, IfUnknown, Settings, names_listed_host, no_key
from ..errors import DailyLimitError, InputTooLargeError, XaloraError
from ..journal import ClaimOptions, Journal, Record, TaskState
from ..journal.spending import sent_since
from ..prices import Sent, cost_of, cost_text, midnight_before
from ..tasks import WorkflowTask
from ..text import bytes_text, counted
from .destinations import is_result
from .exit_codes import ExitCode, exit_code_of, most_serious
from .job_runner import Job
from .options import RunOptions
from .outputs import check_free
from .screen import Screen, error_fields

Action: TypeAlias = Literal["send", "same", "reuse", "wait", "here", "unknown", "fail"]

WORDS: dict[Action, str] = {
    "send": "would be sent",
    "same": "the same as {same_as}, one task for both",
    "reuse": "kept result, nothing would be sent",
    "wait": "its task is under way and paid for; nothing would be sent",
    "here": "would be done by this machine, nothing would be sent",
    "unknown": "the outcome of its earlier create is unknown; it would stop, see --if-unknown",
    "fail": "can't be sent",
}


@dataclass(frozen=True)
class Planned:
    """What would become of one job.

    ``size`` is how many bytes of images would be sent; ``same_as`` names the input whose task does for both;
    ``tiles`` and ``tasks`` are those of an image that is cut.
    """

    job: Job
    action: Action
    size: int = 0
    same_as: str = ""
    error: XaloraError | None = None
    tiles: int = 1
    tasks: int = 1

    def document(self) -> dict[str, Any]:
        """The plan as JSON."""
        place = self.job.destination
        return {
            "input": self.job.source,
            "label": self.job.label,
            "action": self.action,
            "bytes": self.size,
            "tiles": self.tiles,
            "tasks": self.tasks if self.action == "send" else 0,
            "output": "-" if place.is_stream else str(place.path),
            "error": error_fields(self.error) if self.error else None,
        }


def action_for(record: Record | None, if_unknown: IfUnknown) -> Action:
    """What a task with this answer of the journal comes to."""
    from ..jobs.kept import needs_create

    if record is None or needs_create(record, if_unknown):
        return "send"
    if record.state is TaskState.UNKNOWN:
        return "unknown"
    return "reuse" if record.files else "wait"


def within_limit(settings: Settings, today: Sequence[Sent], plans: Sequence[Planned]) -> list[Sent]:
    """The tasks to be sent that the user's limit of a day lets through, in their order.

    Args:
        today: What was sent since midnight.
    """
    limit = settings.daily_limit
    is_priced = not names_listed_host(settings.sequencer_url, settings.unpriced)
    counts: Counter[tuple[str, str | None]] = Counter()
    for plan in plans:
        if plan.action != "send" or plan.job.task is None:
            continue
        kind = (plan.job.task.kind_of_task, plan.job.task.workflow_id)
        for _ in range(plan.tasks):
            try:
                limit.check([*today, *_sent(counts, is_priced)], *kind)
            except DailyLimitError:
                break
            counts[kind] += 1
    return _sent(counts, is_priced)


def _sent(counts: Counter[tuple[str, str | None]], is_priced: bool) -> list[Sent]:
    return [Sent(*kind, count, is_priced) for kind, count in counts.items()]


def print_plan(
    screen: Screen,
    settings: Settings,
    jobs: Sequence[Job],
    options: RunOptions,
    *,
    skipped: Sequence[str] = (),
) -> ExitCode:
    """Print what the command would do; nothing is sent or written.

    Returns:
        The exit status of what can't be sent, else ``DONE``.

    Raises:
        OutputExistsError: A result would replace a file, and ``force`` is not set.
    """
    check_free([job.destination for job in jobs if job.problem is None], force=options.force)
    with open_journal(settings) as journal:
        plans = asyncio.run(_plans(journal, settings, jobs, options))
        today = sent_since(journal.read, midnight_before(time()), settings.unpriced)
    sent = [plan for plan in plans if plan.action == "send"]
    allowed = within_limit(settings, today, plans)
    tasks = sum(each.count for each in allowed)
    beyond = sum(plan.tasks for plan in sent) - tasks
    codes = [exit_code_of(plan.error) for plan in plans if plan.error is not None]
    code = most_serious([*codes, *([exit_code_of(DailyLimitError(""))] if beyond else [])])
    for plan in plans:
        size = f", {bytes_text(plan.size)}" if plan.size else ""
        if plan.tiles > 1:
            size = f" in {plan.tiles} tiles: {counted(plan.tasks, 'task')}"
        screen.say(f"{plan.job.label}: {WORDS[plan.action].format(same_as=plan.same_as)}{size}")
        if plan.error is not None:
            screen.error(plan.error, plan.job.label)
    cost = cost_of(settings.prices, allowed)
    about = None if cost is None else cost_text(cost)
    total = bytes_text(sum(plan.size for plan in sent))
    # What tiles take is not known before they are encoded.
    size = "" if any(plan.tiles > 1 for plan in sent) else f" ({total} of images)"
    counts = {
        "the same as others": sum(plan.action == "same" for plan in plans),
        "reused": sum(plan.action in ("reuse", "wait") for plan in plans),
        # Results that an earlier command left in a folder are nobody's wish.
        "skipped": sum(not is_result(source) for source in skipped),
        "beyond the limit of a day": beyond,
        "can't be sent": sum(plan.action in ("fail", "unknown") for plan in plans),
    }
    others = "".join(f", {number} {words}" for words, number in counts.items() if number)
    screen.say(
        (f"{counted(tasks, 'task')} would be sent", "bold"),
        f"{size}{others}." + (f" About {about} by your prices." if about is not None else ""),
    )
    if settings.api_key is None and options.asks_network(settings):
        missing = no_key(settings.workflow_url).what
        screen.warn(f"{missing}: nothing would be sent until then, and what would be reused is not known")
    if screen.json:
        screen.document(
            {
                "dry_run": True,
                "tasks": tasks,
                "bytes": sum(plan.size for plan in sent),
                "beyond_limit": beyond,
                "estimate": about,
                "skipped": list(skipped),
                "inputs": [plan.document() for plan in plans],
                "exit_code": int(code),
            }
        )
    for plan in plans:
        screen.event("planned", **plan.document())
    screen.event("end", dry_run=True, tasks=tasks, estimate=about, skipped=list(skipped), exit_code=int(code))
    return code


async def _plans(
    journal: Journal, settings: Settings, jobs: Sequence[Job], options: RunOptions
) -> list[Planned]:
    asks_network = options.asks_network(settings)
    fingerprints: dict[str, str] = {}
    return [
        Planned(job, "fail", error=job.problem)
        if job.problem is not None
        else await _plan(journal, settings, job, job.task, options, fingerprints)
        if asks_network and job.task is not None
        else Planned(job, "here")
        for job in jobs
    ]


async def _plan(
    journal: Journal,
    settings: Settings,
    job: Job,
    task: WorkflowTask,
    options: RunOptions,
    fingerprints: dict[str, str],
) -> Planned:
    """What would become of a job; ``fingerprints`` has the labels of those before it."""
    from ..jobs.preparation import prepare, work_of
    from ..transfer.upload import InlineDelivery

    # Without a key nothing in the journal is this consumer's.
    credentials = settings.credentials() if settings.api_key is not None else Credentials("", "")
    how = ClaimOptions(reuse=settings.reuse and not options.no_reuse, if_unknown=options.if_unknown)
    try:
        if job.tiles is not None and not job.tiles.tries_whole:
            tiles, tasks = await job.tiles.count(job.label, task, settings, journal, how)
            if tiles > 1:
                return _planned_tiles(job, tiles, tasks)
        prepared = await prepare(task, credentials, settings.sequencer_url)
        size = sum(len(image.data) for image in prepared.images.values())
        for image in prepared.images.values() if settings.store_url is None else ():
            await InlineDelivery(int(settings.inline_limit)).deliver(image, lifetime=0.0)
        # Equal images of one command are one task.
        is_double = task.repeatable and prepared.fingerprint in fingerprints
        first = fingerprints.setdefault(prepared.fingerprint, job.label)
        record = journal.answering(work_of(prepared, settings.sequencer_url), how)
    except InputTooLargeError as error:
        return await _plan_in_tiles(journal, settings, job, task, how, error)
    except XaloraError as error:
        return Planned(job, "fail", error=error)
    action = action_for(record, options.if_unknown)
    if is_double and action == "send":
        return Planned(job, "same", same_as=first)
    return Planned(job, action, size if action == "send" else 0)


async def _plan_in_tiles(
    journal: Journal,
    settings: Settings,
    job: Job,
    task: WorkflowTask,
    how: ClaimOptions,
    error: InputTooLargeError,
) -> Planned:
    """What would become of an image that no request takes."""
    if job.tiles is None or job.tiles.tile == "never":
        return Planned(job, "fail", error=error)
    try:
        tiles, tasks = await job.tiles.count(job.label, task, settings, journal, how)
    except XaloraError as refusal:
        return Planned(job, "fail", error=refusal)
    return _planned_tiles(job, tiles, tasks)


def _planned_tiles(job: Job, tiles: int, tasks: int) -> Planned:
    return Planned(job, "send" if tasks else "reuse", tiles=tiles, tasks=tasks)
