"""``xalora doctor``: which checks run, in which order, and what each may cost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from ...client import open_journal
from ...config import Settings, load_settings
from ...journal import Journal
from ...prices import cost_text, price_of
from ..command import command, with_client
from ..exit_codes import ExitCode, most_serious
from ..formats import short_path
from ..options import AsJson
from ..screen import Screen
from .findings import Finding, Verdict, not_asked
from .report import document, markdown, print_finding, print_questions

if TYPE_CHECKING:
    from ...client import AsyncXalora
    from .tasks import Line

TASK_SECONDS = 300.0

LAST_WORDS = "\nEnded at once. A task of the doctor may run on and be charged; see: xalora tasks\n"


@command
def doctor(
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Run every check unasked, those that cost tasks too.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option("--timeout", metavar="SECONDS", min=1, help="How long the smallest task may take."),
    ] = TASK_SECONDS,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Write the report as Markdown too.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> ExitCode:
    """Check the way to a network, and with your yes what it answers and does.

    First this machine: address, TLS, proxy, key, clock, journal. Then, each after a question that says what
    it may cost: a miner for each workflow, one smallest task, a cancel, a repeated create. The report has no
    key, and says what this network does where the protocol leaves it open.
    """
    screen = Screen(json=as_json)
    settings = load_settings().settings
    screen.say(("Network: ", "bold"), settings.sequencer_url)
    with open_journal(settings) as journal:
        findings = _checked(screen, settings, journal, yes=yes, timeout=timeout)
    print_questions(screen, findings)
    code = most_serious(finding.code for finding in findings)
    if report is not None:
        day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        report.write_text(markdown(settings.sequencer_url, day, findings), encoding="utf-8")
        screen.say(f"The report is in {short_path(report)}.")
    if as_json:
        screen.document(document(settings.sequencer_url, findings, code))
    return code


def _checked(
    screen: Screen, settings: Settings, journal: Journal, *, yes: bool, timeout: float
) -> list[Finding]:
    from . import machine

    found = [machine.key(settings), *asyncio.run(machine.way(settings)), machine.folder(settings, journal)]
    for finding in found:
        print_finding(screen, finding)
    broken = [finding.check for finding in found if finding.verdict is Verdict.PROBLEM]
    for check, question, probe in _probes(settings, timeout):
        if broken:
            more = [not_asked(check, f"first mend: {', '.join(broken)}")]
        elif not (yes or _wants(screen, question)):
            more = [not_asked(check)]
        else:
            more = with_client(settings, journal, _on_line(probe), last_words=lambda: LAST_WORDS)
        for finding in more:
            print_finding(screen, finding)
        found += more
        # Without an accepted key, each further check would only say so again.
        broken = [each.check for each in found if each.code in (ExitCode.CONFIGURATION, ExitCode.NO_NETWORK)]
    return found


Probe: TypeAlias = "Callable[[Line], Awaitable[list[Finding]]]"


def _on_line(probe: Probe) -> Callable[[AsyncXalora], Awaitable[list[Finding]]]:
    from . import tasks

    async def run(client: AsyncXalora) -> list[Finding]:
        async with tasks.line(client) as line:
            return await probe(line)

    return run


def _probes(settings: Settings, timeout: float) -> list[tuple[str, str, Probe]]:
    """The checks of the network: name, what it does and may cost, and the probe."""
    from ...tasks import UpscalerTask
    from . import tasks

    workflows = _workflows(settings)
    price = price_of(settings.prices, UpscalerTask.task_type, None)
    one = "the price of one upscaling task" if price is None else f"about {cost_text(price)} by your prices"
    two = one.replace("one upscaling task", "two upscaling tasks")
    if price is not None:
        two = f"about {cost_text(2 * price)} by your prices"
    return [
        (
            "miners",
            f"Ask whether a miner is there for each of {len(workflows)} workflows, and for one that does not "
            "exist? It is free; each request may reserve a miner for a moment.",
            lambda line: tasks.miners(line, workflows),
        ),
        (
            "smallest task",
            f"Run one task, {tasks.SIDE}x{tasks.SIDE} pixels to upscale? It costs {one}.",
            lambda line: tasks.smallest_task(line, timeout),
        ),
        ("cancel", f"Create one such task and cancel it at once? It may cost {one}.", tasks.cancel),
        (
            "repeated job_id",
            f"Send one create twice under the same job_id, and cancel it? It may cost {two}.",
            tasks.repeated_job_id,
        ),
    ]


def _workflows(settings: Settings) -> list[tuple[str, str, str | None]]:
    """Upscaling, and each workflow that has an id on the network: name, task type, id."""
    from ...tasks import UpscalerTask
    from ...workflows.catalog import WorkflowCatalog

    hosted = [
        (each.name, each.task_type, each.workflow_id)
        for each in WorkflowCatalog.load(settings.workflows_dir)
        if each.workflow_id is not None
    ]
    return [(UpscalerTask.task_type, UpscalerTask.task_type, None), *hosted]


def _wants(screen: Screen, question: str) -> bool:
    """Whether the user says yes; no where nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty() or screen.json:
        return False
    return bool(typer.confirm(question, default=False, err=True))
