"""What a caller is told of a clip: how far it is, and how it was made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias


@dataclass(frozen=True, kw_only=True)
class VideoProgress:
    """How far a clip is.

    Attributes:
        stage: ``reading`` (which frames differ is found out; nothing is sent), ``upscaling``, or ``joining``
            (the file is written).
        frames: How many the clip has.
        tasks: How many of them differ, each of which is a task; 0 while reading.
        left: How many tasks were left when this call began to upscale: those of written segments are not.
        to_send: How many of those left are new tasks; the others are kept or under way, or this machine's.
        done: Frames that are written, or read.
        made: Results that this call has, of those left.
        in_flight: Tasks under way.
        seconds_left: An estimate, None without one.
        whole_id: Under what id lists have its tasks.
    """

    stage: Literal["reading", "upscaling", "joining"]
    frames: int
    tasks: int = 0
    left: int = 0
    to_send: int = 0
    done: int = 0
    made: int = 0
    in_flight: int = 0
    seconds_left: float | None = None
    whole_id: str = ""


ProgressCallback: TypeAlias = Callable[[VideoProgress], None]


@dataclass(frozen=True, kw_only=True)
class UpscaledVideo:
    """An upscaled clip on disk, and how it was made.

    Attributes:
        path: The file.
        width, height: Pixels.
        frames: How many there are.
        tasks: How many of them differ, each of which was a task.
        sent: How many tasks were sent for it, by earlier calls that were interrupted too; kept results of
            equal frames are not among them. None where the journal can't be read.
        engines: How many of the different frames each engine made: ``xalora`` is the network.
        made_here: The numbers, from 0, of the frames that this machine made; of equal ones the first.
        resent: Those of the frames whose task failed and was sent again.
        notes: Sentences for people: that the clip has 10 bits, that frames were scaled.
    """

    path: Path
    width: int
    height: int
    frames: int
    tasks: int
    sent: int | None
    engines: dict[str, int]
    made_here: tuple[int, ...] = ()
    resent: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
