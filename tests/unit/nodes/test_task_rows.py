"""What a row of the sidebar says about the money."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType, SimpleNamespace

import pytest

TASK, JOB = "3f9c1e7a-77aa-4d1b", "sdk-workflow-0a1b2c3d4e"
NETWORK, NOTHING = "The network decides whether it is charged.", "Nothing was charged."


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("FAILED", "CUDA out of memory", f"CUDA out of memory. {NETWORK}"),
        ("FAILED", None, NETWORK),
        (
            "FAILED",
            "The result is gone. The task was probably charged.",
            "The result is gone. The task was probably charged.",
        ),
        ("CANCELED", "Canceled by its consumer", NETWORK),
        ("NOT_SENT", "It was never sent", f"It was never sent. {NOTHING}"),
        ("NOT_SENT", "Not accepted, so nothing was charged", "Not accepted, so nothing was charged"),
        ("UNKNOWN", "reset by peer", "The network's answer was lost."),
        ("FINISHED", None, None),
    ],
)
def test_a_row_says_what_its_end_means_for_the_money(
    pack: ModuleType, state: str, error: str | None, said: str | None
) -> None:
    rows = import_module(".nodes.sidebar.task_rows", pack.__name__)
    states = import_module(".xalora_client.journal", pack.__name__).TaskState
    task_id = None if state == "UNKNOWN" else TASK
    record = SimpleNamespace(state=states[state], error=error, task_id=task_id, job_id=JOB)
    assert rows._error(record) == said
