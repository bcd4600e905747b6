"""Events as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from xalora_client import events
from xalora_client.cli.event_lines import event_fields, event_name
from xalora_client.errors import NoMinerError

EVENTS = [
    events.Uploading(job_id="j", total=3),
    events.Submitted(job_id="j", task_id="t", usual_seconds=(1.0, 2.0)),
    events.Waiting(job_id="j", task_id="t", seconds=1.0, position=4),
    events.Running(job_id="j", task_id="t", seconds=1.0),
    events.UnknownStatus(job_id="j", task_id="t", status="warming"),
    events.Canceled(job_id="j", task_id="t"),
    events.Downloading(job_id="j", task_id="t", received=1, total=None),
    events.FallingBack(job_id="j", engine="ncnn", reason="no miner", error=NoMinerError("no miner")),
    events.LocalProgress(job_id="j", engine="ncnn", done=1, total=2, label="tile", preview=b"\xff\xd8"),
    events.TileProgress(job_id="j", tiles=9, tasks=8, done=3, in_flight=4, seconds_left=2.0),
    events.Done(job_id="j", task_id="t", engine="xalora", seconds=3.0, files=(Path("kept.png"),)),
]


def test_every_event_has_a_line_beside_the_fields_of_its_job() -> None:
    assert {type(event) for event in EVENTS} == set(events.TaskEvent.__subclasses__())
    for event in EVENTS:
        # Given as keyword arguments, none may come twice.
        line = dict(event=event_name(event), input="photo.png", label="photo.png", **event_fields(event))
        told = json.loads(json.dumps(line))
        assert told["label"] == "photo.png" and told["job_id"] == "j"
        assert not {"preview", "files"} & told.keys()


def test_names_and_fields() -> None:
    assert [event_name(event) for event in EVENTS] == [
        "uploading",
        "submitted",
        "waiting",
        "running",
        "unknown_status",
        "canceled",
        "downloading",
        "falling_back",
        "local_progress",
        "tile_progress",
        "done",
    ]
    assert event_fields(EVENTS[8])["step"] == "tile"
    assert event_fields(EVENTS[7])["error"]["type"] == "NoMinerError"
