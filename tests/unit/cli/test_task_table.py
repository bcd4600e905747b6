"""The table of `xalora tasks`."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from xalora_client.cli.task_table import record_table
from xalora_client.journal import Journal, Work


@pytest.mark.parametrize(
    ("networks", "shown"),
    [(["https://one.example"] * 2, False), (["https://one.example", "http://127.0.0.1:8100"], True)],
)
def test_the_network_is_shown_where_there_are_several(
    tmp_path: Path, networks: list[str], shown: bool
) -> None:
    with Journal.open(tmp_path / "journal.sqlite3", tmp_path / "results") as journal:
        for number, network in enumerate(networks):
            work = Work(
                fingerprint=f"{number:064x}", sequencer_url=network, consumer_id="me", task_type="upscaler"
            )
            journal.claim(work, job_id=f"job-{number}").result(30)
        table = record_table(journal.records(), frozenset(), {})
    console = Console(width=200)
    with console.capture() as said:
        console.print(table)
    assert all((network in said.get()) is shown for network in networks)
    assert ("Network" in said.get()) is shown
