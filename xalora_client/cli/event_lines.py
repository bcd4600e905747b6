"""What happens to a task as a JSON object, for ``--jsonl``. No I/O."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from ..events import TaskEvent
from .screen import error_fields

# Bytes of a picture, and the places of files before they are delivered.
_LEFT_OUT = frozenset({"preview", "files"})


def event_name(event: TaskEvent) -> str:
    """``falling_back`` for :class:`~xalora_client.events.FallingBack`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def event_fields(event: TaskEvent) -> dict[str, Any]:
    """The fields of an event, ``job_id`` and ``task_id`` among them."""
    values = {each.name: getattr(event, each.name) for each in fields(event) if each.name not in _LEFT_OUT}
    if "label" in values:
        # The lines have a label already, the job's.
        values["step"] = values.pop("label")
    if (error := values.get("error")) is not None:
        values["error"] = error_fields(error)
    return values
