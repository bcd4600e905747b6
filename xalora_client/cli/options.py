"""The options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

# Enumerations and not literals: typer below 0.19 knows no others.


class Engine(str, Enum):
    """What does the work."""

    AUTO = "auto"
    XALORA = "xalora"
    TORCH = "torch"
    COMFYUI = "comfyui"
    PILLOW = "pillow"


class Fallback(str, Enum):
    """When this machine takes over from the network."""

    NEVER = "never"
    WHEN_UNAVAILABLE = "when_unavailable"
    ON_ANY_FAILURE = "on_any_failure"
    LOCAL_ONLY = "local_only"


class IfUnknown(str, Enum):
    """What to do about an earlier create of the same work whose outcome was never learned."""

    STOP = "stop"
    RESEND = "resend"
    FORGET = "forget"


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Where results go: a file for one input, a folder for several.",
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace files that are in the way.")]
EngineChoice = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="auto: the network, then this machine as --fallback says. xalora: the network only. "
        "The others: this machine only, nothing is sent.",
    ),
]
FallbackChoice = Annotated[
    Fallback | None,
    typer.Option("--fallback", help="When this machine takes over; default: see xalora config."),
]
IfUnknownChoice = Annotated[
    IfUnknown,
    typer.Option(
        "--if-unknown",
        help="An earlier create of the same work whose outcome is unknown: stop (exit 6), resend it under "
        "the same job id, or forget it and pay for a new one.",
    ),
]
NoReuse = Annotated[
    bool, typer.Option("--no-reuse", help="Pay for it again, even where a kept result would answer.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.001,
        help="How long to wait, the task runs on after it; default: see xalora config.",
    ),
]
MaxInFlight = Annotated[
    int | None,
    typer.Option("--max-in-flight", metavar="N", min=1, max=256, help="How many tasks at the same time."),
]
NetworkTimeout = Annotated[
    int | None,
    typer.Option(
        "--network-timeout",
        metavar="SECONDS",
        min=1,
        help="After so long the network itself cancels the task.",
    ),
]
WorkflowId = Annotated[
    str | None,
    typer.Option("--workflow-id", metavar="ID", help="Which workflow of the network runs it."),
]
