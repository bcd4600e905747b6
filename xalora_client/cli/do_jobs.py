"""Runs a command's jobs with a client of its own, from the check of their destinations to the exit status."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from time import time
from typing import Any

from ..client import open_journal
from ..config import Settings
from ..errors import JournalError
from ..text import counted
from .command import with_client
from .exit_codes import ExitCode
from .interrupted import last_words, print_cancels, print_tasks_left, tell_results
from .job_runner import Job, JobReport, JobRunner
from .options import RunOptions
from .outputs import check_destinations
from .screen import Screen
from .standard_streams import stdout_for_bytes


def do_jobs(
    screen: Screen,
    settings: Settings,
    jobs: Sequence[Job],
    options: RunOptions,
    *,
    at_once: int | None = None,
    skipped: Sequence[str] = (),
) -> ExitCode:
    """Check the key and the destinations, run the jobs with a new client and report them.

    With ``--dry-run`` nothing is sent or written. Ctrl-C cancels the tasks in the network too.

    Args:
        skipped: Inputs without a job, for the JSON document.

    Raises:
        MissingKeyError: The network is to be asked, and no key is set.
        OutputExistsError: A result would replace a file, and ``force`` is not set.
        ConfigurationError: A destination can't be written.
    """
    if options.dry_run:
        from .dry_run import print_plan

        return print_plan(screen, settings, jobs, options, skipped=skipped)
    if jobs and options.asks_network(settings):
        settings.credentials()
    check_destinations([job.destination for job in jobs if job.problem is None], force=options.force)
    started_at = time()
    to_stdout = any(job.destination.is_stream for job in jobs)
    with stdout_for_bytes() if to_stdout else nullcontext() as stdout, open_journal(settings) as journal:
        runner = JobRunner(
            screen, jobs, force=options.force, at_once=at_once or settings.max_in_flight, stdout=stdout
        )
        try:
            with_client(
                settings,
                journal,
                runner.run,
                lambda: print_cancels(screen, runner.reports),
                lambda: last_words(runner.reports),
            )
            code = runner.code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
            # The journal knows the confirmed cancels now that the client is closed. If it can't be read, it
            # has logged that, and the interrupt still counts.
            with suppress(JournalError):
                print_tasks_left(screen, journal, settings, runner.reports, started_at)
            tell_results(screen, runner.reports)
    _print_summary(screen, runner.reports)
    document = document_of(runner.reports, code)
    if screen.json:
        screen.document({"skipped": list(skipped), **document})
    screen.event("end", skipped=list(skipped), exit_code=int(code))
    return code


def document_of(reports: Sequence[JobReport], code: ExitCode) -> dict[str, Any]:
    """The JSON document of several jobs."""
    return {"results": [report.document() for report in reports], "exit_code": int(code)}


def _print_summary(screen: Screen, reports: Sequence[JobReport]) -> None:
    """Print how many of several jobs came to what, unless all are done by the network."""
    states = [report.status for report in reports]
    if len(states) < 2 or states.count("done") == len(states):
        return
    words = {
        "done": "done",
        "done_here": "done by this machine instead, named .local (the same command again asks the network)",
        "failed": "failed",
        "interrupted": "interrupted",
    }
    counts = [f"{states.count(state)} {text}" for state, text in words.items() if state in states]
    screen.note(f"Of {counted(len(states), 'task')}: {', '.join(counts)}.")
