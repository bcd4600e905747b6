"""Lets several pytest runs make one summary: each writes its counts and durations to a file.

Loaded with `-p suite_report --suite-report FILE`, by every Python that runs a part of the suite.
"""

import json
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption("--suite-report", help="write counts and durations here")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    # The whole suite's slowest tests and its closing line are printed once, at the end.
    config.option.durations = None
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        terminal.summary_stats = lambda: None


def pytest_terminal_summary(terminalreporter, config):
    stats = terminalreporter.stats
    durations = [
        (report.nodeid, report.when, report.duration)
        for reports in stats.values()
        for report in reports
        if getattr(report, "duration", None) is not None and hasattr(report, "when")
    ]
    counts = {outcome: len(reports) for outcome, reports in stats.items() if outcome}
    Path(config.option.suite_report).write_text(json.dumps({"counts": counts, "durations": durations}))
